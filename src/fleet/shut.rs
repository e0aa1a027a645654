//! Task types that the API has no slots for: known to the whole fleet, so that one trickle call of its leader finds out when they are back.

use std::time::Duration;

use super::message::Report;
use super::standing::{Standing, lock};
use crate::domain::time::Timestamp;

/// Task types that can be shut; the others are called, and refused by the API.
const MAX_SHUT: usize = 64;
/// First and longest time between two trickle calls of a shut type. The API wants no less than 5 s.
const TRICKLE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(30));

/// A shut type.
#[derive(Debug, Default)]
pub(super) struct Shut {
    since: Option<Timestamp>,
    next_call_at: Option<Timestamp>,
    tries: u32,
}

impl Standing {
    /// The API has no slots for a type, as this replica has found.
    pub fn shut(&self, task_type: &str, now: Timestamp) {
        if self.note_shut(task_type, now) {
            tracing::warn!(
                task_type,
                "the API has no slots for this type: its jobs are parked without a call"
            );
        }
        self.report(Report::Shut { task_type: task_type.to_owned() });
    }

    /// Whether it was news.
    pub(super) fn note_shut(&self, task_type: &str, now: Timestamp) -> bool {
        let mut shut = lock(&self.inner.shut);
        if shut.contains_key(task_type) || shut.len() >= MAX_SHUT {
            return false;
        }
        let first_call = now.plus(TRICKLE.0 * self.patience());
        let entry = Shut { since: Some(now), next_call_at: Some(first_call), tries: 0 };
        shut.insert(task_type.to_owned(), entry);
        true
    }

    /// The trickle call was accepted: slots are back.
    pub fn slots_back(&self, task_type: &str) {
        if self.note_slots(task_type) {
            self.report(Report::Slots { task_type: task_type.to_owned() });
        }
    }

    pub(super) fn note_slots(&self, task_type: &str) -> bool {
        let back = lock(&self.inner.shut).remove(task_type).is_some();
        if back {
            tracing::info!(task_type, "the API has slots for this type again");
        }
        back
    }

    /// Whether a type is shut, and if so whether this replica is to make the fleet's one call that finds out if it still is.
    #[must_use]
    pub fn may_try(&self, task_type: &str, now: Timestamp) -> Option<bool> {
        let mut shut = lock(&self.inner.shut);
        let entry = shut.get_mut(task_type)?;
        let due = entry.next_call_at.is_none_or(|at| at <= now);
        if due {
            let wait = TRICKLE.0.mul_f64(1.5_f64.powi(i32::try_from(entry.tries).unwrap_or(8).min(8)));
            entry.next_call_at = Some(now.plus(wait.min(TRICKLE.1) * self.patience()));
            entry.tries = entry.tries.saturating_add(1);
        }
        Some(due)
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
        lock(&self.inner.shut).keys().cloned().collect()
    }

    /// The leader's list. What it has not heard of yet is left alone for a while.
    pub(super) fn follow_shut(&self, list: &[String], now: Timestamp) {
        for task_type in list {
            self.note_shut(task_type, now);
        }
        lock(&self.inner.shut).retain(|task_type, entry| {
            list.contains(task_type) || entry.since.is_some_and(|since| now.since(since) < TRICKLE.0)
        });
    }
}
