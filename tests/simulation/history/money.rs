//! What was paid, by whom and in which lane; and what of it nobody may have heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::money::Decimal;
use tokio::time::Instant;

/// After a cut, until the replica has a session again and is heard by the others.
const BACK_WITHIN: Duration = Duration::from_secs(10);
/// How long two replicas must be connected for one to hear what the other has spent.
const HEARD_WITHIN: Duration = Duration::from_secs(5);

/// Payments, and the times in which some replica was cut off from the others.
#[derive(Debug, Default)]
pub(crate) struct Payments {
    made: Vec<(String, Lane, Decimal, Instant)>,
    cuts: Vec<(Instant, Instant)>,
    /// When replicas were killed, or had left.
    ended: BTreeMap<String, Instant>,
}

impl Payments {
    pub(crate) fn made(&mut self, replica: &str, lane: &Lane, amount: Decimal, now: Instant) {
        self.made.push((replica.to_owned(), lane.clone(), amount, now));
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
    /// from then to their end somebody was cut off.
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
        let made = self
            .made
            .iter()
            .filter(|(replica, lane, _, at)| of.is_none_or(|of| of == lane) && is_unheard(replica, *at));
        made.map(|(_, _, amount, _)| *amount).sum()
    }
}
