//! Carrying out settlements on the channel that their tags belong to.

use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::{BoxFuture, Settlement};

/// Settlements carried out at one go, so that none of an owner's other duties waits for long.
pub(super) const BATCH: usize = 256;

/// How many settlements of a channel a quorum queue's client inside the broker sends on before it waits for the queue's log. What waits there
/// is lost with the channel: of 200 acks, 33 were carried out when the channel was closed right behind them (3.10).
const WINDOW: usize = 32;
/// How long the broker gets for what may wait there. It tells nobody when it is through.
const CALM: Duration = Duration::from_millis(250);

/// What a batch of settlements ended with.
pub(super) enum Carried {
    /// All of it is on its way to the broker.
    All,
    /// A request to stop delivering came next.
    Cancel(oneshot::Sender<()>),
    /// A request to close came next; what was asked after it is void.
    Close(oneshot::Sender<()>),
}

/// A channel, with settlements in the order they were made.
pub(super) struct Settler {
    channel: Channel,
    patience: Duration,
    // Settlements that followed each other closely, and when the last one was made.
    in_a_row: usize,
    last: Instant,
}

impl Settler {
    pub(super) fn new(channel: Channel, patience: Duration) -> Self {
        Self { channel, patience, in_a_row: 0, last: Instant::now() }
    }

    /// Carries out a batch up to the first request that is no settlement, and takes all of that off the batch.
    ///
    /// Frames of a channel go out in the order in which they are handed over, so only the last one's writing is awaited: a batch costs one
    /// wake-up of lapin's thread instead of one each. Acks are single; runs of tags could be joined to one `multiple` ack here, and
    /// only here, since this is the only place that settles.
    ///
    /// # Errors
    /// Why the channel can carry out nothing more.
    pub(super) async fn carry_out(
        &mut self,
        batch: &mut std::vec::Drain<'_, Settlement>,
    ) -> Result<Carried, String> {
        let mut made = 0;
        let mut last = None;
        let mut carried = Carried::All;
        for settlement in batch {
            let mut writing: BoxFuture<'_, lapin::Result<()>> = match settlement {
                Settlement::Ack(tag) => {
                    Box::pin(self.channel.basic_ack(tag, BasicAckOptions { multiple: false }))
                }
                Settlement::Requeue(tag) => self.reject(tag, true),
                Settlement::Reject(tag) => self.reject(tag, false),
                Settlement::Cancel(done) => {
                    carried = Carried::Cancel(done);
                    break;
                }
                Settlement::Close(done) => {
                    carried = Carried::Close(done);
                    break;
                }
            };
            made += 1;
            match (&mut writing).now_or_never() {
                Some(Err(error)) => return Err(error.to_string()),
                Some(Ok(())) => last = None,
                None => last = Some(writing),
            }
        }
        if let Some(writing) = last.take() {
            match timeout(self.patience, writing).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("the broker takes no settlements".to_owned()),
            }
        }
        drop(last);
        self.note(made);
        Ok(carried)
    }

    fn note(&mut self, made: usize) {
        if made > 0 {
            let calm = self.last.elapsed() > CALM;
            self.in_a_row = if calm { made } else { self.in_a_row + made };
            self.last = Instant::now();
        }
    }

    /// The broker is through with everything that was carried out.
    pub(super) fn flushed(&mut self) {
        self.in_a_row = 0;
    }

    fn reject(&self, tag: u64, requeue: bool) -> BoxFuture<'_, lapin::Result<()>> {
        Box::pin(self.channel.basic_reject(tag, BasicRejectOptions { requeue }))
    }

    /// Closes the channel, once the broker has everything that was carried out; what is unsettled goes back to its queue.
    pub(super) async fn close(&self) {
        if self.in_a_row > WINDOW && self.channel.status().connected() {
            sleep_until(self.last + CALM).await;
        }
        if self.channel.status().connected() {
            let _ = timeout(self.patience, self.channel.close(200, "OK".into())).await;
        }
    }
}
