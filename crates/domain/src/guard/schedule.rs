//! When the leader is to look at the account.

use std::time::Duration;

use super::GuardRules;
use super::reason::Reason;
use super::spend::SHORTEST_LOOK;
use super::state::{MOST_SKEW, Phase, State};
use crate::time::Timestamp;

/// Between two calls of getBalance, whatever wants them: fewer within a minute than what earns a
/// ban.
const PROBE_GAP: Duration = Duration::from_secs(20);
/// The same while the API is down, when no call is an offence.
const PROBE_GAP_WHILE_DOWN: Duration = Duration::from_secs(2);

/// What makes a look at the balance urgent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// Replicas find the API down.
    pub suspected: bool,
    /// A call was refused by something that is not the API's own word: a firewall, or a gateway
    /// before it.
    pub doubted: bool,
    /// So much was submitted since the last look that a good part of the balance may be gone.
    pub spending: bool,
}

impl State {
    /// When getBalance is to be called next; `None`: not by itself.
    #[must_use]
    pub fn probe_due(&self, rules: &GuardRules, pressure: Pressure, now: Timestamp) -> Option<Timestamp> {
        let Pressure { suspected, doubted, spending } = pressure;
        let wanted = match (self.phase, &self.trip) {
            (Phase::Tripped, Some(trip)) => trip.next_probe_at,
            (Phase::Probing, _) => now,
            (Phase::Active | Phase::Canary, _) if suspected => now,
            (Phase::Active, _) if spending || doubted => now,
            (Phase::Active, _) => self.next_look(rules),
            (Phase::Canary | Phase::Tripped, _) => return None,
        };
        let down = suspected || self.tripped().is_some_and(|trip| trip.reason == Reason::ProviderDown);
        let gap = match self.phase {
            _ if down => PROBE_GAP_WHILE_DOWN,
            // The key is good, so that a look is no offence.
            Phase::Active if self.unended == 0 => SHORTEST_LOOK,
            // No look has been refused since it tripped, so that the first one repeats nothing.
            Phase::Tripped
                if self.unended == 0 && self.trip.as_ref().is_some_and(|trip| trip.failures == 0) =>
            {
                SHORTEST_LOOK
            }
            Phase::Active | Phase::Probing | Phase::Canary | Phase::Tripped => self.gap(rules),
        };
        Some(wanted.max(self.after_gap(gap, now)))
    }

    /// When a key that nobody knows may be tried. It is no matter of the account's state, but a
    /// wrong one would count against it.
    #[must_use]
    pub fn proof_due(&self, rules: &GuardRules, now: Timestamp) -> Timestamp {
        let free = match self.tripped() {
            // It was another key that was refused.
            Some(trip) if trip.reason == Reason::KeyInvalid => now,
            Some(trip) => trip.next_probe_at,
            None => now,
        };
        free.max(self.after_gap(self.gap(rules), now))
    }

    /// A call whose end nobody has seen may have been an offence, and leaders that keep dying must
    /// not repeat it any faster than one that has seen the key refused.
    fn gap(&self, rules: &GuardRules) -> Duration {
        match self.unended.checked_sub(1) {
            Some(before) => Reason::KeyInvalid.schedule(rules).wait(before),
            None => PROBE_GAP,
        }
    }

    /// When an impatient operator can have it called.
    pub(super) fn soonest_probe(&self, now: Timestamp) -> Timestamp {
        self.after_gap(PROBE_GAP, now).max(now)
    }

    fn after_gap(&self, gap: Duration, now: Timestamp) -> Timestamp {
        // A clock that was set back must not hold probes off until it has caught up.
        let far_ahead = now.plus(MOST_SKEW);
        self.probed_at.filter(|at| *at <= far_ahead).map_or(now, |at| at.plus(gap))
    }
}
