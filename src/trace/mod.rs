//! Traces by OpenTelemetry's conventions, sent to a collector by OTLP: a consumer span for each
//! run of a job, with a client span for each call of the API and a producer span for each
//! message that is sent.
//!
//! A message that is sent comes from the span that sends it, by its header `traceparent`: one trace
//! spans publisher, replicas and consumer. Spans hold what stands in the code here and no more,
//! since log lines and library spans could hold secrets.
//!
//! Without the feature `otel` all of this is nothing, and headers are passed on as they came.

use std::time::Duration;

use url::Url;

use crate::domain::class::Class;

#[cfg(feature = "otel")]
mod client;
#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otlp;
#[cfg(feature = "otel")]
mod queue;

#[cfg(not(feature = "otel"))]
pub use none::{ChildSpan, Span, Tracer};
#[cfg(feature = "otel")]
pub use otlp::{ChildSpan, Span, Tracer};

/// How long the last spans may take to go out at the end.
pub const FLUSH: Duration = Duration::from_secs(3);

/// Spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TraceError(String);

/// Where spans go, and what all of them say.
#[derive(Debug)]
pub struct TraceOptions<'a> {
    /// The collector.
    pub collector: &'a Url,
    /// As `OTEL_EXPORTER_OTLP_PROTOCOL` calls them: `http/protobuf` or `grpc`. `None`: as that
    /// variable says.
    pub protocol: Option<&'a str>,
    /// Share of the jobs without a trace for which one begins.
    pub sample_ratio: f64,
    /// The replica's name.
    pub worker: &'a str,
    /// The messaging system: `rabbitmq`, or a word of our own.
    pub system: &'static str,
    /// Host and port of the broker, if it has any.
    pub broker: Option<(String, u16)>,
    /// The API's base address.
    pub api: &'a Url,
}

/// Where a delivery comes from.
#[derive(Debug)]
pub struct Source<'a> {
    /// The queue.
    pub queue: String,
    /// The key that it was published with.
    pub routing_key: &'a str,
    /// Its tag on its channel.
    pub delivery_tag: u64,
}

/// What a run has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunEnd<'a> {
    /// `ticket`, `retry`, `solved`, `failed`, `kept`, `handed over`, `known`, `rejected` or
    /// `returned`.
    pub to: &'static str,
    /// Where it failed: in which class, and by which code.
    pub failure: Option<(Class, &'a str)>,
}
