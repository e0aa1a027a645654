//! What is shown of a fleet, by the console and by `top` alike: one model, made from what replicas
//! have reported.
//!
//! Pure: no clock, no I/O. All foreign text in it is fit to be shown ([`shown`]), and every list is
//! bounded, whoever has reported it. It can be written and read, so that one process shows what
//! another has seen.

mod fleet;
pub mod format;
mod rates;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::guard::{Funds, Paused, Phase, State};
use crate::domain::money::{Decimal, Window};
use crate::domain::publishers::PublisherFigures;
use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;
use crate::fleet::{Depths, Heartbeat};
pub use fleet::{ClassRow, FailureRow, LaneRow, ReplicaRow, TypeRow};
pub use rates::{RateTracker, Rates};

/// Characters of a name that are shown.
const NAME: usize = 40;
/// Points of the past that are kept and shown.
pub const HISTORY: usize = 60;

/// What is known of a fleet at one moment.
#[derive(Debug, Clone, Copy)]
pub struct FleetFacts<'a> {
    /// When.
    pub at: Timestamp,
    /// The fleet's namespace.
    pub namespace: &'a str,
    /// The account's state; `None` where no leader has reported it.
    pub state: Option<&'a State>,
    /// The leader's name.
    pub leader: Option<&'a str>,
    /// The leader's id.
    pub leader_id: Option<&'a str>,
    /// Replicas that the leader hears.
    pub expected: usize,
    /// Those that have reported.
    pub replicas: &'a [&'a Heartbeat],
    /// Types whose circuit breaker is open.
    pub shut: &'a [String],
    /// The queues.
    pub queues: Option<&'a Depths>,
    /// How fast work goes.
    pub tracker: &'a RateTracker,
}

/// All that is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// When.
    pub at: Timestamp,
    /// The fleet's namespace.
    pub namespace: String,
    /// The account's guard.
    pub guard: Guard,
    /// The leader's name.
    pub leader: Option<String>,
    /// Replicas that there should be.
    pub expected_replicas: usize,
    /// Replicas that have reported.
    pub heard_replicas: usize,
    /// Of them, those whose version reports no types, classes and failures.
    pub terse_replicas: usize,
    /// The replicas, bounded.
    pub replicas: Vec<ReplicaRow>,
    /// What the fleet does in a second; `None` until it has been watched for a moment.
    pub rates: Option<Rates>,
    /// The same over the last minute or two, the latest last.
    pub history: Vec<Rates>,
    /// Solved jobs since the replicas run.
    pub solved: u64,
    /// Failed jobs since the replicas run.
    pub failed: u64,
    /// The same by class; what replicas of earlier versions do not report by class stands last.
    pub classes: Vec<ClassRow>,
    /// Work by task type, bounded.
    pub types: Vec<TypeRow>,
    /// The lanes, bounded; empty where there is the default one alone.
    #[serde(default)]
    pub lanes: Vec<LaneRow>,
    /// Types whose circuit breaker is open.
    pub shut_types: Vec<String>,
    /// How the API's callbacks stand; `None` where no replica asks for any.
    pub callbacks: Option<String>,
    /// What waits in the queues; `None` while unknown.
    pub backlog: Option<Backlog>,
    /// The jobs that failed last, the latest first, bounded.
    pub latest_failures: Vec<FailureRow>,
    /// The publishers with the most jobs within the last hour, bounded.
    #[serde(default)]
    pub publishers: Vec<PublisherFigures>,
}

impl Overview {
    /// Makes it.
    #[must_use]
    pub fn of(facts: FleetFacts<'_>) -> Self {
        let FleetFacts { at, namespace, state, leader, leader_id, expected, replicas, shut, queues, tracker } =
            facts;
        let heard = replicas.len();
        Self {
            at,
            namespace: shown(namespace, 64),
            guard: Guard::of(state, at),
            leader: leader.map(|name| shown(name, NAME)),
            expected_replicas: expected.max(heard),
            heard_replicas: heard,
            terse_replicas: replicas.iter().filter(|replica| replica.vitals.detail.is_none()).count(),
            replicas: fleet::replicas(replicas, leader_id, tracker),
            rates: tracker.fleet(),
            history: tracker.history(),
            solved: replicas.iter().map(|replica| replica.vitals.solved).fold(0, u64::saturating_add),
            failed: replicas.iter().map(|replica| replica.vitals.failed).fold(0, u64::saturating_add),
            classes: fleet::classes(replicas),
            types: fleet::types(replicas, shut),
            lanes: fleet::lanes(replicas, queues),
            shut_types: fleet::shut(shut),
            callbacks: callbacks(replicas, at),
            backlog: queues.map(Backlog::of),
            latest_failures: fleet::failures(replicas),
            publishers: fleet::publishers(replicas),
        }
    }
}

