//! What makes spans, and sends them: in batches, from a thread of its own, bounded in number and
//! time. What a collector does not take is lost, and no job waits for it.
//!
//! Names are those of OpenTelemetry's semantic conventions for messaging, RabbitMQ and HTTP; a test
//! compares what is sent with them. What they have no name for is under `captcha.`. Why these
//! spans: docs/decisions/0038.

use std::borrow::Cow;
use std::env;
use std::sync::Arc;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId,
    TraceState, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan};
use percent_encoding::percent_decode_str;
use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

use super::client::{CALL, CollectorClient};
use super::queue::SpanQueue;
use super::{FLUSH, RunEnd, Source, TraceError, TraceOptions};
use crate::domain::api_code::Overrides;
use crate::domain::call::CallError;
use crate::domain::fault::{Stage, classify};
use crate::domain::lifecycle::JobRun;
use crate::domain::message::{Message, is_direct_reply};
use crate::domain::trace::{Parent, inject, parent};

/// Where collectors take spans over HTTP, and over gRPC.
const PATH: &str = "v1/traces";
const METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// OpenTelemetry's own settings of the protocol; the first that is set counts.
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
/// Its headers; the first that is set counts.
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
/// The version of the conventions by which the names below are chosen.
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.42.0";
/// Longest code of the API that a span holds, in characters.
const MAX_CODE: usize = 100;
/// What stands in the names of spans for queues that publishers choose.
const REPLY_TO: &str = "{reply_to}";

/// What makes spans; nothing does where it is off.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Sending>>);

#[derive(Debug)]
struct Sending {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
    /// What every span of a message says, and every span of a call.
    broker: Vec<KeyValue>,
    api: Vec<KeyValue>,
    is_rabbitmq: bool,
    /// Without user, password and the last `/`.
    api_url: String,
}

