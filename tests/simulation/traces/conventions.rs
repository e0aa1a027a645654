//! OpenTelemetry's semantic conventions, version 1.42.0 (Apache-2.0,
//! <https://github.com/open-telemetry/semantic-conventions>), as far as spans of the worker go, and
//! what the worker sends held against them.
//!
//! The names are the constants of the published crate, which is generated from the convention's
//! YAML: one that does not exist, or is deprecated, does not compile without a warning. Types,
//! members and requirement levels are written out here from `model/messaging/registry.yaml`,
//! `spans.yaml` and `rabbitmq.yaml`, and `model/http/registry.yaml`, `common.yaml` and
//! `spans.yaml`.

use std::collections::BTreeSet;
use std::time::Duration;

use captcha_worker::domain::message::Properties;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_semantic_conventions::SCHEMA_URL;
use opentelemetry_semantic_conventions::attribute::{
    ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, MESSAGING_DESTINATION_NAME,
    MESSAGING_DESTINATION_TEMPLATE, MESSAGING_MESSAGE_CONVERSATION_ID, MESSAGING_MESSAGE_ID,
    MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE, MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY,
    MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG, MESSAGING_SYSTEM, SERVER_ADDRESS, SERVER_PORT, URL_FULL,
    URL_TEMPLATE,
};
use serde_json::{Value, json};

use crate::support::fleet::Simulator;
use crate::support::jobs;
use crate::traces::collector::{Collector, Sent};
use crate::traces::namespace::Namespace;

/// An attribute's type.
#[derive(Clone, Copy)]
enum Type {
    Text,
    Int,
    /// A text that is one of these.
    OneOf(&'static [&'static str]),
}

/// An attribute's requirement level. Its conditions are those that these spans can meet.
#[derive(Clone, Copy, PartialEq)]
enum Level {
    Required,
    /// Conditionally: if and only if the operation has failed.
    IfFailed,
    /// Recommended, opt-in, or by a condition of the application.
    Free,
}

use Level::{Free, IfFailed, Required};
use Type::{Int, OneOf, Text};

