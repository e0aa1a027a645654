//! A store in memory, for tests on paused time: its broker ends at a chosen batch of changes, and
//! starts again with what was stored. It lies below the same journal as the queue file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::MemoryBroker;
use super::journal::{Change, Wake, WakeWriter};
use super::queue::{Reason, Routed};
use super::restore::{Kept, KeptMessage, StoreSide};
use crate::broker::topology::Topology;

/// What becomes of a batch of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchFate {
    /// It is stored, and all who wait for it are answered.
    Stored,
    /// The broker ends before it is stored.
    Lost,
    /// It is stored, and the broker ends before anybody is answered. The observer still sees what
    /// was stored.
    Unanswered,
}

/// One message, as it is stored.
struct StoredMessage {
    queue: String,
    routed: Arc<Routed>,
    expires: Option<Instant>,
    deliveries: u32,
    /// As a dead letter that no queue has taken so far.
    died: Option<Reason>,
}

#[derive(Default)]
struct MemoryStore {
    topology: Topology,
    messages: BTreeMap<u64, StoredMessage>,
}

impl MemoryBroker {
    /// A new, empty broker over a store, to which each batch takes so long; `fate` decides what
    /// becomes of each one. A broker that has ended cannot be reached until
    /// [`MemoryBroker::set_reachable`]. Must be called in a runtime.
    #[must_use]
    pub fn over_store(
        unix_seconds: u64,
        linger: Duration,
        takes: Duration,
        fate: impl FnMut() -> BatchFate + Send + 'static,
    ) -> Self {
        let broker = Self::starting_at(unix_seconds);
        let (wake, woken) = mpsc::unbounded_channel();
        let waker = move || -> WakeWriter {
            let wake = wake.clone();
            Box::new(move |what| drop(wake.send(what)))
        };
        broker.inner.lock().restore(Kept::default(), waker());
        tokio::spawn(serve(broker.store_side(), woken, waker, (linger, takes), fate));
        broker
    }
}

/// Stores one batch after another until the broker is gone.
async fn serve(
    side: StoreSide,
    mut woken: mpsc::UnboundedReceiver<Wake>,
    waker: impl Fn() -> WakeWriter,
    (linger, takes): (Duration, Duration),
    mut fate: impl FnMut() -> BatchFate,
) {
    let mut store = MemoryStore::default();
    while let Some(mut wake) = woken.recv().await {
        if matches!(wake, Wake::Soon)
            && let Ok(Some(sooner)) = timeout(linger, woken.recv()).await
        {
            wake = sooner;
        }
        if matches!(wake, Wake::Last(_)) {
            return;
        }
        let Some(batch) = side.take() else { return };
        if batch.changes.is_empty() {
            side.stored(batch);
            continue;
        }
        sleep(takes).await;
        let fate = fate();
        if fate != BatchFate::Lost {
            batch.changes.iter().for_each(|change| store.apply(change));
        }
        match fate {
            BatchFate::Stored => side.stored(batch),
            BatchFate::Lost | BatchFate::Unanswered => {
                side.restart(batch, fate == BatchFate::Unanswered, store.kept(), waker());
            }
        }
    }
}

impl MemoryStore {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Exchange(exchange) => self.topology.exchanges.push(exchange.clone()),
            Change::Queue(queue) => self.topology.queues.push(queue.clone()),
            Change::Binding(binding) => self.topology.bindings.push(binding.clone()),
            Change::Put { id, queue, routed, lives_for } => {
                let expires = lives_for.map(|left| Instant::now() + left);
                let (queue, routed) = (queue.clone(), Arc::clone(routed));
                self.messages
                    .insert(*id, StoredMessage { queue, routed, expires, deliveries: 0, died: None });
            }
            Change::Delivered { id } => {
                if let Some(message) = self.messages.get_mut(id) {
                    message.deliveries += 1;
                }
            }
            Change::Stalled { id, reason } => {
                if let Some(message) = self.messages.get_mut(id) {
                    message.died = Some(*reason);
                }
            }
            Change::Removed { id } => drop(self.messages.remove(id)),
        }
    }

    fn kept(&self) -> Kept {
        let message = |(id, stored): (&u64, &StoredMessage)| KeptMessage {
            id: *id,
            queue: stored.queue.clone(),
            message: stored.routed.message.clone(),
            exchange: stored.routed.exchange.clone(),
            keys: stored.routed.keys.clone(),
            lives_for: stored.expires.map(|at| at.saturating_duration_since(Instant::now())),
            deliveries: stored.deliveries,
            died: stored.died,
        };
        Kept { topology: self.topology.clone(), messages: self.messages.iter().map(message).collect() }
    }
}
