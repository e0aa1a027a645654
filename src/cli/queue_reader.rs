//! Reads a queue in order, for the commands that show messages or take them.
//!
//! Messages are consumed, not got one by one: a `basic.get` costs a write to the disk of each node
//! of a quorum queue. What is not removed is held unsettled, without its body, and goes back when
//! its channel closes. A channel delivers a few messages at most: while they are held, the next
//! channel takes over. So no more bodies are under way than one channel may hold, and since
//! channels are closed in the order in which they were opened, everything goes back in order.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, Receipt, Session, Stale};

/// Acks before the broker is waited for. Within this many, none waits inside of it for those
/// before, see [`Consumer::flush`]; and as many again may be on their way while the next are
/// published, so that 32 at most can be repeated.
pub(super) const ACK_BATCH: usize = 16;
/// For messages that are under way already when reading ends.
const UNDER_WAY: Duration = Duration::from_millis(100);
/// For carrying out the last settlements and closing a channel.
const CLOSE: Duration = Duration::from_secs(10);

/// The result of a read.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is returned")]
pub(super) enum NextMessage {
    Delivery(Delivery),
    /// As many as were wanted have been read.
    Done,
    /// The user has ended it.
    Stopped,
    /// Nothing has arrived for the time that the caller gave.
    Idle,
}

/// One reading of a queue, on channels of a session that the caller closes.
pub(super) struct QueueReader {
    session: Session,
    queue: String,
    tag: &'static str,
    /// Messages that one channel holds.
    holds: u16,
    /// Messages that may still be read.
    left: u64,
    channels: Vec<Consumer>,
    /// Room on the last channel for messages that are not settled.
    room: usize,
    held: Vec<Receipt>,
}

impl QueueReader {
    /// Reads up to `most` messages. `tag`: as the broker's tools show the consumer.
    pub(super) fn new(session: &Session, queue: &str, tag: &'static str, holds: u16, most: u64) -> Self {
        let (session, queue) = (session.clone(), queue.to_owned());
        Self { session, queue, tag, holds, left: most, channels: Vec::new(), room: 0, held: Vec::new() }
    }

    /// Whether no more can arrive on this channel before something is settled.
    pub(super) fn is_full(&self) -> bool {
        self.room == 0
    }

    /// The next message. Without `idle` it is waited for as long as it takes.
    ///
    /// # Errors
    /// The connection is lost, or the queue does not exist.
    pub(super) async fn next(
        &mut self,
        stop: &CancellationToken,
        idle: Option<Duration>,
    ) -> Result<NextMessage, BrokerError> {
        if stop.is_cancelled() {
            return Ok(NextMessage::Stopped);
        }
        if self.left == 0 {
            return Ok(NextMessage::Done);
        }
        if self.room == 0 {
            let prefetch = u16::try_from(self.left).unwrap_or(self.holds).clamp(1, self.holds);
            let spec = ConsumeSpec { queue: self.queue.clone(), prefetch, tag: self.tag.to_owned() };
            self.channels.push(self.session.link().consume(spec).await?);
            self.room = usize::from(prefetch);
        }
        let Some(consumer) = self.channels.last_mut() else { return Ok(NextMessage::Done) };
        let arrival = async {
            match idle {
                Some(idle) => timeout(idle, consumer.recv()).await,
                None => Ok(consumer.recv().await),
            }
        };
        let arrival = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(NextMessage::Stopped),
            arrival = arrival => arrival,
        };
        let Ok(arrival) = arrival else { return Ok(NextMessage::Idle) };
        let delivery = arrival.ok_or_else(lost)?;
        self.left -= 1;
        self.room -= 1;
        Ok(NextMessage::Delivery(delivery))
    }

    /// The message goes back when reading ends.
    pub(super) fn keep(&mut self, receipt: Receipt) {
        self.held.push(receipt);
    }

    /// Removes the message, and does not wait until the broker has done it. It must be of the last
    /// channel.
    ///
    /// # Errors
    /// The channel is gone: the message is delivered again.
    pub(super) fn ack(&mut self, receipt: Receipt) -> Result<(), Stale> {
        receipt.ack()?;
        self.room += 1;
        Ok(())
    }

    /// The messages are removed, and the broker is known to have removed them. They must be of the
    /// last channel, which they are where they are settled before [`QueueReader::next`] is called
    /// on a full one.
    ///
    /// # Errors
    /// The channel is gone: up to [`ACK_BATCH`] of them may be delivered again.
    pub(super) async fn remove(&mut self, receipts: Vec<Receipt>) -> Result<(), BrokerError> {
        let mut rest = receipts.into_iter().peekable();
        while rest.peek().is_some() {
            for receipt in rest.by_ref().take(ACK_BATCH) {
                self.ack(receipt).map_err(|Stale| lost())?;
            }
            if let Some(consumer) = self.channels.last() {
                consumer.flush().await.map_err(|Stale| lost())?;
            }
        }
        Ok(())
    }

    /// Puts back what was kept, in order. Whether the broker has closed every channel in time; once
    /// the session is closed too, what this returns can be dropped.
    pub(super) async fn close(mut self) -> (bool, Vec<Receipt>) {
        let mut in_time = true;
        if let Some(last) = self.channels.last_mut().filter(|_| !self.held.is_empty()) {
            // While it has room, the broker would deliver to it what the channels before it give
            // back. What has arrived already is held too: given back before the others, it would be
            // at the head of the queue.
            while self.room > 0
                && let Ok(Some(delivery)) = timeout(UNDER_WAY, last.recv()).await
            {
                self.held.push(delivery.receipt);
                self.room -= 1;
            }
            let _ = timeout(CLOSE, last.cancel()).await;
        }
        for consumer in self.channels {
            in_time &= timeout(CLOSE, consumer.close()).await.is_ok();
        }
        // A receipt that is dropped on an open channel would give its message back by itself.
        (in_time, self.held)
    }
}

/// The consumer's channel is gone.
pub(super) fn lost() -> BrokerError {
    BrokerError::Lost("the consumer has ended".to_owned())
}
