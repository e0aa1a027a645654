//! A consumer's channel: what it holds unsettled, and the task that moves deliveries out and settlements in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Notify, mpsc};

use super::core::Core;
use super::dead_letter::Reason;
use super::observer::{Event, Fate, Settled};
use super::queue::Entry;
use crate::broker::{Delivery, Lease, Receipt, Settlement};
use crate::domain::message::Value;

/// A channel, with or without a consumer on it.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) session: u64,
    /// The name of its connection.
    connection: Arc<str>,
    pub(super) queue: String,
    pub(super) lease: Lease,
    prefetch: usize,
    /// By delivery tag. Messages in the outbox are among them: the consumer has them as far as the queue is concerned.
    unsettled: BTreeMap<u64, Entry>,
    outbox: VecDeque<u64>,
    last_tag: u64,
    // Held here rather than by the task, so that receipts are stale in the very moment the channel goes.
    settlements: mpsc::UnboundedReceiver<Settlement>,
    // For making receipts; gone once no more are made, so that the last receipt's end ends the channel.
    owner: Option<mpsc::UnboundedSender<Settlement>>,
    wake: Arc<Notify>,
}

impl Channel {
    pub(super) fn new(
        (session, connection): (u64, Arc<str>),
        queue: String,
        prefetch: usize,
        settlements: mpsc::UnboundedReceiver<Settlement>,
        owner: Option<mpsc::UnboundedSender<Settlement>>,
        lease: Lease,
    ) -> Self {
        Self {
            session,
            connection,
            queue,
            lease,
            prefetch,
            unsettled: BTreeMap::new(),
            outbox: VecDeque::new(),
            last_tag: 0,
            settlements,
            owner,
            wake: Arc::new(Notify::new()),
        }
    }

    /// Rung when there is something in the outbox, or the channel has gone.
    pub(super) fn bell(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    fn has_room(&self) -> bool {
        self.owner.is_some() && self.unsettled.len() < self.prefetch
    }

    /// How many messages it holds.
    pub(super) fn holds(&self) -> usize {
        self.unsettled.len()
    }

    /// Holds a message as delivered here.
    pub(super) fn hold(&mut self, entry: Entry) -> u64 {
        self.last_tag += 1;
        self.unsettled.insert(self.last_tag, entry);
        self.last_tag
    }
}

/// A delivery of an entry, as a queue shows it.
pub(super) fn delivery(entry: &Entry, quorum: bool, receipt: Receipt) -> Delivery {
    let mut message = entry.routed.message.clone();
    if quorum {
        let count = Value::Int(i64::from(entry.returned));
        message.properties.headers.insert("x-delivery-count".into(), count);
    }
    Delivery {
        message,
        redelivered: entry.returned > 0,
        routing_key: entry.routed.keys.first().cloned().unwrap_or_default(),
        receipt,
    }
}

impl Core {
    /// Hands messages to consumers in turn, as far as their prefetch goes.
    pub(super) fn dispatch(&mut self, name: &str) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        while queue.ready() > 0 {
            let eligible = if queue.rules.single_active { 1 } else { queue.consumers.len() };
            let mut in_turn = queue.consumers.iter().take(eligible);
            let Some(place) = in_turn.position(|id| self.channels.get(id).is_some_and(Channel::has_room))
            else {
                return;
            };
            let id = queue.consumers[place];
            if !queue.rules.single_active {
                queue.consumers.remove(place);
                queue.consumers.push_back(id);
            }
            if let Some(channel) = self.channels.get_mut(&id)
                && let Some(entry) = queue.take()
            {
                let tag = channel.hold(entry);
                channel.outbox.push_back(tag);
                channel.wake.notify_one();
            }
        }
    }

    /// The next delivery that waits to go out, with a receipt.
    pub(super) fn take_outbox(&mut self, id: u64) -> Option<Delivery> {
        let channel = self.channels.get_mut(&id)?;
        let owner = channel.owner.clone()?;
        let tag = channel.outbox.pop_front()?;
        let quorum = self.queues.get(&channel.queue).is_some_and(|queue| queue.rules.quorum);
        let entry = channel.unsettled.get(&tag)?;
        let delivery = delivery(entry, quorum, Receipt::new(tag, owner));
        self.told.of(&Event::Delivered {
            connection: &channel.connection,
            queue: &channel.queue,
            delivery: (id, tag),
            message: &delivery.message,
            redelivered: delivery.redelivered,
        });
        Some(delivery)
    }

    pub(super) fn outbox_waits(&self, id: u64) -> bool {
        let waits = |channel: &Channel| !channel.outbox.is_empty() && !self.is_cut_off(channel.session);
        self.channels.get(&id).is_some_and(waits)
    }

