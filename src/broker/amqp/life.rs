//! The one life of a session, and what ends it.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// Shared by everything that belongs to a session. Once ended, it stays ended: a session is made anew, never repaired.
#[derive(Debug, Clone)]
pub(super) struct Life {
    ended: Arc<watch::Sender<Option<String>>>,
    owners: TaskTracker,
}

impl Life {
    pub(super) fn begin() -> Self {
        let (ended, _) = watch::channel(None);
        Self { ended: Arc::new(ended), owners: TaskTracker::new() }
    }

    /// Ends it. The first reason stands, since later ones only follow from it.
    pub(super) fn end(&self, reason: &str) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            if first {
                *ended = Some(reason.to_owned());
            }
            first
        });
    }

    /// The owners of the session's channels, so that closing can wait for what they still have to carry out.
    pub(super) fn owners(&self) -> &TaskTracker {
        &self.owners
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<String>> {
        self.ended.subscribe()
    }
}

/// Waits for the end of a life, and tells why.
pub(super) async fn ended(watch: &mut watch::Receiver<Option<String>>) -> String {
    match watch.wait_for(Option::is_some).await {
        Ok(reason) => reason.clone().unwrap_or_default(),
        Err(_) => "the session is gone".to_owned(),
    }
}
