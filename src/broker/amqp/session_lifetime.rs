//! The one life of a session, and the tasks that belong to it.

use tokio_util::task::TaskTracker;

use crate::broker::Ending;

/// Shared by everything that belongs to a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Life {
    ending: Ending,
    owners: TaskTracker,
}

impl Life {
    /// Ends it; the first reason stands.
    pub(super) fn end(&self, reason: &str) {
        self.ending.end(reason);
    }

    /// The owners of the session's channels, so that closing can wait for what they still have to carry out.
    pub(super) fn owners(&self) -> &TaskTracker {
        &self.owners
    }

    pub(super) fn ending(&self) -> Ending {
        self.ending.clone()
    }
}
