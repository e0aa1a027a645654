//! Task types that the API does not take, for want of slots or since createTask fails for them:
//! known to the whole fleet, so that one trial call of its leader finds out when that is over.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Task types whose breakers can be open; the others are called, and refused by the API.
const MAX_OPEN: usize = 64;
/// First and longest time between two trial calls of a type without slots. The API wants no less
/// than 5 s; the longest is what a type that is back may wait to be found so.
const NO_SLOTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(12));
/// Between two trial calls of a type for which createTask fails. It may be jobs of its own that
/// fail, and then good ones wait for their turn among them.
const FAILING: Duration = Duration::from_secs(1);
/// What the leader has not heard of yet is left alone for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// A job whose submission was not answered may be paid twice by the next one, and is given up if
/// that is not answered either. For so long it leaves it to other jobs to find out whether the API
/// accepts tasks.
pub const OTHERS_TRY_FOR: Duration = Duration::from_secs(60);

/// A type's breaker that is open.
#[derive(Debug)]
struct OpenBreaker {
    since: Instant,
    /// The last trial call, or since it is open.
    called_at: Instant,
    tries: u32,
    failing: bool,
}

impl OpenBreaker {
    /// Between two trial calls of the fleet's leader.
    fn wait(&self) -> Duration {
        if self.failing {
            return FAILING;
        }
        let grown = NO_SLOTS.0.mul_f64(1.5_f64.powi(i32::try_from(self.tries).unwrap_or(8).min(8)));
        grown.min(NO_SLOTS.1)
    }
}

/// What an open breaker means for a job of the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypeBreaker {
    /// It makes the call that finds out whether the type is taken again.
    Try,
    /// It waits without a call: the API has no slots.
    NoSlots,
    /// It waits without a call: createTask fails for the type.
    Failing,
}

/// The breakers of all types, by their names; a type without an entry is called.
#[derive(Debug, Default)]
pub(super) struct TypeBreakers(Mutex<BTreeMap<String, OpenBreaker>>);

impl TypeBreakers {
    /// The API does not take a type. Returns whether that is new.
    pub(super) fn open(&self, task_type: &str, failing: bool) -> bool {
        let mut open = self.0.lock();
        if let Some(breaker) = open.get_mut(task_type) {
            return std::mem::replace(&mut breaker.failing, failing) != failing;
        }
        if open.len() >= MAX_OPEN {
            return false;
        }
        let now = Instant::now();
        open.insert(task_type.to_owned(), OpenBreaker { since: now, called_at: now, tries: 0, failing });
        true
    }

    /// The API takes a type again. Returns whether that is new.
    pub(super) fn close(&self, task_type: &str) -> bool {
        let was_open = self.0.lock().remove(task_type).is_some();
        if was_open {
            tracing::info!(task_type, "the API accepts this task type again");
        }
        was_open
    }

    /// Whether createTask fails for a type; `None` where its breaker is closed.
    pub(super) fn is_failing(&self, task_type: &str) -> Option<bool> {
        self.0.lock().get(task_type).map(|breaker| breaker.failing)
    }

    /// What is to happen to a job of the type; `None` where its breaker is closed. `factor`: how
    /// many times the leader's wait this replica waits. `unanswered`: a submission of this job got
    /// no answer before.
    pub(super) fn ask(
        &self,
        task_type: &str,
        factor: u32,
        unanswered: bool,
        is_canary: bool,
    ) -> Option<TypeBreaker> {
        let mut open = self.0.lock();
        let breaker = open.get_mut(task_type)?;
        let for_others = if unanswered && breaker.failing { OTHERS_TRY_FOR } else { Duration::ZERO };
        if is_canary || breaker.called_at.elapsed() >= breaker.wait() * factor + for_others {
            breaker.called_at = Instant::now();
            breaker.tries = breaker.tries.saturating_add(1);
            return Some(TypeBreaker::Try);
        }
        Some(if breaker.failing { TypeBreaker::Failing } else { TypeBreaker::NoSlots })
    }

    /// The types that are not called.
    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().keys().cloned().collect()
    }

    /// Those of them for which createTask fails.
    pub(super) fn failing(&self) -> Vec<String> {
        let open = self.0.lock();
        open.iter().filter(|(_, breaker)| breaker.failing).map(|(task_type, _)| task_type.clone()).collect()
    }

    /// Follows the leader's list. What it has not heard of yet stays open for a while.
    pub(super) fn follow(&self, list: &[String], failing: &[String]) {
        for task_type in list {
            self.open(task_type, failing.contains(task_type));
        }
        let mut open = self.0.lock();
        open.retain(|task_type, breaker| list.contains(task_type) || breaker.since.elapsed() < ON_ITS_WAY);
    }
}
