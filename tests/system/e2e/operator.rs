use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::e2e::foreign;
use crate::support::fleet::{Process, Replica, Simulator, amqp, declare};
use crate::support::jobs;
use crate::support::rabbit::fresh_namespace;

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");
const NAMES: [&str; 3] = ["one", "two", "three"];

/// A command of an operator's, and what it printed.
async fn command(amqp: &str, namespace: &str, arguments: &[&str]) -> Value {
    let output = Command::new(BINARY)
        .args(arguments)
        .arg("--json")
        .current_dir(std::env::temp_dir())
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .output()
        .await
        .expect("the command runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    serde_json::from_str(&out).expect("it prints JSON")
}

fn images(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| jobs::image(&format!("{prefix}-{n}"), &json!({}))).collect()
}

#[tokio::test]
async fn a_wrong_key_is_fixed_by_sighup_and_a_pause_outlives_a_killed_leader() {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(&amqp, &namespace).await;
    let key = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(key.path(), "a-key-that-nobody-issued").expect("written");
    let path = key.path().to_str().expect("UTF-8").to_owned();
    let start = |name: &'static str| -> Process {
        let settings = [("SOLVER__API_KEY", ""), ("SOLVER__API_KEY_FILE", &*path), ("WORKER__NAME", name)];
        Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &settings }.start()
    };
    let mut fleet: Vec<(&str, Process)> = NAMES.map(|name| (name, start(name))).into();
    foreign::publish(&amqp, &namespace, &images("first", 50));
    let patience = Duration::from_secs(40);
    simulator.wait_for("the key is tried", patience, |stats| stats["bad_key_calls"] == 1).await;
    let status = command(&amqp, &namespace, &["status"]).await;
    assert_eq!(status["guard"]["reasons"], json!(["key_invalid"]), "{status}");
    assert_eq!(
        (&status["expected_replicas"], &status["backlog"]["jobs"]),
        (&json!(3), &json!(50)),
        "{status}"
    );

    std::fs::write(key.path(), "simulator-key").expect("written");
    for (_, replica) in &fleet {
        replica.signal("HUP").await;
    }
    simulator.wait_for("all are accepted", patience, |stats| stats["accepted_tasks"] == 50).await;
    let stats = simulator.stats().await;
    assert_eq!((&stats["bad_key_calls"], &stats["bans"]), (&json!(1), &json!(0)), "{stats}");

    let paused = command(&amqp, &namespace, &["pause", "--reason", "a trial"]).await;
    assert_eq!((&paused["following"], &paused["replicas"]), (&json!(3), &json!(3)), "{paused}");
    assert!(paused["seconds"].as_f64().is_some_and(|seconds| seconds < 1.0), "{paused}");
    let leader = command(&amqp, &namespace, &["status"]).await["leader"].clone();
    let place = fleet.iter().position(|(name, _)| leader == **name).expect("one of them");
    let (name, mut killed) = fleet.remove(place);
    killed.kill().await;
    fleet.push((name, start(name)));
    foreign::publish(&amqp, &namespace, &images("second", 20));
    let status = command(&amqp, &namespace, &["status"]).await;
    assert_eq!(status["guard"]["paused"]["reason"], "a trial", "{status}");
    assert_eq!(simulator.stats().await["accepted_tasks"], 50);

    command(&amqp, &namespace, &["resume"]).await;
    let collecting = foreign::collect(&amqp, &namespace, 70, 60);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");
    let ends = foreign::ends(&arrivals, &namespace);
    assert_eq!(ends.len(), 70, "every job ends");
    assert!(ends.values().flatten().all(|queue| queue == "results"), "in the result queue");
    for (_, mut replica) in fleet {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}
