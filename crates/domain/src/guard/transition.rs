//! The transitions: what the leader learns, and what the record says after it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::GuardRules;
use super::reason::Reason;
use super::state::{Doubt, Paused, Phase, State, Trip};
use crate::fingerprint::Fingerprint;
use crate::lane::{Lane, MAX_REMEMBERED};
use crate::money::{Decimal, Raise};
use crate::poll_schedule::MAX_AGE;
use crate::time::Timestamp;

/// An account that tripped this soon after it opened has not been fixed: the waits grow on.
const RELAPSE: Duration = Duration::from_secs(600);
/// Wrong ids so soon after an opening have to do with what it was shut for.
const JUST_OPENED: Duration = Duration::from_secs(10);
/// After so long without a good answer a new leader takes nothing for granted.
const STALE: Duration = Duration::from_secs(300);

/// How a call of getBalance ended.
#[derive(Debug, Clone, PartialEq)]
pub enum ProbeEnd {
    /// The API reported the balance.
    Balance {
        /// As it wrote it.
        text: String,
        /// As a number.
        amount: Decimal,
    },
    /// The API took the key, as another replica reports.
    KeyTaken,
    /// The API answered, but neither reported a balance nor refused the account. The canary must
    /// show what is the matter.
    Unsupported,
    /// The API refused the account.
    Refused(Reason),
    /// No answer, or a server error.
    Down,
}

/// How the canary's submission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CanaryEnd {
    /// The API took the account.
    Passed,
    /// It refused it.
    Refused(Reason),
    /// No answer, or a server error.
    Down,
}

