//! What may be spent, and who may spend the rest of it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Books, Decimal, Prices, Window};
use crate::time::Timestamp;

/// Raises in force at one time; further ones are refused.
pub const MAX_RAISES: usize = 32;
/// The largest amount that settings and commands take.
pub const MOST_MONEY: u32 = 1_000_000_000;
/// The longest raise; who wants more changes the settings.
pub const LONGEST_RAISE: Duration = Duration::from_secs(31 * 86_400);
/// In bytes.
const MAX_LANE_NAME: usize = 64;

/// The budgets of the account, or of a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// For each hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_hour: Option<Decimal>,
    /// For each day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_day: Option<Decimal>,
}

impl Limits {
    /// The limit of a window.
    #[must_use]
    pub fn of(&self, window: Window) -> Option<Decimal> {
        match window {
            Window::Hour => self.per_hour,
            Window::Day => self.per_day,
        }
    }
}

/// All budgets, as the leader's settings have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budgets {
    /// Of the account.
    pub account: Limits,
    /// Of single lanes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lanes: BTreeMap<String, Limits>,
}

impl Budgets {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.account == Limits::default() && self.lanes.values().all(|limits| *limits == Limits::default())
    }

    /// Those of a lane, or of the account.
    #[must_use]
    pub fn of(&self, lane: Option<&str>) -> Limits {
        lane.map_or(self.account, |lane| self.lanes.get(lane).copied().unwrap_or_default())
    }

    /// Everything that may have a budget: the account, and lanes.
    pub fn scopes(&self) -> impl Iterator<Item = Option<&str>> {
        std::iter::once(None).chain(self.lanes.keys().map(|lane| Some(lane.as_str())))
    }
}

/// What an operator orders: more for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// Of a lane; else of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// How much more each window may hold.
    pub by: Decimal,
    /// For how long.
    pub for_ms: u64,
}

impl Ordered {
    /// What comes of it; `None` where it is not within bounds.
    #[must_use]
    pub fn raise(self, by: String, since: Timestamp) -> Option<Raise> {
        let span = Duration::from_millis(self.for_ms);
        let fits = self.by > Decimal::ZERO
            && self.by <= Decimal::from(MOST_MONEY)
            && !span.is_zero()
            && span <= LONGEST_RAISE;
        let raise =
            Raise { lane: self.lane, amount: self.by, by, since, until: since.plus(span), command: None };
        (fits && raise.lane.as_ref().is_none_or(|lane| lane.len() <= MAX_LANE_NAME)).then_some(raise)
    }
}

/// A budget that an operator has raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raise {
    /// Of a lane; else of the account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<String>,
    /// How much more each window may hold.
    pub amount: Decimal,
    /// The broker's user who asked for it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// The command that it was asked for by; absent from records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// A budget that is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Which.
    pub window: Window,
    /// Since when.
    pub since: Timestamp,
    /// When its window ends.
    pub until: Timestamp,
}

/// The budgets that are used up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetStops {
    /// The account's: no lane takes jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<Stop>,
    /// Single lanes'.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub lanes: BTreeMap<String, Stop>,
}

/// What a replica has spent, or is about to, that the books have not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Uncounted {
    /// In all lanes.
    pub account: Decimal,
    /// In the lane that is asked about.
    pub lane: Decimal,
}

/// The account's money, as the leader's record holds it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Money {
    /// What was spent.
    pub books: Books,
    /// What may be.
    pub budgets: Budgets,
    /// What operators allow beyond that.
    pub raises: Vec<Raise>,
    /// What is used up.
    pub stops: BudgetStops,
}

impl Money {
    /// Whether a leader can have written this.
    #[must_use]
    pub(crate) fn is_plausible(&self) -> bool {
        self.books.is_plausible() && self.raises.len() <= MAX_RAISES
    }

