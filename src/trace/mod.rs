//! Traces: a span for each attempt at a job, a child of the span that its message comes from, sent
//! to a collector by OTLP.
//!
//! The span's context takes the place of the message's `traceparent`, so that whatever is made of
//! the message (a copy in a retry queue, a ticket, an outcome) comes from this span: one trace
//! spans publisher, replicas and consumer. Spans hold what stands in the code here and no more,
//! since log lines and library spans could hold what must not leave the house.
//!
//! Without the feature `otel` all of this is nothing, and headers are passed on as they came.

use std::time::Duration;

use crate::domain::class::Class;

#[cfg(not(feature = "otel"))]
mod none;
#[cfg(feature = "otel")]
mod otlp;

#[cfg(not(feature = "otel"))]
pub use none::{Span, Tracer};
#[cfg(feature = "otel")]
pub use otlp::{Span, Tracer};

/// How long the last spans may take to go out at the end.
pub const FLUSH: Duration = Duration::from_secs(3);

/// Spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TraceError(String);

/// What an attempt has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Came<'a> {
    /// `ticket`, `retried`, `solved`, `failed`, `known`, `rejected` or `returned`.
    pub to: &'static str,
    /// Where it failed: in which class, and by which code.
    pub failure: Option<(Class, &'a str)>,
}
