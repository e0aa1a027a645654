//! What replicas of one account know together.
//!
//! For now each replica stands alone: it learns the account's state from the refusals that it meets itself, and keeps it until it is started again.

use tokio::sync::watch;

use crate::domain::guard::{Guard, Reason, Stops};
use crate::domain::time::Timestamp;

/// The guard's state in this replica, and everybody's way to learn of a change.
#[derive(Debug, Clone)]
pub struct Standing {
    state: watch::Sender<Guard>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { state: watch::Sender::new(Guard::Open) }
    }
}

impl Standing {
    /// The state now.
    #[must_use]
    pub fn guard(&self) -> Guard {
        *self.state.borrow()
    }

    /// What is stopped now.
    #[must_use]
    pub fn stops(&self) -> Stops {
        self.guard().stops()
    }

    /// The API has refused the account. Tells the first time what happened and what to do; a storm of the same refusal says nothing more.
    pub fn trip(&self, reason: Reason, now: Timestamp) {
        let changed = self.state.send_if_modified(|guard| {
            let next = guard.trip(reason, now);
            std::mem::replace(guard, next) != next
        });
        if changed {
            let stops = reason.stops();
            tracing::error!(
                reason = reason.name(),
                stops_submissions = stops.submissions,
                stops_polls = stops.polls,
                "the API refused the account: this replica takes no more jobs, which stay queued; {}",
                reason.advice()
            );
        }
    }

    /// For awaiting changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Guard> {
        self.state.subscribe()
    }
}
