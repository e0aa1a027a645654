//! Ready means progress: a replica that is connected and does not get on says so, and why.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::e2e::logged::{LoggedReplica, TIMEOUT, arrived, get, publish};
use crate::support::fleet::{Replica, Simulator, declare};
use crate::support::jobs;
use crate::support::rabbit::{RabbitNode, connect, fresh_namespace};

async fn readiness(address: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    seen(address, "/readyz", what, wanted).await
}

/// Waits until the answer there is what is wanted, and returns it.
async fn seen(address: &str, path: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + TIMEOUT;
    let mut looks = interval(Duration::from_millis(50));
    loop {
        looks.tick().await;
        let reply: Value = serde_json::from_str(&get(address, path).await).expect("JSON");
        if wanted(&reply) {
            return reply;
        }
        assert!(Instant::now() < deadline, "not in time: {what}; {reply}");
    }
}

fn is_ready(reply: &Value) -> bool {
    reply["ready"] == true
}

fn says(reply: &Value, text: &str) -> bool {
    reply["reasons"]
        .as_array()
        .is_some_and(|all| all.iter().any(|one| one.as_str().unwrap_or("").contains(text)))
}

#[tokio::test]
async fn a_broker_that_has_gone_silent_is_reported_before_the_session_ends_and_work_goes_on_after_it() {
    let node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    let simulator = Simulator::start("").await;
    declare(&amqp, &namespace).await;
    // Whichever of these ends the session: the last poll may begin 5 s after the broker's last
    // word, and the next is overdue 7 s later.
    let settings = [
        ("BROKER__HEARTBEAT", "15s"),
        ("BROKER__CALL_TIMEOUT", "25s"),
        ("LOG__LEVEL", "info"),
        ("LOG__FORMAT", "json"),
        ("OPS__LISTEN", "127.0.0.1:0"),
    ];
    let replica = LoggedReplica::start(&Replica {
        amqp: &amqp,
        namespace: &namespace,
        simulator: &simulator,
        settings: &settings,
    });
    let address = replica.serves().await;
    readiness(&address, "an idle replica is ready", is_ready).await;

    // Not solved before the broker is silent, and due for its next poll all along.
    let slow = json!({"solve_ms": 20_000});
    let session = connect(&amqp).await;
    publish(&session, &namespace, jobs::image("slow", &slow).into_bytes()).await;
    simulator.wait_for("it is accepted", TIMEOUT, |stats| stats["accepted_tasks"] == 1).await;
    seen(&address, "/status", "its ticket is held", |status| status["tickets_open"] == 1).await;
    node.freeze();
    let reply = readiness(&address, "nothing is consumed", |reply| says(reply, "not being consumed")).await;
    assert!(!says(&reply, "no session with the broker"), "connected, and not ready: {reply}");
    readiness(&address, "polls are overdue", |reply| says(reply, "overdue")).await;
    assert_eq!(get(&address, "/healthz").await, "ok\n", "it is the broker that stands still");
    readiness(&address, "the session is given up", |reply| says(reply, "no session with the broker")).await;

    node.thaw();
    readiness(&address, "the replica is back", is_ready).await;
    replica.wait_for_line("connected to the broker again").await;
    let session = connect(&amqp).await;
    arrived(&session, &format!("{namespace}.results"), 1).await;
    assert_eq!(simulator.stats().await["accepted_tasks"], 1, "it was paid once");
}

#[tokio::test]
async fn an_alarm_of_the_broker_is_reported_and_a_paused_replica_is_ready() {
    let node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    let simulator = Simulator::start("").await;
    declare(&amqp, &namespace).await;
    let settings = [("LOG__LEVEL", "info"), ("LOG__FORMAT", "json"), ("OPS__LISTEN", "127.0.0.1:0")];
    let options = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings };
    let start = || LoggedReplica::start(&options);
    let mut replica = start();
    let address = replica.serves().await;
    readiness(&address, "an idle replica is ready", is_ready).await;
    let command = |words: &'static [&'static str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_captcha-worker"));
        command
            .args(words)
            .current_dir(std::env::temp_dir())
            .env("CAPTCHA_WORKER__BROKER__URL", &amqp)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &namespace)
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &simulator.url)
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key");
        async move { command.output().await.expect("it runs") }
    };

    // With a job behind it the account needs no probe after the pause: probes are 20 s apart.
    let session = connect(&amqp).await;
    publish(&session, &namespace, jobs::image("first", &json!({})).into_bytes()).await;
    arrived(&session, &format!("{namespace}.results"), 1).await;
    assert!(command(&["pause", "--reason", "a roll-out"]).await.status.success());
    let paused = readiness(&address, "it is paused", |reply| says(reply, "operator: paused since")).await;
    assert!(is_ready(&paused), "a pause is no obstacle: {paused}");
    let line: Value =
        serde_json::from_str(&replica.wait_for_line("an operator's command").await).expect("JSON");
    assert_eq!(
        (&line["command"], &line["by"], &line["reason"]),
        (&json!("pause"), &json!("guest"), &json!("a roll-out"))
    );
    // Another that starts into the pause, and leads, says so.
    replica.process.kill().await;
    let replica = start();
    let address = replica.serves().await;
    let line: Value =
        serde_json::from_str(&replica.wait_for_line("paused by an operator").await).expect("JSON");
    assert_eq!((&line["why"], &line["by"]), (&json!("a roll-out"), &json!("guest")));
    assert!(command(&["resume"]).await.status.success());
    readiness(&address, "it is ready after the pause", is_ready).await;

    node.ctl(&["set_vm_memory_high_watermark", "0"]);
    let blocked =
        readiness(&address, "publishing is blocked", |reply| says(reply, "memory or disk alarm")).await;
    assert!(!is_ready(&blocked), "{blocked}");
    let checked = command(&["check", "--json"]).await;
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let alarm = report["checks"].as_array().into_iter().flatten().find(|check| check["check"] == "alarm");
    assert_eq!(alarm.map(|alarm| &alarm["verdict"]), Some(&json!("failed")), "{report}");
    assert_eq!(checked.status.code(), Some(1));
    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    readiness(&address, "it is ready again", is_ready).await;
}
