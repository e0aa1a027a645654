//! A guard that stays tripped for longer than the broker lets a consumer hold a message.

use std::time::Duration;

use serde_json::json;
use tokio::process::Command;

use super::logged::{LoggedReplica, TIMEOUT, arrived, publish};
use crate::support::fleet::{Replica, Simulator, client, declare};
use crate::support::jobs;
use crate::support::rabbit::RabbitNode;

const JOBS: usize = 6;

/// Up to RabbitMQ 4.2 the broker closes the channel, from 4.3 on it cancels the consumer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tickets_that_the_broker_takes_back_in_a_trip_are_answered_after_it_and_paid_for_once() {
    let node = RabbitNode::start().await;
    let (amqp, namespace) = (&*node.url(), "trip");
    let (half_an_hour, second) = (Duration::from_secs(1_800), Duration::from_secs(1));
    // Before 4.0 no policy sets it, and every consumer has the same.
    let has_policy = !node.ctl(&["-q", "version"]).starts_with("3.");
    let lost = if has_policy {
        node.shorten_consumer_timeout(half_an_hour, second);
        let five_seconds = r#"{"consumer-timeout": 5000}"#;
        node.ctl(&["set_policy", "timeout", "^trip\\.tickets$", five_seconds, "--apply-to", "queues"]);
        "the ticket consumer ended"
    } else {
        node.shorten_consumer_timeout(Duration::from_secs(5), second);
        "consumer ended"
    };
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(amqp, namespace).await;
    let settings = [("OPS__LISTEN", "")];
    let mut replica =
        LoggedReplica::start(&Replica { amqp, namespace, simulator: &simulator, settings: &settings });
    let session = node.session().await;
    for n in 0..JOBS {
        publish(&session, namespace, jobs::image(&format!("job-{n}"), &json!({"solve_ms": 15_000})).into())
            .await;
    }
    simulator.wait_for("all are accepted", TIMEOUT, |stats| stats["accepted_tasks"] == JOBS).await;
    let key_is_valid = async |valid: bool| {
        let control = format!("{}/_sim/control", simulator.url);
        let changed = client()
            .post(control)
            .body(json!({"key_valid": valid}).to_string())
            .send()
            .await
            .expect("answered");
        assert!(changed.status().is_success(), "{changed:?}");
    };
    key_is_valid(false).await;
    simulator.wait_for("the key is refused", TIMEOUT, |stats| stats["bad_key_calls"] != 0).await;
    replica.wait_for_line(lost).await;
    assert_eq!(simulator.stats().await["answered_ready"], 0, "the trip came before the answers");

    // A ticket that comes back waits for 7 s before it is polled.
    if has_policy {
        node.ctl(&["clear_policy", "timeout"]);
    } else {
        node.shorten_consumer_timeout(half_an_hour, second);
    }
    key_is_valid(true).await;
    let resumed = Command::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .arg("resume")
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .current_dir(std::env::temp_dir())
        .output();
    let resumed = resumed.await.expect("the command runs");
    assert!(resumed.status.success(), "{resumed:?}");
    arrived(&session, "trip.results", JOBS as u64).await;
    let stats = simulator.stats().await;
    assert_eq!(
        (&stats["accepted_tasks"], &stats["repeated_submissions"], &stats["early_polls"], &stats["bans"]),
        (&json!(JOBS), &json!(0), &json!(0), &json!(0)),
        "{stats}"
    );
    assert_eq!(replica.process.terminate(Duration::from_secs(30)).await, Some(0));
}