type Convention = [(&'static str, Type, Level)];

const SYSTEMS: &[&str] = &[
    "activemq",
    "aws_sqs",
    "eventgrid",
    "eventhubs",
    "gcp_pubsub",
    "jms",
    "kafka",
    "pulsar",
    "rabbitmq",
    "rocketmq",
    "servicebus",
];
/// Without those that are deprecated: `deliver` and `publish`.
const OPERATIONS: &[&str] = &["create", "process", "receive", "send", "settle"];
const METHODS: &[&str] =
    &["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE", "_OTHER"];

/// `messaging.rabbitmq.process.consumer`. The delivery tag is required "when available", which it
/// is; the routing key "if not empty", which it never is here.
const PROCESS: &Convention = &[
    (MESSAGING_SYSTEM, OneOf(SYSTEMS), Required),
    (MESSAGING_OPERATION_NAME, Text, Required),
    (MESSAGING_OPERATION_TYPE, OneOf(OPERATIONS), Required),
    (MESSAGING_DESTINATION_NAME, Text, Required),
    (MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY, Text, Required),
    (MESSAGING_RABBITMQ_MESSAGE_DELIVERY_TAG, Int, Required),
    (MESSAGING_MESSAGE_ID, Text, Free),
    (MESSAGING_MESSAGE_CONVERSATION_ID, Text, Free),
    (SERVER_ADDRESS, Text, Free),
    (SERVER_PORT, Int, Free),
    (ERROR_TYPE, Text, IfFailed),
];

/// `messaging.rabbitmq.send.producer`.
const SEND: &Convention = &[
    (MESSAGING_SYSTEM, OneOf(SYSTEMS), Required),
    (MESSAGING_OPERATION_NAME, Text, Required),
    (MESSAGING_OPERATION_TYPE, OneOf(OPERATIONS), Required),
    (MESSAGING_DESTINATION_NAME, Text, Required),
    (MESSAGING_DESTINATION_TEMPLATE, Text, Free),
    (MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY, Text, Required),
    (MESSAGING_MESSAGE_ID, Text, Free),
    (MESSAGING_MESSAGE_CONVERSATION_ID, Text, Free),
    (SERVER_ADDRESS, Text, Free),
    (SERVER_PORT, Int, Free),
    (ERROR_TYPE, Text, IfFailed),
];

/// `http.client`. The status is required if there was an answer, which there always is here.
const CALL: &Convention = &[
    (HTTP_REQUEST_METHOD, OneOf(METHODS), Required),
    (URL_FULL, Text, Required),
    (SERVER_ADDRESS, Text, Required),
    (SERVER_PORT, Int, Required),
    (HTTP_RESPONSE_STATUS_CODE, Int, Required),
    (URL_TEMPLATE, Text, Free),
    (ERROR_TYPE, Text, IfFailed),
];

/// Where a span is not as the conventions have it.
fn faults(span: &Sent) -> Vec<String> {
    let text = |name: &str| span.attributes.get(name).and_then(Value::as_str).unwrap_or_default();
    let destination = match text(MESSAGING_DESTINATION_TEMPLATE) {
        "" => text(MESSAGING_DESTINATION_NAME),
        template => template,
    };
    let messages = format!("{} {destination}", text(MESSAGING_OPERATION_NAME));
    let calls = format!("{} {}", text(HTTP_REQUEST_METHOD), text(URL_TEMPLATE));
    let (convention, name) = match (span.kind, text(MESSAGING_OPERATION_TYPE)) {
        (SpanKind::Consumer, "process") => (PROCESS, messages),
        (SpanKind::Producer, "send") => (SEND, messages),
        (SpanKind::Client, "") => (CALL, calls),
        other => return vec![format!("no convention is for {other:?}")],
    };
    let mut faults = Vec::new();
    if span.name != name {
        faults.push(format!("its name is not {name:?}"));
    }
    for (name, value) in span.attributes.iter().filter(|(name, _)| !name.starts_with("captcha.")) {
        let fits = convention.iter().find(|(known, ..)| known == name).map(|(_, of_type, _)| match of_type {
            Text => value.is_string(),
            Int => value.is_i64(),
            OneOf(members) => value.as_str().is_some_and(|value| members.contains(&value)),
        });
        match fits {
            Some(true) => {}
            Some(false) => faults.push(format!("{name} cannot be {value}")),
            None => faults.push(format!("{name} is not known")),
        }
    }
    for (name, _, level) in convention {
        let wanted = match level {
            Required => true,
            IfFailed => span.failed,
            Free => continue,
        };
        if wanted != span.attributes.contains_key(*name) {
            faults.push(format!("{name} is missing, or is there without a cause"));
        }
    }
    faults
}

#[tokio::test]
async fn spans_are_as_the_published_conventions_have_them() {
    let mut namespace = Namespace::new("results").await;
    let collector = Collector::start().await;
    let simulator = Simulator::start("").await;
    let settings = [
        ("TRACES__OTLP_ENDPOINT", &*collector.url),
        ("BROKER__REPLY_TO_PREFIX", "shop."),
        // Unknown codes end their jobs at once.
        ("RETRY__UNKNOWN_TIMEOUT", "0s"),
    ];
    let replica = namespace.replica(&simulator, &settings);
    let mut worker = replica.start();
    let failing = jobs::image("failing", &json!({"create": ["ERROR_OF_NEXT_YEAR"]}));
    namespace.publish("failing", failing, &[]).await;
    let script = json!({"create": [{"http": 503, "body": ""}, "ok"], "solve_ms": 3_000});
    let properties = Properties {
        message_id: Some("order".to_owned()),
        correlation_id: Some("order-17".to_owned()),
        reply_to: Some("shop.answers".to_owned()),
        ..Properties::default()
    };
    namespace.publish_as(properties, jobs::image("order", &script)).await;
    namespace.outcome("order").await;
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));

    let spans = collector.spans();
    let faults: Vec<_> =
        spans.iter().map(|span| (span, faults(span))).filter(|(_, of)| !of.is_empty()).collect();
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(spans.iter().all(|span| span.conventions == SCHEMA_URL), "read the conventions anew");
    assert_eq!(SCHEMA_URL, "https://opentelemetry.io/schemas/1.42.0", "read the conventions anew");

    let namespace = &namespace.namespace;
    let names: BTreeSet<_> = spans.iter().map(|span| span.name.replace(namespace, "captcha")).collect();
    let is_retry = |name: &String| name.starts_with("send captcha.retry.");
    assert_eq!(
        names.iter().filter(|name| !is_retry(name)).collect::<Vec<_>>(),
        [
            "POST /createTask",
            "POST /getTaskResult",
            "process captcha.jobs",
            "process captcha.tickets",
            "send captcha.outcomes",
            "send captcha.tickets",
            "send {reply_to}",
        ]
    );
    assert_eq!(names.iter().filter(|name| is_retry(name)).count(), 1, "{names:?}");

    let values = |attribute: &str| -> BTreeSet<_> {
        let of = |span: &Sent| {
            span.attributes.get(attribute).map(|value| value.to_string().replace(namespace, "captcha"))
        };
        spans.iter().filter_map(of).collect()
    };
    let calls = ["createTask", "getTaskResult"].map(|call| format!("\"{}/{call}\"", simulator.url));
    assert_eq!(values(URL_FULL), BTreeSet::from(calls));
    assert_eq!(values(HTTP_RESPONSE_STATUS_CODE), ["200", "503"].map(str::to_owned).into());
    assert_eq!(values(ERROR_TYPE), ["\"ERROR_OF_NEXT_YEAR\"", "\"HTTP_503\""].map(str::to_owned).into());
    assert_eq!(values(MESSAGING_MESSAGE_ID), ["\"failing\"", "\"order\""].map(str::to_owned).into());
    assert_eq!(values(MESSAGING_MESSAGE_CONVERSATION_ID), ["\"order-17\"".to_owned()].into());
    let destinations = values(MESSAGING_DESTINATION_NAME);
    for destination in [
        "\"captcha.jobs\"",
        "\"captcha.tickets\"",
        "\"captcha.outcomes:dead.unknown.ERROR_OF_NEXT_YEAR\"",
        "\"captcha.outcomes:solved.ImageToTextTask\"",
        "\"shop.answers\"",
    ] {
        assert!(destinations.contains(destination), "{destination} in {destinations:?}");
    }
}

