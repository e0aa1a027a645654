use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use captcha_worker::broker::Session;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, interval};

use crate::e2e::foreign;
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::jobs;
use crate::support::rabbit::{RabbitNode, connect, fresh_namespace};

const REPLICAS: u64 = 4;
/// Jobs that are published between two looks whether the restart is over.
const BATCH: usize = 100;
const DRAIN: Duration = Duration::from_secs(20);
/// How long a drain may take where the broker has gone.
const SHORT_DRAIN: Duration = Duration::from_secs(5);
/// For the process to start, and to close what hangs.
const MARGIN: Duration = Duration::from_secs(3);
/// A replica's jobs in hand: its prefetch.
const SUBMIT_CONCURRENCY: u64 = 16;

fn batch(n: usize) -> Vec<String> {
    (n * BATCH..(n + 1) * BATCH).map(|n| jobs::image(&format!("job-{n}"), &json!({}))).collect()
}

/// Waits until so many take jobs.
async fn takers(session: &Session, namespace: &str, wanted: u64) {
    let deadline = Instant::now() + Duration::from_secs(40);
    let mut looks = interval(Duration::from_millis(50));
    let queue = format!("{namespace}.jobs");
    while session.link().depth(&queue).await.expect("the broker answers").consumers < wanted {
        assert!(Instant::now() < deadline, "{wanted} replicas take jobs in time");
        looks.tick().await;
    }
}

async fn ends(amqp: &str, namespace: &str, wanted: usize) -> BTreeMap<String, Vec<String>> {
    let collecting = foreign::collect(amqp, namespace, wanted, 120);
    let arrivals = spawn_blocking(|| collecting.finish()).await.expect("no panic");
    foreign::ends(&arrivals, namespace)
}

fn count(stats: &Value, name: &str) -> u64 {
    stats[name].as_u64().expect("a count")
}

#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_repeats_nothing_and_pays_for_nothing_twice() {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("").await;
    declare(&amqp, &namespace).await;
    let session = connect(&amqp).await;
    let settings = [("WORKER__DRAIN_TIMEOUT", "20s")];
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings };
    let mut fleet: Vec<_> = (0..REPLICAS).map(|_| replica.start()).collect();

    let over = Arc::new(AtomicBool::new(false));
    let publishing = spawn_blocking({
        let (amqp, namespace, over) = (amqp.clone(), namespace.clone(), Arc::clone(&over));
        move || {
            let mut batches = 0;
            while !over.load(Ordering::Relaxed) {
                foreign::publish(&amqp, &namespace, &batch(batches));
                batches += 1;
            }
            batches * BATCH
        }
    });
    // Of a fresh fleet all take jobs once the first job, its canary, has ended well.
    takers(&session, &namespace, REPLICAS).await;
    for member in &mut fleet {
        assert_eq!(member.terminate(DRAIN).await, Some(0), "it leaves in order");
        *member = replica.start();
        takers(&session, &namespace, REPLICAS).await;
    }
    over.store(true, Ordering::Relaxed);
    let total = publishing.await.expect("no panic");

    let ends = ends(&amqp, &namespace, total).await;
    assert_eq!(ends.len(), total, "every job ends");
    assert!(ends.values().all(|queues| queues == &["results"]), "once, in the result queue");
    let stats = simulator.stats().await;
    let numbers = ["accepted_tasks", "repeated_submissions", "early_polls", "wrong_id_calls"];
    assert_eq!(numbers.map(|name| count(&stats, name)), [total as u64, 0, 0, 0], "{stats}");
}

#[tokio::test]
async fn a_drain_whose_broker_stops_ends_in_time_and_says_what_it_left_to_others() {
    let mut node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    // Slow enough for submissions to be under way when the broker goes.
    let simulator = Simulator::start("latency_ms = { fixed = 1500 }\n").await;
    declare(&amqp, &namespace).await;
    node.sync_registry();
    let settings = [("WORKER__DRAIN_TIMEOUT", "5s")];
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings };
    let log = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut doomed = replica.start_logging_to(File::create(log.path()).expect("it can be written").into());
    foreign::publish(&amqp, &namespace, &batch(0));
    let calls = |stats: &Value| count(&stats["calls"], "create_task");
    simulator.wait_for("submissions under way", DRAIN, |stats| calls(stats) > SUBMIT_CONCURRENCY).await;

    doomed.signal("TERM").await;
    node.kill();
    let began = Instant::now();
    let code = doomed.end(SHORT_DRAIN + MARGIN).await;
    assert_eq!(code, Some(1), "it does not pretend to have left in order");
    println!("it left {:.1} s after its broker", began.elapsed().as_secs_f64());
    let said = std::fs::read_to_string(log.path()).expect("its log");
    let left = said.lines().find(|line| line.contains("paid tasks may be lost"));
    assert!(left.is_some_and(|line| line.contains("unfinished")), "{said}");

    node.restart();
    let settings = [("WORKER__SUBMIT_CONCURRENCY", "100")];
    let mut survivor = Replica { settings: &settings, ..replica }.start();
    let ends = ends(&amqp, &namespace, BATCH).await;
    assert_eq!(ends.len(), BATCH, "every job ends");
    let stats = simulator.stats().await;
    assert!(count(&stats, "repeated_submissions") <= SUBMIT_CONCURRENCY, "{stats}");
    assert_eq!(survivor.terminate(DRAIN).await, Some(0));
}
