//! What makes spans, and sends them: in batches, from a thread of its own, bounded in number and time. What a collector does not take is lost,
//! and no job waits for it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Span as _, TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
    SpanExporter as Export,
};
use reqwest::redirect;
use url::Url;

use super::span::{Span, begin};
use super::{FLUSH, TraceError};
use crate::domain::lifecycle::Origin;
use crate::domain::message::Message;
use crate::domain::trace::carry_on;

/// Spans that wait for the collector at most; what comes beyond is dropped. A span takes about 1 kB.
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

    /// Sends spans to the collector at this address. `ratio`: share of the jobs without a trace for which one begins. `worker`: the replica's name.
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
        let processor = BatchSpanProcessor::builder(Telling(exporter)).with_batch_config(batches).build();
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
            tracing::warn!("the last traces could not be sent in time");
        }
    }
}

/// The collector's address for spans.
fn endpoint(collector: &Url) -> String {
    format!("{}/{PATH}", collector.as_str().trim_end_matches('/'))
}

/// No redirects and no proxy from the environment, as for the API. Built on a thread of its own: within a runtime it must not be.
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
        .map_err(|_| TraceError("its client panicked".to_owned()))?
        .map_err(|error| TraceError(error.to_string()))
}

/// Tells where spans cannot be sent.
#[derive(Debug)]
struct Telling(SpanExporter);

impl Export for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let end = self.0.export(batch).await;
        if let Err(error) = &end {
            tracing::warn!(%error, spans, "traces could not be sent to traces.otlp_endpoint, and are lost; jobs are not concerned");
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
