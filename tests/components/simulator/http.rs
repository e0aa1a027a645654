//! The stand-in over real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use captcha_worker::simulator::{Distribution, Server, Simulator, SimulatorConfig};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::simulator::support::{KEY, image};

/// A running server; stops with its guard.
struct Running {
    base: String,
    client: Client,
    simulator: Simulator,
    shutdown: DropGuard,
    serving: JoinHandle<std::io::Result<()>>,
}

async fn running() -> Running {
    let config = SimulatorConfig { latency_ms: Distribution::Fixed(0), ..SimulatorConfig::default() };
    let simulator = Simulator::new(config).expect("usable settings");
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::bind(any_port, simulator.clone()).await.expect("a free port");
    let base = format!("http://{}", server.local_addr());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(server.run(shutdown.clone()));
    // reqwest is built without a default TLS provider and asks for one even for plain http.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
    Running { base, client, simulator, shutdown: shutdown.drop_guard(), serving }
}

impl Running {
    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> reqwest::Result<Response> {
        self.client.post(format!("{}{path}", self.base)).body(body).send().await
    }

    async fn json(&self, path: &str, body: &Value) -> Value {
        read(self.post(path, body.to_string()).await.expect("an answer")).await
    }

    async fn submit(&self, script: &Value) -> reqwest::Result<Response> {
        let mut task = image(1, 100);
        task["_sim"] = script.clone();
        self.post("/createTask", json!({"clientKey": KEY, "task": task}).to_string()).await
    }
}

async fn read(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.expect("a body")).expect("JSON")
}

#[tokio::test]
async fn a_task_goes_its_whole_way_over_http() {
    let api = running().await;
    let task = json!({"type": "ImageToTextTask", "body": image(1, 100)["body"], "_sim": {"solve_ms": 0}});
    let created = api.json("/createTask", &json!({"clientKey": KEY, "task": task})).await;
    assert_eq!(created, json!({"errorId": 0, "taskId": 7_000_001}));
    let response = api.post("/getTaskResult", format!(r#"{{"clientKey":"{KEY}","taskId":7000001}}"#)).await;
    let response = response.expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(read(response).await["status"], "ready");
    assert_eq!(api.json("/getBalance", &json!({"clientKey": KEY})).await["balance"], 999.999);
}

#[tokio::test]
async fn only_the_end_of_the_path_and_the_method_post_matter() {
    let api = running().await;
    let balance = api.json("/some/base/getBalance", &json!({"clientKey": KEY})).await;
    assert_eq!(balance["errorId"], 0);
    assert_eq!(api.post("/getTask", "{}").await.expect("an answer").status(), StatusCode::NOT_FOUND);
    let got = api.client.get(format!("{}/getBalance", api.base)).send().await.expect("an answer");
    assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED);
    let calls = api.simulator.stats().calls;
    assert_eq!((calls.get_balance, calls.other), (1, 1));
}

#[tokio::test]
async fn a_body_above_4_mib_is_refused_and_one_of_just_that_is_read() {
    let api = running().await;
    let envelope = r#"{"clientKey":"wrong","task":""}"#;
    let padded =
        |size: usize| envelope.replace("\"\"", &format!("\"{}\"", "x".repeat(size - envelope.len())));
    let most = api.post("/createTask", padded(4 * 1024 * 1024)).await.expect("an answer");
    assert_eq!(read(most).await["errorCode"], "ERROR_KEY_DOES_NOT_EXIST");
    let above = api.post("/createTask", padded(4 * 1024 * 1024 + 1)).await.expect("an answer");
    assert_eq!(above.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_cut_closes_the_connection_in_the_middle_of_the_answer() {
    let api = running().await;
    let response = api.submit(&json!({"create": ["cut"]})).await.expect("a head");
    assert_eq!(response.content_length(), Some(64));
    let error = response.bytes().await.expect_err("half a body");
    assert!(error.is_body() || error.is_decode(), "{error:?}");
}

#[tokio::test]
async fn a_hang_is_ended_by_the_callers_own_time_out() {
    let api = running().await;
    let mut task = image(1, 100);
    task["_sim"] = json!({"create": ["accepted_then_hang"]});
    let body = json!({"clientKey": KEY, "task": task}).to_string();
    let call = api.client.post(format!("{}/createTask", api.base)).body(body);
    let error = call.timeout(Duration::from_millis(300)).send().await.expect_err("no answer");
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(api.simulator.stats().accepted_tasks, 1);
}

#[tokio::test]
async fn scripted_http_answers_keep_their_status_and_headers() {
    let api = running().await;
    let step = json!({"http": 429, "body": "slow down", "retry_after": 7, "content_type": "text/plain"});
    let response = api.submit(&json!({"create": [step]})).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "7");
    assert_eq!(response.headers()["content-type"], "text/plain");
    assert_eq!(response.bytes().await.expect("a body"), "slow down");
}

#[tokio::test]
async fn a_trial_can_steer_and_read_it() {
    let api = running().await;
    let health = api.client.get(format!("{}/_sim/health", api.base)).send().await.expect("an answer");
    assert_eq!(health.status(), StatusCode::OK);
    let stats =
        api.json("/_sim/control", &json!({"balance": 1, "add_credits": 0.5, "key_valid": false})).await;
    assert_eq!(stats["balance"], 1.5);
    let refused = api.json("/getBalance", &json!({"clientKey": KEY})).await;
    assert_eq!(refused["errorCode"], "ERROR_KEY_DOES_NOT_EXIST");
    let control = json!({"key_valid": true, "storm": {"status": 502, "until_seconds": 60}, "slots": {"TurnstileTask": 0}});
    api.json("/_sim/control", &control).await;
    let stormy = api.post("/getBalance", "{}").await.expect("an answer");
    assert_eq!(stormy.status(), StatusCode::BAD_GATEWAY);
    let stats =
        read(api.client.get(format!("{}/_sim/stats", api.base)).send().await.expect("an answer")).await;
    assert_eq!((&stats["calls"]["get_balance"], &stats["bad_key_calls"]), (&json!(2), &json!(2)));
    assert_eq!(stats["refused"], json!({"ERROR_KEY_DOES_NOT_EXIST": 1}));
}

#[tokio::test]
async fn a_control_that_is_not_understood_is_refused_by_name() {
    let api = running().await;
    for (body, part) in
        [(r#"{"blance": 1}"#, "blance"), (r#"{"storm": {"status": 200, "until_seconds": 1}}"#, "200")]
    {
        let response = api.post("/_sim/control", body).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(response.text().await.expect("a text").contains(part), "{part}");
    }
}

#[tokio::test]
async fn it_stops_when_asked_although_a_caller_hangs() {
    let Running { base, client, simulator, shutdown, serving } = running().await;
    let mut task = image(1, 100);
    task["_sim"] = json!({"create": ["hang"]});
    let body = json!({"clientKey": KEY, "task": task}).to_string();
    let hanging = tokio::spawn(client.post(format!("{base}/createTask")).body(body).send());
    let arrived = async {
        while simulator.stats().faults.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), arrived).await.expect("the call arrives");
    drop(shutdown);
    let stopped = tokio::time::timeout(Duration::from_secs(10), serving).await.expect("in time");
    stopped.expect("no panic").expect("no error");
    // The caller meets a closed connection: before or within the answer.
    let met = hanging.await.expect("no panic");
    assert!(met.is_err() || met.expect("an answer").bytes().await.is_err());
}
