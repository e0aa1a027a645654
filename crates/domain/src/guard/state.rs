//! The account's state as the fleet keeps it: one record, written by the leader alone, on the
//! broker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reason::Reason;
use crate::fingerprint::Fingerprint;
use crate::lane::{Lane, MAX_REMEMBERED};
use crate::money::{Decimal, Money, Raise};
use crate::poll_schedule::MAX_AGE;
use crate::solve_time::{Quantiles, read_summary};
use crate::time::Timestamp;

/// Two leaders' clocks differ by less; what is further ahead was written by a clock that has been
/// set back since.
pub(super) const MOST_SKEW: Duration = Duration::from_secs(60);
/// What is further away is no forecast.
const LONGEST_FORECAST: Duration = Duration::from_secs(365 * 86_400);
/// Version of the record.
pub const VERSION: u32 = 1;
/// Keys of each kind that are remembered.
pub(super) const MAX_KEYS: usize = 16;
/// Proxies in quarantine; beyond it the one that would come out first gives way.
pub const MAX_PROXIES: usize = 256;

/// Where the account stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing is known yet: the leader is to ask for the balance before anybody calls.
    Probing,
    /// It is not to be used, see [`Trip`].
    Tripped,
    /// The API answers well again: the leader is to submit one job.
    Canary,
    /// It may be used.
    Active,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Phase; 4] = [Phase::Probing, Phase::Tripped, Phase::Canary, Phase::Active];

    /// The higher, the less is allowed.
    #[must_use]
    pub fn strictness(self) -> u8 {
        match self {
            Phase::Active => 0,
            Phase::Canary => 1,
            Phase::Probing => 2,
            Phase::Tripped => 3,
        }
    }

    /// The name in metrics and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Probing => "probing",
            Phase::Tripped => "tripped",
            Phase::Canary => "canary",
            Phase::Active => "active",
        }
    }
}

/// Why, since when, and when the leader looks again. Kept through the canary, and as a memory once
/// open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trip {
    /// Why.
    pub reason: Reason,
    /// Since when.
    pub since: Timestamp,
    /// Nobody asks before.
    pub next_probe_at: Timestamp,
    /// Looks that found it still there.
    pub failures: u32,
    /// The balance at the last look that found too little.
    #[serde(default, with = "rust_decimal::serde::float_option", skip_serializing_if = "Option::is_none")]
    pub refused_at: Option<Decimal>,
}

/// An operator's pause. It stands beside the phase: what is found out meanwhile is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// The operator's words, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The broker's user who asked for it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
}

/// Keys by their marks: which the API has taken, and which it has refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// Taken.
    pub good: Vec<Fingerprint>,
    /// Refused, and not asked again but by the schedule or an operator's word.
    pub refused: Vec<Fingerprint>,
}

/// What is known of a replica's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStanding {
    /// The API has taken it.
    Good,
    /// The API has refused it.
    Refused,
    /// Not tried yet.
    Unknown,
}

impl Keys {
    /// What is known of a key.
    #[must_use]
    pub fn standing(&self, key: &Fingerprint) -> KeyStanding {
        if self.good.contains(key) {
            KeyStanding::Good
        } else if self.refused.contains(key) {
            KeyStanding::Refused
        } else {
            KeyStanding::Unknown
        }
    }

    /// The API has taken it; whether that is news.
    pub(super) fn accept(&mut self, key: &Fingerprint) -> bool {
        let news = self.standing(key) != KeyStanding::Good;
        if news {
            self.refused.retain(|other| other != key);
            remember(&mut self.good, key);
        }
        news
    }

    pub(super) fn refuse(&mut self, key: &Fingerprint) {
        self.good.retain(|other| other != key);
        if !self.refused.contains(key) {
            remember(&mut self.refused, key);
        }
    }
}

fn remember(keys: &mut Vec<Fingerprint>, key: &Fingerprint) {
    if keys.len() >= MAX_KEYS {
        keys.remove(0);
    }
    keys.push(key.clone());
}

/// The account's funds at a look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Funds {
    /// The decimal as the API wrote it.
    pub text: String,
    /// The same as a number. It is written as a JSON number, since earlier versions read it so.
    #[serde(with = "rust_decimal::serde::float")]
    pub amount: Decimal,
    /// When it was asked for.
    pub at: Timestamp,
    /// Its change, in the account's currency per hour, over the last looks; negative while it is
    /// spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<f64>,
}

