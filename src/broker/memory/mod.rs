//! The broker in process: for `demo` and `solve`, and for tests on paused time.
//!
//! It behaves as RabbitMQ does in everything that a worker can see: routing, returns, refusals,
//! expiry at the head of a queue, dead-lettering with its headers, delivery limits, single active
//! consumers, and what a lost connection does to deliveries. One conformance suite holds both to
//! that. By itself it lives as long as the process; [`super::sqlite`] keeps its durable part on the
//! disk.
//!
//! All state is under one lock, in sections that never wait, and every order is fixed (sorted maps,
//! no randomness), so that the same schedule of calls gives the same history. Time is tokio's.

mod core;
mod exchange;
pub(super) mod journal;
mod link;
mod observer;
pub(super) mod queue;
mod requests;
pub(super) mod restore;
mod store;

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use self::core::Core;
use self::link::{BrokerState, MemoryLink};
pub(super) use self::requests::USER;
use super::{BrokerError, Session};
use crate::domain::message::Message;

pub use observer::{BrokerEvent, DeliveryEnd, DeliveryId, MessageFate, Observer};
pub use store::BatchFate;

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A broker in process. Clones are the same broker.
#[derive(Clone)]
pub struct MemoryBroker {
    inner: Arc<BrokerState>,
    connection: Arc<str>,
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
        Self::starting_at(unix_seconds())
    }

    /// A new, empty broker whose clock stands at so many seconds since the Unix epoch, for
    /// histories that repeat exactly.
    #[must_use]
    pub fn starting_at(unix_seconds: u64) -> Self {
        let clock = Arc::new(Notify::new());
        let core = Core::new(unix_seconds, clock.clone());
        Self { inner: Arc::new(BrokerState::new(core, clock)), connection: Arc::default() }
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
    /// [`BrokerError::Unreachable`] while [`MemoryBroker::set_reachable`] is set so.
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
        let link = MemoryLink::new(self.inner.clone(), id, closed.clone());
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

    /// Sees to it that somebody acts when messages expire, in the runtime that sessions are made
    /// in.
    fn keep_time(&self) {
        let mut task = self.inner.clock_task.lock();
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            *task = Some(tokio::spawn(keep_time(Arc::downgrade(&self.inner), self.inner.clock.clone())));
        }
    }
}

/// Acts when messages expire, as long as the broker is there.
async fn keep_time(inner: Weak<BrokerState>, clock: Arc<Notify>) {
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

impl MemoryBroker {
    /// Cuts a session's connection, as a network or a broker's restart does.
    pub fn drop_session(&self, id: u64) {
        self.inner.lock().end_session(id, "connection cut");
    }

    /// Cuts all connections of a name.
    pub fn drop_connection(&self, connection: &str) {
        for session in self.sessions_of(connection) {
            self.drop_session(session);
        }
    }

    /// Cuts every session's connection.
    pub fn drop_all_sessions(&self) {
        let mut core = self.inner.lock();
        while let Some(id) = core.sessions.keys().next().copied() {
            core.end_session(id, "connection cut");
        }
    }

    /// Whether new sessions can be made. Live ones stay; see [`MemoryBroker::drop_all_sessions`].
    pub fn set_reachable(&self, reachable: bool) {
        self.inner.lock().reachable = reachable;
    }

    /// The next `count` messages that would be confirmed are taken, but their confirms are lost:
    /// their publishers learn nothing until they give up or the session ends.
    pub fn fail_next_confirms(&self, count: usize) {
        self.inner.lock().confirms_to_lose = count;
    }

    /// From now on `observer` sees everything.
    pub fn set_observer(&self, observer: Arc<dyn Observer>) {
        self.inner.lock().observer.set(observer);
    }

    /// Cuts a session off without notice to either side: nothing that is sent arrives, and the
    /// client's leases are those of a last round trip `silent_for` ago. The broker notices by
    /// [`MemoryBroker::forget_session`], the client by [`MemoryBroker::drop_session`].
    pub fn cut_off(&self, id: u64, silent_for: Duration) {
        self.inner.lock().cut_off(id, silent_for);
    }

    /// The broker has noticed that a session is gone, and gives to others what it held. A client
    /// that was cut off does not know of it yet.
    pub fn forget_session(&self, id: u64) {
        self.inner.lock().forget_session(id);
    }

    /// Closes the channels on which a session consumes from a queue.
    pub fn close_consumers(&self, session: u64, queue: &str) {
        let mut core = self.inner.lock();
        let named: Vec<u64> =
            core.channels_of(session).filter(|id| core.channels[id].queue == queue).collect();
        for id in named {
            core.close_channel(id);
        }
    }

    /// A queue refuses all publishes, as one at its bound does, or takes them again.
    pub fn set_full(&self, queue: &str, full: bool) {
        if let Some(queue) = self.inner.lock().queues.get_mut(queue) {
            queue.full = full;
        }
    }

    /// Takes a queue's bindings off; a declaration of the topology puts them back.
    pub fn unbind(&self, queue: &str) {
        for exchange in self.inner.lock().exchanges.values_mut() {
            exchange.bindings.retain(|(_, bound)| bound != queue);
        }
    }

    /// The next `count` dead letters arrive twice, as at-least-once dead-lettering allows.
    pub fn repeat_next_dead_letters(&self, count: usize) {
        self.inner.lock().letters_to_repeat = count;
    }

    /// Messages of a queue in all, those in the hands of consumers included.
    #[must_use]
    pub fn queue_total(&self, queue: &str) -> usize {
        let core = self.inner.lock();
        let held = core.channels.values().filter(|channel| channel.queue == queue);
        core.queues.get(queue).map_or(0, |queue| queue.ready() + queue.stalled.len())
            + held.map(self::core::ConsumerChannel::holds).sum::<usize>()
    }
}

impl Core {
    fn cut_off(&mut self, id: u64, silent_for: Duration) {
        let Some(session) = self.sessions.get_mut(&id).filter(|session| !session.cut_off) else { return };
        session.cut_off = true;
        let last_answer = Instant::now().checked_sub(silent_for).unwrap_or_else(Instant::now);
        for channel in self.channels.values().filter(|channel| channel.session == id) {
            channel.lease.renew(last_answer);
        }
    }

    pub(super) fn forget_session(&mut self, id: u64) {
        if !self.is_cut_off(id) {
            return;
        }
        let channels: Vec<u64> = self.channels_of(id).collect();
        let mut touched = BTreeSet::new();
        for channel in channels {
            touched.extend(self.stop_consuming(channel));
            touched.extend(self.take_back(channel, DeliveryEnd::Returned));
        }
        self.delete_exclusive(id);
        self.run(touched);
    }

    /// Whether nothing passes between a session and the broker, though neither has noticed.
    pub(super) fn is_cut_off(&self, session: u64) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.cut_off)
    }
}
