use std::fs::File;
use std::net::TcpListener;
use std::time::Duration;

use captcha_worker::domain::message::Properties;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::time::Instant;

use crate::support::fleet::{Replica, Simulator};
use crate::support::jobs;
use crate::support::rabbit::{SharedRabbit, fresh_namespace};
use crate::traces::collector::{Collector, Sent};
use crate::traces::lane::Lane;

const DRAIN: Duration = Duration::from_secs(30);
/// How long the last spans may hold up the end, and some more for the process to end.
const FLUSH: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_collector_that_never_answers_over_http_costs_no_job_and_some_lines() {
    never_answers("http/protobuf").await;
}

#[tokio::test]
async fn a_collector_that_never_answers_over_grpc_costs_no_job_and_some_lines() {
    never_answers("grpc").await;
}

async fn never_answers(protocol: &str) {
    let mut lane = Lane::new("results").await;
    let simulator = Simulator::start("").await;
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let collector = format!("http://{}", silent.local_addr().expect("its address"));
    let log = NamedTempFile::new().expect("a temporary file");
    let settings = [("TRACES__OTLP_ENDPOINT", &*collector), ("TRACES__PROTOCOL", protocol)];
    let replica = lane.replica(&simulator, &settings);
    let mut worker = replica.start_logging_to(File::create(log.path()).expect("written").into());
    for n in 0..4 {
        let id = format!("job-{n}");
        lane.publish(&id, jobs::image(&id, &json!({})), &[]).await;
        lane.outcome(&id).await;
    }
    let began = Instant::now();
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    assert!(began.elapsed() < FLUSH, "{:?}", began.elapsed());
    let log = std::fs::read_to_string(log.path()).expect("its log");
    assert!(log.contains("cannot send traces"), "{log}");
}

/// What OpenTelemetry's own variables say.
const VARIABLES: [(&str, &str); 2] = [
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20pl4nted-token"),
];

