//! What was paid, by whom and in which lane; and what of it nobody may have heard of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::money::Decimal;
use tokio::time::Instant;

use super::plan::Plan;

/// After a cut, until the replica has a session again and is heard by the others.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// How long two replicas must be connected for one to hear what the other has spent.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// How long a payment may be in no report: those come with the heartbeats. Where there are budgets
/// they come each half second, and the leader writes its books once a second. A broker that takes
/// its time delays that by so many of its confirms.
const REPORTED_WITHIN: Duration = Duration::from_millis(2_500);
const REPORTED_WITHIN_IF_BUDGETED: Duration = Duration::from_millis(1_500);
const CONFIRMS: u32 = 4;
/// Who has a ticket of a replica that is gone reports its payment so much later, and a moment.
const SHOWN_WITHIN: Duration = Duration::from_secs(6);
const SHOWN_WITHIN_IF_BUDGETED: Duration = Duration::from_millis(2_500);

/// A task that the API has accepted.
#[derive(Debug)]
struct Payment {
    replica: String,
    job: String,
    lane: Lane,
    amount: Decimal,
    at: Instant,
    /// When the call ended for its replica, with an answer or without.
    call_ended_at: Option<Instant>,
    /// Its replica was killed before it reported this.
    is_unreported: bool,
    /// Nor does a ticket show it: its replica was killed before the answer, or after the job had
    /// ended or gone on with another task; or another replica was killed soon after the job's end.
    is_lost: bool,
}

/// Payments, and the times in which some replica was cut off from the others.
#[derive(Debug)]
pub(crate) struct Payments {
    reported_within: Duration,
    shown_within: Duration,
    made: Vec<Payment>,
    cuts: Vec<(Instant, Instant)>,
    /// When replicas were killed, or had left.
    ended: BTreeMap<String, Instant>,
}

impl Payments {
    pub(crate) fn of(plan: &Plan) -> Self {
        let is_budgeted = plan.budget.is_some() || plan.lanes.values().any(|lane| lane.budget.is_some());
        let (reported_within, shown_within) = if is_budgeted {
            (REPORTED_WITHIN_IF_BUDGETED, SHOWN_WITHIN_IF_BUDGETED)
        } else {
            (REPORTED_WITHIN, SHOWN_WITHIN)
        };
        let confirms = plan.store.unwrap_or_default() * CONFIRMS;
        let (reported_within, shown_within) = (reported_within + confirms, shown_within + confirms);
        Self { reported_within, shown_within, made: Vec::new(), cuts: Vec::new(), ended: BTreeMap::new() }
    }

    pub(crate) fn made(&mut self, replica: &str, job: &str, (lane, amount): (&Lane, Decimal), at: Instant) {
        let is_lost = self.ended.contains_key(replica);
        let (replica, job, lane) = (replica.to_owned(), job.to_owned(), lane.clone());
        self.made.push(Payment {
            replica,
            job,
            lane,
            amount,
            at,
            call_ended_at: None,
            is_unreported: is_lost,
            is_lost,
        });
    }

    /// The call of a replica's last submission of a job has ended.
    pub(crate) fn call_ended(&mut self, replica: &str, job: &str, now: Instant) {
        let mut newest_first = self.made.iter_mut().rev();
        if let Some(payment) = newest_first.find(|made| made.replica == replica && made.job == job) {
            payment.call_ended_at = Some(now);
        }
    }

    /// A replica is killed, after jobs that have ended.
    pub(crate) fn killed(&mut self, replica: &str, has_ended: impl Fn(&str) -> bool, now: Instant) {
        let killed_lately: BTreeSet<_> = self
            .ended
            .iter()
            .filter(|(_, at)| now.duration_since(**at) <= self.shown_within)
            .map(|(of, _)| of.clone())
            .collect();
        for payment in self.made.iter_mut().filter(|payment| killed_lately.contains(&payment.replica)) {
            payment.is_lost |= payment.is_unreported && has_ended(&payment.job);
        }
        self.ended(replica, now);
        let mut later = BTreeSet::new();
        for payment in self.made.iter_mut().rev() {
            let has_gone_on = !later.insert(payment.job.clone());
            let is_fresh =
                payment.call_ended_at.is_none_or(|at| now.duration_since(at) <= self.reported_within);
            let is_shown = !has_gone_on && !has_ended(&payment.job);
            payment.is_unreported |= payment.replica == replica && is_fresh;
            payment.is_lost |= payment.replica == replica && is_fresh && !is_shown;
        }
    }

    /// The ticket of a job seems too old to show what a replica has paid that was killed.
    pub(crate) fn ticket_too_old(&mut self, job: &str) {
        for payment in self.made.iter_mut().filter(|payment| payment.job == job) {
            payment.is_lost |= payment.is_unreported;
        }
    }

    /// A replica is cut off for so long from now on.
    pub(crate) fn cut(&mut self, now: Instant, lasts: Duration) {
        self.cuts.push((now, now + lasts + BACK_WITHIN));
        self.cuts.sort();
    }

    /// A replica is no more.
    pub(crate) fn ended(&mut self, replica: &str, now: Instant) {
        self.ended.insert(replica.to_owned(), now);
    }

    /// What replicas that are no more have paid in a lane, or in all, and could report to nobody:
    /// they were killed at once, or from then to their end somebody was cut off.
    pub(crate) fn unheard(&self, of: Option<&Lane>) -> Decimal {
        let is_unheard = |replica: &str, paid_at: Instant| {
            let Some(ended_at) = self.ended.get(replica) else { return false };
            let (mut heard_from, mut longest) = (paid_at, Duration::ZERO);
            let met = self.cuts.iter().filter(|(from, until)| from < ended_at && *until > paid_at);
            let mut is_met = false;
            for (from, until) in met {
                is_met = true;
                longest = longest.max(from.saturating_duration_since(heard_from));
                heard_from = heard_from.max(*until);
            }
            is_met && longest.max(ended_at.saturating_duration_since(heard_from)) < HEARD_WITHIN
        };
        let of_lane = self.made.iter().filter(|payment| of.is_none_or(|of| *of == payment.lane));
        let unheard = of_lane.filter(|payment| payment.is_lost || is_unheard(&payment.replica, payment.at));
        unheard.map(|payment| payment.amount).sum()
    }
}
