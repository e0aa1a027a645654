//! The broker's whole state, and what happens to it: sessions come and go, messages go out to
//! consumers and return settled or unsettled, expire, and are dead-lettered. Everything happens
//! under one lock, in sections that never wait.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::exchange::{ExchangeState, route};
use super::journal::{Change, Journal, Waiter};
use super::observer::{BrokerEvent, DeliveryEnd, ObserverSlot};
use super::queue::{
    DeadLetterTarget, QueueState, QueuedMessage, Reason, Routed, STALLED_RETRY, dead_letter, is_cycle,
};
use crate::broker::{CloseSignal, Delivery, Lease, PublishError, Receipt, Settlement};
use crate::domain::message::{Message, Value};
use crate::failpoint::Failpoint;

/// One session's part of the state.
#[derive(Debug)]
pub(super) struct SessionState {
    /// Its connection's name.
    pub(super) connection: Arc<str>,
    pub(super) closed: CloseSignal,
    /// Confirms that a test asked to lose: unanswered until the session ends.
    pub(super) lost_confirms: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// Nothing passes, though neither side has noticed.
    pub(super) cut_off: bool,
}

/// The state.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) exchanges: BTreeMap<String, ExchangeState>,
    pub(super) queues: BTreeMap<String, QueueState>,
    pub(super) sessions: BTreeMap<u64, SessionState>,
    pub(super) channels: BTreeMap<u64, ConsumerChannel>,
    pub(super) confirms_to_lose: usize,
    pub(super) letters_to_repeat: usize,
    pub(super) observer: ObserverSlot,
    pub(super) reachable: bool,
    /// When the clock task runs next, if it is to run by itself.
    pub(super) armed: Option<Instant>,
    pub(super) clock: Arc<Notify>,
    began: (Instant, u64),
    last_id: u64,
    /// Held in all queues and by all consumers together.
    pub(super) messages: usize,
    /// The bytes of their bodies.
    pub(super) bytes: usize,
    /// What a store is to write.
    pub(super) journal: Journal,
}

impl Core {
    pub(super) fn new(unix_seconds: u64, clock: Arc<Notify>) -> Self {
        Self {
            exchanges: BTreeMap::new(),
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            channels: BTreeMap::new(),
            confirms_to_lose: 0,
            letters_to_repeat: 0,
            observer: ObserverSlot::default(),
            reachable: true,
            armed: None,
            clock,
            began: (Instant::now(), unix_seconds),
            last_id: 0,
            messages: 0,
            bytes: 0,
            journal: Journal::default(),
        }
    }

