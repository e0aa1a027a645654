//! Spans without a worker around them: how they end, and those that are lost.

use std::sync::Arc;

use captcha_worker::domain::message::Message;
use captcha_worker::trace::{Source, Span, TraceOptions, Tracer};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tempfile::NamedTempFile;
use tracing::Level;
use url::Url;

use crate::traces::collector::{Collector, Sent};

/// Of a worker whose broker and API are on a host of IPv6.
fn tracer(collector: &str) -> Tracer {
    let options = TraceOptions {
        collector: &collector.parse().expect("an address"),
        protocol: Some("http/protobuf"),
        sample_ratio: 1.0,
        worker: "w",
        system: "rabbitmq",
        broker: Some(("[::1]".to_owned(), 5672)),
        api: &Url::parse("http://[::1]:8080").expect("an address"),
    };
    Tracer::otlp(&options).expect("a tracer")
}

fn attempt(tracer: &Tracer) -> Span {
    let from = || Source { queue: "captcha.jobs".to_owned(), routing_key: "jobs", delivery_tag: 1 };
    tracer.begin(&mut Message::default(), from)
}

#[tokio::test]
async fn what_is_sent_or_answered_is_no_failure_and_what_is_dropped_before_is_one() {
    let collector = Collector::start().await;
    let tracer = tracer(&collector.url);
    let attempt = attempt(&tracer);
    let send = || attempt.send(("", "captcha.tickets"), &mut Message::default());
    send().sent();
    send().failed("stale");
    drop(send());
    attempt.call("/createTask").answered(Some(200), None);
    drop(attempt.call("/createTask"));
    tracer.flush().await;
    let spans = collector.spans();
    let why = |span: &Sent| span.attributes.get("error.type").and_then(|why| why.as_str()).map(str::to_owned);
    let ends: Vec<_> = spans.iter().map(|span| (span.kind, span.failed, why(span))).collect();
    let failed = |kind, why: &str| (kind, true, Some(why.to_owned()));
    assert_eq!(
        ends,
        [
            (SpanKind::Producer, false, None),
            failed(SpanKind::Producer, "stale"),
            failed(SpanKind::Producer, "cancelled"),
            (SpanKind::Client, false, None),
            failed(SpanKind::Client, "cancelled"),
        ]
    );
    assert!(spans.iter().all(|span| span.attributes["server.address"] == "::1"), "{spans:#?}");
}

#[tokio::test]
async fn spans_beyond_the_bound_are_counted_in_one_line_and_all_others_are_sent() {
    let log = NamedTempFile::new().expect("a temporary file");
    let writer = Arc::new(log.reopen().expect("it is there"));
    tracing_subscriber::fmt().with_max_level(Level::WARN).with_ansi(false).with_writer(writer).init();
    let (collector, mut gate) = Collector::start_gated().await;
    let tracer = tracer(&collector.url);
    drop(attempt(&tracer));
    gate.asked.recv().await.expect("the first is sent");
    for _ in 0..8_192 + 10 {
        drop(attempt(&tracer));
    }
    drop(gate);
    collector.wait_until("all that waited", |spans| (spans.len() == 1 + 8_192).then_some(())).await;
    tracer.flush().await;
    let log = std::fs::read_to_string(log.path()).expect("its log");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("lost=")).collect();
    assert!(lines.len() == 1 && lines[0].contains("WARN") && lines[0].contains("lost=10"), "{log}");
}