    /// The next settlement; `None` when the channel is gone, or nobody is left who could settle anything.
    pub(super) fn poll_settlement(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Option<Settlement>> {
        match self.channels.get_mut(&id) {
            // Woken by the bell, when the session ends.
            Some(channel) if self.sessions.get(&channel.session).is_some_and(|session| session.cut_off) => {
                Poll::Pending
            }
            Some(channel) => channel.settlements.poll_recv(cx),
            None => Poll::Ready(None),
        }
    }

    /// Carries out what has been asked on a session's channels and still waits, so that a close in order loses no ack.
    pub(super) fn settle_waiting(&mut self, session: u64) {
        if self.is_cut_off(session) {
            return;
        }
        let channels: Vec<u64> = self.channels_of(session).collect();
        for id in channels {
            while let Some(settlement) =
                self.channels.get_mut(&id).and_then(|channel| channel.settlements.try_recv().ok())
            {
                self.settle(id, settlement);
            }
        }
    }

    pub(super) fn settle(&mut self, id: u64, settlement: Settlement) {
        match settlement {
            Settlement::Ack(tag) | Settlement::AckSoon(tag) => {
                if let Some((queue, entry, fate)) = self.settled(id, tag, Settled::Acked) {
                    self.forget(&entry);
                    self.run(BTreeSet::from([queue]));
                    if fate == Fate::Cut
                        && let Some(session) = self.channels.get(&id).map(|channel| channel.session)
                    {
                        self.end_session(session, "connection cut");
                    }
                }
            }
            Settlement::Requeue(tag) => {
                if let Some((queue, entry, _)) = self.settled(id, tag, Settled::Requeued) {
                    let mut touched = self.put_back(&queue, entry, true);
                    touched.insert(queue);
                    self.run(touched);
                }
            }
            Settlement::Reject(tag) => {
                if let Some((queue, entry, _)) = self.settled(id, tag, Settled::Rejected) {
                    let mut touched = self.bury(&queue, entry, Reason::Rejected);
                    touched.insert(queue);
                    self.run(touched);
                }
            }
            Settlement::Cancel(done) => {
                self.cancel(id);
                let _ = done.send(());
            }
            Settlement::Flush(done) => drop(done.send(())),
            Settlement::Close(done) => {
                self.close_channel(id);
                let _ = done.send(());
            }
        }
    }

    /// Takes a message out of a consumer's hands, as it asked. One that is not there is a fault for which the channel is closed.
    fn settled(&mut self, id: u64, tag: u64, how: Settled) -> Option<(String, Entry, Fate)> {
        let connection = &*self.channels.get(&id)?.connection.clone();
        let delivery = (id, tag);
        let Some((queue, entry)) = self.release(id, tag) else {
            self.told.of(&Event::UnknownTag { connection, delivery });
            self.close_channel(id);
            return None;
        };
        let fate = self.told.of(&Event::Settled { connection, delivery, how });
        Some((queue, entry, fate))
    }

    fn release(&mut self, id: u64, tag: u64) -> Option<(String, Entry)> {
        let channel = self.channels.get_mut(&id)?;
        let entry = channel.unsettled.remove(&tag)?;
        Some((channel.queue.clone(), entry))
    }

    /// The client takes no more deliveries, which the broker hears of unless the client is cut off.
    pub(super) fn abandon(&mut self, id: u64) {
        if self.channels.get(&id).is_some_and(|channel| !self.is_cut_off(channel.session)) {
            self.cancel(id);
        }
    }

    /// Stops deliveries; what has not left the outbox goes back.
    pub(super) fn cancel(&mut self, id: u64) {
        let mut touched = self.stop_consuming(id);
        let waiting = self.channels.get_mut(&id).map(|channel| std::mem::take(&mut channel.outbox));
        for tag in waiting.unwrap_or_default() {
            if let Some((queue, entry)) = self.release(id, tag) {
                touched.extend(self.put_back(&queue, entry, true));
            }
        }
        self.run(touched);
    }

    /// Takes the consumer off its queue; an exclusive queue goes with it. The queue is to be run: another consumer may be next.
    pub(super) fn stop_consuming(&mut self, id: u64) -> BTreeSet<String> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return BTreeSet::new();
        };
        channel.owner = None;
        channel.wake.notify_one();
        let name = channel.queue.clone();
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.consumers.retain(|consumer| *consumer != id);
            if queue.exclusive.is_some() {
                self.delete_queue(&name);
            }
        }
        BTreeSet::from([name])
    }

    /// Closes a channel; what it held goes back.
    pub(super) fn close_channel(&mut self, id: u64) {
        let mut touched = self.stop_consuming(id);
        touched.extend(self.remove_channel(id));
        self.run(touched);
    }

    /// Removes a channel and puts back what it held, in the order of delivery.
    pub(super) fn remove_channel(&mut self, id: u64) -> BTreeSet<String> {
        let touched = self.take_back(id, Settled::Returned);
        if let Some(channel) = self.channels.remove(&id) {
            channel.lease.revoke();
            channel.wake.notify_one();
        }
        touched
    }

    /// Puts back what a channel holds, in the order of delivery.
    pub(super) fn take_back(&mut self, id: u64, how: Settled) -> BTreeSet<String> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return BTreeSet::new();
        };
        let (connection, queue) = (&*channel.connection.clone(), channel.queue.clone());
        channel.outbox.clear();
        let mut touched = BTreeSet::new();
        for (tag, entry) in std::mem::take(&mut channel.unsettled) {
            self.told.of(&Event::Settled { connection, delivery: (id, tag), how });
            touched.extend(self.put_back(&queue, entry, false));
        }
        touched
    }
}
