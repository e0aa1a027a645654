//! The lease on a channel.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Whether this process may still act as the owner of what a channel delivered.
///
/// Holds for a fixed span after *sending* the last synchronous round trip that succeeded on the channel, and never again once the channel closed.
#[derive(Debug, Clone)]
pub struct Lease {
    base: Instant,
    // Milliseconds after `base` until which it holds; 0 once revoked.
    until: Arc<AtomicU64>,
}

impl Lease {
    /// How long a round trip is good for.
    pub const SPAN: Duration = crate::domain::poll_schedule::LEASE;

    /// A lease that begins with a round trip sent now.
    #[must_use]
    pub fn begin() -> Self {
        let base = Instant::now();
        let lease = Self { base, until: Arc::new(AtomicU64::new(0)) };
        lease.renew(base);
        lease
    }

    /// A round trip that was sent at `sent_at` has succeeded.
    pub fn renew(&self, sent_at: Instant) {
        let until = sent_at.saturating_duration_since(self.base) + Self::SPAN;
        self.until.store(u64::try_from(until.as_millis()).unwrap_or(u64::MAX), Ordering::Release);
    }

    /// One that holds nothing.
    #[must_use]
    pub fn none() -> Self {
        let lease = Self::begin();
        lease.revoke();
        lease
    }

    /// The channel is gone.
    pub fn revoke(&self) {
        self.until.store(0, Ordering::Release);
    }

    /// Whether it holds at this moment.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        let elapsed = u64::try_from(now.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX);
        elapsed < self.until.load(Ordering::Acquire)
    }
}