#[tokio::test]
async fn spans_go_by_grpc_with_the_headers_of_the_environment_and_a_refusal_costs_no_job() {
    let (taking, refusing) = (Collector::start_grpc().await, Collector::start_refusing().await);
    let simulator = Simulator::start("").await;
    for (collector, refuses) in [(&taking.url, false), (&refusing, true)] {
        let mut lane = Lane::new("results").await;
        let log = NamedTempFile::new().expect("a temporary file");
        let settings = [("TRACES__OTLP_ENDPOINT", &**collector), ("LOG__LEVEL", "debug")];
        let replica = lane.replica(&simulator, &settings);
        let mut worker = replica.start_with(&VARIABLES, File::create(log.path()).expect("written").into());
        lane.publish("one", jobs::image("one", &json!({})), &[]).await;
        lane.outcome("one").await;
        assert_eq!(worker.terminate(DRAIN).await, Some(0));
        let log = std::fs::read_to_string(log.path()).expect("its log");
        assert_eq!(log.contains("gRPC status 16"), refuses, "{log}");
        assert!(!log.contains("pl4nted"), "{log}");
    }
    assert_eq!(taking.authorization().as_deref(), Some("Bearer pl4nted-token"));
    let spans = taking.spans();
    assert!(spans.iter().any(|span| span.attributes.get("captcha.end").is_some_and(|end| end == "solved")));
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_ends_the_start_and_is_named() {
    let (rabbit, simulator) = (SharedRabbit::get().await, Simulator::start("").await);
    let log = NamedTempFile::new().expect("a temporary file");
    let settings = [("TRACES__OTLP_ENDPOINT", "http://127.0.0.1:4318")];
    let namespace = fresh_namespace();
    let replica =
        Replica { amqp: rabbit.url(), namespace: &namespace, simulator: &simulator, settings: &settings };
    let variables = [("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")];
    let mut worker = replica.start_with(&variables, File::create(log.path()).expect("written").into());
    assert_eq!(worker.end(DRAIN).await, Some(1));
    let log = std::fs::read_to_string(log.path()).expect("its log");
    assert!(log.contains("OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\""), "{log}");
}

#[tokio::test]
async fn lines_of_a_job_name_its_trace_as_json_and_as_text() {
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    for format in ["json", "human"] {
        let mut lane = Lane::new("results").await;
        let log = NamedTempFile::new().expect("a temporary file");
        let settings = [
            ("TRACES__OTLP_ENDPOINT", &*collector.url),
            ("WORKER__NAME", format),
            ("LOG__LEVEL", "info,job=debug"),
            ("LOG__FORMAT", format),
        ];
        let replica = lane.replica(&simulator, &settings);
        let mut worker = replica.start_logging_to(File::create(log.path()).expect("written").into());
        lane.publish("one", jobs::image("one", &json!({})), &[]).await;
        lane.outcome("one").await;
        assert_eq!(worker.terminate(DRAIN).await, Some(0));
        let solved = |span: &Sent| {
            span.worker == format && span.attributes.get("captcha.end").is_some_and(|end| end == "solved")
        };
        let solved = collector.wait_for("solved", solved).await;
        let log = std::fs::read_to_string(log.path()).expect("its log");
        let line = log.lines().find(|line| line.contains("job finished")).expect("a line");
        if format == "json" {
            let line: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(line["span"]["trace_id"], *solved.trace_id, "{line}");
            assert_eq!(line["span"]["span_id"], *solved.span_id, "{line}");
        } else {
            let (trace_id, span_id) = (&solved.trace_id, &solved.span_id);
            let named = format!("trace_id=\"{trace_id}\" span_id=\"{span_id}\"");
            assert!(line.contains(&named), "{line}");
        }
    }
}

#[tokio::test]
async fn spans_hold_neither_keys_nor_proxies_nor_what_a_job_is_about() {
    let mut lane = Lane::new("dead.unknown").await;
    let collector = Collector::start().await;
    let simulator = Simulator::start("keys = [\"pl4nted-key\"]\n").await;
    let settings = [
        ("TRACES__OTLP_ENDPOINT", &*collector.url),
        ("SOLVER__API_KEY", "pl4nted-key"),
        ("POLICY__ALLOWED_DOMAINS", "example.com"),
        ("LOG__LEVEL", "off"),
        // Unknown codes end their jobs soon.
        ("RETRY__UNKNOWN_TIMEOUT", "0s"),
        ("POLLING__TurnstileTask__TIMEOUT", "10s"),
    ];
    let replica = lane.replica(&simulator, &settings);
    let mut worker = replica.start();
    let scripts = [
        json!({"create": ["ERROR_OF_NEXT_YEAR"]}),
        json!({"result": ["ERROR_OF_NEXT_YEAR"]}),
        json!({"create": [{"http": 500, "body": "pl4nted-key pl4nted-login"}, "ERROR_OF_NEXT_YEAR"]}),
    ];
    for (n, script) in scripts.iter().enumerate() {
        let id = format!("job-{n}");
        let job = json!({
            "id": id,
            "metadata": {"note": "pl4nted-note"},
            "task": {
                "type": "TurnstileTask", "websiteURL": "https://example.com/pl4nted-page", "websiteKey": "pl4nted-sitekey",
                "proxyType": "http", "proxyAddress": "192.0.2.7", "proxyPort": 8080,
                "proxyLogin": "pl4nted-login", "proxyPassword": "pl4nted-password", "_sim": script,
            },
        });
        let properties = Properties {
            message_id: Some(id.clone()),
            // Who knows this may answer.
            reply_to: Some("amq.rabbitmq.reply-to.pl4nted-reply".to_owned()),
            ..Properties::default()
        };
        lane.publish_as(properties, job.to_string()).await;
        lane.outcome(&id).await;
    }
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let raw = String::from_utf8_lossy(&collector.raw()).into_owned();
    for known in ["job-0", "job-2", "TurnstileTask", "createTask", "getTaskResult", "{reply_to}"] {
        assert!(raw.contains(known), "{known} is reported");
    }
    assert!(!raw.contains("pl4nted") && !raw.contains("192.0.2.7"), "{raw}");
}