    /// A number never given before.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn open_session(&mut self, connection: Arc<str>) -> (u64, CloseSignal) {
        let closed = CloseSignal::default();
        let id = self.fresh_id();
        let state =
            SessionState { connection, closed: closed.clone(), lost_confirms: Vec::new(), cut_off: false };
        self.sessions.insert(id, state);
        (id, closed)
    }

    /// The client ends a session. Where it is cut off, the broker does not learn of it.
    pub(super) fn close_session(&mut self, id: u64, reason: &str) {
        match self.sessions.get(&id) {
            Some(session) if session.cut_off => session.closed.end(reason),
            _ => self.end_session(id, reason),
        }
    }

    /// Ends a session. Its leases have ended before anybody else is given what it held: that is
    /// dispatched last.
    pub(super) fn end_session(&mut self, id: u64, reason: &str) {
        let Some(session) = self.sessions.remove(&id) else {
            return;
        };
        let channels: Vec<u64> = self.channels_of(id).collect();
        session.closed.end(reason);
        let mut touched = BTreeSet::new();
        for channel in channels {
            touched.extend(self.stop_consuming(channel));
            touched.extend(self.remove_channel(channel));
        }
        self.delete_exclusive(id);
        self.run(touched);
    }

    /// Deletes the queues that go with a session.
    pub(super) fn delete_exclusive(&mut self, session: u64) {
        let of_session = |(_, queue): &(&String, &QueueState)| queue.exclusive == Some(session);
        let names: Vec<String> =
            self.queues.iter().filter(of_session).map(|(name, _)| name.clone()).collect();
        for queue in names {
            self.delete_queue(&queue);
        }
    }

    /// The name of a session's connection; empty once it has ended.
    pub(super) fn connection(&self, session: u64) -> Arc<str> {
        self.sessions.get(&session).map(|session| session.connection.clone()).unwrap_or_default()
    }

    pub(super) fn channels_of(&self, session: u64) -> impl Iterator<Item = u64> {
        self.channels.iter().filter(move |(_, channel)| channel.session == session).map(|(id, _)| *id)
    }

    pub(super) fn delete_queue(&mut self, name: &str) {
        let Some(queue) = self.queues.remove(name) else {
            return;
        };
        for exchange in self.exchanges.values_mut() {
            exchange.bindings.retain(|(_, bound)| bound != name);
        }
        for entry in queue.entries().chain(queue.stalled.iter().map(|(entry, _)| entry)) {
            self.forget(entry);
        }
    }

    /// The message is done with.
    pub(super) fn forget(&mut self, entry: &QueuedMessage) {
        self.messages -= 1;
        self.bytes -= entry.routed.message.body.len();
        self.journal.note(entry.id, |id| Change::Removed { id });
    }

    /// Takes a message back from a consumer, on request (`asked`) or because its channel went; both
    /// count.
    pub(super) fn put_back(
        &mut self,
        queue: &str,
        mut entry: QueuedMessage,
        asked: bool,
    ) -> BTreeSet<String> {
        let Some(state) = self.queues.get_mut(queue) else {
            self.forget(&entry);
            return BTreeSet::new();
        };
        entry.returned += 1;
        if state.rules.delivery_limit.is_some_and(|limit| entry.returned > limit) {
            return self.route_dead_letter(queue, entry, Reason::DeliveryLimit);
        }
        state.put_back(entry, asked);
        BTreeSet::from([queue.to_owned()])
    }

    /// Dead-letters a message that has left its queue; the queues that took it are to be run.
    pub(super) fn route_dead_letter(
        &mut self,
        queue: &str,
        entry: QueuedMessage,
        reason: Reason,
    ) -> BTreeSet<String> {
        let Some(to) = self.queues.get(queue).and_then(|state| state.rules.dead_letters.clone()) else {
            self.forget(&entry);
            return BTreeSet::new();
        };
        let time = self.unix_seconds();
        let (message, keys) = dead_letter(&entry, queue, reason, &to, time);
        match self.dead_letter_queues(&to, &keys) {
            Some(mut taking) => {
                taking.retain(|target| !is_cycle(&message, target));
                let repeated = self.letters_to_repeat > 0;
                self.letters_to_repeat -= usize::from(repeated);
                let copies = 1 + usize::from(repeated);
                self.observer.of(&BrokerEvent::DeadLettered { queue, message: &message, copies });
                for _ in 0..copies {
                    self.push(&taking, &to.exchange, keys.clone(), message.clone());
                }
                self.forget(&entry);
                taking
            }
            None => {
                if let Some(state) = self.queues.get_mut(queue) {
                    self.journal.note(entry.id, |id| Change::Stalled { id, reason });
                    state.stall(entry, reason, Instant::now() + STALLED_RETRY);
                }
                BTreeSet::from([queue.to_owned()])
            }
        }
    }

    /// Puts a message into queues, and buries what it pushes out.
    pub(super) fn push(
        &mut self,
        queues: &BTreeSet<String>,
        exchange: &str,
        keys: Vec<String>,
        message: Message,
    ) {
        let now = Instant::now();
        let routed = Arc::new(Routed { message, exchange: exchange.to_owned(), keys });
        for name in queues {
            let Some(queue) = self.queues.get_mut(name) else {
                continue;
            };
            self.messages += 1;
            self.bytes += routed.message.body.len();
            let id = if queue.exclusive.is_none() { self.journal.next_id() } else { 0 };
            let expires = queue.expiry(&routed, now);
            self.journal.note(id, |id| Change::Put {
                id,
                queue: name.clone(),
                routed: Arc::clone(&routed),
                lives_for: expires.map(|at| at - now),
            });
            let entry = QueuedMessage { id, routed: Arc::clone(&routed), expires, returned: 0 };
            if let Some(pushed_out) = queue.push(entry) {
                let more = self.route_dead_letter(name, pushed_out, Reason::MaxLength);
                self.run(more);
            }
        }
    }

    /// Where a dead letter goes; `None` where it must wait, since its target is missing or full and
    /// it may not be lost.
    fn dead_letter_queues(&self, to: &DeadLetterTarget, keys: &[String]) -> Option<BTreeSet<String>> {
        let reached = route(&self.exchanges, &self.queues, &to.exchange, keys).unwrap_or_default();
        let (full, taking): (BTreeSet<_>, BTreeSet<_>) =
            reached.into_iter().partition(|name| self.queues[name].refuses());
        let lost = taking.is_empty() || !full.is_empty();
        (!(to.at_least_once && lost)).then_some(taking)
    }

    /// Runs queues until nothing more can be done: expires heads, hands messages to consumers with
    /// room.
    pub(super) fn run(&mut self, mut touched: BTreeSet<String>) {
        let now = Instant::now();
        while let Some(name) = touched.pop_first() {
            touched.extend(self.expire(&name, now));
            self.dispatch(&name);
            let deadline = self.queues.get(&name).and_then(QueueState::next_deadline);
            if let Some(at) = deadline
                && self.armed.is_none_or(|armed| at < armed)
            {
                self.armed = Some(at);
                self.clock.notify_one();
            }
        }
    }

    /// Does all that is due, and returns when the next thing will be.
    pub(super) fn tick(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.armed = None;
        let due = self
            .queues
            .iter()
            .filter(|(_, queue)| queue.next_deadline().is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        self.run(due);
        self.armed = self.queues.values().filter_map(QueueState::next_deadline).min();
        self.armed
    }

    fn expire(&mut self, name: &str, now: Instant) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let stalled = self.queues.get_mut(name).map(|queue| queue.take_stalled(now));
        for (entry, reason) in stalled.unwrap_or_default() {
            touched.extend(self.route_dead_letter(name, entry, reason));
        }
        while let Some(entry) = self.queues.get_mut(name).and_then(|queue| queue.take_expired(now)) {
            touched.extend(self.route_dead_letter(name, entry, Reason::Expired));
        }
        touched.remove(name);
        touched
    }

    fn unix_seconds(&self) -> u64 {
        self.began.1 + self.began.0.elapsed().as_secs()
    }
}

