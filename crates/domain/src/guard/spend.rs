//! The account's money: how fast it goes, and so when to look again.

use std::time::Duration;

use super::transition::Looked;
use super::{Funds, GuardRules, Reason, State};
use crate::money::Decimal;
use crate::time::Timestamp;

/// The shortest time between two looks while money runs out.
pub(super) const SHORTEST_LOOK: Duration = Duration::from_secs(5);
/// Two looks nearer than this say too little about the rate.
const LEAST_SPAN: Duration = Duration::from_secs(4);
/// Looks that found no more money than was refused, after which one job is tried all the same: with
/// the longest wait between two of them.
const TRY_ANYWAY_AFTER: u32 = 4;
const HOUR: f64 = 3_600.0;
/// How much of a new rate is taken into the old one.
const FRESHNESS: f64 = 0.5;

impl State {
    pub(super) fn note_funds(&mut self, text: String, amount: Decimal, now: Timestamp) {
        let per_hour = match &self.funds {
            Some(last) if now.since(last.at) >= LEAST_SPAN => rate(last, amount, now),
            Some(last) => last.per_hour,
            None => None,
        };
        self.funds = Some(Funds { text, amount, at: now, per_hour });
    }

    pub(super) fn balance_read(&mut self, amount: Decimal, rules: &GuardRules, now: Timestamp) {
        let broke = self.tripped().filter(|trip| trip.reason == Reason::NoFunds);
        // Above zero, and still too little for what was submitted: a top-up helps, and what else
        // may have changed is tried now and then.
        let patient = broke.is_some_and(|trip| trip.failures < TRY_ANYWAY_AFTER);
        let no_more =
            patient && broke.and_then(|trip| trip.refused_at).is_some_and(|before| amount <= before);
        if amount <= rules.min_balance || no_more {
            self.trip(Reason::NoFunds, Looked::Again, rules, now);
        } else {
            self.send_canary();
        }
        if self.tripped().is_some_and(|trip| trip.reason == Reason::NoFunds)
            && let Some(trip) = &mut self.trip
        {
            trip.refused_at = Some(amount);
        }
    }

    /// When the balance is to be looked at again: soon while it runs out, so that the guard trips
    /// before the API says no.
    pub(super) fn next_look(&self, rules: &GuardRules) -> Timestamp {
        let Some(funds) = &self.funds else {
            // The API may not report it at all.
            return self.probed_at.map_or(self.since, |at| at.plus(rules.balance_interval));
        };
        let longest = rules.balance_interval;
        let Some(per_hour) = funds.per_hour else {
            // A second look shows how fast it goes.
            return funds.at.plus(SHORTEST_LOOK.min(longest));
        };
        let left = number(funds.amount.saturating_sub(rules.min_balance));
        let spent_per_second = -per_hour / HOUR;
        let wait = if spent_per_second > 0.0 && left > 0.0 {
            // A quarter of what is left of the time: four looks before it is over.
            Duration::try_from_secs_f64(left / spent_per_second / 4.0).unwrap_or(longest)
        } else {
            longest
        };
        funds.at.plus(wait.clamp(SHORTEST_LOOK.min(longest), longest))
    }
}

/// A top-up is no earning: a balance that has grown says nothing about the spending.
fn rate(last: &Funds, amount: Decimal, now: Timestamp) -> Option<f64> {
    if amount > last.amount {
        return last.per_hour;
    }
    let fresh = number(amount.saturating_sub(last.amount)) / now.since(last.at).as_secs_f64() * HOUR;
    Some(last.per_hour.map_or(fresh, |old| old + (fresh - old) * FRESHNESS))
}

/// For a rate, which is an estimate.
fn number(amount: Decimal) -> f64 {
    amount.try_into().unwrap_or_default()
}

/// What an accepted task costs, as far as two looks at the balance and the fleet's counters show.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spending {
    /// Accepted tasks of the fleet at the last look.
    accepted: Option<u64>,
    /// The most that a task was seen to cost on average.
    cost: Option<Decimal>,
}

/// Accepted tasks after which it is looked at, while what they cost is not known.
const FIRST_LOOK_AFTER: u64 = 100;

impl Spending {
    /// The balance has gone from one amount to another, with so many tasks accepted by now.
    pub fn note(&mut self, before: Option<Decimal>, amount: Decimal, accepted: u64) {
        let tasks = accepted.saturating_sub(self.accepted.unwrap_or(accepted));
        if let Some(before) = before.filter(|before| tasks > 0 && *before > amount) {
            let cost = before.saturating_sub(amount) / Decimal::from(tasks);
            self.cost = Some(self.cost.map_or(cost, |most| most.max(cost)));
        }
        self.accepted = Some(accepted);
    }

    /// Whether a quarter of what is left may be gone since the last look.
    #[must_use]
    pub fn is_pressing(&self, funds: &Funds, rules: &GuardRules, accepted: u64) -> bool {
        let tasks = accepted.saturating_sub(self.accepted.unwrap_or(accepted));
        match self.cost {
            Some(cost) => {
                let spent = Decimal::from(tasks).saturating_mul(cost).saturating_mul(Decimal::from(4));
                tasks > 0 && spent >= funds.amount.saturating_sub(rules.min_balance)
            }
            None => tasks >= FIRST_LOOK_AFTER,
        }
    }
}
