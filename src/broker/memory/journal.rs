//! What a store is to write, where there is one: the changes to durable queues, in batches.
//!
//! A batch is written as one transaction. A publisher has its confirm, and a consumer its delivery,
//! once the batch that holds the change is on the disk. While one batch is written the next one
//! fills, so that a busy broker needs few writes for many messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::observer::DeliveryId;
use super::queue::{Reason, Routed};
use crate::broker::PublishError;
use crate::broker::topology::{Binding, Exchange, Queue};
use crate::domain::message::Message;

/// One change to what is durable.
#[derive(Debug)]
pub(in crate::broker) enum Change {
    /// An exchange was declared.
    Exchange(Exchange),
    /// A queue was declared.
    Queue(Queue),
    /// A queue was bound.
    Binding(Binding),
    /// A message was added to a queue.
    Put {
        /// Unique among all messages of the store, in all queues.
        id: u64,
        queue: String,
        routed: Arc<Routed>,
        /// From now until it expires.
        lives_for: Option<Duration>,
    },
    /// A message leaves for a consumer.
    Delivered { id: u64 },
    /// A message has left its queue as a dead letter, and no queue has taken it so far.
    Stalled { id: u64, reason: Reason },
    /// A message is done with.
    Removed { id: u64 },
}

/// Who waits until what happened before is stored.
#[derive(Debug)]
pub(in crate::broker) enum Waiter {
    /// A publisher, for its confirm.
    Publish(oneshot::Sender<Result<(), PublishError>>, Option<Box<StoredPublish>>),
    /// The observer, for an ack: it sees what cannot be undone any more.
    Acked { session: u64, connection: Arc<str>, delivery: DeliveryId },
    /// Anybody else.
    Done(oneshot::Sender<()>),
}

/// A publish, as the observer sees it.
#[derive(Debug)]
pub(in crate::broker) struct StoredPublish {
    pub(super) session: u64,
    pub(super) connection: Arc<str>,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) message: Message,
}

fn takes(body: usize) -> u64 {
    body as u64 + OVERHEAD
}

impl Change {
    /// About how many bytes it takes; never less.
    fn takes(&self) -> u64 {
        match self {
            Change::Put { routed, .. } => takes(routed.message.body.len()),
            _ => 0,
        }
    }
}

impl Waiter {
    pub(super) fn failed(self, reason: &str) {
        match self {
            Waiter::Publish(reply, _) => drop(reply.send(Err(PublishError::Unknown(reason.to_owned())))),
            // Dropped, it is answered by the end of the session.
            Waiter::Done(_) | Waiter::Acked { .. } => {}
        }
    }

    pub(super) fn stored(self) {
        match self {
            Waiter::Publish(reply, _) => drop(reply.send(Ok(()))),
            Waiter::Done(done) => drop(done.send(())),
            Waiter::Acked { .. } => {}
        }
    }
}

/// Changes that are written together, and who waits for that.
#[derive(Debug, Default)]
pub(in crate::broker) struct ChangeBatch {
    pub(super) number: u64,
    pub(in crate::broker) changes: Vec<Change>,
    pub(super) waiters: Vec<Waiter>,
}

/// What wakes the store's writer.
#[derive(Debug)]
pub(in crate::broker) enum Wake {
    /// There is a batch to take.
    Batch,
    /// The same, and it may linger until others go with it.
    Soon,
    /// The broker is gone; this is its last batch.
    Last(ChangeBatch),
}

/// Wakes the store's writer. Where the writer has failed, this has no effect: then the sessions
/// have ended.
pub(in crate::broker) type WakeWriter = Box<dyn Fn(Wake) + Send>;

/// The changes so far, where a store takes them; else nothing is kept here, and everything is as
/// good as stored.
#[derive(Debug, Default)]
pub(super) struct Journal(Option<StoreJournal>);

/// What a message takes beside its body, and more. In bytes.
const OVERHEAD: u64 = 4_096;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum WriterState {
    Not,
    Soon,
    Now,
}

struct StoreJournal {
    filling: ChangeBatch,
    written: u64,
    last_id: u64,
    wake: WakeWriter,
    /// The writer knows of the batch.
    woken: WriterState,
    /// What is being done may linger.
    relaxed: bool,
    /// So many bytes of messages may still be added.
    room: u64,
    /// Something found no room since the writer last checked the disk.
    refused: bool,
    /// Why the store takes nothing any more.
    failed: Option<String>,
}

impl Journal {
    /// For a store that has given ids up to `last_id`.
    pub(super) fn of_store(wake: WakeWriter, last_id: u64) -> Self {
        let filling = ChangeBatch { number: 1, ..ChangeBatch::default() };
        let journal = StoreJournal {
            filling,
            written: 0,
            last_id,
            wake,
            woken: WriterState::Not,
            relaxed: false,
            room: u64::MAX,
            refused: false,
            failed: None,
        };
        Self(Some(journal))
    }