/// What a leader learns.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardEvent<'a> {
    /// It has just become the leader.
    TookOver,
    /// It is about to call getBalance, by itself or by a replica whose key is to be proved.
    ProbeBegins,
    /// It has ended, and shown nothing about the account of the fleet.
    ProbeEnded,
    /// getBalance has ended.
    Probed {
        /// The key it was called with.
        key: &'a Fingerprint,
        /// Its end.
        end: ProbeEnd,
        /// The term in which it began.
        term: u64,
        /// The API was under suspicion already.
        suspected: bool,
        /// Another replica has a key that is good.
        peers: bool,
    },
    /// A replica's call was refused for the account.
    Refused {
        /// Why.
        reason: Reason,
        /// The key it was called with.
        key: &'a Fingerprint,
        /// The term that the replica knew when the call began.
        term: u64,
        /// Another replica has a key that is good.
        peers: bool,
        /// When it was met first, where that is known: tasks accepted later are not in doubt.
        since: Option<Timestamp>,
    },
    /// The canary's submission, begun under this term, has ended.
    Canary(CanaryEnd, u64, &'a Fingerprint),
    /// An operator pauses, by the command of this id.
    Pause(Paused, &'a str),
    /// An operator wants work to go on, by the command of this id.
    Resume(&'a str),
    /// An operator raises a budget, by the command of this id.
    BudgetRaised(Raise, &'a str),
    /// Money was spent, or time has gone on: a budget may be used up, or a window may have ended.
    BudgetsDue,
    /// The API called a proxy banned.
    ProxyBanned(&'a Fingerprint),
    /// The leader has asked for tasks that were in doubt, or they are past the age at which anybody
    /// asks: whether they are lost.
    DoubtfulTasks {
        /// The API does not know them.
        lost: bool,
    },
    /// The lanes, as replicas report them.
    Lanes {
        /// Those that some replica's settings name.
        named: &'a BTreeSet<Lane>,
        /// Those whose queues do not exist.
        gone: &'a BTreeSet<Lane>,
    },
}

impl State {
    /// Takes the news in. Returns whether the record has changed, and so must be written before
    /// anything is done about it.
    pub fn learn(&mut self, news: GuardEvent<'_>, rules: &GuardRules, now: Timestamp) -> bool {
        let before = self.clone();
        match news {
            GuardEvent::TookOver => self.take_over(now),
            GuardEvent::ProbeBegins => {
                self.probed_at = Some(now);
                self.unended = self.unended.saturating_add(1);
            }
            GuardEvent::ProbeEnded => self.unended = 0,
            GuardEvent::Probed { end, term, .. } if term < self.term => self.probed_too_early(end, now),
            GuardEvent::Probed { key, end, suspected, peers, .. } => {
                self.after_probe(key, end, (suspected, peers), rules, now);
            }
            GuardEvent::Refused { reason, key, term, peers, since }
                if term >= self.term || self.is_graver(reason) =>
            {
                let looked = Looked::Met { since };
                if reason == Reason::KeyInvalid {
                    self.key_refused(key, peers, looked, rules, now);
                } else {
                    self.trip(reason, looked, rules, now);
                }
            }
            GuardEvent::Canary(end, term, key) if term >= self.term && self.phase == Phase::Canary => {
                self.after_canary(end, key, rules, now);
            }
            // Old news: of a call that began before what the record says now.
            GuardEvent::Refused { .. } | GuardEvent::Canary(..) => {}
            GuardEvent::Lanes { named, gone } => {
                self.lanes.retain(|lane| named.contains(lane) || !gone.contains(lane));
                let room = MAX_REMEMBERED.saturating_sub(self.lanes.len());
                let new = named.difference(&self.lanes).filter(|lane| !lane.is_default()).take(room);
                self.lanes = &self.lanes | &new.cloned().collect();
            }
            GuardEvent::Pause(paused, command) => {
                // Without a reason it says nothing that the first one does not.
                if paused.reason.is_some() || self.paused.is_none() {
                    self.paused = Some(paused);
                }
                self.last_command = Some(command.to_owned());
            }
            GuardEvent::Resume(command) => {
                self.resume(now);
                self.last_command = Some(command.to_owned());
            }
            GuardEvent::BudgetRaised(raise, command) => {
                if self.money.raise(Raise { command: Some(command.to_owned()), ..raise }) {
                    self.money.judge(&rules.budgets, &rules.prices, now);
                    self.last_command = Some(command.to_owned());
                }
            }
            GuardEvent::BudgetsDue => self.money.judge(&rules.budgets, &rules.prices, now),
            GuardEvent::DoubtfulTasks { lost: true } => {
                self.doubt = self.doubt.map(|doubt| Doubt { lost: true, ..doubt });
            }
            GuardEvent::DoubtfulTasks { lost: false } => self.doubt = None,
            GuardEvent::ProxyBanned(proxy) => self.isolate(proxy, now.plus(rules.quarantine), now),
        }
        if *self == before {
            return false;
        }
        self.epoch = before.epoch.saturating_add(1);
        if self.phase != before.phase || self.tripped().map(reason_of) != before.tripped().map(reason_of) {
            self.term = self.epoch;
        }
        if self.phase != before.phase {
            self.since = now;
        }
        true
    }

    fn take_over(&mut self, now: Timestamp) {
        let stale = self.verified_at.is_none_or(|at| now.since(at) > STALE);
        // Whether the canary of the leader before was submitted is not known; the balance is asked
        // first, so that no crash repeats it freely.
        if self.phase == Phase::Canary || (self.phase == Phase::Active && stale) {
            self.phase = Phase::Probing;
        }
    }

    /// The account has tripped since that call began: the answer is about money, and nothing else.
    fn probed_too_early(&mut self, end: ProbeEnd, now: Timestamp) {
        self.unended = 0;
        if let ProbeEnd::Balance { text, amount } = end {
            self.note_funds(text, amount, now);
        }
    }

    fn after_probe(
        &mut self,
        key: &Fingerprint,
        end: ProbeEnd,
        fleet: (bool, bool),
        rules: &GuardRules,
        now: Timestamp,
    ) {
        let (suspected, peers) = fleet;
        self.unended = 0;
        match end {
            ProbeEnd::Balance { text, amount } => {
                self.keys.accept(key);
                self.verified_at = Some(now);
                self.note_funds(text, amount, now);
                self.balance_read(amount, rules, now);
            }
            ProbeEnd::KeyTaken => {
                self.keys.accept(key);
                self.verified_at = Some(now);
                // It says nothing about anything else.
                if self.tripped().is_none_or(|trip| trip.reason == Reason::KeyInvalid) {
                    self.send_canary();
                }
            }
            // It has this call, so that another word than the balance is that of an API that fails.
            ProbeEnd::Unsupported if self.funds.is_some() && (suspected || self.is_down()) => {
                self.unanswered(suspected, rules, now);
            }
            ProbeEnd::Unsupported => {
                self.keys.accept(key);
                self.verified_at = Some(now);
                self.send_canary();
            }
            ProbeEnd::Refused(Reason::KeyInvalid) => self.key_refused(key, peers, Looked::Again, rules, now),
            ProbeEnd::Refused(reason) => self.trip(reason, Looked::Again, rules, now),
            ProbeEnd::Down => self.unanswered(suspected, rules, now),
        }
    }

    fn is_down(&self) -> bool {
        self.tripped().is_some_and(|trip| trip.reason == Reason::ProviderDown)
    }

    pub(super) fn send_canary(&mut self) {
        if matches!(self.phase, Phase::Probing | Phase::Tripped) {
            self.phase = Phase::Canary;
        }
    }

    /// One unanswered look proves nothing while work goes on; together with replicas that find the
    /// same it does.
    fn unanswered(&mut self, suspected: bool, rules: &GuardRules, now: Timestamp) {
        match self.phase {
            Phase::Active | Phase::Canary if !suspected => {}
            Phase::Active | Phase::Canary | Phase::Probing => {
                self.trip(Reason::ProviderDown, Looked::Again, rules, now);
            }
            Phase::Tripped => {
                // Nothing was learned about the reason, so its waits do not grow; it is looked at
                // again all the same.
                if let Some(trip) = &mut self.trip {
                    let down = trip.reason == Reason::ProviderDown;
                    trip.failures = trip.failures.saturating_add(u32::from(down));
                    trip.next_probe_at = now.plus(trip.reason.schedule(rules).wait(trip.failures));
                }
            }
        }
    }

    /// What was under way when the account tripped can show that it is worse than that.
    fn is_graver(&self, reason: Reason) -> bool {
        self.phase == Phase::Tripped && self.trip.as_ref().is_some_and(|trip| reason > trip.reason)
    }

    /// A key that is refused while others are good and in use concerns only the replicas that have
    /// it.
    fn key_refused(
        &mut self,
        key: &Fingerprint,
        peers: bool,
        looked: Looked,
        rules: &GuardRules,
        now: Timestamp,
    ) {
        self.keys.refuse(key);
        if !peers || self.keys.good.is_empty() {
            self.trip(Reason::KeyInvalid, looked, rules, now);
        }
    }

    fn after_canary(&mut self, end: CanaryEnd, key: &Fingerprint, rules: &GuardRules, now: Timestamp) {
        match end {
            CanaryEnd::Passed => {
                self.phase = Phase::Active;
                self.verified_at = Some(now);
            }
            CanaryEnd::Refused(reason) => {
                if reason == Reason::KeyInvalid {
                    self.keys.refuse(key);
                }
                self.trip(reason, Looked::Again, rules, now);
            }
            CanaryEnd::Down => self.trip(Reason::ProviderDown, Looked::Again, rules, now),
        }
    }

    /// Trips, unless something graver stands already.
    pub(super) fn trip(&mut self, reason: Reason, looked: Looked, rules: &GuardRules, now: Timestamp) {
        let met = matches!(looked, Looked::Met { .. });
        let standing =
            self.trip.as_ref().filter(|_| self.phase != Phase::Active || now.since(self.since) < RELAPSE);
        let failures = match standing {
            Some(trip) if self.phase == Phase::Tripped && trip.reason > reason && met => {
                return;
            }
            // What was under way together reports the same thing many times. Of a ban it says too
            // that it began anew.
            Some(trip) if self.phase == Phase::Tripped && trip.reason == reason && met => {
                let until =
                    if reason.stops().probes { now.plus(rules.ban_pause) } else { trip.next_probe_at };
                let until = until.max(trip.next_probe_at);
                self.trip = Some(Trip { next_probe_at: until, ..trip.clone() });
                return;
            }
            Some(trip) if trip.reason == reason => trip.failures.saturating_add(1),
            Some(_) | None => 0,
        };
        let since = standing
            .filter(|trip| trip.reason == reason && self.phase != Phase::Active)
            .map(|trip| trip.since);
        let refused_at = standing.filter(|trip| trip.reason == reason).and_then(|trip| trip.refused_at);
        let was_good = self.phase == Phase::Active && failures == 0;
        let wait = if was_good { reason.first_look(rules) } else { reason.schedule(rules).wait(failures) };
        let next_probe_at = now.plus(wait);
        if reason == Reason::WrongIds {
            // Wrong ids that come soon after work began are of an API that had forgotten before it:
            // what was accepted since then, it knows.
            let (first, lately) = match looked {
                Looked::Met { since: Some(since) } => (since, JUST_OPENED),
                Looked::Met { since: None } | Looked::Again => (now, MAX_AGE),
            };
            let began_lately = self.phase == Phase::Active && first.since(self.since) < lately;
            self.doubt = Some(Doubt { before: if began_lately { self.since } else { first }, lost: false });
        }
        self.phase = Phase::Tripped;
        self.trip = Some(Trip { reason, since: since.unwrap_or(now), next_probe_at, failures, refused_at });
    }

    /// The operator's word: go on, or look at once whether that is possible. A ban is not looked at
    /// before its time.
    fn resume(&mut self, now: Timestamp) {
        self.paused = None;
        self.unended = 0;
        // Perhaps it was the keys that were fixed: each is tried once more.
        self.keys.refused.clear();
        let soonest = self.soonest_probe(now);
        if self.phase == Phase::Tripped
            && let Some(trip) = &mut self.trip
            && !trip.reason.stops().probes
        {
            trip.next_probe_at = trip.next_probe_at.min(soonest);
            trip.refused_at = None;
        }
    }
}

fn reason_of(trip: &Trip) -> Reason {
    trip.reason
}

/// How a reason came to be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Looked {
    /// In the course of work; since when, where that is known.
    Met {
        /// Of the first of those that were met.
        since: Option<Timestamp>,
    },
    /// By a call whose purpose it was to find out.
    Again,
}
