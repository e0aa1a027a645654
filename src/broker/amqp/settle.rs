//! Carrying out settlements on the channel that their tags belong to.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicRejectOptions};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout};

use crate::broker::{BoxFuture, Settlement};

/// Settlements carried out at one go, so that none of an owner's other duties waits for long.
pub(super) const BATCH: usize = 256;

/// How many settlements of a channel a quorum queue's client inside the broker sends on before it
/// waits for the queue's log. What waits there is lost with the channel: of 200 acks, 33 were
/// carried out when the channel was closed right behind them (3.10).
const WINDOW: usize = 32;
/// How long the broker gets for what may wait there. It does not report when it is done.
const CALM: Duration = Duration::from_millis(250);

/// Hands a frame over. What is still to be awaited of it, if anything.
fn written<'a>(
    writing: impl Future<Output = lapin::Result<()>> + Send + 'a,
) -> Result<Option<BoxFuture<'a, lapin::Result<()>>>, String> {
    let mut writing: BoxFuture<'a, _> = Box::pin(writing);
    match (&mut writing).now_or_never() {
        Some(Ok(())) => Ok(None),
        Some(Err(error)) => Err(error.to_string()),
        None => Ok(Some(writing)),
    }
}

/// What a batch of settlements ended with.
pub(super) enum Carried {
    /// All of it is on its way to the broker.
    All,
    /// The next request is to stop delivering.
    Cancel(oneshot::Sender<()>),
    /// The next request is for an answer once the broker has processed what is before it.
    Flush(oneshot::Sender<()>),
    /// The next request is to close; what was asked after it is void.
    Close(oneshot::Sender<()>),
}

/// A channel, with settlements in the order they were made.
pub(super) struct Settler {
    channel: Channel,
    max_wait: Duration,
    // Settlements that followed each other closely, and when the last one was made.
    in_a_row: usize,
    last: Instant,
    // Delivered by this channel's consumer and not settled yet.
    unsettled: BTreeSet<u64>,
}

impl Settler {
    pub(super) fn new(channel: Channel, max_wait: Duration) -> Self {
        Self { channel, max_wait, in_a_row: 0, last: Instant::now(), unsettled: BTreeSet::new() }
    }

    /// A delivery has arrived, in the order of tags: it may be acked together with those before it.
    pub(super) fn delivered(&mut self, tag: u64) {
        self.unsettled.insert(tag);
    }

    /// Carries out a batch up to the first request that is no settlement, and takes all of that off
    /// the batch.
    ///
    /// Frames of a channel go out in the order in which they are handed over, so only the last
    /// one's writing is awaited: a batch costs one wake-up of lapin's thread instead of one each.
    /// Acks go last, and those of the oldest deliveries as one `multiple` ack; only here, since
    /// this is the only place that settles.
    ///
    /// # Errors
    /// Why the channel can carry out nothing more.
    pub(super) async fn carry_out(
        &mut self,
        batch: &mut std::vec::Drain<'_, Settlement>,
    ) -> Result<Carried, String> {
        let (mut made, mut acks, mut carried) = (0, Vec::new(), Carried::All);
        let (channel, mut last) = (self.channel.clone(), None);
        for settlement in batch {
            let (tag, requeue) = match settlement {
                Settlement::Ack(tag) | Settlement::AckBatched(tag) => {
                    acks.push(tag);
                    continue;
                }
                Settlement::Requeue(tag) => (tag, true),
                Settlement::Reject(tag) => (tag, false),
                Settlement::Cancel(done) => {
                    carried = Carried::Cancel(done);
                    break;
                }
                Settlement::Flush(done) => {
                    carried = Carried::Flush(done);
                    break;
                }
                Settlement::Close(done) => {
                    carried = Carried::Close(done);
                    break;
                }
            };
            self.unsettled.remove(&tag);
            made += 1;
            last = written(channel.basic_reject(tag, BasicRejectOptions { requeue }))?.or(last);
        }
        made += acks.len();
        for (tag, multiple) in joined(&mut self.unsettled, acks) {
            last = written(channel.basic_ack(tag, BasicAckOptions { multiple }))?.or(last);
        }
        if let Some(writing) = last {
            self.gone(writing).await?;
        }
        self.note(made);
        Ok(carried)
    }

    async fn gone(&self, writing: BoxFuture<'_, lapin::Result<()>>) -> Result<(), String> {
        match timeout(self.max_wait, writing).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the broker did not accept settlements in time".to_owned()),
        }
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

    /// Closes the channel, once the broker has everything that was carried out; what is unsettled
    /// goes back to its queue.
    pub(super) async fn close(&self) {
        if self.in_a_row > WINDOW && self.channel.status().connected() {
            sleep_until(self.last + CALM).await;
        }
        if self.channel.status().connected() {
            let _ = timeout(self.max_wait, self.channel.close(200, "OK".into())).await;
        }
    }
}

/// Acks as they go out: one for all of the oldest deliveries that are acked now, and one for each
/// of the others. A `multiple` ack settles everything up to its tag, so that nothing older may be
/// unsettled.
fn joined(unsettled: &mut BTreeSet<u64>, mut acks: Vec<u64>) -> Vec<(u64, bool)> {
    acks.sort_unstable();
    let is_oldest = |tag: &&u64| unsettled.first() == Some(*tag) && unsettled.pop_first().is_some();
    let oldest = acks.iter().take_while(is_oldest).count();
    let (oldest, others) = acks.split_at(oldest);
    for tag in others {
        unsettled.remove(tag);
    }
    let together = oldest.last().map(|tag| (*tag, oldest.len() > 1));
    together.into_iter().chain(others.iter().map(|tag| (*tag, false))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_oldest_deliveries_are_acked_together() {
        let mut unsettled = BTreeSet::from([1, 2, 3, 5, 8, 9]);
        assert_eq!(joined(&mut unsettled, vec![9, 2, 1, 5]), [(2, true), (5, false), (9, false)]);
        assert_eq!(joined(&mut unsettled, vec![3]), [(3, false)]);
        assert_eq!(joined(&mut unsettled, vec![]), []);
        assert_eq!(unsettled, BTreeSet::from([8]));
        assert_eq!(joined(&mut BTreeSet::new(), vec![4, 5]), [(4, false), (5, false)], "of no consumer's");
    }

    proptest! {
        #[test]
        fn no_ack_settles_what_was_not_acked(
            delivered in 1_u64..60, rounds in proptest::collection::vec(proptest::collection::btree_set(1_u64..60, 0..20), 1..8),
        ) {
            let mut unsettled: BTreeSet<u64> = (1..=delivered).collect();
            let mut at_broker = unsettled.clone();
            for asked in rounds {
                let asked: Vec<u64> = asked.into_iter().filter(|tag| unsettled.contains(tag)).collect();
                let mut wanted = at_broker.clone();
                wanted.retain(|tag| !asked.contains(tag));
                for (tag, multiple) in joined(&mut unsettled, asked) {
                    at_broker.retain(|held| if multiple { *held > tag } else { *held != tag });
                }
                prop_assert_eq!(&at_broker, &wanted);
                prop_assert_eq!(&at_broker, &unsettled);
            }
        }
    }
}
