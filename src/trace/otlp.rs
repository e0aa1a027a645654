//! What makes spans, and sends them: in batches, from a thread of its own, bounded in number and
//! time. What a collector does not take is lost, and no job waits for it.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan, SpanData,
    SpanExporter as Export,
};
use reqwest::redirect;
use url::Url;

use super::{Came, FLUSH, TraceError};
use crate::domain::api_code::Overrides;
use crate::domain::call::{CallError, TaskState};
use crate::domain::fault::{Stage, classify};
use crate::domain::lifecycle::{Event, JobRun, Origin};
use crate::domain::message::Message;
use crate::domain::time::Timestamp;
use crate::domain::trace::{Parent, carry_on, parent};

/// Spans that wait for the collector at most; what comes beyond is dropped. A span takes about 1
/// kB.
const MAX_WAITING: usize = 8_192;
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const LINGER: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(2);
/// A whole call of the collector.
const CALL: Duration = Duration::from_secs(5);
/// Where collectors take spans.
const PATH: &str = "v1/traces";

/// What makes spans; nothing does where it is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Sending>>);

#[derive(Debug)]
struct Sending {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Tracer {
    /// No spans: headers are passed on as they came.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Sends spans to the collector at this address. `ratio`: share of the jobs without a trace for
    /// which one begins. `worker`: the replica's name.
    ///
    /// # Errors
    /// Where the client cannot be built. A collector that is not there is no error.
    pub fn otlp(collector: &Url, ratio: f64, worker: &str) -> Result<Self, TraceError> {
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client()?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint(collector))
            .with_timeout(CALL)
            .build()
            .map_err(|error| TraceError(error.to_string()))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(LINGER)
            .build();
        let processor =
            BatchSpanProcessor::builder(ReportingExporter(exporter)).with_batch_config(batches).build();
        let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", worker.to_owned()),
        ]);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer(env!("CARGO_PKG_NAME"));
        Ok(Self(Some(Arc::new(Sending { tracer, provider }))))
    }

    /// Begins the span of an attempt at a message; from here on the message comes from it.
    #[must_use]
    pub fn begin(&self, origin: Origin, message: &mut Message) -> Span {
        let Some(sending) = &self.0 else { return Span::default() };
        let span = begin(&sending.tracer, origin, message);
        let context = span.span_context();
        // Even where nobody records it: the next replica then knows that, and does not decide anew.
        if context.is_valid() {
            let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
            let (trace_id, span_id) = (u128::from_be_bytes(trace_id), u64::from_be_bytes(span_id));
            carry_on(&mut message.properties.headers, trace_id, span_id, context.is_sampled());
        }
        if span.is_recording() { Span::recording(span, sending.tracer.clone()) } else { Span::default() }
    }

    /// Sends what is left, in a bounded time. There are no spans after that.
    pub async fn flush(&self) {
        let Some(sending) = self.0.clone() else { return };
        let flushed =
            tokio::task::spawn_blocking(move || sending.provider.shutdown_with_timeout(FLUSH)).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::warn!("cannot send the last traces in time");
        }
    }
}

/// The collector's address for spans.
fn endpoint(collector: &Url) -> String {
    format!("{}/{PATH}", collector.as_str().trim_end_matches('/'))
}

/// No redirects and no proxy from the environment, as for the API. Built on a thread of its own:
/// within a runtime it must not be.
fn client() -> Result<reqwest::blocking::Client, TraceError> {
    let build = || {
        // Already installed by another part is as good: it is the same provider.
        rustls::crypto::ring::default_provider().install_default().ok();
        reqwest::blocking::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(CALL)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
    };
    let built = thread::Builder::new().spawn(build).map_err(|error| TraceError(error.to_string()))?.join();
    built
        .map_err(|_| TraceError("the client panicked".to_owned()))?
        .map_err(|error| TraceError(error.to_string()))
}

/// Logs where spans cannot be sent.
#[derive(Debug)]
struct ReportingExporter(SpanExporter);

impl Export for ReportingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let end = self.0.export(batch).await;
        if let Err(error) = &end {
            tracing::warn!(%error, spans, "cannot send traces to traces.otlp_endpoint; they are lost, jobs are not affected");
        }
        end
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.0.shutdown()
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

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
fn begin(tracer: &SdkTracer, origin: Origin, message: &Message) -> SdkSpan {
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
    fn recording(span: SdkSpan, tracer: SdkTracer) -> Self {
        Self(Some(Box::new(Recording { span, tracer })))
    }

    /// It is an attempt at this job.
    pub fn of(&mut self, case: &JobRun) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.set_attribute(KeyValue::new("captcha.job.id", case.job.id.clone()));
        span.set_attribute(KeyValue::new("captcha.task.type", case.job.task_type.clone()));
        span.set_attribute(KeyValue::new("captcha.job.retries", i64::from(case.history.retries)));
    }

    /// Something has happened to it. A call of createTask is a span of its own, one of
    /// getTaskResult is not: there can be 120 of them.
    pub fn saw(&mut self, event: &Event) {
        let Some(recording) = self.0.as_deref_mut() else { return };
        match event {
            Event::Submitted { sent_at, end, .. } => recording.submitted(*sent_at, end.as_ref().err()),
            Event::Answered { end, .. } => {
                let state = match end {
                    Ok(TaskState::Processing) => "processing".to_owned(),
                    Ok(TaskState::Ready { .. }) => "ready".to_owned(),
                    Err(error) => error_code(error),
                };
                recording.span.add_event("getTaskResult", vec![KeyValue::new("captcha.state", state)]);
            }
            Event::Taken
            | Event::TicketTaken { .. }
            | Event::Due
            | Event::PollingStopped
            | Event::CallbackCame { .. }
            | Event::DeadlinePassed
            | Event::SubmissionBlocked { .. }
            | Event::Refused(_)
            | Event::Deferred(_)
            | Event::TypeFailing
            | Event::OverPublisherLimit { .. } => {}
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
            let code = error_code(error);
            call.set_attribute(KeyValue::new("error.type", code.clone()));
            call.set_status(Status::error(code));
        }
        call.end();
    }
}

/// The code of a failed call.
fn error_code(error: &CallError) -> String {
    let fault = classify(error, Stage::Submit, false, &Overrides::default());
    fault.code.chars().take(MAX_CODE).collect()
}
