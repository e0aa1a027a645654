//! The broker over a store: it begins with what the store has kept, and learns what the store has
//! written since.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::MemoryBroker;
use super::core::{Core, SessionState};
use super::exchange::ExchangeState;
use super::journal::{ChangeBatch, Journal, Waiter, WakeWriter};
use super::link::BrokerState;
use super::queue::{QueueState, QueuedMessage, Reason, Routed};
use crate::broker::topology::Topology;
use crate::domain::message::Message;

/// A message that a store has kept.
#[derive(Debug)]
pub(in crate::broker) struct KeptMessage {
    pub(in crate::broker) id: u64,
    pub(in crate::broker) queue: String,
    pub(in crate::broker) message: Message,
    pub(in crate::broker) exchange: String,
    pub(in crate::broker) keys: Vec<String>,
    /// From now until it expires.
    pub(in crate::broker) lives_for: Option<Duration>,
    pub(in crate::broker) deliveries: u32,
    /// Why it is a dead letter that no queue has taken so far.
    pub(in crate::broker) died: Option<Reason>,
}

/// All that a store has kept.
#[derive(Debug, Default)]
pub(in crate::broker) struct Kept {
    pub(in crate::broker) topology: Topology,
    /// In the order of their ids.
    pub(in crate::broker) messages: Vec<KeptMessage>,
}

impl MemoryBroker {
    /// A broker that begins with what a store has kept, and wakes the store's writer for what
    /// changes.
    pub(in crate::broker) fn restored(kept: Kept, wake: WakeWriter) -> Self {
        let broker = Self::new();
        broker.inner.lock().restore(kept, wake);
        broker
    }

    /// What the store's writer keeps: it does not keep the broker alive.
    pub(in crate::broker) fn store_side(&self) -> StoreSide {
        StoreSide(Arc::downgrade(&self.inner))
    }

    /// Every message that waits in a queue, with the queue's name; those that consumers hold are
    /// not among them.
    pub(in crate::broker) fn waiting(&self) -> Vec<(String, Message)> {
        let core = self.inner.lock();
        let of_queue = |(name, queue): (&String, &QueueState)| -> Vec<_> {
            queue.entries().map(|entry| (name.clone(), entry.routed.message.clone())).collect()
        };
        core.queues.iter().flat_map(of_queue).collect()
    }

    /// Whether sessions can be made.
    pub(in crate::broker) fn is_reachable(&self) -> bool {
        self.inner.lock().reachable
    }
}

impl Core {
    pub(super) fn restore(&mut self, kept: Kept, wake: WakeWriter) {
        let last_id = kept.messages.last().map_or(0, |message| message.id);
        for exchange in kept.topology.exchanges {
            let state = ExchangeState {
                kind: exchange.kind,
                arguments: exchange.arguments,
                bindings: BTreeSet::new(),
            };
            self.exchanges.insert(exchange.name, state);
        }
        for queue in kept.topology.queues {
            self.queues.insert(queue.name, QueueState::new(queue.arguments, None));
        }
        for binding in kept.topology.bindings {
            if let Some(exchange) = self.exchanges.get_mut(&binding.exchange) {
                exchange.bindings.insert((binding.routing_key, binding.queue));
            }
        }
        let now = Instant::now();
        for KeptMessage { id, queue, message, exchange, keys, lives_for, deliveries, died } in kept.messages {
            let Some(queue) = self.queues.get_mut(&queue) else { continue };
            self.messages += 1;
            self.bytes += message.body.len();
            let routed = Arc::new(Routed { message, exchange, keys });
            // Whatever the wall clock did meanwhile, it waits no longer than anew.
            let whole = queue.expiry(&routed, now);
            let expires = lives_for.map(|left| whole.map_or(now + left, |whole| whole.min(now + left)));
            queue.restore(QueuedMessage { id, routed, expires, returned: deliveries }, died, now);
        }
        self.journal = Journal::of_store(wake, last_id);
        self.dead_letter_over_limit();
    }

