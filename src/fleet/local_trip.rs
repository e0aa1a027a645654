//! What this replica, or another, has met, and what it stops here at once.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{GuardRules, KeyStanding, MAX_PROXIES, Permit, Phase, Reason, State};
use crate::domain::time::Timestamp;

/// A trip that comes back this soon waits longer.
const RELAPSE: Duration = Duration::from_secs(60);

/// A stop of this replica, until the leader's state accounts for it, or for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalTrip {
    pub(super) reason: Reason,
    /// The term it was met in: a later one has it accounted for.
    pub(super) term: u64,
    /// For what concerns this replica alone.
    pub(super) until: Option<Instant>,
    /// Met by this replica's own call.
    pub(super) mine: bool,
}

impl LocalTrip {
    /// Whether the leader's state covers this: it is of a later term, or stops the same and more,
    /// or has this replica's key among the refused ones.
    fn is_accounted_for(&self, state: &State, key: &Fingerprint) -> bool {
        // What is graver than what the leader knows is still to be heard by it.
        if self.is_graver(state) {
            return false;
        }
        state.term > self.term
            || match self.reason {
                Reason::KeyInvalid => state.keys.standing(key) == KeyStanding::Refused,
                // A trip that goes on keeps its term. What held until a later one would be reported
                // over and over, and put the probe off each time.
                _ => state.term == self.term && state.phase == Phase::Tripped,
            }
    }

    /// Whether a state that is tripped does not know yet how bad it is.
    fn is_graver(&self, state: &State) -> bool {
        state.phase == Phase::Tripped && state.trip.as_ref().is_some_and(|trip| self.reason > trip.reason)
    }
}

/// What stops this replica now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LocalTrips {
    /// What the leader's state must account for.
    pub(super) fleet: Option<LocalTrip>,
    /// What concerns this replica alone, and ends by time.
    pub(super) alone: Option<LocalTrip>,
}

impl LocalTrips {
    /// The gravest reason.
    pub(super) fn reason(&self) -> Option<Reason> {
        self.fleet.into_iter().chain(self.alone).map(|trip| trip.reason).max()
    }

    /// Takes a trip in. Returns whether it is new, and whether it stops this replica.
    pub(super) fn note(&mut self, trip: LocalTrip, state: Option<&State>, key: &Fingerprint) -> (bool, bool) {
        let is_old = trip.term < state.map_or(0, |state| state.term)
            && !state.is_some_and(|state| trip.is_graver(state));
        let alone = trip.until.is_some();
        let slot = if alone { &mut self.alone } else { &mut self.fleet };
        let is_new = !is_old && slot.is_none_or(|present| present.reason < trip.reason);
        // That it was met again is new all the same: a ban begins anew with it.
        let covered = !alone && state.is_some_and(|state| trip.is_accounted_for(state, key));
        let stops = is_new && !covered;
        if stops {
            *slot = Some(trip);
        }
        (is_new, stops)
    }

    /// Ends what the leader's state accounts for.
    pub(super) fn drop_accounted(&mut self, state: &State, key: &Fingerprint) {
        self.fleet.take_if(|trip| trip.is_accounted_for(state, key));
    }

    /// Ends what is over by time. Returns whether something was.
    pub(super) fn expire(&mut self) -> bool {
        let over = |trip: &mut LocalTrip| trip.until.is_some_and(|until| until <= Instant::now());
        self.alone.take_if(over).is_some()
    }

    /// What is left of a permit. `own_address`: the API sees an address of this replica's own.
    pub(super) fn restrict(&self, permit: Permit, own_address: bool) -> Permit {
        let permit = self.fleet.map_or(permit, |trip| permit.without(trip.reason));
        let Some(alone) = self.alone else { return permit };
        // What the address earned for this replica alone does not concern the others, who can
        // finish its tickets.
        let leaves = own_address && alone.reason.is_of_the_address();
        let permit = permit.without(alone.reason);
        Permit { tickets: permit.tickets && !leaves, ..permit }
    }
}

/// How often in a row this replica has stopped by itself, and until when it last did.
#[derive(Debug, Default)]
pub(super) struct Relapses(Mutex<(u32, Option<Instant>)>);

impl Relapses {
    /// Counts a stop, and returns how long it is to last.
    pub(super) fn next_wait(&self, reason: Reason, rules: &GuardRules) -> Duration {
        let (count, until) = &mut *self.0.lock();
        let again = until.is_some_and(|until| until.elapsed() < RELAPSE);
        *count = if again { count.saturating_add(1) } else { 0 };
        if *count == 0 { reason.first_look(rules) } else { reason.schedule(rules).wait(*count) }
    }

    /// The stop has begun, and lasts until then.
    pub(super) fn began(&self, until: Instant) {
        self.0.lock().1 = Some(until);
    }
}

/// Publishers' proxies that the API has called banned: nobody uses them for a while.
#[derive(Debug, Default)]
pub(super) struct Quarantine(Mutex<BTreeMap<Fingerprint, Timestamp>>);

impl Quarantine {
    pub(super) fn holds(&self, proxy: &Fingerprint, now: Timestamp) -> bool {
        self.0.lock().get(proxy).is_some_and(|until| *until > now)
    }

    pub(super) fn add(&self, proxy: &Fingerprint, now: Timestamp, time: Duration) {
        let mut proxies = self.0.lock();
        proxies.retain(|_, until| *until > now);
        if proxies.len() < MAX_PROXIES {
            proxies.insert(proxy.clone(), now.plus(time));
        }
    }
}
