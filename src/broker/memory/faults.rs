//! What can be done to the broker and its sessions while they are in use: each a thing that happens to a real one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::MemoryBroker;
use super::core::Core;
use super::observer::{Observer, Settled};

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

    /// The next `count` messages that would be confirmed are taken, but their confirms are lost: their publishers learn nothing until
    /// they give up or the session ends.
    pub fn fail_next_confirms(&self, count: usize) {
        self.inner.lock().confirms_to_lose = count;
    }

    /// From now on `witness` is told of everything.
    pub fn set_observer(&self, witness: Arc<dyn Observer>) {
        self.inner.lock().told.set(witness);
    }

    /// Cuts a session off without a word to either side: nothing that is sent arrives, and the client's leases are those of a last round trip
    /// `silent_for` ago. The broker notices by [`MemoryBroker::forget_session`], the client by [`MemoryBroker::drop_session`].
    pub fn cut_off(&self, id: u64, silent_for: Duration) {
        self.inner.lock().cut_off(id, silent_for);
    }

    /// The broker has noticed that a session is gone, and gives to others what it held. A client that was cut off does not know of it yet.
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
            + held.map(super::channel::Channel::holds).sum::<usize>()
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

    fn forget_session(&mut self, id: u64) {
        if !self.is_cut_off(id) {
            return;
        }
        let channels: Vec<u64> = self.channels_of(id).collect();
        let mut touched = BTreeSet::new();
        for channel in channels {
            touched.extend(self.stop_consuming(channel));
            touched.extend(self.take_back(channel, Settled::Returned));
        }
        self.delete_exclusive(id);
        self.run(touched);
    }

    /// Whether nothing passes between a session and the broker, though neither has noticed.
    pub(super) fn is_cut_off(&self, session: u64) -> bool {
        self.sessions.get(&session).is_some_and(|session| session.cut_off)
    }
}
