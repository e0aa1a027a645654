//! What is measured of publishing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::time::Instant;

use crate::histogram::{Distribution, Histogram, MOMENTS};

/// Counts publishes that are under way, and times their confirms. It outlives the sessions that it is given to.
#[derive(Debug)]
pub struct Meter {
    under_way: AtomicUsize,
    confirms: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        Self { under_way: AtomicUsize::new(0), confirms: Histogram::new(MOMENTS) }
    }
}

impl Meter {
    /// Publishes that were handed over, and whose confirm is still awaited.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How long confirms took, from handing the publish over.
    #[must_use]
    pub fn confirms(&self) -> Distribution {
        self.confirms.read()
    }
}

/// One publish under way, until dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    meter: Arc<Meter>,
    since: Instant,
}

impl UnderWay {
    pub(super) fn begin(meter: &Arc<Meter>) -> Self {
        meter.under_way.fetch_add(1, Ordering::Relaxed);
        Self { meter: Arc::clone(meter), since: Instant::now() }
    }

    pub(super) fn confirmed(&self) {
        self.meter.confirms.note(self.since.elapsed());
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.meter.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
