//! The broker's whole state and the verbs on it. Everything happens under one lock, in sections that never wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::channel::Channel;
use super::dead_letter::{self, Reason};
use super::exchange::{Exchange, route};
use super::observer::{Event, Told};
use super::queue::{DeadLetters, Entry, Queue};
use crate::broker::{Ending, PublishError};

/// One session's part of the state.
#[derive(Debug)]
pub(super) struct SessionState {
    /// Its connection's name.
    pub(super) connection: Arc<str>,
    pub(super) closed: Ending,
    /// Confirms that a test asked to lose: unanswered until the session ends.
    pub(super) lost_confirms: Vec<oneshot::Sender<Result<(), PublishError>>>,
    /// Nothing passes, though neither side has noticed.
    pub(super) cut_off: bool,
}

/// The state.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) exchanges: BTreeMap<String, Exchange>,
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) sessions: BTreeMap<u64, SessionState>,
    pub(super) channels: BTreeMap<u64, Channel>,
    pub(super) confirms_to_lose: usize,
    pub(super) letters_to_repeat: usize,
    pub(super) told: Told,
    pub(super) reachable: bool,
    /// When the clock task looks next, if it is to look by itself.
    pub(super) armed: Option<Instant>,
    clock: Arc<Notify>,
    began: (Instant, u64),
    last_id: u64,
    /// Held in all queues and by all consumers together.
    pub(super) messages: usize,
    /// The bytes of their bodies.
    pub(super) bytes: usize,
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
            told: Told::default(),
            reachable: true,
            armed: None,
            clock,
            began: (Instant::now(), unix_seconds),
            last_id: 0,
            messages: 0,
            bytes: 0,
        }
    }

    /// A number never given before.
    pub(super) fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub(super) fn open_session(&mut self, connection: Arc<str>) -> (u64, Ending) {
        let closed = Ending::default();
        let id = self.fresh_id();
        let state =
            SessionState { connection, closed: closed.clone(), lost_confirms: Vec::new(), cut_off: false };
        self.sessions.insert(id, state);
        (id, closed)
    }

    /// The client ends a session. Where it is cut off, the broker does not hear of it.
    pub(super) fn close_session(&mut self, id: u64, reason: &str) {
        match self.sessions.get(&id) {
            Some(session) if session.cut_off => session.closed.end(reason),
            _ => self.end_session(id, reason),
        }
    }

    /// Ends a session. Its leases have ended before anybody else is given what it held: that is dispatched last.
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
        let of_session = |(_, queue): &(&String, &Queue)| queue.exclusive == Some(session);
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
    pub(super) fn forget(&mut self, entry: &Entry) {
        self.messages -= 1;
        self.bytes -= entry.routed.message.body.len();
    }

    /// Takes a message back from a consumer, on request (`asked`) or because its channel went; both count.
    pub(super) fn put_back(&mut self, queue: &str, mut entry: Entry, asked: bool) -> BTreeSet<String> {
        let Some(state) = self.queues.get_mut(queue) else {
            self.forget(&entry);
            return BTreeSet::new();
        };
        entry.returned += 1;
        if state.rules.delivery_limit.is_some_and(|limit| entry.returned > limit) {
            return self.bury(queue, entry, Reason::DeliveryLimit);
        }
        state.put_back(entry, asked);
        BTreeSet::from([queue.to_owned()])
    }

    /// Dead-letters a message that has left its queue; the queues that took it are to be run.
    pub(super) fn bury(&mut self, queue: &str, entry: Entry, reason: Reason) -> BTreeSet<String> {
        let Some(to) = self.queues.get(queue).and_then(|state| state.rules.dead_letters.clone()) else {
            self.forget(&entry);
            return BTreeSet::new();
        };
        let time = self.unix_seconds();
        let (message, keys) = dead_letter::letter(&entry, queue, reason, &to, time);
        match self.graves(&to, &keys) {
            Some(mut taking) => {
                taking.retain(|target| !dead_letter::is_cycle(&message, target));
                let repeated = self.letters_to_repeat > 0;
                self.letters_to_repeat -= usize::from(repeated);
                let copies = 1 + usize::from(repeated);
                self.told.of(&Event::DeadLettered { queue, message: &message, copies });
                for _ in 0..copies {
                    self.push(&taking, &to.exchange, keys.clone(), message.clone());
                }
                self.forget(&entry);
                taking
            }
            None => {
                if let Some(state) = self.queues.get_mut(queue) {
                    state.stall(entry, reason, Instant::now());
                }
                BTreeSet::from([queue.to_owned()])
            }
        }
    }

    /// Where a dead letter goes; `None` where it must wait, since its target is missing or full and it may not be lost.
    fn graves(&self, to: &DeadLetters, keys: &[String]) -> Option<BTreeSet<String>> {
        let reached = route(&self.exchanges, &self.queues, &to.exchange, keys).unwrap_or_default();
        let (full, taking): (BTreeSet<_>, BTreeSet<_>) =
            reached.into_iter().partition(|name| self.queues[name].refuses());
        let lost = taking.is_empty() || !full.is_empty();
        (!(to.at_least_once && lost)).then_some(taking)
    }

    /// Runs queues until nothing more can be done: expires heads, hands messages to consumers with room.
    pub(super) fn run(&mut self, mut touched: BTreeSet<String>) {
        let now = Instant::now();
        while let Some(name) = touched.pop_first() {
            touched.extend(self.expire(&name, now));
            self.dispatch(&name);
            let deadline = self.queues.get(&name).and_then(Queue::next_deadline);
            if let Some(at) = deadline
                && self.armed.is_none_or(|armed| at < armed)
            {
                self.armed = Some(at);
                self.clock.notify_one();
            }
        }
    }

    /// Does all that is due, and tells when the next thing will be.
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
        self.armed = self.queues.values().filter_map(Queue::next_deadline).min();
        self.armed
    }

    fn expire(&mut self, name: &str, now: Instant) -> BTreeSet<String> {
        let mut touched = BTreeSet::new();
        let stalled = self.queues.get_mut(name).map(|queue| queue.take_stalled(now));
        for (entry, reason) in stalled.unwrap_or_default() {
            touched.extend(self.bury(name, entry, reason));
        }
        while let Some(entry) = self.queues.get_mut(name).and_then(|queue| queue.take_expired(now)) {
            touched.extend(self.bury(name, entry, Reason::Expired));
        }
        touched.remove(name);
        touched
    }

    fn unix_seconds(&self) -> u64 {
        self.began.1 + self.began.0.elapsed().as_secs()
    }
}
