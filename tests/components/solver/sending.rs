//! What leaves this machine, byte for byte.

use bytes::Bytes;
use captcha_worker::domain::call::{CallError, NoAnswer};
use captcha_worker::solver::{RawReply, Solver, SolverConfigError, Transport, TransportError};
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use std::sync::Arc;
use std::time::Duration;
use wiremock::matchers::{any, header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::solver::support::{KEY, id, is_processing, options, solver};

async fn server(body: &str) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_string(body)).mount(&server).await;
    server
}

/// The bodies of all requests, as text.
async fn bodies(server: &MockServer) -> Vec<String> {
    let requests = server.received_requests().await.expect("recorded");
    requests.into_iter().map(|request| String::from_utf8(request.body).expect("UTF-8")).collect()
}

#[tokio::test]
async fn a_task_goes_out_byte_for_byte() {
    let server = server(r#"{"errorId":0,"taskId":1}"#).await;
    let task = "{ \"type\" :\"ImageToTextTask\",\n\t\"b\":\"\\u0430\\/\",\"n\":123456789012345678901234.50,\"n\":1 }";
    solver(&server.uri()).create_task(task.as_bytes()).await.expect("accepted");
    assert_eq!(bodies(&server).await, [format!(r#"{{"clientKey":"{KEY}","task":{task}}}"#)]);
}

#[tokio::test]
async fn a_task_id_goes_back_with_the_json_text_it_came_in() {
    let server = server("{}").await;
    let solver = solver(&server.uri());
    let ids = ["7654321", "18446744073709551616123", "\"7654321\"", "\"2f1c-\\u0041\""];
    for text in ids {
        assert!(is_processing(solver.task_state(&id(text)).await));
    }
    assert_eq!(bodies(&server).await, ids.map(|text| format!(r#"{{"clientKey":"{KEY}","taskId":{text}}}"#)));
}

#[tokio::test]
async fn a_balance_is_asked_with_the_key_alone() {
    let server = server(r#"{"errorId":0,"balance":1}"#).await;
    solver(&server.uri()).balance().await.expect("funds");
    assert_eq!(bodies(&server).await, [format!(r#"{{"clientKey":"{KEY}"}}"#)]);
}

#[tokio::test]
async fn a_key_with_odd_characters_is_escaped_as_json() {
    let server = server(r#"{"errorId":0,"balance":1}"#).await;
    let mut options = options(&server.uri());
    let key = "a\"b\\c\nд__nocache";
    options.api_key = SecretString::from(key);
    Solver::new(options).expect("a client").balance().await.expect("funds");
    let sent: serde_json::Value = serde_json::from_str(&bodies(&server).await[0]).expect("JSON");
    assert_eq!(sent, serde_json::json!({ "clientKey": key }));
}

#[tokio::test]
async fn calls_are_posts_of_json_below_the_path_of_the_base_url() {
    let server = MockServer::start().await;
    for call in ["createTask", "getTaskResult", "getBalance"] {
        Mock::given(method("POST"))
            .and(path(format!("/api/v1/{call}")))
            .and(header("content-type", "application/json"))
            .and(header("user-agent", "captcha-worker/test"))
            .respond_with(
                ResponseTemplate::new(200).set_body_string(r#"{"errorId":0,"taskId":1,"balance":1}"#),
            )
            .expect(2)
            .mount(&server)
            .await;
    }
    for base in ["/api/v1", "/api/v1/"] {
        let solver = solver(&format!("{}{base}", server.uri()));
        solver.create_task(b"{}").await.expect("accepted");
        solver.task_state(&id("1")).await.expect("a state");
        solver.balance().await.expect("funds");
    }
}

#[tokio::test]
async fn a_replaced_key_is_used_from_the_next_call_on_by_every_clone() {
    let server = server(r#"{"errorId":0,"balance":1}"#).await;
    let solver = solver(&server.uri());
    let clone = solver.clone();
    solver.replace_key(SecretString::from("another")).expect("a key");
    clone.balance().await.expect("funds");
    assert_eq!(bodies(&server).await, [r#"{"clientKey":"another"}"#]);
}

#[tokio::test]
async fn an_empty_key_does_not_replace_one() {
    let server = server(r#"{"errorId":0,"balance":1}"#).await;
    let solver = solver(&server.uri());
    assert_eq!(solver.replace_key(SecretString::from(" ")), Err(SolverConfigError::EmptyKey));
    solver.balance().await.expect("funds");
    assert_eq!(bodies(&server).await, [format!(r#"{{"clientKey":"{KEY}"}}"#)]);
}

#[tokio::test]
async fn json_under_another_content_type_is_read_all_the_same() {
    let server = MockServer::start().await;
    let answer =
        ResponseTemplate::new(200).set_body_raw(r#"{"errorId":0,"taskId":1}"#, "text/html; charset=x");
    Mock::given(any()).respond_with(answer).mount(&server).await;
    let accepted = solver(&server.uri()).create_task(b"{}").await.expect("accepted");
    assert_eq!(accepted.task_id.as_json(), "1");
}

/// Answers nothing for a minute of the paused clock.
struct Slow;

impl Transport for Slow {
    fn post<'a>(&'a self, path: &'static str, _: Bytes) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            let detail = format!("{path} with {KEY}");
            Err(TransportError::NoAnswer { kind: NoAnswer::TimedOut, status: None, detail })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_in_process_transport_answers_on_the_callers_clock() {
    let solver = Solver::with_transport(SecretString::from(KEY), Arc::new(Slow));
    let before = tokio::time::Instant::now();
    let end = solver.balance().await;
    assert_eq!(before.elapsed().as_secs(), 60);
    let detail = "/getBalance with [key]".to_owned();
    assert_eq!(end, Err(CallError::NoAnswer { kind: NoAnswer::TimedOut, status: None, detail }));
}
