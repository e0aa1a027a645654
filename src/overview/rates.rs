//! How fast work goes: counters that only grow, looked at again and again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::HISTORY;
use crate::fleet::Heartbeat;

/// What is shown is the mean over this long: replicas report their counters every 2 s, and each at
/// another moment.
const WINDOW: Duration = Duration::from_secs(10);
/// The past is kept in finer steps.
const STEP: Duration = Duration::from_secs(4);
/// Two readings that are closer than this are one.
const SAME: Duration = Duration::from_millis(400);

/// What is done in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    /// Jobs solved.
    pub solved: f64,
    /// Jobs failed.
    pub failed: f64,
    /// Submissions accepted, and so paid for.
    pub paid: f64,
    /// Calls of the API.
    pub calls: f64,
}

/// Counters at a moment: solved, failed, accepted, calls.
type RateCounters = [u64; 4];
type Series = VecDeque<(Duration, RateCounters)>;

/// The counters of the last seconds, by replica, and the fleet's rates of the last minutes. Moments
/// are counted from any start.
#[derive(Debug, Default)]
pub struct RateTracker {
    replicas: BTreeMap<String, Series>,
    history: VecDeque<Rates>,
}

impl RateTracker {
    /// Replicas have been heard, each this long ago.
    pub fn note<'a>(&mut self, now: Duration, heard: impl IntoIterator<Item = (&'a Heartbeat, Duration)>) {
        let mut kept = BTreeMap::new();
        for (replica, ago) in heard {
            let mut series = self.replicas.remove(&replica.id).unwrap_or_default();
            let vitals = &replica.vitals;
            let counters = [vitals.solved, vitals.failed, vitals.accepted, vitals.calls];
            extend(&mut series, now.saturating_sub(ago), counters);
            kept.insert(replica.id.clone(), series);
        }
        self.replicas = kept;
        if let Some(rates) = self.sum(STEP) {
            self.history.truncate(HISTORY - 1);
            self.history.push_front(rates);
        }
    }

    /// The fleet's rates.
    #[must_use]
    pub fn fleet(&self) -> Option<Rates> {
        self.sum(WINDOW)
    }

    /// A replica's.
    #[must_use]
    pub fn of(&self, id: &str) -> Option<Rates> {
        self.replicas.get(id).and_then(|series| rates(series, WINDOW))
    }

    /// The fleet's rates of the past, the latest last.
    #[must_use]
    pub fn history(&self) -> Vec<Rates> {
        self.history.iter().rev().copied().collect()
    }

    fn sum(&self, window: Duration) -> Option<Rates> {
        let all = self.replicas.values().filter_map(|series| rates(series, window));
        all.reduce(|a, b| Rates {
            solved: a.solved + b.solved,
            failed: a.failed + b.failed,
            paid: a.paid + b.paid,
            calls: a.calls + b.calls,
        })
    }
}

fn extend(series: &mut Series, at: Duration, counters: RateCounters) {
    if let Some((last, known)) = series.back() {
        if at < *last + SAME {
            return;
        }
        // Nobody's counters fall; whose do has nothing to do with those before.
        if counters.iter().zip(known).any(|(now, before)| now < before) {
            series.clear();
        }
    }
    series.push_back((at, counters));
    while series.get(1).is_some_and(|(second, _)| *second + WINDOW <= at) {
        series.pop_front();
    }
}

fn rates(series: &Series, window: Duration) -> Option<Rates> {
    let (end, last) = series.back()?;
    let begins_by = |(at, _): &&(Duration, RateCounters)| *at + window <= *end;
    let (begin, first) = series.iter().rev().find(begins_by).or_else(|| series.front())?;
    let seconds = end.saturating_sub(*begin).as_secs_f64();
    if seconds <= 0.0 {
        return None;
    }
    // The differences of some seconds; no counter comes near what an `f64` cannot hold.
    let of = |which: usize| last[which].saturating_sub(first[which]) as f64 / seconds;
    Some(Rates { solved: of(0), failed: of(1), paid: of(2), calls: of(3) })
}
