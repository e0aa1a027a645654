//! What waits in the queues.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;
use crate::fleet::Depths;

/// More classes than this there are not, whatever is told.
const MAX_CLASSES: usize = 32;

/// Messages that are ready, by queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backlog {
    /// When it was looked.
    pub at: Timestamp,
    /// Jobs that nobody has taken.
    pub jobs: u64,
    /// Paid tasks that nobody holds.
    pub tickets: u64,
    /// Jobs that are parked.
    pub retry: u64,
    /// Results that nobody has fetched.
    pub results: u64,
    /// Dead letters by class, without the empty queues.
    pub dead: BTreeMap<String, u64>,
    /// What the broker dead-lettered itself.
    pub raw: u64,
    /// Outcomes that no queue is bound for.
    pub unrouted: u64,
}

impl Backlog {
    /// From the queues' depths.
    #[must_use]
    pub fn of(depths: &Depths) -> Self {
        let of = |name: &str| depths.ready.get(name).copied().unwrap_or(0);
        let under = |prefix: &'static str| {
            depths.ready.iter().filter_map(move |(name, ready)| Some((name.strip_prefix(prefix)?, *ready)))
        };
        let dead = under("dead.").filter(|(class, ready)| *class != "raw" && *ready > 0);
        Self {
            at: depths.at,
            jobs: of("jobs"),
            tickets: of("tickets"),
            retry: under("retry.").map(|(_, ready)| ready).fold(0, u64::saturating_add),
            results: of("results"),
            dead: dead.take(MAX_CLASSES).map(|(class, ready)| (shown(class, 20), ready)).collect(),
            raw: of("dead.raw"),
            unrouted: of("unrouted"),
        }
    }

    /// All dead letters.
    #[must_use]
    pub fn dead_letters(&self) -> u64 {
        self.dead.values().copied().fold(self.raw, u64::saturating_add)
    }
}
