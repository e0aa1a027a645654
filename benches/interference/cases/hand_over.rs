//! A replica, or the broker, goes while tasks are open: how long an answer that is ready waits.

use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Delivery};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use crate::environment::Environment;
use crate::harness::fleet::{Fleet, FleetOptions};
use crate::jobs::Job;
use crate::load::Offered;
use crate::namespace::Namespace;
use crate::row::Row;
use crate::simulator::Simulator;
use crate::support::rabbit::{RabbitNode, connect};
use crate::wait;

const REPLICAS: usize = 3;
const PER_SECOND: u32 = 20;
/// Enough for all replicas to be replaced while jobs come in.
const JOBS: u64 = 600;
/// The same for a broker that goes once all are offered.
const JOBS_BEFORE_STOP: u64 = 300;
const STOPPED: Duration = Duration::from_secs(5);
const READY_WITHIN: Duration = Duration::from_secs(60);
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
const FINISH_WITHIN: Duration = Duration::from_secs(120);
/// The spacing of polls, and half a second for the way.
const AFTER_LEAVING: Duration = Duration::from_millis(2_500);
/// The spacing since the last poll, then lease and spacing, and half a second for the way.
const AFTER_KILL: Duration = Duration::from_millis(9_500);

/// How a replica, or the broker, goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Going {
    Sigterm,
    Sigkill,
    Broker,
}

pub(super) async fn run(environment: &Environment, row: &mut Row, going: Going) {
    let _turn = environment.turn().await;
    let node = Arc::new(RabbitNode::start().await);
    let folder = environment.folder(row.case());
    let simulator = Simulator::start(&folder, "balance = 100000.0\n").await;
    let namespace = Namespace::declare(&node.url()).await;
    let mut fleet = Fleet::start(FleetOptions {
        amqp: node.url(),
        namespace: namespace.names().namespace().to_owned(),
        api: simulator.url().to_owned(),
        folder,
        replicas: REPLICAS,
        ops_ports: Vec::new(),
        settings: Vec::new(),
    });
    let all_there = async |namespace: &Namespace| {
        wait::comes_true(READY_WITHIN, async || namespace.takers().await >= REPLICAS as u64).await
    };
    assert!(lane_opens(&namespace).await && all_there(&namespace).await, "the replicas take jobs");

    // Each picture is solved after a time of its own, that its id names.
    let count = if going == Going::Broker { JOBS_BEFORE_STOP } else { JOBS };
    let job = |n: u64| {
        let solve_ms = 3_000 + n * 7_919 % 20_000;
        let offered = Offered::scripted(format!("j.{n}.{solve_ms}"), &json!({"solve_ms": solve_ms}), false);
        Job { body: offered.body(), id: offered.id }
    };
    let offer = namespace.offer((0..count).map(job).collect(), PER_SECOND);
    let mut outage = Duration::ZERO;
    if going == Going::Broker {
        offer.finished().await;
        let began = Instant::now();
        let (stopping, starting) = (Arc::clone(&node), Arc::clone(&node));
        spawn_blocking(move || stopping.stop_app()).await.expect("it stops");
        sleep(STOPPED).await;
        let back = spawn_blocking(move || starting.start_app()).await.expect("it starts");
        outage = Instant::from_std(back) - began;
    } else {
        for place in 0..REPLICAS {
            // A ticket whose owner dies, and the next one too, waits for each of them.
            let apart = if going == Going::Sigkill { AFTER_KILL } else { Duration::from_secs(1) };
            sleep(apart).await;
            match going {
                Going::Sigterm => {
                    let code = fleet.dismiss(place, LEAVE_WITHIN).await;
                    row.bound(format_args!("a replica left with {code:?}"), code == Some(0));
                }
                Going::Sigkill | Going::Broker => fleet.kill(place).await,
            }
            fleet.start_again(place);
            assert!(all_there(&namespace).await, "the replicas take jobs");
        }
        offer.finished().await;
    }

    let longest = longest_wait(&node, &namespace, count).await;
    let most = match going {
        Going::Sigterm => AFTER_LEAVING,
        Going::Sigkill => AFTER_KILL,
        Going::Broker => outage + AFTER_KILL,
    };
    match longest {
        Some(longest) => {
            let (shown, bound) = (wait::seconds(longest), wait::seconds(most));
            row.note(format_args!("a ready answer waited {shown} at most, allowed are {bound}"));
            row.bound(format_args!("a ready answer waited {shown} > {bound}"), longest <= most);
        }
        None => row.bound("jobs that have not ended", false),
    }
    if !outage.is_zero() {
        row.note(format_args!("the broker took no connections for {}", wait::seconds(outage)));
    }
    let stats = simulator.stats().await;
    row.at_most("polls too early", stats.early_polls, 0);
    row.at_most("polls past the limit", stats.polls_past_limit, 0);
    row.note(format_args!("{} paid twice", stats.repeated_submissions));
    row.note_load();
    let stuck = fleet.leave(LEAVE_WITHIN).await;
    row.bound(format_args!("did not leave in time: {}", stuck.join(", ")), stuck.is_empty());
}

/// A guard that knows nothing yet opens by a job.
async fn lane_opens(namespace: &Namespace) -> bool {
    namespace.publish(crate::jobs::images("warm-up", 1)).await;
    wait::comes_true(READY_WITHIN, async || namespace.waiting().await.unpaid() == 0).await
}

/// Over all outcomes: from when the answer was ready to when a replica had it. `None`: some are
/// missing.
async fn longest_wait(node: &RabbitNode, namespace: &Namespace, wanted: u64) -> Option<Duration> {
    let session = connect(&node.url()).await;
    let queue = namespace.names().results();
    let spec = ConsumeSpec { queue, prefetch: 500, tag: "hand-over".to_owned() };
    let mut results = session.link().consume(spec).await.expect("the results are consumed");
    let deadline = Instant::now() + FINISH_WITHIN;
    let mut waits = std::collections::BTreeMap::new();
    while (waits.len() as u64) < wanted {
        let delivery = timeout(deadline - Instant::now(), results.recv()).await.ok()??;
        waits.extend(wait_of(&delivery));
        // A stale receipt brings the outcome again.
        delivery.receipt.ack().ok();
    }
    waits.into_values().max()
}

/// A job's id, and how long its answer waited; `None` for the warm-up.
fn wait_of(delivery: &Delivery) -> Option<(String, Duration)> {
    let outcome: Value = serde_json::from_slice(&delivery.message.body).expect("an outcome is JSON");
    let id = outcome["id"].as_str()?;
    let solve_ms: u64 = id.strip_prefix("j.")?.split('.').nth(1)?.parse().ok()?;
    let took = outcome["times"]["solving_ms"].as_u64()?;
    Some((id.to_owned(), Duration::from_millis(took.saturating_sub(solve_ms))))
}
