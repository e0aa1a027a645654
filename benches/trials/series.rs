//! Calls over time, sampled from the simulator's counters.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::simulator::{Calls, Simulator};

/// Between two samples, and so the error of a window's edge.
pub(crate) const STEP: Duration = Duration::from_millis(250);

/// Samples in the order they were taken.
#[derive(Debug, Default)]
pub(crate) struct Series(Vec<(Instant, Calls)>);

impl Series {
    /// Takes samples until a moment, and one at it.
    pub(crate) async fn watch(&mut self, simulator: &Simulator, until: Instant) {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let now = Instant::now();
            self.0.push((now, simulator.stats().await.calls));
            if now >= until {
                return;
            }
            tokio::select! {
                _ = steps.tick() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Calls a second within a window, between the samples nearest before its edges.
    pub(crate) fn rate(&self, from: Instant, until: Instant, count: fn(&Calls) -> u64) -> f64 {
        let (begin, end) = (self.at(from), self.at(until));
        let (Some((begin, first)), Some((end, last))) = (begin, end) else { return 0.0 };
        let span = end.saturating_duration_since(begin).as_secs_f64();
        if span > 0.0 { (count(&last) - count(&first)) as f64 / span } else { 0.0 }
    }

    /// The highest rate of any window of a length that begins between two moments.
    pub(crate) fn best(
        &self,
        (from, until): (Instant, Instant),
        length: Duration,
        count: fn(&Calls) -> u64,
    ) -> f64 {
        let begins = self.0.iter().map(|(at, _)| *at).filter(|at| (from..=until).contains(at));
        begins.map(|at| self.rate(at, at + length, count)).fold(0.0, f64::max)
    }

    fn at(&self, moment: Instant) -> Option<(Instant, Calls)> {
        let before = self.0.iter().rev().find(|(at, _)| *at <= moment);
        before.or(self.0.first()).copied()
    }
}

/// Lets a measuring window pass.
pub(crate) async fn pass(simulator: &Simulator, until: Instant) -> Series {
    let mut series = Series::default();
    series.watch(simulator, until).await;
    series
}