impl Tracer {
    /// No spans: headers are passed on as they came.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Sends spans to the collector.
    ///
    /// # Errors
    /// Where the client cannot be built, `OTEL_EXPORTER_OTLP_PROTOCOL` names what this program does
    /// not speak, or `OTEL_EXPORTER_OTLP_HEADERS` holds what is no header. A collector that is not
    /// there is no error.
    pub fn otlp(options: &TraceOptions<'_>) -> Result<Self, TraceError> {
        let is_grpc = is_grpc(options.protocol)?;
        check_headers()?;
        let path = if is_grpc { METHOD } else { PATH };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(CollectorClient::new(is_grpc)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/{path}", options.collector.as_str().trim_end_matches('/')))
            .with_timeout(CALL)
            // A refusal is a refusal, and what is lost is logged once.
            .with_retry_policy(RetryPolicy::disabled())
            .build()
            .map_err(|error| TraceError(error.to_string()))?;
        let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME")).with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", options.worker.to_owned()),
        ]);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(options.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(SpanQueue::new(exporter))
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        let scope = InstrumentationScope::builder(env!("CARGO_PKG_NAME")).with_schema_url(CONVENTIONS);
        let tracer = provider.tracer_with_scope(scope.with_version(env!("CARGO_PKG_VERSION")).build());
        let mut broker = vec![KeyValue::new("messaging.system", options.system)];
        broker.extend(options.broker.iter().flat_map(|(host, port)| server(host, *port)));
        let mut api = vec![KeyValue::new("http.request.method", "POST")];
        if let (Some(host), Some(port)) = (options.api.host_str(), options.api.port_or_known_default()) {
            api.extend(server(host, port));
        }
        let is_rabbitmq = options.system == "rabbitmq";
        let api_url = without_user(options.api);
        Ok(Self(Some(Arc::new(Sending { tracer, provider, broker, api, is_rabbitmq, api_url }))))
    }

    /// Begins the span of a run, one delivery on its way to a settlement, as a child of the span
    /// that the message comes from. From here on the message comes from the run's.
    #[must_use]
    pub fn begin<'a>(&self, message: &mut Message, from: impl FnOnce() -> Source<'a>) -> Span {
        let Some(sending) = &self.0 else { return Span::default() };
        let Source { queue, routing_key, delivery_tag } = from();
        let builder = SpanBuilder::from_name(format!("process {queue}")).with_kind(SpanKind::Consumer);
        let from = parent(&message.properties.headers).map(remote).unwrap_or_default();
        let mut span = builder.start_with_context(&sending.tracer, &from);
        // Most are not recorded where the ratio is low.
        if span.is_recording() {
            span.set_attributes(sending.about("process", message));
            span.set_attributes(sending.destination(queue, routing_key));
            if sending.is_rabbitmq {
                let tag = i64::try_from(delivery_tag).unwrap_or(i64::MAX);
                span.set_attribute(KeyValue::new("messaging.rabbitmq.message.delivery_tag", tag));
            }
        }
        // Even where nobody records it: the next replica then knows that, and does not decide anew.
        comes_from(message, span.span_context());
        let recorded =
            span.is_recording().then(|| Box::new(Recording { span, sending: Arc::clone(sending) }));
        Span(recorded)
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

/// Whether spans go by gRPC: as the settings say, or else OpenTelemetry's own variables.
fn is_grpc(setting: Option<&str>) -> Result<bool, TraceError> {
    let variable = || PROTOCOL.iter().find_map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
    match setting.map(str::to_owned).or_else(variable).as_deref() {
        None | Some("http/protobuf") => Ok(false),
        Some("grpc") => Ok(true),
        Some(other) => {
            let text = format!(
                "{} or {} is {other:?}; traces go by \"http/protobuf\" or \"grpc\"",
                PROTOCOL[0], PROTOCOL[1]
            );
            Err(TraceError(text))
        }
    }
}

/// The exporter leaves out in silence what it cannot read, and the collector then refuses all
/// spans.
fn check_headers() -> Result<(), TraceError> {
    let set = HEADERS.iter().find_map(|name| env::var(name).ok().map(|value| (name, value)));
    let Some((name, value)) = set else { return Ok(()) };
    let is_header = |part: &str| {
        part.split_once('=').is_some_and(|(name, value)| {
            let (name, value) = (name.trim(), value.trim());
            // As the exporter decodes it.
            let value = percent_decode_str(value).decode_utf8().unwrap_or(Cow::Borrowed(value));
            HeaderName::try_from(name).is_ok() && !value.is_empty() && HeaderValue::from_str(&value).is_ok()
        })
    };
    // A value is secret.
    match value.split(',').position(|part| !part.trim().is_empty() && !is_header(part)) {
        None => Ok(()),
        Some(at) => Err(TraceError(format!(
            "part {} of {name} is not name=value, or has characters that no header can have",
            at + 1
        ))),
    }
}

/// An address of IPv6 stands in brackets in a URL alone.
fn server(host: &str, port: u16) -> [KeyValue; 2] {
    let host = host.trim_matches(['[', ']']).to_owned();
    [KeyValue::new("server.address", host), KeyValue::new("server.port", i64::from(port))]
}

fn without_user(url: &Url) -> String {
    let mut url = url.clone();
    // Neither fails for an address with a host.
    let _ = (url.set_username(""), url.set_password(None));
    url.as_str().trim_end_matches('/').to_owned()
}

fn remote(parent: Parent<'_>) -> Context {
    let flags = TraceFlags::default().with_sampled(parent.sampled);
    let state = parent.state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    let (trace_id, span_id) = (TraceId::from(parent.trace_id), SpanId::from(parent.span_id));
    Context::new().with_remote_span_context(SpanContext::new(trace_id, span_id, flags, true, state))
}

fn comes_from(message: &mut Message, context: &SpanContext) {
    if context.is_valid() {
        let (trace_id, span_id) = (context.trace_id().to_bytes(), context.span_id().to_bytes());
        let (trace_id, span_id) = (u128::from_be_bytes(trace_id), u64::from_be_bytes(span_id));
        inject(&mut message.properties.headers, trace_id, span_id, context.is_sampled());
    }
}

impl Sending {
    /// What a span about this message says.
    fn about(&self, operation: &'static str, message: &Message) -> Vec<KeyValue> {
        let mut attributes = self.broker.clone();
        attributes.push(KeyValue::new("messaging.operation.name", operation));
        attributes.push(KeyValue::new("messaging.operation.type", operation));
        let properties = &message.properties;
        for (name, id) in [
            ("messaging.message.id", &properties.message_id),
            ("messaging.message.conversation_id", &properties.correlation_id),
        ] {
            attributes.extend(id.as_ref().map(|id| KeyValue::new(name, id.clone())));
        }
        attributes
    }

    fn destination(&self, name: String, routing_key: &str) -> Vec<KeyValue> {
        let mut attributes = vec![KeyValue::new("messaging.destination.name", name)];
        if self.is_rabbitmq && !routing_key.is_empty() {
            let key = KeyValue::new("messaging.rabbitmq.destination.routing_key", routing_key.to_owned());
            attributes.push(key);
        }
        attributes
    }
}

/// The span of a run, where somebody records it. Dropped, it ends.
#[derive(Debug, Default)]
pub struct Span(Option<Box<Recording>>);

/// The span of a call or of a message that is sent, below that of a run. Dropped before its
/// end is known, it ends as failed.
#[derive(Debug)]
pub struct ChildSpan(Option<Box<Recording>>);

#[derive(Debug)]
struct Recording {
    span: SdkSpan,
    sending: Arc<Sending>,
}

impl Span {
    /// Ids of trace and span, in hexadecimal digits.
    #[must_use]
    pub fn ids(&self) -> Option<(String, String)> {
        let context = self.0.as_ref()?.span.span_context();
        Some((context.trace_id().to_string(), context.span_id().to_string()))
    }

    /// It is a run of this job.
    pub fn of(&mut self, run: &JobRun) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.set_attribute(KeyValue::new("captcha.job.id", run.job.id.clone()));
        span.set_attribute(KeyValue::new("captcha.task.type", run.job.task_type.clone()));
        span.set_attribute(KeyValue::new("captcha.job.retries", i64::from(run.history.retries)));
    }

    /// Begins a call of the API. Its context stays here: the API is somebody else's.
    #[must_use]
    pub fn call(&self, path: &'static str) -> ChildSpan {
        self.child(|sending| {
            let mut attributes = sending.api.clone();
            attributes.push(KeyValue::new("url.full", format!("{}{path}", sending.api_url)));
            attributes.push(KeyValue::new("url.template", path));
            (format!("POST {path}"), SpanKind::Client, attributes)
        })
    }

    /// Begins to send a message to an exchange by a routing key; from here on the message comes
    /// from this span.
    #[must_use]
    pub fn send(&self, (exchange, key): (&str, &str), message: &mut Message) -> ChildSpan {
        if exchange.is_empty() {
            return self.sending(|| key.to_owned(), key, None, message);
        }
        self.sending(|| format!("{exchange}:{key}"), key, Some(exchange), message)
    }

    /// The same to the queue that a publisher has named. A direct reply's name is a right to
    /// answer, and is not shown.
    #[must_use]
    pub fn reply(&self, reply_to: &str, message: &mut Message) -> ChildSpan {
        let name = if is_direct_reply(reply_to) { "amq.rabbitmq.reply-to" } else { reply_to };
        self.sending(|| name.to_owned(), name, Some(REPLY_TO), message)
    }

    /// `template`: what stands for the destination in the span's name, where that itself has too
    /// many values.
    fn sending(
        &self,
        name: impl FnOnce() -> String,
        key: &str,
        template: Option<&str>,
        message: &mut Message,
    ) -> ChildSpan {
        let child = self.child(|sending| {
            let name = name();
            let mut attributes = sending.about("send", message);
            let template = template.map(str::to_owned);
            let span_name = format!("send {}", template.as_ref().unwrap_or(&name));
            attributes.extend(sending.destination(name, key));
            let template = template.map(|template| KeyValue::new("messaging.destination.template", template));
            attributes.extend(template);
            (span_name, SpanKind::Producer, attributes)
        });
        if let Some(child) = &child.0 {
            comes_from(message, child.span.span_context());
        }
        child
    }

    fn child(&self, make: impl FnOnce(&Sending) -> (String, SpanKind, Vec<KeyValue>)) -> ChildSpan {
        ChildSpan(self.0.as_deref().map(|Recording { span, sending }| {
            let (name, kind, attributes) = make(sending);
            let from = Context::new().with_remote_span_context(span.span_context().clone());
            let builder = SpanBuilder::from_name(name).with_kind(kind).with_attributes(attributes);
            let span = builder.start_with_context(&sending.tracer, &from);
            Box::new(Recording { span, sending: Arc::clone(sending) })
        }))
    }

    /// The run has come to its end.
    pub fn end(self, end: RunEnd<'_>) {
        let Some(mut recording) = self.0 else { return };
        recording.span.set_attribute(KeyValue::new("captcha.end", end.to));
        if let Some((class, code)) = end.failure {
            recording.span.set_attribute(KeyValue::new("captcha.class", class.name()));
            recording.failed(code.to_owned());
        }
    }
}

