//! One queue: its rules, read from the arguments it was declared with, and the messages that wait in it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::dead_letter::Reason;
use crate::broker::topology::Arguments;
use crate::domain::message::{Message, Value};

/// RabbitMQ tells refused publishers that there is room again only once a queue has fallen to this share of its bound.
const ROOM_AGAIN_PERCENT: usize = 80;
/// How long a dead letter that its target did not take waits before it is tried again, as RabbitMQ's quorum queues do.
const STALLED_RETRY: Duration = Duration::from_secs(180);

/// A message as it was routed; one copy is shared by every queue that took it.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) message: Message,
    pub(super) exchange: String,
    /// The routing key first, then those of a `CC` header.
    pub(super) keys: Vec<String>,
}

/// One message's place in one queue.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) routed: Arc<Routed>,
    pub(super) expires: Option<Instant>,
    /// How often it was delivered and came back.
    pub(super) returned: u32,
}

/// Where a queue's dead letters go.
#[derive(Debug, Clone)]
pub(super) struct DeadLetters {
    pub(super) exchange: String,
    /// Instead of the message's own keys.
    pub(super) key: Option<String>,
    /// Kept until the target has it, rather than tried once.
    pub(super) at_least_once: bool,
}

/// What the arguments ask for.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) quorum: bool,
    pub(super) dead_letters: Option<DeadLetters>,
    pub(super) delivery_limit: Option<u32>,
    pub(super) single_active: bool,
    ttl: Option<Duration>,
    max_length: Option<usize>,
    reject_publish: bool,
}

impl Rules {
    pub(super) fn read(arguments: &Arguments) -> Self {
        let text = |name: &str| arguments.get(name).and_then(Value::as_text);
        let number = |name: &str| match arguments.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let reject_publish = text("x-overflow") == Some("reject-publish");
        Self {
            quorum: text("x-queue-type") == Some("quorum"),
            dead_letters: text("x-dead-letter-exchange").map(|exchange| DeadLetters {
                exchange: exchange.to_owned(),
                key: text("x-dead-letter-routing-key").map(str::to_owned),
                // Without reject-publish RabbitMQ falls back to at-most-once, silently.
                at_least_once: reject_publish && text("x-dead-letter-strategy") == Some("at-least-once"),
            }),
            delivery_limit: number("x-delivery-limit").and_then(|limit| u32::try_from(limit).ok()),
            single_active: arguments.get("x-single-active-consumer") == Some(&Value::Bool(true)),
            ttl: number("x-message-ttl").map(Duration::from_millis),
            max_length: number("x-max-length").and_then(|length| usize::try_from(length).ok()),
            reject_publish,
        }
    }
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) rules: Rules,
    pub(super) arguments: Arguments,
    /// The session that alone may use it, and with which it goes.
    pub(super) exclusive: Option<u64>,
    /// Channels that consume from it; the front one is served next.
    pub(super) consumers: VecDeque<u64>,
    /// Dead letters that no queue took.
    pub(super) stalled: Vec<(Entry, Reason)>,
    retry_stalled_at: Option<Instant>,
    fresh: VecDeque<Entry>,
    // Came back from a consumer; delivered before the fresh ones, in the order in which they came back.
    returned: VecDeque<Entry>,
    refusing: bool,
    /// Refuses whatever its bound says.
    pub(super) full: bool,
}

impl Queue {
    pub(super) fn new(arguments: Arguments, exclusive: Option<u64>) -> Self {
        Self {
            rules: Rules::read(&arguments),
            arguments,
            exclusive,
            consumers: VecDeque::new(),
            stalled: Vec::new(),
            retry_stalled_at: None,
            fresh: VecDeque::new(),
            returned: VecDeque::new(),
            refusing: false,
            full: false,
        }
    }

    /// Messages ready for delivery.
    pub(super) fn ready(&self) -> usize {
        self.fresh.len() + self.returned.len()
    }

    /// Everything in it that no consumer holds, the next one first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.returned.iter().chain(&self.fresh)
    }

    /// Whether publishers are refused at this moment.
    pub(super) fn refuses(&self) -> bool {
        self.refusing || self.full
    }

    /// Takes a message in. Gives back the oldest where a bound without `reject-publish` pushes it out.
    pub(super) fn push(&mut self, routed: Arc<Routed>, now: Instant) -> Option<Entry> {
        let own = routed
            .message
            .properties
            .expiration
            .as_deref()
            .and_then(|millis| millis.parse().ok())
            .map(Duration::from_millis);
        let ttl = match (own, self.rules.ttl) {
            (Some(own), Some(queues)) => Some(own.min(queues)),
            (own, queues) => own.or(queues),
        };
        self.fresh.push_back(Entry {
            routed,
            // A time to live of 0 still lets a waiting consumer have it.
            expires: ttl.map(|ttl| now + ttl.max(Duration::from_millis(1))),
            returned: 0,
        });
        if self.rules.max_length.is_none_or(|most| self.occupied() <= most) {
            return None;
        }
        if self.rules.reject_publish {
            // The one that goes over is still taken; RabbitMQ's quorum queues refuse from the next one on.
            self.refusing = true;
            return None;
        }
        self.take()
    }

    /// Puts back what a consumer had.
    pub(super) fn put_back(&mut self, entry: Entry, asked: bool) {
        if asked && self.rules.quorum && self.rules.delivery_limit.is_none() {
            // With nothing to end a loop of requeues, a quorum queue lets the others go first.
            self.fresh.push_back(entry);
        } else {
            self.returned.push_back(entry);
        }
    }

    /// Takes the next message out.
    pub(super) fn take(&mut self) -> Option<Entry> {
        let entry = self.returned.pop_front().or_else(|| self.fresh.pop_front());
        self.see_room();
        entry
    }

    /// Takes the next message out if it has expired. One behind a message that has not stays where it is.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<Entry> {
        let expired = self.entries().next()?.expires.is_some_and(|at| at <= now);
        if expired { self.take() } else { None }
    }

    /// Keeps a dead letter that no queue took.
    pub(super) fn stall(&mut self, entry: Entry, reason: Reason, now: Instant) {
        self.stalled.push((entry, reason));
        self.retry_stalled_at.get_or_insert(now + STALLED_RETRY);
    }

    /// The stalled dead letters, where it is time to try them again.
    pub(super) fn take_stalled(&mut self, now: Instant) -> Vec<(Entry, Reason)> {
        if self.retry_stalled_at.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.retry_stalled_at = None;
        let stalled = std::mem::take(&mut self.stalled);
        self.see_room();
        stalled
    }

    /// When something is to be done here though nobody calls.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let head = self.entries().next().and_then(|entry| entry.expires);
        head.into_iter().chain(self.retry_stalled_at).min()
    }

    fn occupied(&self) -> usize {
        self.ready() + self.stalled.len()
    }

    fn see_room(&mut self) {
        let enough =
            self.rules.max_length.is_none_or(|most| self.occupied() <= most * ROOM_AGAIN_PERCENT / 100);
        if enough {
            self.refusing = false;
        }
    }
}