    /// The limit of a window with what operators have added; `None`: there is none.
    #[must_use]
    pub fn limit(&self, window: Window, lane: Option<&str>, now: Timestamp) -> Option<Decimal> {
        let limit = self.budgets.of(lane).of(window)?;
        let raises = self.raises.iter().filter(|raise| raise.lane.as_deref() == lane && raise.until > now);
        Some(raises.fold(limit, |sum, raise| sum.saturating_add(raise.amount)))
    }

    /// What is left of a window's budget; `None`: it has none.
    #[must_use]
    pub fn left(&self, window: Window, lane: Option<&str>, now: Timestamp) -> Option<Decimal> {
        let limit = self.limit(window, lane, now)?;
        Some(limit.saturating_sub(self.books.spent(window, lane, now)))
    }

    /// What is used up now, where a task costs so much at the most: a budget is used up when it has
    /// no room for a task.
    fn used_up(&self, lane: Option<&str>, most_expensive: Decimal, now: Timestamp) -> Option<Stop> {
        // The window that ends last decides when it goes on.
        Window::ALL.into_iter().rev().find_map(|window| {
            let left = self.left(window, lane, now)?;
            let is_used_up = left < most_expensive || left <= Decimal::ZERO;
            let before = match lane {
                None => self.stops.account,
                Some(lane) => self.stops.lanes.get(lane).copied(),
            };
            let until = window.ends(now);
            let since = before.filter(|stop| stop.until == until).map_or(now, |stop| stop.since);
            is_used_up.then_some(Stop { window, since, until })
        })
    }

    /// Takes the leader's settings, and finds out what is used up.
    pub(crate) fn judge(&mut self, budgets: &Budgets, prices: &Prices, now: Timestamp) {
        self.budgets.clone_from(budgets);
        self.raises.retain(|raise| raise.until > now);
        let most_expensive = self.books.kinds().filter_map(|kind| prices.of(kind)).max().unwrap_or_default();
        let stops = |lane: Option<&str>| self.used_up(lane, most_expensive, now);
        let lanes = budgets.lanes.keys().filter_map(|lane| Some((lane.clone(), stops(Some(lane))?)));
        self.stops = BudgetStops { account: stops(None), lanes: lanes.collect() };
    }

    /// Adds an operator's raise. Returns whether there was room for it.
    pub(crate) fn raise(&mut self, raise: Raise) -> bool {
        let has_room = self.raises.len() < MAX_RAISES;
        if has_room {
            self.raises.push(raise);
        }
        has_room
    }

    /// Whether a lane has used its own budget up, or the account its.
    #[must_use]
    pub fn stops(&self, lane: &str) -> bool {
        self.stops.account.is_some() || self.stops.lanes.contains_key(lane)
    }

    /// Whether a replica may begin a task of this price. Each has half of its share of what is
    /// left, beyond what the books have counted of it; of the last tasks each is one replica's, by
    /// their ranks. So what several spend at the same time, before the books know it, stays within
    /// the budget.
    #[must_use]
    pub fn allows(
        &self,
        lane: &str,
        price: Decimal,
        uncounted: Uncounted,
        (replicas, rank): (usize, usize),
        now: Timestamp,
    ) -> bool {
        let replicas = Decimal::from(replicas.max(1));
        let within = |scope: Option<&str>, uncounted: Decimal| {
            Window::ALL.into_iter().filter_map(|window| self.left(window, scope, now)).all(|left| {
                if left < price || left <= Decimal::ZERO {
                    return false;
                }
                let half = left / Decimal::TWO;
                if replicas == Decimal::ONE {
                    return uncounted + price <= left;
                }
                // Whose the last tasks are.
                let takers = half.checked_div(price).map_or(replicas, |takers| takers.floor());
                let takers = takers.clamp(Decimal::ONE, replicas);
                Decimal::from(rank) < takers && uncounted + price <= price.max(half / replicas)
            })
        };
        within(None, uncounted.account) && within(Some(lane), uncounted.lane)
    }
}
