//! The stand-in's counters over time.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::simulator::{Probe, Stats};

/// Between two samples, and so the error of a window's edge.
pub(crate) const STEP: Duration = Duration::from_millis(100);

type Samples = Arc<Mutex<Vec<(Instant, Stats)>>>;

/// Samples for as long as it lives.
pub(crate) struct Series {
    samples: Samples,
    _sampling: AbortOnDropHandle<()>,
}

impl Series {
    pub(crate) fn start(probe: Probe) -> Self {
        let samples = Samples::default();
        let sampling = tokio::spawn(sample(probe, Arc::clone(&samples)));
        Self { samples, _sampling: AbortOnDropHandle::new(sampling) }
    }

    fn samples(&self) -> MutexGuard<'_, Vec<(Instant, Stats)>> {
        self.samples.lock()
    }

    /// When a count first reached a number.
    pub(crate) fn first(&self, count: fn(&Stats) -> u64, least: u64) -> Option<Instant> {
        self.samples().iter().find(|(_, stats)| count(stats) >= least).map(|(at, _)| *at)
    }

    /// The count at the last sample before a moment.
    pub(crate) fn at(&self, moment: Instant, count: fn(&Stats) -> u64) -> u64 {
        self.samples().iter().rev().find(|(at, _)| *at <= moment).map_or(0, |(_, stats)| count(stats))
    }

    /// The first moment from another on after which a count stands still for a while.
    pub(crate) fn stands_still(
        &self,
        from: Instant,
        span: Duration,
        count: fn(&Stats) -> u64,
    ) -> Option<Instant> {
        let samples = self.samples();
        let mut since: Option<(Instant, u64)> = None;
        for (at, stats) in samples.iter().filter(|(at, _)| *at >= from) {
            match since {
                Some((began, before)) if before == count(stats) => {
                    if *at - began >= span {
                        return Some(began);
                    }
                }
                _ => since = Some((*at, count(stats))),
            }
        }
        None
    }
}

async fn sample(probe: Probe, samples: Samples) {
    let mut due = interval(STEP);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        // It does not answer while it is restarted.
        if let Some(stats) = probe.stats().await {
            samples.lock().push((Instant::now(), stats));
        }
    }
}
