//! What the tests of the simulator share: calls, and tasks that differ from each other.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::simulator::{BanRule, Distribution, Reply, Simulator, SimulatorConfig};
use serde_json::{Value, json};

pub(crate) const KEY: &str = "simulator-key";

/// No latency and a fixed solve time of 3 s for images, so that tests can speak of exact instants.
pub(crate) fn exact() -> SimulatorConfig {
    let mut config = SimulatorConfig { latency_ms: Distribution::Fixed(0), ..SimulatorConfig::default() };
    config.types.entry("ImageToTextTask".into()).or_default().solve_ms = Some(Distribution::Fixed(3_000));
    config
}

/// As [`exact`], with bans out of the way, for tests of something else.
pub(crate) fn lenient() -> SimulatorConfig {
    SimulatorConfig { ban: BanRule { offences: 0, ..BanRule::default() }, ..exact() }
}

pub(crate) fn simulator(config: SimulatorConfig) -> Simulator {
    Simulator::new(config).expect("usable settings")
}

/// An image of so many decoded bytes; a different `number` is a different image.
pub(crate) fn image(number: u32, bytes: usize) -> Value {
    let mut raw = vec![7; bytes];
    raw[..4].copy_from_slice(&number.to_be_bytes());
    json!({"type": "ImageToTextTask", "body": STANDARD.encode(raw)})
}

/// The JSON of an answer with HTTP status 200.
pub(crate) fn json_of(reply: &Reply) -> Value {
    match reply {
        Reply::Answer { status: 200, body, .. } => serde_json::from_slice(body).expect("a JSON answer"),
        other => panic!("not an answer: {other:?}"),
    }
}

pub(crate) async fn call(simulator: &Simulator, path: &str, body: &Value) -> Reply {
    simulator.call(path, body.to_string().as_bytes()).await
}

pub(crate) async fn submit(simulator: &Simulator, task: &Value) -> Reply {
    call(simulator, "createTask", &json!({"clientKey": KEY, "task": task})).await
}

/// Submits a task that must be accepted; its id.
pub(crate) async fn accepted(simulator: &Simulator, task: &Value) -> Value {
    let answer = json_of(&submit(simulator, task).await);
    assert_eq!(answer["errorId"], 0, "{answer}");
    answer["taskId"].clone()
}

/// The error code of a createTask that must be refused.
pub(crate) async fn refused(simulator: &Simulator, task: &Value) -> String {
    code_of(&submit(simulator, task).await)
}

pub(crate) async fn poll(simulator: &Simulator, id: &Value) -> Reply {
    call(simulator, "getTaskResult", &json!({"clientKey": KEY, "taskId": id})).await
}

/// `processing`, `ready`, or the error code of a poll.
pub(crate) async fn polled(simulator: &Simulator, id: &Value) -> String {
    let reply = poll(simulator, id).await;
    match json_of(&reply)["status"].as_str() {
        Some(status) => status.to_owned(),
        None => code_of(&reply),
    }
}

pub(crate) async fn balance(simulator: &Simulator) -> Reply {
    call(simulator, "getBalance", &json!({"clientKey": KEY})).await
}

/// The JSON of getBalance with this key.
pub(crate) async fn key_balance(simulator: &Simulator, key: Value) -> Value {
    json_of(&call(simulator, "getBalance", &json!({"clientKey": key})).await)
}

pub(crate) fn code_of(reply: &Reply) -> String {
    let answer = json_of(reply);
    assert_eq!(answer["errorId"], 1, "{answer}");
    answer["errorCode"].as_str().expect("an error code").to_owned()
}

/// Moves the paused clock.
pub(crate) async fn pass(ms: u64) {
    tokio::time::advance(Duration::from_millis(ms)).await;
}
