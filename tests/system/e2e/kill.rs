use std::time::Duration;

use serde_json::json;

use crate::e2e::foreign;
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::jobs;
use crate::support::rabbit::fresh_namespace;

const OPEN_TICKETS: usize = 500;
/// Jobs published just before the kill, so that some are inside a window when it comes.
const IN_PASSING: usize = 1_000;
/// A killed replica's jobs in hand: its prefetch.
const SUBMIT_CONCURRENCY: u64 = 16;

#[tokio::test]
async fn a_killed_replicas_tickets_are_finished_by_another_with_the_ids_already_paid() {
    let amqp = amqp();
    let namespace = fresh_namespace();
    let simulator = Simulator::start("[types.ImageToTextTask]\nsolve_ms = { fixed = 12000 }\n").await;
    declare(&amqp, &namespace).await;
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &[] };

    let make = |prefix: &str, count: usize| -> Vec<String> {
        (0..count).map(|n| jobs::image(&format!("{prefix}-{n}"), &json!({}))).collect()
    };
    let mut doomed = replica.start();
    foreign::publish(&amqp, &namespace, &make("open", OPEN_TICKETS));
    let accepted = |stats: &serde_json::Value| stats["accepted_tasks"].as_u64().unwrap_or(0);
    simulator
        .wait_for("500 tickets open", Duration::from_secs(30), |stats| accepted(stats) >= OPEN_TICKETS as u64)
        .await;
    let passing = tokio::task::spawn_blocking({
        let (amqp, namespace, jobs) = (amqp.clone(), namespace.clone(), make("passing", IN_PASSING));
        move || foreign::publish(&amqp, &namespace, &jobs)
    });
    simulator
        .wait_for("submissions in passing", Duration::from_secs(30), |stats| {
            accepted(stats) > OPEN_TICKETS as u64 + 20
        })
        .await;
    doomed.kill().await;
    let at_the_kill = simulator.stats().await;
    passing.await.expect("no panic");

    let total = OPEN_TICKETS + IN_PASSING;
    let mut survivor = replica.start();
    let collecting = foreign::collect(&amqp, &namespace, total, 120);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");
    let ends = foreign::ends(&arrivals, &namespace);
    assert_eq!(ends.len(), total, "every job ends");
    assert!(ends.values().flatten().all(|queue| queue == "results"), "in the result queue");

    let stats = simulator.stats().await;
    let repeated = stats["repeated_submissions"].as_u64().expect("a count");
    println!(
        "accepted when killed: {}; repeated submissions: {repeated}; jobs that can have been inside a window then: at most {SUBMIT_CONCURRENCY}",
        accepted(&at_the_kill)
    );
    assert!(repeated <= SUBMIT_CONCURRENCY, "{stats}");
    let repeats = ends.values().filter(|queues| queues.len() > 1).count() as u64;
    assert!(repeats <= repeated, "{repeats} ids ended more than once");
    assert_eq!(
        (&stats["early_polls"], &stats["polls_past_limit"], &stats["wrong_id_calls"]),
        (&json!(0), &json!(0), &json!(0)),
        "{stats}"
    );
    assert_eq!(survivor.terminate(Duration::from_secs(30)).await, Some(0));
}
