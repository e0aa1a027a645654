//! The publishing half of the seam.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::PublishError;
use crate::domain::message::Message;
use crate::histogram::{Distribution, Histogram, MOMENTS};

/// A publish on its way to the owner of a publishing channel.
#[derive(Debug)]
pub struct PublishRequest {
    /// Exchange; the empty name is the default exchange.
    pub exchange: String,
    /// Routing key, or the queue's name on the default exchange.
    pub routing_key: String,
    /// Whether no queue taking it is an error.
    pub mandatory: bool,
    /// The message.
    pub message: Arc<Message>,
    /// It may linger until others go with it.
    pub may_batch: bool,
    /// Answered once the broker has confirmed, refused or returned it.
    pub reply: oneshot::Sender<Result<(), PublishError>>,
}

/// A publishing channel with confirms. Cloning shares the channel and its one owner.
#[derive(Debug, Clone)]
pub struct Publisher {
    owner: mpsc::Sender<PublishRequest>,
    confirm_timeout: Duration,
    pub(super) meter: Arc<Meter>,
}

/// Makes both ends of a publishing channel. `depth` bounds what waits for the owner; past it,
/// publishers wait.
#[must_use]
pub fn publisher_channel(
    depth: usize,
    confirm_timeout: Duration,
) -> (Publisher, mpsc::Receiver<PublishRequest>) {
    let (owner, requests) = mpsc::channel(depth);
    (Publisher { owner, confirm_timeout, meter: Arc::default() }, requests)
}

impl Publisher {
    /// Publishes and awaits the broker's confirm. `Ok` means: confirmed, and, where mandatory,
    /// routed to at least one queue.
    ///
    /// # Errors
    /// [`PublishError::NotSent`] and [`PublishError::Rejected`]: the broker does not have it.
    /// [`PublishError::Unroutable`]: no queue took it. [`PublishError::Unknown`]: it may or may not
    /// have it (time-out, channel lost in between).
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        message: impl Into<Arc<Message>>,
    ) -> Result<(), PublishError> {
        let confirm = self.send(exchange, routing_key, mandatory, message).await?;
        confirm.answered().await
    }

    /// Hands a publish to the channel's owner, and leaves its confirm for later. Calls that are
    /// made one after another are published in that order, which several [`Publisher::publish`] at
    /// once are not.
    ///
    /// # Errors
    /// [`PublishError::NotSent`] where the owner is gone or takes nothing in time. Cancelled before
    /// it is done, nothing is sent.
    pub async fn send(
        &self,
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        message: impl Into<Arc<Message>>,
    ) -> Result<Confirm, PublishError> {
        self.ask(exchange, routing_key, (mandatory, false), message).await
    }

    /// The same; `may_batch`: it may linger until others go with it.
    pub(super) async fn ask(
        &self,
        exchange: &str,
        routing_key: &str,
        (mandatory, may_batch): (bool, bool),
        message: impl Into<Arc<Message>>,
    ) -> Result<Confirm, PublishError> {
        let (reply, confirmed) = oneshot::channel();
        let timer = PublishTimer::begin(&self.meter);
        let request = PublishRequest {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            mandatory,
            message: message.into(),
            may_batch,
            reply,
        };
        match timeout(self.confirm_timeout, self.owner.send(request)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                return Err(PublishError::NotSent("the publishing channel is closed".to_owned()));
            }
            Err(_) => {
                return Err(PublishError::NotSent(
                    "the publishing channel accepted nothing in time".to_owned(),
                ));
            }
        }
        Ok(Confirm { confirmed, until: Instant::now() + self.confirm_timeout, timer })
    }
}

/// The broker's confirm on a publish that is on its way.
#[derive(Debug)]
#[must_use = "a publish is not safe before it is confirmed"]
pub struct Confirm {
    confirmed: oneshot::Receiver<Result<(), PublishError>>,
    until: Instant,
    timer: PublishTimer,
}

impl Confirm {
    /// Waits for it as long as the channel lives. A confirm that is merely late is no reason to
    /// publish again: both copies would be stored.
    ///
    /// # Errors
    /// As [`Publisher::publish`], but never for a time-out.
    pub async fn answered_or_lost(self) -> Result<(), PublishError> {
        let outcome = self.confirmed.await.unwrap_or_else(|_| Err(lost()));
        outcome.inspect(|()| self.timer.confirmed())
    }

    /// Waits for it until the publisher's time-out after sending.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn answered(self) -> Result<(), PublishError> {
        let outcome = match timeout_at(self.until, self.confirmed).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(lost()),
            Err(_) => Err(PublishError::Unknown("no confirm in time".to_owned())),
        };
        outcome.inspect(|()| self.timer.confirmed())
    }
}

fn lost() -> PublishError {
    PublishError::Unknown("the publishing channel was lost before the confirm".to_owned())
}

/// Counts publishes that are under way, and times their confirms. It outlives the sessions that it
/// is given to.
#[derive(Debug)]
pub struct Meter {
    under_way: AtomicUsize,
    confirms: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        Self { under_way: AtomicUsize::new(0), confirms: Histogram::new(MOMENTS) }
    }
}

impl Meter {
    /// Publishes that were handed over, and whose confirm is still awaited.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// How long confirms took, from handing the publish over.
    #[must_use]
    pub fn confirms(&self) -> Distribution {
        self.confirms.read()
    }
}

/// One publish under way, until dropped.
#[derive(Debug)]
struct PublishTimer {
    meter: Arc<Meter>,
    since: Instant,
}

impl PublishTimer {
    fn begin(meter: &Arc<Meter>) -> Self {
        meter.under_way.fetch_add(1, Ordering::Relaxed);
        Self { meter: Arc::clone(meter), since: Instant::now() }
    }

    fn confirmed(&self) {
        self.meter.confirms.note(self.since.elapsed());
    }
}

impl Drop for PublishTimer {
    fn drop(&mut self) {
        self.meter.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