/// `on`, or until when and why they are off, of the replica where they are off the longest.
fn callbacks(replicas: &[&Heartbeat], at: Timestamp) -> Option<String> {
    let asking: Vec<_> = replicas.iter().filter_map(|replica| replica.vitals.callbacks.as_ref()).collect();
    let off: Vec<_> = asking
        .iter()
        .filter_map(|status| Some((status.off_until.filter(|until| *until > at)?, status)))
        .collect();
    let longest = off.iter().max_by_key(|(until, _)| *until);
    let text = longest.map(|(until, status)| {
        let reason = shown(status.reason.as_deref().unwrap_or("no reason given"), REASON);
        let where_off = match (off.len(), asking.len()) {
            (off, asking) if off < asking => format!(" on {off} of {asking} replicas"),
            _ => String::new(),
        };
        format!("off until {}{where_off}: {reason}", format::moment(*until, at))
    });
    (!asking.is_empty()).then(|| text.unwrap_or_else(|| "on".to_owned()))
}

/// Characters of an operator's reason that are shown.
const REASON: usize = 200;
/// What stands for a state that nobody has reported.
const UNKNOWN: &str = "unknown";

/// The guard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// `active`, `probing`, `canary`, `tripped` or `unknown`.
    pub state: String,
    /// What that means for jobs.
    pub meaning: String,
    /// Why work is stopped, the gravest first.
    pub reasons: Vec<String>,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// When the leader probes the account again; only while tripped.
    pub next_probe_at: Option<Timestamp>,
    /// Probes that found it still tripped.
    pub failed_probes: u32,
    /// What to do, for each reason.
    pub advice: Vec<String>,
    /// An operator's pause.
    pub paused: Option<Pause>,
    /// When the window of the account's budget ends, where that is used up.
    #[serde(default)]
    pub budget_until: Option<Timestamp>,
    /// The number of the record that says so.
    pub epoch: Option<u64>,
    /// The account's balance; `None` while unknown.
    pub balance: Option<BalanceView>,
    /// What was spent; `None` where nothing was, and there is no budget.
    #[serde(default)]
    pub spending: Option<Spending>,
}

/// How good a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Work goes on.
    Good,
    /// Work is held up, or will go on by itself.
    Wary,
    /// Somebody may have to act.
    Bad,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The broker's user who asked for it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// The operator's words.
    pub reason: Option<String>,
}

/// The balance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BalanceView {
    /// The decimal as the API wrote it.
    pub text: String,
    /// The same as a number, for drawing.
    pub amount: f64,
    /// When it was asked for.
    pub at: Timestamp,
    /// Its change by the hour; `None` while unknown.
    pub per_hour: Option<f64>,
}

/// What was spent in the present hour and day, by the leader's books.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spending {
    /// In this hour, in UTC.
    pub hour: Decimal,
    /// In this day.
    pub day: Decimal,
    /// The budget of the hour.
    pub hour_limit: Option<Decimal>,
    /// That of the day.
    pub day_limit: Option<Decimal>,
    /// Lanes that have used their budgets up, and until when they take no jobs.
    pub stopped_lanes: BTreeMap<String, Timestamp>,
    /// When the balance is used up if it falls as it does now.
    pub balance_ends: Option<Timestamp>,
}

impl Spending {
    fn of(state: &State, now: Timestamp) -> Option<Self> {
        let (books, money) = (&state.money.books, &state.money);
        let spent = |window| books.spent(window, None, now).normalize();
        let limit = |window| money.limit(window, None, now);
        let stopped = money.stops.lanes.iter();
        let view = Self {
            hour: spent(Window::Hour),
            day: spent(Window::Day),
            hour_limit: limit(Window::Hour),
            day_limit: limit(Window::Day),
            stopped_lanes: stopped.map(|(lane, stop)| (shown(lane, NAME), stop.until)).collect(),
            balance_ends: state.funds.as_ref().and_then(Funds::ends),
        };
        (!view.day.is_zero() || !money.budgets.is_empty()).then_some(view)
    }