impl Funds {
    /// When they are used up if they fall on as they do.
    #[must_use]
    pub fn ends(&self) -> Option<Timestamp> {
        let per_second = -self.per_hour? / 3_600.0;
        let amount: f64 = self.amount.try_into().ok()?;
        let left = std::time::Duration::try_from_secs_f64(amount / per_second).ok()?;
        (per_second > 0.0 && left < LONGEST_FORECAST).then(|| self.at.plus(left))
    }
}

/// A proxy that nobody uses for a while: using a banned one again endangers the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// Its mark.
    pub proxy: Fingerprint,
    /// Until when.
    pub until: Timestamp,
}

/// Tasks that the API may have forgotten, since most answers about such ids were that it does not
/// know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// Those accepted before this moment.
    pub before: Timestamp,
    /// The leader has asked for some of its own since: they are forgotten, and nobody asks for any.
    /// Each is submitted again once it is past the age at which results are kept.
    pub lost: bool,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of this record.
    pub v: u32,
    /// Grows with every record that is written; the highest is the one in force.
    pub epoch: u64,
    /// The epoch at which the phase began. A refusal of a call that began under an earlier one is
    /// old news.
    pub term: u64,
    /// Where the account stands.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// Why, while it may not be used; afterwards the memory of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<Trip>,
    /// An operator's pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// The last call of getBalance, written before it is made, so that a leader that dies over it
    /// is followed by one that knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probed_at: Option<Timestamp>,
    /// Calls of getBalance of which no leader has lived to see the end.
    #[serde(default)]
    pub unended: u32,
    /// When the API last answered well, as far as the leader knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<Timestamp>,
    /// Keys by their marks.
    #[serde(default)]
    pub keys: Keys,
    /// The account's funds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub funds: Option<Funds>,
    /// Tasks that the API may have forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// Proxies that nobody uses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantine: Vec<Quarantined>,
    /// The last operator's command that was carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_command: Option<String>,
    /// How long the API takes, as the fleet has learned. It decides about polls, not about the
    /// account, and is kept here so that a restart of the whole fleet does not forget it.
    #[serde(default, deserialize_with = "read_summary", skip_serializing_if = "BTreeMap::is_empty")]
    pub solve_times: Quantiles,
    /// The lanes that some replica's settings name, or have named: their jobs are taken until their
    /// queues are deleted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub lanes: BTreeSet<Lane>,
    /// What was spent and what may be. Its books change without a new epoch.
    #[serde(default, skip_serializing_if = "is_default")]
    pub money: Money,
}

fn is_default(money: &Money) -> bool {
    *money == Money::default()
}

impl State {
    /// That of an account about which nothing is known, or nothing any more. `beyond`: the highest
    /// epoch that anybody remembers.
    #[must_use]
    pub fn unknown(beyond: u64, now: Timestamp) -> Self {
        let epoch = beyond.saturating_add(1);
        Self {
            v: VERSION,
            epoch,
            term: epoch,
            phase: Phase::Probing,
            since: now,
            trip: None,
            paused: None,
            probed_at: None,
            unended: 0,
            verified_at: None,
            keys: Keys::default(),
            funds: None,
            doubt: None,
            quarantine: Vec::new(),
            last_command: None,
            solve_times: Quantiles::new(),
            lanes: BTreeSet::new(),
            money: Money::default(),
        }
    }

    /// The record after its message was lost: what is remembered of it, and nothing taken for
    /// granted.
    #[must_use]
    pub fn recreated(self, now: Timestamp) -> Self {
        let epoch = self.epoch.saturating_add(1);
        let phase = if self.phase == Phase::Tripped { Phase::Tripped } else { Phase::Probing };
        Self { epoch, term: epoch, phase, since: now, ..self }
    }

    /// Takes what operators have ordered from a record that this one replaces, and whose writer did
    /// not know of it: unlike what the API tells, nobody says it again. Returns whether that is
    /// news. A raised budget ends by its own time, so it is taken from any record. A pause is taken
    /// only from a record of the same epoch, since a later one may have ended it. Within one epoch
    /// nobody can tell which came later, the pause or its end: the pause is kept, and an operator
    /// can end it.
    pub fn take_orders(&mut self, other: &State, now: Timestamp) -> bool {
        let mut is_news = false;
        for raise in other.money.raises.iter().filter(|raise| raise.until > now) {
            let is_same =
                |known: &Raise| known == raise || known.command.is_some() && known.command == raise.command;
            let is_known = self.money.raises.iter().any(is_same);
            is_news |= !is_known && self.money.raise(raise.clone());
        }
        if self.epoch == other.epoch && self.paused.is_none() && other.paused.is_some() {
            self.paused.clone_from(&other.paused);
            is_news = true;
        }
        if self.last_command.is_none() {
            self.last_command.clone_from(&other.last_command);
        }
        is_news
    }

