//! What this replica, or another, has met, and what it stops here at once.

use std::time::Duration;

use super::message::Report;
use super::seen::{Hold, is_graver};
use super::standing::{Egress, Standing, lock};
use crate::domain::guard::Reason;
use crate::domain::mark::Mark;
use crate::domain::time::Timestamp;

/// A hold that came back this soon waits longer.
const RELAPSE: Duration = Duration::from_secs(60);

impl Standing {
    /// The API refused the account to a call that began in this term.
    pub fn refused(&self, reason: Reason, term: u64, now: Timestamp) {
        if self.inner.egress == Egress::Own && reason.is_of_the_address() {
            self.hold_alone(reason, term, now);
        } else if self.hold(Hold { reason, term, until: None, mine: true }) {
            self.report(Report::Refused { reason, key: self.key(), term });
        }
    }

    /// Another replica's call was refused. What it met, every replica with the same account would meet.
    pub(super) fn heard_refused(&self, reason: Reason, key: &Mark, term: u64) {
        if reason != Reason::KeyInvalid || *key == self.key() {
            self.hold(Hold { reason, term, until: None, mine: false });
        }
    }

    /// The API did not know a task's id.
    pub fn wrong_id(&self, term: u64, now: Timestamp) {
        self.report(Report::WrongId { term });
        if lock(&self.inner.wrong_ids).note(now) {
            self.hold(Hold { reason: Reason::WrongIds, term, until: None, mine: true });
        }
    }

    /// The API has not answered several calls in a row. The leader looks whether it is down for all.
    pub fn unanswered(&self, term: u64, now: Timestamp) {
        self.hold_alone(Reason::ProviderDown, term, now);
        self.report(Report::Down);
    }

    /// Stops this replica for a time, growing while it meets the same again.
    fn hold_alone(&self, reason: Reason, term: u64, now: Timestamp) {
        // What was under way together is one relapse.
        if self.held() == Some(reason) {
            return;
        }
        let failures = {
            let mut relapses = lock(&self.inner.relapses);
            let again = relapses.1.is_some_and(|until| now.since(until) < RELAPSE);
            relapses.0 = if again { relapses.0.saturating_add(1) } else { 0 };
            relapses.0
        };
        let until = now.plus(reason.schedule(&self.inner.rules).wait(failures));
        if self.hold(Hold { reason, term, until: Some(until), mine: false }) {
            lock(&self.inner.relapses).1 = Some(until);
        }
    }

    /// Holds, unless something graver does, or the leader's word has accounted for it. Tells whether it is news.
    fn hold(&self, hold: Hold) -> bool {
        let mut news = false;
        self.change(|seen| {
            let graver_than_told = seen.state.as_ref().is_some_and(|state| is_graver(&hold, state));
            let old = hold.term < seen.term() && !graver_than_told;
            let graver = seen.hold.is_some_and(|standing| standing.reason >= hold.reason);
            news = !old && !graver;
            if news {
                seen.hold = Some(hold);
                seen.permit = self.permit_of(seen);
            }
            news
        });
        if news && hold.mine {
            tracing::error!(
                reason = hold.reason.name(),
                "the API refused this replica's call; {}",
                hold.reason.advice()
            );
        } else if news && hold.until.is_some() {
            tracing::warn!(reason = hold.reason.name(), "this replica calls nothing for a while");
        }
        news
    }
}
