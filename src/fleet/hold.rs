//! What this replica, or another, has met, and what it stops here at once.

use std::time::Duration;

use tokio::time::Instant;

use super::Found;
use super::answers::AnswerCounts;
use super::message::Report;
use super::seen::{Hold, accounted_for, is_graver};
use super::standing::{Egress, Standing, lock};
use crate::domain::guard::Reason;
use crate::domain::mark::Mark;
use crate::domain::time::Timestamp;

/// A hold that came back this soon waits longer.
const RELAPSE: Duration = Duration::from_secs(60);
/// The leader looks no more often than this at what was doubted.
const DOUBT_AGAIN: Duration = Duration::from_secs(1);
/// Wrong ids in the course of work are counted, not told one by one: what a replica says is how many there were so far.
const WRONG_ID_AGAIN: Duration = Duration::from_millis(100);

impl Standing {
    /// The API refused the account to a call that began then, in this term.
    pub fn refused(&self, reason: Reason, term: u64, began: Instant, now: Timestamp) {
        let of_another_key = lock(&self.inner.key_since).is_some_and(|since| began < since);
        if reason == Reason::KeyInvalid && of_another_key {
            return tracing::info!("the API refused the key that was replaced while the call was under way");
        }
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

    /// A poll that began in this term was answered: by the API's word about a task that it knows, or by its word that it knows no such id.
    pub fn answered(&self, wrong_id: bool, accepted_at: Timestamp, term: u64, uptime: Duration) {
        let (rank, awaited, doubtful) = {
            let seen = self.inner.seen.borrow();
            let state = seen.state.as_ref();
            let awaited = state.is_some_and(|state| state.awaits_known_id());
            (seen.rank, awaited, state.is_some_and(|state| state.doubts(accepted_at)))
        };
        if doubtful {
            // What is known of these says nothing about the others.
            let _ = self.inner.found.try_send(Found::Doubtful { wrong_id });
            return;
        }
        let on_probation = self.is_on_probation();
        let (counts, too_many) = if wrong_id {
            self.inner.answers.wrong_id(rank, &self.inner.rules, uptime)
        } else {
            (self.inner.answers.known(uptime), false)
        };
        let mut said = lock(&self.inner.wrong_id_said);
        let is_due = said.is_none_or(|at| at.elapsed() >= WRONG_ID_AGAIN);
        if awaited || wrong_id && (on_probation || is_due) {
            *said = Some(Instant::now());
            let AnswerCounts { answered, wrong_ids, in_a_row } = counts;
            self.report(Report::Answered {
                from: self.inner.id.clone(),
                term,
                answered,
                wrong_ids,
                wrong_id,
                in_a_row,
            });
        }
        drop(said);
        if too_many && self.hold(Hold { reason: Reason::WrongIds, term, until: None, mine: true }) {
            self.report(Report::Refused { reason: Reason::WrongIds, key: self.key(), term });
        }
    }

    /// Another replica has met a wrong id.
    pub(super) fn heard_wrong_id(&self) {
        let rank = self.inner.seen.borrow().rank;
        self.inner.answers.heard_wrong_id(rank);
    }

    /// There was a silence: polls begin one by one, and the leader counts anew.
    pub fn silence(&self) {
        let rank = self.inner.seen.borrow().rank;
        self.inner.answers.begin_probation(rank);
        self.report(Report::Silence);
    }

    /// Whether polls are made one by one, since there was a silence and no answer has shown yet that the API knows this replica's tasks.
    #[must_use]
    pub fn is_on_probation(&self) -> bool {
        self.inner.answers.on_probation()
    }

    /// Until when nothing may be polled, while polls begin one by one.
    #[must_use]
    pub fn polls_held_until(&self) -> Option<Instant> {
        self.inner.answers.held_until()
    }

    /// Answers to polls since this process runs, and those of them about ids that the API did not know.
    #[must_use]
    pub fn answer_counts(&self) -> (u64, u64) {
        let AnswerCounts { answered, wrong_ids, .. } = self.inner.answers.counts();
        (answered, wrong_ids)
    }

    /// A call was refused by something that is not the API's own word. The leader looks at the balance; nobody stops for it.
    pub fn doubted(&self) {
        let mut said = lock(&self.inner.doubt_said);
        if said.is_none_or(|at| at.elapsed() >= DOUBT_AGAIN) {
            *said = Some(Instant::now());
            self.report(Report::Doubted);
        }
    }

    /// The API has not answered several calls in a row. The leader looks whether it is down for all.
    pub fn unanswered(&self, term: u64, now: Timestamp) {
        if self.hold_alone(Reason::ProviderDown, term, now) {
            self.report(Report::Down);
        }
    }

    /// The API answers, and says nothing but that it fails, or nothing that is known. The leader looks whether it is down; nobody stops before.
    pub fn suspect(&self) {
        self.report(Report::Down);
    }

    /// Stops this replica for a time, growing while it meets the same again. Tells whether it did not stand still for it already.
    fn hold_alone(&self, reason: Reason, term: u64, now: Timestamp) -> bool {
        // What was under way together is one relapse.
        if self.inner.seen.borrow().alone.is_some_and(|alone| alone.reason == reason) {
            return false;
        }
        let failures = {
            let mut relapses = lock(&self.inner.relapses);
            let again = relapses.1.is_some_and(|until| until.elapsed() < RELAPSE);
            relapses.0 = if again { relapses.0.saturating_add(1) } else { 0 };
            relapses.0
        };
        let rules = &self.inner.rules;
        let wait =
            if failures == 0 { reason.first_look(rules) } else { reason.schedule(rules).wait(failures) };
        let until = Instant::now() + wait;
        let news = self.hold(Hold { reason, term, until: Some(until), mine: false });
        if news {
            tracing::warn!("API calls paused on this replica until {}: {reason}", now.plus(wait));
            lock(&self.inner.relapses).1 = Some(until);
        }
        news
    }

    /// Holds, unless something graver does, or the leader's word has accounted for it. Tells whether it is news.
    fn hold(&self, hold: Hold) -> bool {
        let key = self.key();
        let (mut news, mut held) = (false, false);
        self.change(|seen| {
            let graver_than_told = seen.state.as_ref().is_some_and(|state| is_graver(&hold, state));
            let old = hold.term < seen.term() && !graver_than_told;
            let alone = hold.until.is_some();
            // That it was met again is news all the same: a ban begins anew with it.
            let covered =
                !alone && seen.state.as_ref().is_some_and(|state| accounted_for(&hold, state, &key));
            let place = if alone { &mut seen.alone } else { &mut seen.hold };
            let graver = place.is_some_and(|standing| standing.reason >= hold.reason);
            news = !old && !graver;
            held = news && !covered;
            if held {
                *place = Some(hold);
                seen.permit = self.permit_of(seen);
            }
            held
        });
        if held && hold.mine {
            tracing::error!(
                reason = hold.reason.name(),
                "the API refused this replica's call; {}",
                hold.reason.advice()
            );
        }
        news
    }
}
