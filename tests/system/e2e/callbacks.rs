//! Callbacks over real sockets, with a real broker.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};

use crate::e2e::foreign;
use crate::support::fleet::{Replica, Simulator, amqp, client, declare};
use crate::support::jobs;
use crate::support::rabbit::fresh_namespace;

const JOBS: usize = 200;

/// Solve times differ, so that not all callbacks come at once.
fn solve_ms(n: usize) -> i64 {
    1_500 + n as i64 * 12
}

/// An address that is free now.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

/// A counter of `/metrics`, by its labels.
async fn metric(address: &str, series: &str) -> f64 {
    let reply = client().get(format!("http://{address}/metrics")).send().await.expect("metrics");
    let text = reply.text().await.expect("a text");
    let line = text.lines().find_map(|line| line.strip_prefix(series)).expect("it is there");
    line.trim().parse().expect("a number")
}

#[tokio::test]
async fn answers_arrive_with_their_callbacks_whichever_of_two_replicas_the_api_calls() {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("balance = 1000.0\nlatency_ms = { fixed = 2 }\n").await;
    declare(&amqp, &namespace).await;
    // The API calls the first replica alone, whichever holds the ticket.
    let (called, other) = (free_address(), free_address());
    let (ops_called, ops_other) = (free_address(), free_address());
    let public_url = format!("http://{called}");
    let start = |listen: &str, ops: &str| {
        // The tasks that warm up are faster than the others.
        let settings = [
            ("CALLBACK__PUBLIC_URL", &*public_url),
            ("CALLBACK__LISTEN", listen),
            ("OPS__LISTEN", ops),
            ("POLLING__MODE", "fixed"),
        ];
        Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings }.start()
    };
    let mut replicas = [start(&called, &ops_called), start(&other, &ops_other)];

    // The canary goes without a callback, and the windows on calls open with the next ones.
    let collecting = foreign::collect(&amqp, &namespace, JOBS / 2, 60);
    let warm = |n| jobs::image(&format!("warm-{n}"), &json!({"solve_ms": 200}));
    foreign::publish(&amqp, &namespace, &(0..JOBS / 2).map(warm).collect::<Vec<_>>());
    tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");
    let polls = simulator.stats().await["polls"].as_u64().expect("a number");

    let collecting = foreign::collect(&amqp, &namespace, JOBS, 60);
    let lines: Vec<_> =
        (0..JOBS).map(|n| jobs::image(&format!("job-{n}"), &json!({"solve_ms": solve_ms(n)}))).collect();
    foreign::publish(&amqp, &namespace, &lines);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");

    let wait = |outcome: &Value| {
        let n = outcome["id"].as_str().and_then(|id| id.strip_prefix("job-")?.parse().ok()).expect("an id");
        outcome["times"]["solving_ms"].as_i64().expect("it was solved") - solve_ms(n)
    };
    let mut waits: Vec<i64> = arrivals.iter().map(|one| wait(one.outcome.as_ref().expect("JSON"))).collect();
    waits.sort_unstable();
    let mean = waits.iter().sum::<i64>() as f64 / waits.len() as f64;
    let stats = simulator.stats().await;
    let per_task = (stats["polls"].as_u64().expect("a number") - polls) as f64 / JOBS as f64;
    let woke = metric(&ops_called, "captcha_callbacks_total{event=\"woke\"}").await;
    let woke_other = metric(&ops_other, "captcha_callbacks_total{event=\"woke\"}").await;
    println!(
        "waits: mean {mean:.1} ms, all {waits:?}; {per_task} polls a task; woke {woke} and {woke_other}"
    );
    assert!(mean <= 50.0, "{mean} ms: {waits:?}");
    assert!(per_task <= 1.05, "{per_task} polls a task");
    assert!(woke_other > 0.0, "the other replica is woken by what the first hands on");
    assert_eq!(metric(&ops_other, "captcha_callbacks_total{event=\"received\"}").await, 0.0);
    assert_eq!(metric(&ops_called, "captcha_callbacks_off").await, 0.0);
    assert_eq!((&stats["early_polls"], &stats["callbacks"]["failed"]), (&json!(0), &json!(0)), "{stats}");
    for replica in &mut replicas {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}

#[tokio::test]
async fn an_address_that_the_api_cannot_reach_costs_no_job_and_is_left_alone() {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(&amqp, &namespace).await;
    let (nobody, listen, ops) = (free_address(), free_address(), free_address());
    let public_url = format!("http://{nobody}");
    let settings =
        [("CALLBACK__PUBLIC_URL", &*public_url), ("CALLBACK__LISTEN", &*listen), ("OPS__LISTEN", &*ops)];
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings };
    let mut replica = replica.start();
    let collecting = foreign::collect(&amqp, &namespace, 60, 60);
    let lines: Vec<_> =
        (0..60).map(|n| jobs::image(&format!("job-{n}"), &json!({"solve_ms": 300}))).collect();
    // The first callbacks fail before the last jobs are submitted.
    foreign::publish(&amqp, &namespace, &lines[..30]);
    simulator
        .wait_for("a callback fails", Duration::from_secs(20), |stats| stats["callbacks"]["failed"] != 0)
        .await;
    foreign::publish(&amqp, &namespace, &lines[30..]);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");
    let solved = arrivals.iter().filter(|one| one.queue.ends_with("results")).count();
    assert_eq!(solved, 60);
    let reply = client().get(format!("http://{ops}/status")).send().await.expect("a status");
    let status: Value = serde_json::from_str(&reply.text().await.expect("a text")).expect("JSON");
    assert!(status["callbacks"]["off_until"].is_string(), "{}", status["callbacks"]);
    assert!(status["fleet"]["callbacks"].as_str().expect("a text").starts_with("off until "));
    assert_eq!(metric(&ops, "captcha_callbacks_off").await, 1.0);
    let stats = simulator.stats().await;
    assert_eq!((&stats["repeated_submissions"], &stats["early_polls"]), (&json!(0), &json!(0)), "{stats}");
    assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
}
