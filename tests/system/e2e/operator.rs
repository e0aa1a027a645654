use std::collections::BTreeSet;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::{Instant, interval};

use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::fleet::{Process, Replica, Simulator, declare};
use crate::support::jobs;

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");
const TIMEOUT: Duration = Duration::from_secs(40);
const NAMES: [&str; 3] = ["one", "two", "three"];

/// A command of an operator's.
async fn run(broker: &EitherBroker, arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .arg("--json")
        .current_dir(std::env::temp_dir())
        .env("CAPTCHA_WORKER__BROKER__URL", &broker.url)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &broker.namespace);
    command.output().await.expect("the command runs")
}

/// What one that ends well printed: a line of JSON, or several.
async fn command(broker: &EitherBroker, arguments: &[&str]) -> Vec<Value> {
    let output = run(broker, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.lines().map(|line| serde_json::from_str(line).expect("it prints JSON")).collect()
}

async fn publish(broker: &EitherBroker, lines: &[String]) {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), lines.join("\n")).expect("written");
    let published = &command(broker, &["publish", file.path().to_str().expect("UTF-8")]).await[0];
    assert_eq!(published["published"], lines.len(), "{published}");
}

async fn state(broker: &EitherBroker) -> Value {
    command(broker, &["status"]).await.remove(0)
}

/// The state as a leader has it. On a file the others make a new session first.
async fn with_leader(broker: &EitherBroker) -> Value {
    let (deadline, mut looks) = (Instant::now() + TIMEOUT, interval(Duration::from_millis(100)));
    loop {
        looks.tick().await;
        let output = run(broker, &["status"]).await;
        if output.status.success() {
            return serde_json::from_slice(&output.stdout).expect("it prints JSON");
        }
        assert!(Instant::now() < deadline, "nobody leads: {output:?}");
    }
}

fn images(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| jobs::image(&format!("{prefix}-{n}"), &json!({}))).collect()
}

on_both_brokers!(a_wrong_key_is_fixed_by_sighup_and_a_pause_outlives_a_killed_leader);

async fn a_wrong_key_is_fixed_by_sighup_and_a_pause_outlives_a_killed_leader(broker: EitherBroker) {
    let (amqp, namespace) = (&*broker.url, &*broker.namespace);
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(amqp, namespace).await;
    let key = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(key.path(), "a-key-that-nobody-issued").expect("written");
    let path = key.path().to_str().expect("UTF-8").to_owned();
    let start = |name: &'static str| -> Process {
        let settings = [("SOLVER__API_KEY", ""), ("SOLVER__API_KEY_FILE", &*path), ("WORKER__NAME", name)];
        Replica { amqp, namespace, simulator: &simulator, settings: &settings }.start()
    };
    let mut fleet: Vec<(&str, Process)> = NAMES.map(|name| (name, start(name))).into();
    publish(&broker, &images("first", 50)).await;
    simulator.wait_for("the key is tried", TIMEOUT, |stats| stats["bad_key_calls"] == 1).await;
    let status = state(&broker).await;
    assert_eq!(status["guard"]["reasons"], json!(["key_invalid"]), "{status}");
    assert_eq!(
        (&status["expected_replicas"], &status["backlog"]["jobs"]),
        (&json!(3), &json!(50)),
        "{status}"
    );

    let resumed = run(&broker, &["resume"]).await;
    let said: Value = serde_json::from_slice(&resumed.stdout).expect("it prints JSON");
    assert_eq!(resumed.status.code(), Some(1), "the key is refused again: {said}");
    assert_eq!(said["guard"]["reasons"], json!(["key_invalid"]), "{said}");
    assert!(said["guard"]["next_probe_at"].is_string() && said["done"] != "resumed", "{said}");

    std::fs::write(key.path(), "simulator-key").expect("written");
    for (_, replica) in &fleet {
        replica.signal("HUP").await;
    }
    simulator.wait_for("all are accepted", TIMEOUT, |stats| stats["accepted_tasks"] == 50).await;
    let stats = simulator.stats().await;
    assert_eq!((&stats["bad_key_calls"], &stats["bans"]), (&json!(2), &json!(0)), "{stats}");

    let paused = command(&broker, &["pause", "--reason", "a trial"]).await.remove(0);
    assert_eq!((&paused["following"], &paused["replicas"]), (&json!(3), &json!(3)), "{paused}");
    assert!(paused["seconds"].as_f64().is_some_and(|seconds| seconds < 1.0), "{paused}");
    command(&broker, &["pause"]).await;
    let status = state(&broker).await;
    assert_eq!(status["guard"]["paused"]["reason"], "a trial", "{status}");
    let leader = status["leader"].clone();
    let place = fleet.iter().position(|(name, _)| leader == **name).expect("one of them");
    let (name, mut killed) = fleet.remove(place);
    killed.kill().await;
    fleet.push((name, start(name)));
    publish(&broker, &images("second", 20)).await;
    let status = with_leader(&broker).await;
    assert_eq!(status["guard"]["paused"]["reason"], "a trial", "{status}");
    assert_eq!(simulator.stats().await["accepted_tasks"], 50);

    command(&broker, &["resume"]).await;
    let outcomes = command(&broker, &["outcomes", "--follow", "--ack", "--limit", "70"]).await;
    let ids: BTreeSet<&str> = outcomes.iter().filter_map(|outcome| outcome["id"].as_str()).collect();
    assert_eq!(ids.len(), 70, "every job ends, in the result queue");
    for (_, mut replica) in fleet {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}
