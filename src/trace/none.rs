//! No traces.

use super::{RunEnd, Source, TraceError, TraceOptions};
use crate::domain::call::CallError;
use crate::domain::lifecycle::JobRun;
use crate::domain::message::Message;

/// What would make spans.
#[derive(Debug, Clone, Default)]
pub struct Tracer(());

/// What would be the span of a run.
#[derive(Debug, Default)]
pub struct Span(());

/// What would be the span of a call or of a message that is sent.
#[derive(Debug)]
pub struct ChildSpan(());

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
    pub fn otlp(_: &TraceOptions<'_>) -> Result<Self, TraceError> {
        Err(TraceError("this program was built without the feature `otel`".to_owned()))
    }

    /// Leaves the message as it is.
    #[must_use]
    pub fn begin<'a>(&self, _: &mut Message, _: impl FnOnce() -> Source<'a>) -> Span {
        Span(())
    }

    /// There is nothing to send.
    pub async fn flush(&self) {}
}

impl Span {
    /// None.
    #[must_use]
    pub fn ids(&self) -> Option<(String, String)> {
        None
    }

    /// Nothing.
    pub fn of(&mut self, _: &JobRun) {}

    /// Nothing.
    #[must_use]
    pub fn call(&self, _: &'static str) -> ChildSpan {
        ChildSpan(())
    }

    /// Leaves the message as it is.
    #[must_use]
    pub fn send(&self, _: (&str, &str), _: &mut Message) -> ChildSpan {
        ChildSpan(())
    }

    /// Leaves the message as it is.
    #[must_use]
    pub fn reply(&self, _: &str, _: &mut Message) -> ChildSpan {
        ChildSpan(())
    }

    /// Nothing.
    pub fn end(self, _: RunEnd<'_>) {}
}

impl ChildSpan {
    /// Nothing.
    pub fn answered(self, _: Option<u16>, _: Option<&CallError>) {}

    /// Nothing.
    pub fn goes_to(&mut self, _: &str) {}

    /// Nothing.
    pub fn sent(self) {}

    /// Nothing.
    pub fn failed(self, _: &'static str) {}
}
