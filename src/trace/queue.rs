//! The spans that wait for the collector: bounded in number, sent in batches from a thread of their
//! own. What is lost beyond the bound is counted and logged, which the SDK's own queue does not do
//! without all of its other log lines.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

/// Spans that wait for the collector at most; what comes beyond is lost. A span takes about 1 kB.
const MAX_WAITING: usize = 8_192;
const BATCH: usize = 512;
/// How long a span waits for others to go with it.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicUsize,
    /// Since the start, and how many of them were reported.
    lost: AtomicUsize,
    reported: AtomicUsize,
}

impl Counts {
    /// All that were lost since the start: of lines of one kind, only some are written.
    fn report(&self) {
        let lost = self.lost.load(Ordering::Relaxed);
        if self.reported.swap(lost, Ordering::Relaxed) < lost {
            tracing::warn!(
                lost,
                "the collector is too slow: spans lost since the start; jobs are not affected"
            );
        }
    }
}

#[derive(Debug)]
pub(super) struct SpanQueue {
    batches: BatchSpanProcessor,
    counts: Arc<Counts>,
}

impl SpanQueue {
    pub(super) fn new(exporter: impl SpanExporter + 'static) -> Self {
        let counts = Arc::<Counts>::default();
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(MAX_WAITING)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(LINGER)
            .build();
        let counted = CountingExporter { exporter, counts: Arc::clone(&counts) };
        let batches = BatchSpanProcessor::builder(counted).with_batch_config(config).build();
        Self { batches, counts }
    }
}

impl SpanProcessor for SpanQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING {
            return self.batches.on_end(span);
        }
        self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
        self.counts.lost.fetch_add(1, Ordering::Relaxed);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        let ended = self.batches.shutdown_with_timeout(timeout);
        self.counts.report();
        ended
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

#[derive(Debug)]
struct CountingExporter<E> {
    exporter: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.counts.waiting.fetch_sub(batch.len(), Ordering::Relaxed);
        self.counts.report();
        self.exporter.export(batch).await
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
