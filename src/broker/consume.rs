//! The consuming half of the seam: deliveries, and the right to settle each.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::domain::message::Message;
use crate::failpoint::Failpoint;

/// What is to become of a delivery. Tags are those of the channel whose owner receives this.
#[derive(Debug)]
pub enum Settlement {
    /// Done with: the broker forgets it.
    Ack(u64),
    /// The same, and it may linger until others go with it.
    AckBatched(u64),
    /// Back to its queue.
    Requeue(u64),
    /// Rejected: the broker dead-letters it whole.
    Reject(u64),
    /// Stop delivering; what was delivered may still be settled. Answers when the broker has
    /// confirmed it.
    Cancel(oneshot::Sender<()>),
    /// Carry out everything asked before this, and answer when the broker has gone past it.
    Flush(oneshot::Sender<()>),
    /// Carry out everything asked before this, then close the channel: what is unsettled returns to
    /// the queue.
    Close(oneshot::Sender<()>),
}

/// The channel of a delivery is gone, so it can no longer be settled: the broker will
/// deliver it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the delivery's channel is gone; the broker will deliver the message again")]
pub struct Stale;

/// The right to settle one delivery, once, on its channel. Dropped unsettled, the
/// message goes back to its queue.
#[derive(Debug)]
#[must_use = "an unsettled delivery goes back to its queue"]
pub struct Receipt {
    tag: u64,
    owner: Option<mpsc::UnboundedSender<Settlement>>,
}

impl Receipt {
    /// A receipt for a delivery tag, tied to the owner of the tag's channel.
    ///
    /// The way to the owner is unbounded by type, and bounded by the prefetch: at most one
    /// settlement for each delivery.
    pub fn new(tag: u64, owner: mpsc::UnboundedSender<Settlement>) -> Self {
        Self { tag, owner: Some(owner) }
    }

    /// The message's successor is safe, or it needs none.
    ///
    /// # Errors
    /// [`Stale`] where the channel is gone.
    pub fn ack(mut self) -> Result<(), Stale> {
        self.settle(Settlement::Ack)
    }

    /// The same, and it may linger until others go with it: where a message that is delivered once
    /// more costs nothing.
    ///
    /// # Errors
    /// [`Stale`] where the channel is gone.
    pub fn ack_batched(mut self) -> Result<(), Stale> {
        self.settle(Settlement::AckBatched)
    }

    /// Back to its queue.
    ///
    /// # Errors
    /// [`Stale`] where the channel is gone.
    pub fn requeue(mut self) -> Result<(), Stale> {
        self.settle(Settlement::Requeue)
    }

    /// To the queue's dead-letter exchange, as it is.
    ///
    /// # Errors
    /// [`Stale`] where the channel is gone.
    pub fn reject(mut self) -> Result<(), Stale> {
        self.settle(Settlement::Reject)
    }

    /// The delivery's tag on its channel.
    #[must_use]
    pub fn tag(&self) -> u64 {
        self.tag
    }

    /// Whether the delivery's channel is still there.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| !owner.is_closed())
    }

    fn settle(&mut self, how: fn(u64) -> Settlement) -> Result<(), Stale> {
        let owner = self.owner.take().ok_or(Stale)?;
        if Failpoint::SettledTwice.in_force() {
            drop(owner.send(how(self.tag)));
        }
        owner.send(how(self.tag)).map_err(|_| Stale)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        // A stale receipt needs nothing: the broker has requeued its message when the channel went.
        let _ = self.settle(Settlement::Requeue);
    }
}

/// A message as it was delivered.
#[derive(Debug)]
pub struct Delivery {
    /// Bytes and properties.
    pub message: Message,
    /// It *may* have been seen before; unset, it was not.
    pub redelivered: bool,
    /// The key it was published with.
    pub routing_key: String,
    /// The right to settle it.
    pub receipt: Receipt,
}

/// A consumer: deliveries in order, on a channel of its own.
#[derive(Debug)]
pub struct Consumer {
    deliveries: mpsc::Receiver<Delivery>,
    cancelled: bool,
    owner: mpsc::UnboundedSender<Settlement>,
    watch: ConsumerWatch,
}

/// Observes a consumer, and keeps nothing of it alive.
#[derive(Debug, Clone)]
pub struct ConsumerWatch {
    lease: Lease,
    deliver: mpsc::WeakSender<Delivery>,
}

impl ConsumerWatch {
    /// Whether the broker is known to deliver here: a round trip on the channel has succeeded
    /// lately.
    #[must_use]
    pub fn is_consuming(&self) -> bool {
        self.lease.holds(Instant::now()) && self.deliver.strong_count() > 0
    }

    /// Deliveries that wait here and that nobody has received yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.deliver.upgrade().map_or(0, |deliver| deliver.max_capacity() - deliver.capacity())
    }
}

