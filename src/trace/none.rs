//! No traces.

use url::Url;

use super::{Came, TraceError};
use crate::domain::lifecycle::{Event, JobRun, Origin};
use crate::domain::message::Message;

/// What would make spans.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

/// What would be the span of an attempt.
#[derive(Debug, Default)]
pub struct Span(());

impl Tracer {
    /// No spans.
    #[must_use]
    pub fn off() -> Self {
        Self(())
    }

    /// Cannot be had in this build.
    ///
    /// # Errors
    /// Always.
    pub fn otlp(_: &Url, _: f64, _: &str) -> Result<Self, TraceError> {
        Err(TraceError("this program was built without the feature `otel`".to_owned()))
    }

    /// Leaves the message as it is.
    #[must_use]
    pub fn begin(&self, _: Origin, _: &mut Message) -> Span {
        Span(())
    }

    /// There is nothing to send.
    pub async fn flush(&self) {}
}

impl Span {
    /// Nothing.
    pub fn of(&mut self, _: &JobRun) {}

    /// Nothing.
    pub fn saw(&mut self, _: &Event) {}

    /// Nothing.
    pub fn end(self, _: Came<'_>) {}
}