/// A channel, with or without a consumer on it.
#[derive(Debug)]
pub(super) struct ConsumerChannel {
    pub(super) session: u64,
    /// The name of its connection.
    connection: Arc<str>,
    pub(super) queue: String,
    pub(super) lease: Lease,
    prefetch: usize,
    /// By delivery tag. Messages in the outbox are among them: the consumer has them as far as the
    /// queue is concerned.
    unsettled: BTreeMap<u64, QueuedMessage>,
    /// With the batch of changes that must be stored before it may leave.
    outbox: VecDeque<(u64, u64)>,
    last_tag: u64,
    // Held here rather than by the task, so that receipts are stale in the very moment the channel
    // goes.
    settlements: mpsc::UnboundedReceiver<Settlement>,
    // For making receipts; gone once no more are made, so that the last receipt's end ends the
    // channel.
    owner: Option<mpsc::UnboundedSender<Settlement>>,
    wake: Arc<Notify>,
}

impl ConsumerChannel {
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

    /// Whether the first message in the outbox may leave: what is delivered to nobody yet is on
    /// the disk before.
    pub(super) fn may_leave(&self, journal: &Journal) -> bool {
        let too_early = Failpoint::DeliveryBeforeStored.in_force();
        self.outbox.front().is_some_and(|(_, batch)| too_early || journal.has_written(*batch))
    }

    /// How many messages it holds.
    pub(super) fn holds(&self) -> usize {
        self.unsettled.len()
    }

    /// Holds a message as delivered here.
    pub(super) fn hold(&mut self, entry: QueuedMessage) -> u64 {
        self.last_tag += 1;
        self.unsettled.insert(self.last_tag, entry);
        self.last_tag
    }
}