    /// The broker ends, and another one begins with what the store has kept.
    fn restart(&mut self, lost: ChangeBatch, kept: Kept, wake: WakeWriter) {
        self.queues.clear();
        self.fail(lost, "the broker has ended");
        // Those that are left do not know it yet.
        let cut_off: Vec<u64> = self.sessions.keys().copied().collect();
        cut_off.into_iter().for_each(|session| self.forget_session(session));
        self.exchanges.clear();
        (self.messages, self.bytes) = (0, 0);
        self.restore(kept, wake);
        self.clock.notify_one();
    }

    /// The store takes nothing any more: all sessions end, and none can be made.
    fn fail(&mut self, batch: ChangeBatch, reason: &str) {
        self.reachable = false;
        let waiting = self.journal.fail(reason);
        batch.waiters.into_iter().chain(waiting).for_each(|waiter| self.refuse(waiter, reason));
        let connected = |(_, session): &(&u64, &SessionState)| !session.cut_off;
        while let Some(id) = self.sessions.iter().find(connected).map(|(id, _)| *id) {
            self.end_session(id, reason);
        }
    }

    /// What has ended its processes too often does not get another one.
    fn dead_letter_over_limit(&mut self) {
        let mut touched = BTreeSet::new();
        let names: Vec<String> = self.queues.keys().cloned().collect();
        for name in names {
            let over = self.queues.get_mut(&name).map(QueueState::take_over_limit);
            for entry in over.unwrap_or_default() {
                touched.extend(self.route_dead_letter(&name, entry, Reason::DeliveryLimit));
            }
        }
        self.run(touched);
    }

    /// A batch is on the disk: what has waited for it may leave. Gives back who is to be answered.
    fn stored(&mut self, batch: ChangeBatch) -> Vec<Waiter> {
        let mut waiters = batch.waiters;
        if self.observer.is_anybody() {
            // Acks first: who acks after a confirm is in a later batch than what was confirmed.
            waiters.sort_by_key(|waiter| !matches!(waiter, Waiter::Acked { .. }));
            waiters.drain(..).for_each(|waiter| self.answer(waiter));
        }
        self.journal.set_written(batch.number);
        for channel in self.channels.values().filter(|channel| channel.may_leave(&self.journal)) {
            channel.bell().notify_one();
        }
        waiters
    }
}

/// The store's way to its broker.
#[derive(Clone)]
pub(in crate::broker) struct StoreSide(Weak<BrokerState>);

impl StoreSide {
    /// The broker itself, while it is there.
    pub(in crate::broker) fn broker(&self) -> Option<MemoryBroker> {
        Some(MemoryBroker { inner: self.0.upgrade()?, connection: Arc::default() })
    }

    /// The changes that are to be written next.
    pub(in crate::broker) fn take(&self) -> Option<ChangeBatch> {
        self.0.upgrade()?.lock().journal.take()
    }

    /// They are on the disk.
    pub(in crate::broker) fn stored(&self, batch: ChangeBatch) {
        let waiters = match self.0.upgrade() {
            Some(state) => state.lock().stored(batch),
            None => batch.waiters,
        };
        waiters.into_iter().for_each(Waiter::stored);
    }

    /// The broker ends with this batch, `stored` or not, and starts again with what is kept.
    pub(super) fn restart(&self, mut batch: ChangeBatch, stored: bool, kept: Kept, wake: WakeWriter) {
        let Some(state) = self.0.upgrade() else { return };
        let mut core = state.lock();
        if stored {
            let number = batch.number;
            batch = ChangeBatch { number, waiters: core.stored(batch), ..ChangeBatch::default() };
        }
        core.restart(batch, kept, wake);
    }

    /// So many bytes are free for messages. What finds no room is refused; returns whether
    /// something was.
    pub(in crate::broker) fn set_room(&self, free: u64) -> bool {
        self.0.upgrade().is_some_and(|state| state.lock().journal.set_room(free))
    }

    /// The store has failed, and may have kept this batch or not.
    pub(in crate::broker) fn failed(&self, batch: ChangeBatch, reason: &str) {
        match self.0.upgrade() {
            Some(state) => state.lock().fail(batch, reason),
            None => batch.waiters.into_iter().for_each(|waiter| waiter.failed(reason)),
        }
    }
}
