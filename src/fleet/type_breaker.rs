//! Task types that the API does not take, for want of slots or since createTask fails for them: known to the whole fleet, so that one trickle
//! call of its leader finds out when that is over.

use std::time::Duration;

use tokio::time::Instant;

use super::account_state::AccountState;
use super::message::Report;
use crate::domain::guard::Jobs;

/// Task types that can be shut; the others are called, and refused by the API.
const MAX_SHUT: usize = 64;
/// First and longest time between two trickle calls of a type without slots. The API wants no less than 5 s; the longest is what a type that
/// is back may wait to be found so.
const NO_SLOTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(12));
/// Between two trickle calls of a type for which createTask fails. It may be jobs of its own that fail, and then good ones wait for their turn
/// among them.
const FAILING: Duration = Duration::from_secs(1);
/// What the leader has not heard of yet is left alone for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// A job whose submission was not answered before may be paid twice by the next one, and would be given up if that were not answered
/// either. It is no trickle call unless no other job has come for so long.
const NO_OTHER_JOB: Duration = Duration::from_secs(60);

/// A shut type.
#[derive(Debug)]
pub(super) struct Shut {
    since: Instant,
    /// The last trickle call, or since it is shut.
    called_at: Instant,
    tries: u32,
    failing: bool,
}

impl Shut {
    /// Between two trickle calls of the fleet's leader.
    fn wait(&self) -> Duration {
        if self.failing {
            return FAILING;
        }
        let grown = NO_SLOTS.0.mul_f64(1.5_f64.powi(i32::try_from(self.tries).unwrap_or(8).min(8)));
        grown.min(NO_SLOTS.1)
    }
}

/// What a shut type means for one of its jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeBreaker {
    /// It makes the call that finds out whether the type is taken again.
    Try,
    /// It waits without a call: the API has no slots.
    NoSlots,
    /// It waits without a call: createTask fails for the type.
    Failing,
}

impl AccountState {
    /// The API does not take a type, as this replica has found: createTask fails for it, or it has no slots.
    pub fn shut(&self, task_type: &str, failing: bool) {
        if self.note_shut(task_type, failing) {
            let why =
                if failing { "createTask fails for this type" } else { "the API has no slots for this type" };
            tracing::warn!(task_type, "{why}: its jobs wait in the retry queues without a call");
        }
        self.report(Report::Shut { task_type: task_type.to_owned(), failing });
    }

    /// A submission of a type has failed. Where the type is shut, this was the trickle call, and says what is the matter now.
    pub fn still_shut(&self, task_type: &str, failing: bool) {
        if self.inner.shut.lock().contains_key(task_type) {
            self.shut(task_type, failing);
        }
    }

    /// createTask refused a job of a type for the job's own sake, so that it no longer fails for the type. Whether there are slots, that does not
    /// tell.
    pub fn works_again(&self, task_type: &str) {
        if self.inner.shut.lock().get(task_type).is_some_and(|entry| entry.failing) {
            self.slots_back(task_type);
        }
    }

    /// Whether it was news.
    pub(super) fn note_shut(&self, task_type: &str, failing: bool) -> bool {
        let mut shut = self.inner.shut.lock();
        if let Some(entry) = shut.get_mut(task_type) {
            return std::mem::replace(&mut entry.failing, failing) != failing;
        }
        if shut.len() >= MAX_SHUT {
            return false;
        }
        let now = Instant::now();
        shut.insert(task_type.to_owned(), Shut { since: now, called_at: now, tries: 0, failing });
        true
    }

    /// The trickle call was accepted: slots are back.
    pub fn slots_back(&self, task_type: &str) {
        if self.note_slots(task_type) {
            self.report(Report::Slots { task_type: task_type.to_owned() });
        }
    }

    pub(super) fn note_slots(&self, task_type: &str) -> bool {
        let back = self.inner.shut.lock().remove(task_type).is_some();
        if back {
            tracing::info!(task_type, "the API takes this type again");
        }
        back
    }

    /// What a shut type means for one of its jobs; `None` where it is not shut. `unanswered`: a submission of this job got no answer before.
    #[must_use]
    pub fn shut_type(&self, task_type: &str, unanswered: bool) -> Option<TypeBreaker> {
        let mut shut = self.inner.shut.lock();
        let entry = shut.get_mut(task_type)?;
        // By the role that this replica has now: it may have come to lead since. The canary is the trickle call of all types.
        let (patience, is_canary) = (self.patience(), self.permit().jobs == Jobs::Canary);
        let for_others = if unanswered && entry.failing { NO_OTHER_JOB } else { Duration::ZERO };
        let due = is_canary || entry.called_at.elapsed() >= entry.wait() * patience + for_others;
        if due {
            entry.called_at = Instant::now();
            entry.tries = entry.tries.saturating_add(1);
        }
        Some(match (due, entry.failing) {
            (true, _) => TypeBreaker::Try,
            (false, true) => TypeBreaker::Failing,
            (false, false) => TypeBreaker::NoSlots,
        })
    }

    /// The leader tries. The few jobs of a rare type may never come to it, so the others do too, so seldom that it hardly adds up.
    fn patience(&self) -> u32 {
        let seen = self.inner.seen.borrow();
        let replicas = u32::try_from(seen.replicas).unwrap_or(u32::MAX);
        if seen.leads { 1 } else { replicas.saturating_mul(4) }
    }

    /// The types that are shut.
    #[must_use]
    pub fn shut_types(&self) -> Vec<String> {
        self.inner.shut.lock().keys().cloned().collect()
    }

    /// Those of them for which createTask fails.
    pub(super) fn failing_types(&self) -> Vec<String> {
        let shut = self.inner.shut.lock();
        shut.iter().filter(|(_, entry)| entry.failing).map(|(task_type, _)| task_type.clone()).collect()
    }

    /// The leader's list. What it has not heard of yet is left alone for a while.
    pub(super) fn follow_shut(&self, list: &[String], failing: &[String]) {
        for task_type in list {
            self.note_shut(task_type, failing.contains(task_type));
        }
        self.inner
            .shut
            .lock()
            .retain(|task_type, entry| list.contains(task_type) || entry.since.elapsed() < ON_ITS_WAY);
    }
}