/// The broker's end of a [`Consumer`].
#[derive(Debug)]
pub struct ConsumerPort {
    /// Where deliveries go; closing it ends the consumer.
    pub deliveries: mpsc::Sender<Delivery>,
    /// Settlements in the order they were made. Dropping it makes every receipt stale.
    pub settlements: mpsc::UnboundedReceiver<Settlement>,
    /// For making receipts.
    pub owner: mpsc::UnboundedSender<Settlement>,
    /// To be renewed by round trips, and revoked when the channel goes.
    pub lease: Lease,
}

impl Settlement {
    /// Whether it may linger until others go with it.
    #[must_use]
    pub fn may_linger(&self) -> bool {
        matches!(self, Settlement::AckBatched(_))
    }
}

/// Makes both ends of a consumer. Few deliveries are buffered here: the prefetch bounds them
/// already, and what waits here is not seen by other replicas.
#[must_use]
pub fn consumer_channel() -> (Consumer, ConsumerPort) {
    let (deliver, deliveries) = mpsc::channel(64);
    let (owner, settlements) = mpsc::unbounded_channel();
    let lease = Lease::begin();
    let watch = ConsumerWatch { lease: lease.clone(), deliver: deliver.downgrade() };
    let consumer = Consumer { deliveries, cancelled: false, owner: owner.clone(), watch };
    (consumer, ConsumerPort { deliveries: deliver, settlements, owner, lease })
}

impl Consumer {
    /// The next delivery; `None` when the consumer has ended, whatever the reason: it must be made
    /// anew.
    pub async fn recv(&mut self) -> Option<Delivery> {
        self.deliveries.recv().await
    }

    /// A delivery that waits here already.
    pub fn try_recv(&mut self) -> Option<Delivery> {
        self.deliveries.try_recv().ok()
    }

    /// The same as [`Consumer::recv`], for one who waits for several consumers.
    pub fn poll_recv(&mut self, cx: &mut task::Context<'_>) -> Poll<Option<Delivery>> {
        self.deliveries.poll_recv(cx)
    }

    /// Whether a delivery waits here, or the consumer has ended.
    #[must_use]
    pub fn has_news(&self) -> bool {
        !self.deliveries.is_empty() || self.deliveries.is_closed()
    }

    /// Whether it was cancelled from this side.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled
    }

    /// The lease on this consumer's channel.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.watch.lease
    }

    /// An observer of it.
    #[must_use]
    pub fn watch(&self) -> ConsumerWatch {
        self.watch.clone()
    }

    /// Stops new deliveries. What was received can still be settled, and so can what nobody has
    /// received yet, which is returned: dropped, it goes back to its queue.
    pub async fn cancel(&mut self) -> Vec<Delivery> {
        self.cancelled = true;
        self.ask(Settlement::Cancel).await;
        self.deliveries.close();
        std::iter::from_fn(|| self.deliveries.try_recv().ok()).collect()
    }

    /// Carries out all settlements made so far, and waits until the broker has them: no end of this
    /// process brings them back. Meant for up to 16 of them: of more, some may still wait inside
    /// the broker, see `amqp::settle`.
    ///
    /// # Errors
    /// [`Stale`] where the channel is gone: some of them may be delivered again.
    pub async fn flush(&self) -> Result<(), Stale> {
        let (done, answered) = oneshot::channel();
        self.owner.send(Settlement::Flush(done)).map_err(|_| Stale)?;
        answered.await.map_err(|_| Stale)
    }

    /// Carries out all settlements made so far and closes the channel; what is unsettled goes back
    /// to its queue.
    pub async fn close(self) {
        self.ask(Settlement::Close).await;
    }

    async fn ask(&self, what: fn(oneshot::Sender<()>) -> Settlement) {
        let (done, answered) = oneshot::channel();
        if self.owner.send(what(done)).is_ok() {
            // An owner that went away instead of answering has closed the channel too.
            let _ = answered.await;
        }
    }
}

/// The next delivery of a consumer that is neither absent nor cancelled from this side; the
/// latter's end is no news.
pub async fn receive(consumer: &mut Option<Consumer>) -> Option<Delivery> {
    match consumer {
        Some(consumer) if !consumer.is_cancelled() => consumer.recv().await,
        _ => pending().await,
    }
}

/// Whether this process may still act as the owner of what a channel delivered.
///
/// Holds for a fixed span after *sending* the last synchronous round trip that succeeded on the
/// channel, and never again once the channel closed.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_consumer_that_the_broker_has_ended_was_not_cancelled_from_this_side() {
        let (mut consumer, port) = consumer_channel();
        drop(port);
        assert!(!consumer.is_cancelled() && consumer.recv().await.is_none());
        assert!(consumer.cancel().await.is_empty());
        assert!(consumer.is_cancelled());
    }
}
