//! The broker in process: for the demo, and for tests on paused time.
//!
//! It behaves as RabbitMQ does in everything that a worker can see: routing, returns, refusals, expiry at the head of a queue,
//! dead-lettering with its headers, delivery limits, single active consumers, and what a lost connection does to deliveries.
//! One conformance suite holds both to that. Nothing is stored on disk: it lives as long as the process.
//!
//! All state is under one lock, in sections that never wait, and every order is fixed (sorted maps, no randomness), so that
//! the same schedule of calls gives the same history. Time is tokio's.

mod channel;
mod core;
mod dead_letter;
mod declare;
mod exchange;
mod faults;
mod link;
mod observer;
mod publish;
mod queue;
mod serve;

use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use self::core::Core;
use self::link::LocalLink;
use super::{BrokerError, Session};
use crate::domain::message::Message;

pub use observer::{DeliveryId, Event, Fate, Observer, Settled};

/// The user that every session is logged in as; a message's `user_id` must name it or nobody.
const USER: &str = "guest";

/// A broker in process. Clones are the same broker.
#[derive(Clone)]
pub struct MemoryBroker {
    inner: Arc<Inner>,
    connection: Arc<str>,
}

/// What sessions and their tasks share.
#[derive(Debug)]
struct Inner {
    core: Mutex<Core>,
    clock: Arc<Notify>,
    clock_task: Mutex<Option<JoinHandle<()>>>,
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is a failed assertion of a test elsewhere at worst: the others go on with the state as it is.
        self.core.lock()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.clock.notify_one();
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBroker {
    /// A new, empty broker. Dead letters are stamped by the system's clock.
    #[must_use]
    pub fn new() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self::starting_at(since.map_or(0, |since| since.as_secs()))
    }

    /// A new, empty broker whose clock stands at so many seconds since the Unix epoch, for histories that repeat exactly.
    #[must_use]
    pub fn starting_at(unix_seconds: u64) -> Self {
        let clock = Arc::new(Notify::new());
        let core = Core::new(unix_seconds, clock.clone());
        let inner = Inner { core: Mutex::new(core), clock, clock_task: Mutex::new(None) };
        Self { inner: Arc::new(inner), connection: Arc::default() }
    }

    /// The same broker, for a client whose connections go by this name.
    #[must_use]
    pub fn named(&self, connection: &str) -> Self {
        Self { inner: self.inner.clone(), connection: connection.into() }
    }

    /// The user that every session is logged in as.
    #[must_use]
    pub fn user(&self) -> &'static str {
        USER
    }

    /// A new session.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`] while [`MemoryBroker::set_reachable`] says so.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        self.keep_time();
        let (id, closed) = {
            let mut core = self.inner.lock();
            if !core.reachable {
                return Err(BrokerError::Unreachable {
                    address: "in process".to_owned(),
                    reason: "set out of reach".to_owned(),
                });
            }
            core.open_session(self.connection.clone())
        };
        let link = LocalLink::new(self.inner.clone(), id, closed.clone());
        let publisher = link.publisher();
        Ok(Session::new(Arc::new(link), publisher, closed))
    }

    /// The live sessions, oldest first.
    #[must_use]
    pub fn sessions(&self) -> Vec<u64> {
        self.inner.lock().sessions.keys().copied().collect()
    }

    /// Live sessions over connections of this name, the oldest first.
    #[must_use]
    pub fn sessions_of(&self, connection: &str) -> Vec<u64> {
        let core = self.inner.lock();
        let named = core.sessions.iter().filter(|(_, session)| &*session.connection == connection);
        named.map(|(id, _)| *id).collect()
    }

    /// Messages of a queue that are ready for delivery; 0 where it does not exist.
    #[must_use]
    pub fn queue_len(&self, queue: &str) -> usize {
        self.inner.lock().queues.get(queue).map_or(0, |queue| queue.ready())
    }

    /// Messages of a queue that are ready for delivery, the next one first, without touching them.
    #[must_use]
    pub fn snapshot(&self, queue: &str) -> Vec<Message> {
        let core = self.inner.lock();
        let entries = core.queues.get(queue).into_iter().flat_map(|queue| queue.entries());
        entries.map(|entry| entry.routed.message.clone()).collect()
    }

    /// Sees to it that somebody acts when messages expire, in the runtime that sessions are made in.
    fn keep_time(&self) {
        let mut task = self.inner.clock_task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(keep_time(Arc::downgrade(&self.inner), self.inner.clock.clone())));
        }
    }
}

/// Acts when messages expire, as long as the broker is there.
async fn keep_time(inner: Weak<Inner>, clock: Arc<Notify>) {
    loop {
        let Some(next) = inner.upgrade().map(|inner| inner.lock().tick()) else {
            return;
        };
        match next {
            // Woken early, or in time: either way all that is due is done.
            Some(at) => drop(timeout_at(at, clock.notified()).await),
            None => clock.notified().await,
        }
    }
}

#[cfg(test)]
mod tests;
