//! The span of an attempt, and what it tells.

use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

use super::Came;
use crate::domain::api_code::Overrides;
use crate::domain::call::{CallError, TaskState};
use crate::domain::fault::{Stage, classify};
use crate::domain::lifecycle::{Event, JobRun, Origin};
use crate::domain::message::Message;
use crate::domain::time::Timestamp;
use crate::domain::trace::{Parent, parent};

/// Longest code of the API that a span holds, in characters.
const MAX_CODE: usize = 100;

/// The span of an attempt at a job, where somebody records it. Dropped, it ends.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recording>>);

#[derive(Debug)]
struct Recording {
    span: SdkSpan,
    tracer: SdkTracer,
}

/// A span that begins now, as a child of the one that the message comes from.
pub(super) fn begin(tracer: &SdkTracer, origin: Origin, message: &Message) -> SdkSpan {
    let (name, queue) = match origin {
        Origin::Job => ("process job", "jobs"),
        Origin::Ticket => ("process ticket", "tickets"),
    };
    let attributes = [
        KeyValue::new("messaging.system", "rabbitmq"),
        KeyValue::new("messaging.operation.type", "process"),
        KeyValue::new("messaging.destination.name", queue),
    ];
    let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer).with_attributes(attributes);
    let from = parent(&message.properties.headers).map(remote).unwrap_or_default();
    builder.start_with_context(tracer, &from)
}

fn remote(parent: Parent<'_>) -> Context {
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    let state = parent.state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace_id, span_id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    Context::new().with_remote_span_context(SpanContext::new(trace_id, span_id, flags, true, state))
}

impl Span {
    pub(super) fn recording(span: SdkSpan, tracer: SdkTracer) -> Self {
        Self(Some(Box::new(Recording { span, tracer })))
    }

    /// It is an attempt at this job.
    pub fn of(&mut self, case: &JobRun) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.set_attribute(KeyValue::new("captcha.job.id", case.job.id.clone()));
        span.set_attribute(KeyValue::new("captcha.task.type", case.job.task_type.clone()));
        span.set_attribute(KeyValue::new("captcha.job.retries", i64::from(case.history.retries)));
    }

    /// Something has happened to it. A call of createTask is a span of its own, one of getTaskResult is not: there can be 120 of them.
    pub fn saw(&mut self, event: &Event) {
        let Some(recording) = self.0.as_deref_mut() else { return };
        match event {
            Event::Submitted { sent_at, end } => recording.submitted(*sent_at, end.as_ref().err()),
            Event::Answered { end, .. } => {
                let state = match end {
                    Ok(TaskState::Processing) => "processing".to_owned(),
                    Ok(TaskState::Ready { .. }) => "ready".to_owned(),
                    Err(error) => told(error),
                };
                recording.span.add_event("getTaskResult", vec![KeyValue::new("captcha.state", state)]);
            }
            Event::Taken
            | Event::TicketTaken { .. }
            | Event::Due
            | Event::SubmissionsShut { .. }
            | Event::Refused(_)
            | Event::Deferred(_)
            | Event::TypeFailing => {}
        }
    }

    /// The attempt has come to its end.
    pub fn end(self, came: Came<'_>) {
        let Some(mut recording) = self.0 else { return };
        let span = &mut recording.span;
        span.set_attribute(KeyValue::new("captcha.end", came.to));
        if let Some((class, code)) = came.failure {
            span.set_attribute(KeyValue::new("captcha.class", class.name()));
            span.set_attribute(KeyValue::new("error.type", code.to_owned()));
            span.set_status(Status::error(code.to_owned()));
        }
        span.end();
    }
}

impl Recording {
    /// createTask was called at that time, and has ended now.
    fn submitted(&self, sent_at: Timestamp, error: Option<&CallError>) {
        let sent_at =
            UNIX_EPOCH + Duration::from_millis(u64::try_from(sent_at.as_millis()).unwrap_or_default());
        let from = Context::new().with_remote_span_context(self.span.span_context().clone());
        let call = SpanBuilder::from_name("createTask").with_kind(SpanKind::Client).with_start_time(sent_at);
        let mut call = call.start_with_context(&self.tracer, &from);
        if let Some(error) = error {
            let code = told(error);
            call.set_attribute(KeyValue::new("error.type", code.clone()));
            call.set_status(Status::error(code));
        }
        call.end();
    }
}

/// A call's bad end in a word.
fn told(error: &CallError) -> String {
    let fault = classify(error, Stage::Submit, false, &Overrides::default());
    fault.code.chars().take(MAX_CODE).collect()
}