impl ChildSpan {
    /// The call has ended, with this HTTP status if there was an answer.
    pub fn answered(mut self, status: Option<u16>, error: Option<&CallError>) {
        let Some(mut recording) = self.0.take() else { return };
        if let Some(status) = status {
            recording.span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        }
        if let Some(error) = error {
            let fault = classify(error, Stage::Submit, false, &Overrides::default());
            recording.failed(fault.code.chars().take(MAX_CODE).collect());
        }
    }

    /// The message goes to another queue than it was to. What is known of its destination stays: an
    /// attribute that is set twice is exported twice.
    pub fn goes_to(&mut self, queue: &str) {
        let Some(Recording { span, .. }) = self.0.as_deref_mut() else { return };
        span.set_attribute(KeyValue::new("captcha.sent_to", queue.to_owned()));
    }

    /// The message's confirm has come.
    pub fn sent(mut self) {
        self.0 = None;
    }

    /// The message was not sent, or its confirm has not come.
    pub fn failed(mut self, why: &'static str) {
        if let Some(mut recording) = self.0.take() {
            recording.failed(why.to_owned());
        }
    }
}

impl Drop for ChildSpan {
    fn drop(&mut self) {
        if let Some(mut recording) = self.0.take() {
            recording.failed("cancelled".to_owned());
        }
    }
}

impl Recording {
    fn failed(&mut self, code: String) {
        self.span.set_attribute(KeyValue::new("error.type", code.clone()));
        self.span.set_status(Status::error(code));
    }
}