    /// In a line.
    #[must_use]
    pub fn text(&self, now: Timestamp) -> String {
        let of = |limit: Option<Decimal>| limit.map(|limit| format!(" of {limit}")).unwrap_or_default();
        let ends =
            self.balance_ends.map(|at| format!("; the balance lasts until {}", format::moment(at, now)));
        let (hour, day) = (of(self.hour_limit), of(self.day_limit));
        let mut text =
            format!("{}{hour} this hour, {}{day} today{}", self.hour, self.day, ends.unwrap_or_default());
        for (lane, until) in &self.stopped_lanes {
            text += &format!("; the budget of lane {lane} is used up until {}", format::moment(*until, now));
        }
        text
    }
}

impl Guard {
    /// The state in words; `unknown` where no leader reports one.
    #[must_use]
    pub fn of(state: Option<&State>, now: Timestamp) -> Self {
        let Some(state) = state else {
            return Self {
                state: UNKNOWN.to_owned(),
                meaning: "no leader reports the state of the account: no API calls".to_owned(),
                ..Self::default()
            };
        };
        let (reasons, trip) = (state.reasons(), state.tripped());
        let pause = |paused: &Paused| Pause {
            by: shown(&paused.by, NAME),
            since: paused.since,
            reason: paused.reason.as_deref().map(|reason| shown(reason, REASON)),
        };
        let balance = |funds: &Funds| BalanceView {
            text: shown(&funds.text, 24),
            amount: funds.amount.try_into().unwrap_or_default(),
            at: funds.at,
            per_hour: funds.per_hour,
        };
        Self {
            state: state.phase.name().to_owned(),
            meaning: meaning(state).to_owned(),
            reasons: reasons.iter().map(|reason| reason.name().to_owned()).collect(),
            since: Some(state.since),
            next_probe_at: trip.filter(|_| state.phase == Phase::Tripped).map(|trip| trip.next_probe_at),
            failed_probes: trip.map_or(0, |trip| trip.failures),
            advice: reasons.iter().map(|reason| reason.advice().to_owned()).collect(),
            paused: state.paused.as_ref().map(pause),
            budget_until: state.money.stops.account.map(|stop| stop.until),
            epoch: Some(state.epoch),
            balance: state.funds.as_ref().map(balance),
            spending: Spending::of(state, now),
        }
    }

    /// Whether work goes on.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == Phase::Active.name() && self.reasons.is_empty()
    }

    /// How good that is, for a view's colour.
    #[must_use]
    pub fn tone(&self) -> Tone {
        match &*self.state {
            "tripped" => Tone::Bad,
            "active" if self.is_active() => Tone::Good,
            _ => Tone::Wary,
        }
    }

    /// What is to be known beside the state: the next probe, and who has paused the fleet.
    #[must_use]
    pub fn notes(&self, now: Timestamp) -> Vec<String> {
        let probe = self.next_probe_at.map(|next| {
            let failed = match self.failed_probes {
                0 => String::new(),
                failed => format!(", failed probes: {failed}"),
            };
            format!("next probe at {}{failed}", format::moment(next, now))
        });
        let pause = self.paused.as_ref().map(|Pause { by, since, reason }| {
            let why = reason.as_deref().unwrap_or("no reason given");
            format!("paused since {} by {by}: {why}", format::moment(*since, now))
        });
        let used_up = self
            .budget_until
            .map(|until| format!("the budget is used up until {}", format::moment(until, now)));
        probe.into_iter().chain(used_up).chain(pause).collect()
    }

    /// The state in a word or three, such as `tripped (key_invalid)`.
    #[must_use]
    pub fn title(&self) -> String {
        match (&self.paused, self.reasons.is_empty()) {
            (Some(_), _) if self.state == Phase::Active.name() && self.reasons.len() == 1 => {
                "paused".to_owned()
            }
            (_, true) => self.state.clone(),
            (_, false) => format!("{} ({})", self.state, self.reasons.join(", ")),
        }
    }
}

fn meaning(state: &State) -> &'static str {
    match (state.phase, &state.paused) {
        (Phase::Tripped, _) => "the account must not be used: jobs stay queued",
        (_, Some(_)) => "paused by an operator: jobs stay queued, paid tasks are finished",
        (Phase::Canary | Phase::Active, None) if state.money.stops.account.is_some() => {
            "the budget is used up: jobs stay queued, paid tasks are finished"
        }
        (Phase::Probing, None) => "the account is probed before anything is submitted",
        (Phase::Canary, None) => "the probe succeeded: one job is submitted first",
        (Phase::Active, None) => "the account may be used",
    }
}

/// There are no more classes than this, whatever is reported.
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
    /// Jobs that are retried.
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
            jobs: under("jobs.").map(|(_, ready)| ready).fold(of("jobs"), u64::saturating_add),
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

#[cfg(test)]
mod tests;
