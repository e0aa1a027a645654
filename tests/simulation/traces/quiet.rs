use std::fs::File;
use std::net::TcpListener;
use std::time::Duration;

use captcha_worker::domain::message::Properties;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::time::Instant;

use crate::support::fleet::{Replica, Simulator};
use crate::support::jobs;
use crate::support::rabbit::{SharedRabbit, fresh_namespace};
use crate::traces::collector::{Collector, Sent};
use crate::traces::namespace::Namespace;

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
    let mut namespace = Namespace::new("results").await;
    let simulator = Simulator::start("").await;
    // It takes connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let collector = format!("http://{}", silent.local_addr().expect("its address"));
    let log = NamedTempFile::new().expect("a temporary file");
    let settings = [("TRACES__OTLP_ENDPOINT", &*collector), ("TRACES__PROTOCOL", protocol)];
    let replica = namespace.replica(&simulator, &settings);
    let mut worker = replica.start_logging_to(File::create(log.path()).expect("written").into());
    for n in 0..4 {
        let id = format!("job-{n}");
        namespace.publish(&id, jobs::image(&id, &json!({})), &[]).await;
        namespace.outcome(&id).await;
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
        let mut namespace = Namespace::new("results").await;
        let log = NamedTempFile::new().expect("a temporary file");
        let settings = [("TRACES__OTLP_ENDPOINT", &**collector), ("LOG__LEVEL", "debug")];
        let replica = namespace.replica(&simulator, &settings);
        let mut worker = replica.start_with(&VARIABLES, File::create(log.path()).expect("written").into());
        namespace.publish("one", jobs::image("one", &json!({})), &[]).await;
        namespace.outcome("one").await;
        assert_eq!(worker.terminate(DRAIN).await, Some(0));
        let log = std::fs::read_to_string(log.path()).expect("its log");
        assert_eq!(log.contains("cannot send traces"), refuses, "{log}");
        assert_eq!(log.contains("gRPC status 16"), refuses, "{log}");
        assert!(!log.contains("pl4nted"), "{log}");
    }
    assert_eq!(taking.authorization().as_deref(), Some("Bearer pl4nted-token"));
    let spans = taking.spans();
    assert!(spans.iter().any(|span| span.attributes.get("captcha.end").is_some_and(|end| end == "solved")));
}

#[tokio::test]
async fn a_collector_that_takes_only_a_part_costs_a_line_without_its_own_words() {
    let (collector, simulator) = (Collector::start_rejecting().await, Simulator::start("").await);
    let mut namespace = Namespace::new("results").await;
    let log = NamedTempFile::new().expect("a temporary file");
    let settings = [("TRACES__OTLP_ENDPOINT", &*collector), ("LOG__LEVEL", "debug")];
    let replica = namespace.replica(&simulator, &settings);
    let mut worker = replica.start_with(&VARIABLES[1..], File::create(log.path()).expect("written").into());
    namespace.publish("one", jobs::image("one", &json!({})), &[]).await;
    namespace.outcome("one").await;
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let log = std::fs::read_to_string(log.path()).expect("its log");
    let line = log.lines().find(|line| line.contains("has rejected spans")).expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["rejected_spans"], &line["level"]), (&json!(3), &json!("WARN")), "{line}");
    assert!(!log.contains("pl4nted") && !log.contains("cannot send traces"), "{log}");
}