    /// For a message that is to be stored; 0 where nothing is.
    pub(super) fn next_id(&mut self) -> u64 {
        self.0.as_mut().map_or(0, |journal| {
            journal.last_id += 1;
            journal.last_id
        })
    }

    /// Notes a change to a message, unless it is not stored. Returns the batch that must be
    /// written before anybody may rely on the change.
    pub(super) fn note(&mut self, id: u64, change: impl FnOnce(u64) -> Change) -> u64 {
        match &mut self.0 {
            Some(journal) if id > 0 && journal.failed.is_none() => {
                let change = change(id);
                // Nobody waits for an ack.
                let may_linger = journal.relaxed || matches!(change, Change::Removed { .. });
                journal.room = journal.room.saturating_sub(change.takes());
                journal.filling.changes.push(change);
                journal.wake(may_linger);
                journal.filling.number
            }
            _ => 0,
        }
    }

    /// Notes a declaration.
    pub(super) fn declare(&mut self, change: impl FnOnce() -> Change) {
        if let Some(journal) = self.0.as_mut().filter(|journal| journal.failed.is_none()) {
            journal.filling.changes.push(change());
            journal.wake(false);
        }
    }

    /// Whether what follows may linger until others go with it.
    pub(super) fn relax(&mut self, may_linger: bool) {
        if let Some(journal) = &mut self.0 {
            journal.relaxed = may_linger;
        }
    }

    /// Keeps the waiter until everything so far is written. Gives it back where that is so already.
    pub(super) fn wait(&mut self, waiter: Waiter) -> Option<Waiter> {
        match &mut self.0 {
            Some(StoreJournal { failed: Some(reason), .. }) => waiter.failed(reason),
            Some(journal)
                if !journal.filling.changes.is_empty() || journal.written + 1 < journal.filling.number =>
            {
                journal.filling.waiters.push(waiter);
                journal.wake(journal.relaxed);
            }
            _ => return Some(waiter),
        }
        None
    }

    /// Whether a batch is on the disk.
    pub(super) fn has_written(&self, batch: u64) -> bool {
        self.0.as_ref().is_none_or(|journal| batch <= journal.written)
    }

    /// Whether a message finds room on the disk. Where it does not, the writer checks the disk
    /// once more.
    pub(super) fn has_room(&mut self, body: usize) -> bool {
        let Some(journal) = &mut self.0 else { return true };
        let has_room = takes(body) <= journal.room;
        if !has_room {
            journal.refused = true;
            journal.wake(false);
        }
        has_room
    }

    /// So many bytes are free for messages; those that wait to be written take their part of it.
    /// Returns whether something has found no room since.
    pub(super) fn set_room(&mut self, free: u64) -> bool {
        let Some(journal) = &mut self.0 else { return false };
        let waiting = journal.filling.changes.iter().map(Change::takes).sum();
        journal.room = free.saturating_sub(waiting);
        std::mem::take(&mut journal.refused)
    }

    /// The store takes nothing any more. Gives back who waits for it.
    pub(super) fn fail(&mut self, reason: &str) -> Vec<Waiter> {
        let Some(journal) = &mut self.0 else { return Vec::new() };
        journal.failed = Some(reason.to_owned());
        std::mem::take(&mut journal.filling).waiters
    }

    /// Takes the changes so far, to write them.
    pub(super) fn take(&mut self) -> Option<ChangeBatch> {
        let journal = self.0.as_mut()?;
        journal.woken = WriterState::Not;
        let next = ChangeBatch { number: journal.filling.number + 1, ..ChangeBatch::default() };
        Some(std::mem::replace(&mut journal.filling, next))
    }

    pub(super) fn set_written(&mut self, batch: u64) {
        if let Some(journal) = &mut self.0 {
            journal.written = batch;
        }
    }

    /// The broker goes: its last changes are written without it.
    pub(super) fn end(&mut self) {
        if let Some(batch) = self.take()
            && let Some(journal) = self.0.take()
        {
            (journal.wake)(Wake::Last(batch));
        }
    }
}

impl StoreJournal {
    fn wake(&mut self, may_linger: bool) {
        let (woken, wake) =
            if may_linger { (WriterState::Soon, Wake::Soon) } else { (WriterState::Now, Wake::Batch) };
        if self.woken < woken {
            self.woken = woken;
            (self.wake)(wake);
        }
    }
}

impl fmt::Debug for StoreJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filling, written, .. } = self;
        f.debug_struct("StoreJournal")
            .field("filling", filling)
            .field("written", written)
            .finish_non_exhaustive()
    }
}
