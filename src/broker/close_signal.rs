//! Whether something has ended, and why.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

/// The end of a session. Once ended, it stays ended: a session is made anew, never repaired. Clones
/// are the same.
///
/// Those who wait for it are woken in the order in which they began to; tokio's watch channel would
/// wake them in a random one, and a seed would no longer be a history.
#[derive(Debug, Clone, Default)]
pub struct CloseSignal {
    token: CancellationToken,
    reason: Arc<OnceLock<String>>,
}

impl CloseSignal {
    /// Ends it. The first reason stands, since later ones only follow from it.
    pub fn end(&self, reason: &str) {
        // Refused where there is one already.
        let _ = self.reason.set(reason.to_owned());
        self.token.cancel();
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Why, once it has.
    #[must_use]
    pub fn reason(&self) -> String {
        self.reason.get().cloned().unwrap_or_default()
    }

    /// Waits for the end, and returns why.
    pub async fn ended(&self) -> String {
        self.token.cancelled().await;
        self.reason()
    }
}