/// A delivery of an entry, as a queue shows it.
pub(super) fn delivery(entry: &QueuedMessage, quorum: bool, receipt: Receipt) -> Delivery {
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
            let Some(place) =
                in_turn.position(|id| self.channels.get(id).is_some_and(ConsumerChannel::has_room))
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
                let batch = self.journal.note(entry.id, |id| Change::Delivered { id });
                let tag = channel.hold(entry);
                channel.outbox.push_back((tag, batch));
                channel.wake.notify_one();
            }
        }
    }

    /// The next delivery that waits to go out, with a receipt.
    pub(super) fn take_outbox(&mut self, id: u64) -> Option<Delivery> {
        let channel = self.channels.get_mut(&id)?;
        let owner = channel.owner.clone()?;
        let (tag, _) = channel.outbox.pop_front()?;
        let quorum = self.queues.get(&channel.queue).is_some_and(|queue| queue.rules.quorum);
        let entry = channel.unsettled.get(&tag)?;
        let delivery = delivery(entry, quorum, Receipt::new(tag, owner));
        self.observer.of(&BrokerEvent::Delivered {
            connection: &channel.connection,
            queue: &channel.queue,
            delivery: (id, tag),
            message: &delivery.message,
            redelivered: delivery.redelivered,
        });
        Some(delivery)
    }

    pub(super) fn outbox_waits(&self, id: u64) -> bool {
        let waits =
            |channel: &ConsumerChannel| channel.may_leave(&self.journal) && !self.is_cut_off(channel.session);
        self.channels.get(&id).is_some_and(waits)
    }

    /// The next settlement; `None` when the channel is gone, or nobody is left who could settle
    /// anything.
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

    /// Carries out what has been asked on a session's channels and still waits, so that a close in
    /// order loses no ack.
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
            Settlement::Ack(tag) | Settlement::AckBatched(tag) => {
                if let Some((queue, entry)) = self.settled(id, tag, DeliveryEnd::Acked) {
                    self.forget(&entry);
                    self.run(BTreeSet::from([queue]));
                    if let Some(ConsumerChannel { session, connection, .. }) = self.channels.get(&id)
                        && self.observer.is_anybody()
                    {
                        let (session, connection) = (*session, connection.clone());
                        self.when_stored(Waiter::Acked { session, connection, delivery: (id, tag) });
                    }
                }
            }
            Settlement::Requeue(tag) => {
                if let Some((queue, entry)) = self.settled(id, tag, DeliveryEnd::Requeued) {
                    let mut touched = self.put_back(&queue, entry, true);
                    touched.insert(queue);
                    self.run(touched);
                }
            }
            Settlement::Reject(tag) => {
                if let Some((queue, entry)) = self.settled(id, tag, DeliveryEnd::Rejected) {
                    let mut touched = self.route_dead_letter(&queue, entry, Reason::Rejected);
                    touched.insert(queue);
                    self.run(touched);
                }
            }
            Settlement::Cancel(done) => {
                self.cancel(id);
                let _ = done.send(());
            }
            Settlement::Flush(done) => self.when_stored(Waiter::Done(done)),
            Settlement::Close(done) => {
                self.close_channel(id);
                self.when_stored(Waiter::Done(done));
            }
        }
    }

    /// Takes a message out of a consumer's hands, as it asked. One that is not there is a fault for
    /// which the channel is closed.
    fn settled(&mut self, id: u64, tag: u64, how: DeliveryEnd) -> Option<(String, QueuedMessage)> {
        let connection = &*self.channels.get(&id)?.connection.clone();
        let delivery = (id, tag);
        let settled = self.release(id, tag);
        if settled.is_none() {
            self.observer.of(&BrokerEvent::UnknownTag { connection, delivery });
            self.close_channel(id);
        } else if how != DeliveryEnd::Acked {
            self.observer.of(&BrokerEvent::Settled { connection, delivery, how });
        }
        settled
    }

    fn release(&mut self, id: u64, tag: u64) -> Option<(String, QueuedMessage)> {
        let channel = self.channels.get_mut(&id)?;
        let entry = channel.unsettled.remove(&tag)?;
        Some((channel.queue.clone(), entry))
    }

    /// The client takes no more deliveries. The broker learns of it unless the client is cut off.
    pub(super) fn abandon(&mut self, id: u64) {
        if self.channels.get(&id).is_some_and(|channel| !self.is_cut_off(channel.session)) {
            self.cancel(id);
        }
    }

    /// Stops deliveries; what has not left the outbox goes back.
    pub(super) fn cancel(&mut self, id: u64) {
        let mut touched = self.stop_consuming(id);
        let waiting = self.channels.get_mut(&id).map(|channel| std::mem::take(&mut channel.outbox));
        for (tag, _) in waiting.unwrap_or_default() {
            if let Some((queue, entry)) = self.release(id, tag) {
                touched.extend(self.put_back(&queue, entry, true));
            }
        }
        self.run(touched);
    }

    /// Takes the consumer off its queue; an exclusive queue goes with it. The queue is to be run:
    /// another consumer may be next.
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
        let touched = self.take_back(id, DeliveryEnd::Returned);
        if let Some(channel) = self.channels.remove(&id) {
            channel.lease.revoke();
            channel.wake.notify_one();
        }
        touched
    }

    /// Puts back what a channel holds, in the order of delivery.
    pub(super) fn take_back(&mut self, id: u64, how: DeliveryEnd) -> BTreeSet<String> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return BTreeSet::new();
        };
        let (connection, queue) = (&*channel.connection.clone(), channel.queue.clone());
        channel.outbox.clear();
        let mut touched = BTreeSet::new();
        for (tag, entry) in std::mem::take(&mut channel.unsettled) {
            self.observer.of(&BrokerEvent::Settled { connection, delivery: (id, tag), how });
            touched.extend(self.put_back(&queue, entry, false));
        }
        touched
    }
}