#[tokio::test]
async fn variables_that_cannot_be_used_end_the_start_and_fail_the_check_and_are_named() {
    let (rabbit, simulator) = (SharedRabbit::get().await, Simulator::start("").await);
    let endpoint = "http://127.0.0.1:4318";
    let settings = [("TRACES__OTLP_ENDPOINT", endpoint)];
    let namespace = fresh_namespace();
    let replica =
        Replica { amqp: rabbit.url(), namespace: &namespace, simulator: &simulator, settings: &settings };
    let check = async |variables: &[(&str, &str)]| {
        let mut check = Command::new(env!("CARGO_BIN_EXE_captcha-worker"));
        check
            .args(["check", "--offline", "--json"])
            .current_dir(std::env::temp_dir())
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "key")
            .env("CAPTCHA_WORKER__TRACES__OTLP_ENDPOINT", endpoint)
            .envs(variables.iter().copied());
        let output = check.output().await.expect("it runs");
        let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let checks = shown["checks"].as_array().expect("a list").clone();
        let traces = checks.into_iter().find(|check| check["check"] == "traces").expect("a check");
        (output.status.code(), traces)
    };
    for (name, value, text) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\""),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x=1,pl4nted", "part 2 of OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=pl4nted", "part 1 of OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x=pl4nted\u{1}", "part 1 of OTEL_EXPORTER_OTLP_HEADERS"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,x=pl4nted%0A", "part 2 of OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        let log = NamedTempFile::new().expect("a temporary file");
        let log_file = File::create(log.path()).expect("written");
        let mut worker = replica.start_with(&[(name, value)], log_file.into());
        assert_eq!(worker.end(DRAIN).await, Some(1));
        let log = std::fs::read_to_string(log.path()).expect("its log");
        assert!(log.contains(text) && !log.contains("pl4nted"), "{log}");
        let (code, traces) = check(&[(name, value)]).await;
        assert_eq!((code, &traces["verdict"]), (Some(1), &json!("failed")), "{traces}");
        assert!(traces["detail"].as_str().is_some_and(|detail| detail.contains(text)), "{traces}");
        assert!(!traces["advice"].as_str().expect("text").is_empty(), "{traces}");
        assert!(!traces.to_string().contains("pl4nted"), "{traces}");
    }
    let (code, traces) = check(&VARIABLES).await;
    assert_eq!((code, &traces["verdict"]), (Some(0), &json!("fine")), "{traces}");
}

#[tokio::test]
async fn lines_of_a_job_name_its_trace_as_json_and_as_text() {
    let (collector, simulator) = (Collector::start().await, Simulator::start("").await);
    for format in ["json", "human"] {
        let mut namespace = Namespace::new("results").await;
        let log = NamedTempFile::new().expect("a temporary file");
        let settings = [
            ("TRACES__OTLP_ENDPOINT", &*collector.url),
            ("WORKER__NAME", format),
            ("LOG__LEVEL", "info,job=debug"),
            ("LOG__FORMAT", format),
        ];
        let replica = namespace.replica(&simulator, &settings);
        let mut worker = replica.start_logging_to(File::create(log.path()).expect("written").into());
        namespace.publish("one", jobs::image("one", &json!({})), &[]).await;
        namespace.outcome("one").await;
        // Not past admission, so that no job is made of it.
        namespace.publish("refused", "[]".to_owned(), &[]).await;
        let refused = |span: &Sent| {
            span.worker == format && span.attributes.get("captcha.end").is_some_and(|end| end == "failed")
        };
        let refused = collector.wait_for("refused", refused).await;
        assert_eq!(worker.terminate(DRAIN).await, Some(0));
        let solved = |span: &Sent| {
            span.worker == format && span.attributes.get("captcha.end").is_some_and(|end| end == "solved")
        };
        let solved = collector.wait_for("solved", solved).await;
        let log = std::fs::read_to_string(log.path()).expect("its log");
        let finished: Vec<_> = log.lines().filter(|line| line.contains("job finished")).collect();
        let [line, of_refused] = finished[..] else { panic!("not two lines: {log}") };
        for (line, span) in [(line, solved), (of_refused, refused)] {
            if format == "json" {
                let line: Value = serde_json::from_str(line).expect("JSON");
                assert_eq!(line["span"]["trace_id"], *span.trace_id, "{line}");
                assert_eq!(line["span"]["span_id"], *span.span_id, "{line}");
            } else {
                let named = format!("trace_id=\"{}\" span_id=\"{}\"", span.trace_id, span.span_id);
                assert!(line.contains(&named), "{line}");
            }
        }
    }
}

#[tokio::test]
async fn spans_hold_neither_keys_nor_proxies_nor_what_a_job_is_about() {
    let mut namespace = Namespace::new("dead.unknown").await;
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
    let replica = namespace.replica(&simulator, &settings);
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
        namespace.publish_as(properties, job.to_string()).await;
        namespace.outcome(&id).await;
    }
    assert_eq!(worker.terminate(DRAIN).await, Some(0));
    let raw = String::from_utf8_lossy(&collector.raw()).into_owned();
    for known in ["job-0", "job-2", "TurnstileTask", "createTask", "getTaskResult", "{reply_to}"] {
        assert!(raw.contains(known), "{known} is reported");
    }
    assert!(!raw.contains("pl4nted") && !raw.contains("192.0.2.7"), "{raw}");
}
