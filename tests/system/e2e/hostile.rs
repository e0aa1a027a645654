use std::time::Duration;

use serde_json::{Value, json};

use crate::e2e::foreign;
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::jobs;
use crate::support::rabbit::fresh_namespace;

/// A line for the publisher, its id as far as it can be read, and `queue/code` that it must end in.
fn cases() -> Vec<(String, &'static str)> {
    let image = |bytes: usize| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(vec![5; bytes])
    };
    let job =
        |rest: &str| format!(r#"{{"task":{{"type":"ImageToTextTask","body":"{}"}}{rest}}}"#, image(200));
    vec![
        ("not json".to_owned(), "dead.malformed/NOT_JSON"),
        ("[1,2]".to_owned(), "dead.malformed/NOT_AN_OBJECT"),
        (String::new(), "dead.malformed/EMPTY_BODY"),
        (job(r#","surprise":1"#), "dead.malformed/UNKNOWN_FIELD"),
        (job(r#","clientKey":"k""#), "dead.malformed/FORBIDDEN_FIELD"),
        (job(r#","callbackUrl":"http://x""#), "dead.malformed/FORBIDDEN_FIELD"),
        (job(r#","id":17"#), "dead.malformed/WRONG_TYPE"),
        (job(r#","deadline":"soon""#), "dead.malformed/DEADLINE_UNREADABLE"),
        (job(r#","deadline":"2020-01-01T00:00:00Z""#), "dead.expired/DEADLINE_PASSED"),
        ("[".repeat(50_000), "dead.malformed/TOO_DEEP"),
        (r#"{"id":"x"}"#.to_owned(), "dead.malformed/MISSING_FIELD"),
        (r#"{"id":"x","task":{"body":"x"}}"#.to_owned(), "dead.malformed/MISSING_FIELD"),
        (format!(r#"{{"task":{{"type":"ImageToTextTask","body":"{}"}}}}"#, image(99)), "dead.invalid/IMAGE_TOO_SMALL"),
        (format!(r#"{{"task":{{"type":"ImageToTextTask","body":"{}"}}}}"#, image(50_001)), "dead.invalid/IMAGE_TOO_BIG"),
        (r#"{"task":{"type":"ImageToTextTask","body":"%%%"}}"#.to_owned(), "dead.invalid/IMAGE_NOT_BASE64"),
        (
            r#"{"task":{"type":"TurnstileTask","websiteURL":"https://user@elsewhere.example/","websiteKey":"k"}}"#.to_owned(),
            "dead.forbidden/POLICY_SITE_NOT_ALLOWED",
        ),
        ("x".repeat(10 * 1024 * 1024), "dead.raw/"),
    ]
}

fn end_of(arrival: &foreign::Arrival, namespace: &str) -> String {
    let queue = arrival.queue.trim_start_matches(namespace).trim_start_matches('.');
    let code =
        arrival.outcome.as_ref().and_then(|outcome| outcome["failure"]["code"].as_str()).unwrap_or_default();
    format!("{queue}/{code}")
}

#[tokio::test]
async fn garbage_ends_in_its_dead_queue_with_its_reason_and_the_worker_goes_on() {
    let amqp = amqp();
    let namespace = fresh_namespace();
    let simulator = Simulator::start("").await;
    declare(&amqp, &namespace).await;
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &[] };
    let mut worker = replica.start();

    let cases = cases();
    let mut lines: Vec<String> = cases.iter().map(|(line, _)| line.clone()).collect();
    let twin = jobs::image("twin", &json!({}));
    lines.extend([twin.clone(), twin]);
    let collecting = foreign::collect(&amqp, &namespace, lines.len(), 60);
    foreign::publish(&amqp, &namespace, &lines);
    let arrivals = tokio::task::spawn_blocking(|| collecting.finish()).await.expect("no panic");

    let mut came: Vec<String> = arrivals.iter().map(|arrival| end_of(arrival, &namespace)).collect();
    let mut wanted: Vec<String> = cases.iter().map(|(_, end)| (*end).to_owned()).collect();
    wanted.extend(["results/".to_owned(), "results/".to_owned()]);
    came.sort();
    wanted.sort();
    assert_eq!(came, wanted, "two jobs of one id are two jobs, and each piece of garbage has its place");

    for arrival in &arrivals {
        let Some(outcome) = &arrival.outcome else {
            assert_eq!(arrival.bytes, 10 * 1024 * 1024, "too large: kept whole by the broker");
            continue;
        };
        if outcome["status"] == json!("failed") {
            let kept = outcome.get("job").or(outcome.get("original")).unwrap_or(&Value::Null);
            assert!(!kept.is_null(), "the original is kept: {outcome}");
            assert!(outcome["failure"]["description"].as_str().is_some_and(|text| !text.is_empty()));
        }
    }
    let stats = simulator.stats().await;
    assert_eq!(stats["calls"]["create_task"], json!(2), "nothing but the two good jobs was submitted");
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));
}
