//! Deliveries whose successor is safe, or about to be, although they could not be acked: the broker delivers them again, and where it does so
//! here, they are known and not handled a second time.
//!
//! With one replica that is every lost connection; with n of them, about one delivery in n. What another replica gets is a window, and counted.

use parking_lot::{Mutex, MutexGuard};
use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::domain::message_hash::MessageHash;

/// How many are remembered; beyond it the oldest is forgotten, and would be handled again.
const MOST: usize = 4_096;
/// How long. A broker that was away for longer has no part in a task's life any more.
const KEPT: Duration = Duration::from_secs(600);

/// One of them.
#[derive(Debug)]
struct Settled {
    identity: MessageHash,
    /// Its successor is confirmed.
    safe: CancellationToken,
    until: Instant,
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct Succession {
    settled: Mutex<VecDeque<Settled>>,
}

impl Succession {
    /// Those that are not too old to be remembered.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Settled>> {
        // Each entry is whole at every moment.
        let mut settled = self.settled.lock();
        let now = Instant::now();
        while settled.front().is_some_and(|oldest| oldest.until <= now) {
            settled.pop_front();
        }
        settled
    }

    /// A delivery is lost whose successor is being published: it is safe once the token is cancelled.
    pub(super) fn expect(&self, identity: MessageHash) -> CancellationToken {
        let safe = CancellationToken::new();
        self.remember(identity, safe.clone());
        safe
    }

    /// The same, once more: the redelivery is lost, too.
    pub(super) fn remember(&self, identity: MessageHash, safe: CancellationToken) {
        let mut settled = self.lock();
        if settled.len() >= MOST {
            settled.pop_front();
        }
        settled.push_back(Settled { identity, safe, until: Instant::now() + KEPT });
    }

    /// A delivery is lost whose successor is confirmed.
    pub(super) fn note(&self, identity: MessageHash) {
        self.expect(identity).cancel();
    }

    /// Whether a redelivered message is one of them; then it is to be acked once its successor is safe, and is forgotten here.
    pub(super) fn take(&self, identity: MessageHash) -> Option<CancellationToken> {
        let mut settled = self.lock();
        let place = settled.iter().position(|known| known.identity == identity)?;
        settled.remove(place).map(|known| known.safe)
    }

    /// Whether there is any: as a rule there is none, and then no message need be hashed.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(n: usize) -> MessageHash {
        MessageHash::of_parts(["", "", ""], n.to_string().as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_known_again_once_and_for_a_time() {
        let succession = Succession::default();
        succession.note(identity(1));
        let safe = succession.expect(identity(2));
        assert!(succession.take(identity(1)).expect("known").is_cancelled());
        assert!(succession.take(identity(1)).is_none());
        let seen = succession.take(identity(2)).expect("known");
        assert!(!seen.is_cancelled());
        safe.cancel();
        assert!(seen.is_cancelled() && succession.is_empty());
        (0..MOST + 5).for_each(|n| succession.note(identity(n)));
        assert!(succession.take(identity(4)).is_none() && succession.take(identity(5)).is_some());
        tokio::time::advance(KEPT).await;
        assert!(succession.take(identity(6)).is_none() && succession.is_empty(), "too old");
        succession.note(identity(0));
        assert_eq!(succession.lock().len(), 1);
    }
}