    /// Whether an operator's command has been carried out already. Its sender repeats it until
    /// then.
    #[must_use]
    pub fn has_carried_out(&self, command: &str) -> bool {
        let raised_by = |raise: &Raise| raise.command.as_deref() == Some(command);
        self.last_command.as_deref() == Some(command) || self.money.raises.iter().any(raised_by)
    }

    /// Reads a record; `None` where it is none of this version.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Self> {
        let state: State = serde_json::from_slice(body).ok()?;
        let sound = state.v == VERSION
            && state.term <= state.epoch
            && state.keys.good.len() <= MAX_KEYS
            && state.keys.refused.len() <= MAX_KEYS
            && state.quarantine.len() <= MAX_PROXIES
            && state.lanes.len() <= MAX_REMEMBERED
            && state.money.is_plausible()
            && (state.phase != Phase::Tripped || state.trip.is_some());
        sound.then_some(state)
    }

    /// The record as it is written.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Plain data with string keys and finite numbers: there is nothing in it that could fail to
        // be written.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Every reason in force, the gravest first.
    #[must_use]
    pub fn reasons(&self) -> Vec<Reason> {
        let paused = self.paused.as_ref().map(|_| Reason::Operator);
        let budget = self.money.stops.account.map(|_| Reason::Budget);
        self.tripped().map(|trip| trip.reason).into_iter().chain(budget).chain(paused).collect()
    }

    /// The trip in force: while tripped, and until a canary has passed.
    #[must_use]
    pub fn tripped(&self) -> Option<&Trip> {
        match self.phase {
            Phase::Probing | Phase::Active => None,
            Phase::Tripped | Phase::Canary => self.trip.as_ref(),
        }
    }

    /// Whether somebody may ask for tasks, so that answers say something about them.
    #[must_use]
    pub fn may_be_asked(&self) -> bool {
        matches!(self.phase, Phase::Active | Phase::Canary)
    }

    /// Whether a task that was accepted then is one that the API may have forgotten.
    #[must_use]
    pub fn doubts(&self, accepted_at: Timestamp) -> bool {
        self.doubt.is_some_and(|doubt| accepted_at < doubt.before)
    }

    /// Whether the canary is to show that the API knows the tasks that it accepts, which takes an
    /// answer to a poll.
    #[must_use]
    pub fn awaits_known_id(&self) -> bool {
        self.phase == Phase::Canary && self.tripped().is_some_and(|trip| trip.reason == Reason::WrongIds)
    }

    /// Whether all that was in doubt is past the age at which anybody asks for it, or the clock has
    /// been set back since.
    #[must_use]
    pub fn doubt_is_over(&self, now: Timestamp) -> bool {
        self.doubt
            .is_some_and(|doubt| now.since(doubt.before) >= MAX_AGE || doubt.before > now.plus(MOST_SKEW))
    }

    /// The proxies in quarantine. The record keeps those that are out of it until the next one
    /// comes in.
    pub fn quarantined(&self, now: Timestamp) -> impl Iterator<Item = &Fingerprint> {
        self.quarantine.iter().filter(move |entry| entry.until > now).map(|entry| &entry.proxy)
    }

    /// Whether a proxy is in quarantine.
    #[must_use]
    pub fn quarantines(&self, proxy: &Fingerprint, now: Timestamp) -> bool {
        self.quarantined(now).any(|quarantined| quarantined == proxy)
    }

    /// Puts a proxy into quarantine.
    pub(super) fn isolate(&mut self, proxy: &Fingerprint, until: Timestamp, now: Timestamp) {
        self.quarantine.retain(|entry| entry.until > now && entry.proxy != *proxy);
        if self.quarantine.len() >= MAX_PROXIES {
            self.quarantine.remove(0);
        }
        self.quarantine.push(Quarantined { proxy: proxy.clone(), until });
    }
}