#[test]
fn what_is_against_the_conventions_is_found() {
    let good = Sent {
        worker: String::new(),
        name: "POST /createTask".to_owned(),
        kind: SpanKind::Client,
        conventions: SCHEMA_URL.to_owned(),
        trace_id: String::new(),
        span_id: String::new(),
        parent: String::new(),
        state: String::new(),
        failed: false,
        attributes: [
            (HTTP_REQUEST_METHOD, json!("POST")),
            (URL_FULL, json!("https://api.example/createTask")),
            (URL_TEMPLATE, json!("/createTask")),
            (SERVER_ADDRESS, json!("api.example")),
            (SERVER_PORT, json!(443)),
            (HTTP_RESPONSE_STATUS_CODE, json!(200)),
            ("captcha.job.id", json!("order")),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
    };
    assert_eq!(faults(&good), Vec::<String>::new());
    let with = |name: &str, value: Value| {
        let mut span = good.clone();
        span.attributes.insert(name.to_owned(), value);
        span
    };
    let mut missing = good.clone();
    missing.attributes.remove(URL_FULL);
    for (bad, about) in [
        (with("http.status_code", json!(200)), "http.status_code"),
        (with(SERVER_PORT, json!("443")), SERVER_PORT),
        (with(HTTP_REQUEST_METHOD, json!("post")), HTTP_REQUEST_METHOD),
        (with(ERROR_TYPE, json!("HTTP_503")), ERROR_TYPE),
        (Sent { failed: true, ..good.clone() }, ERROR_TYPE),
        (missing, URL_FULL),
        (Sent { name: "createTask".to_owned(), ..good.clone() }, "its name"),
        (Sent { kind: SpanKind::Server, ..good.clone() }, "no convention"),
    ] {
        assert!(faults(&bad).iter().any(|fault| fault.starts_with(about)), "{about}: {:?}", faults(&bad));
    }
}
