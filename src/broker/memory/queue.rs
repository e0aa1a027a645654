//! One queue: its rules, the messages that wait in it, and what becomes of a message on its way
//! out.
//!
//! Nothing here knows of sessions, consumers' channels or locks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::broker::topology::Arguments;
use crate::domain::message::{Headers, Message, Value};

/// RabbitMQ accepts messages of refused publishers again only once a queue has fallen to this share
/// of its bound.
const ROOM_AGAIN_PERCENT: usize = 80;
/// How long a dead letter that its target did not take waits before it is tried again, as
/// RabbitMQ's quorum queues do.
pub(super) const STALLED_RETRY: Duration = Duration::from_secs(180);

/// A message as it was routed; one copy is shared by every queue that took it.
#[derive(Debug)]
pub(in crate::broker) struct Routed {
    pub(in crate::broker) message: Message,
    pub(in crate::broker) exchange: String,
    /// The routing key first, then those of a `CC` header.
    pub(in crate::broker) keys: Vec<String>,
}

/// One message's place in one queue.
#[derive(Debug, Clone)]
pub(super) struct QueuedMessage {
    /// What the store knows it by; 0 where it is not stored.
    pub(super) id: u64,
    pub(super) routed: Arc<Routed>,
    pub(super) expires: Option<Instant>,
    /// How often it was delivered and returned.
    pub(super) returned: u32,
}

/// Where a queue's dead letters go.
#[derive(Debug, Clone)]
pub(super) struct DeadLetterTarget {
    pub(super) exchange: String,
    /// Instead of the message's own keys.
    pub(super) key: Option<String>,
    /// Kept until the target has it, rather than tried once.
    pub(super) at_least_once: bool,
}

/// What the arguments ask for.
#[derive(Debug, Clone)]
pub(super) struct QueueRules {
    pub(super) quorum: bool,
    pub(super) dead_letters: Option<DeadLetterTarget>,
    pub(super) delivery_limit: Option<u32>,
    pub(super) single_active: bool,
    ttl: Option<Duration>,
    max_length: Option<usize>,
    reject_publish: bool,
}

impl QueueRules {
    pub(super) fn read(arguments: &Arguments) -> Self {
        let text = |name: &str| arguments.get(name).and_then(Value::as_text);
        let number = |name: &str| match arguments.get(name) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        let reject_publish = text("x-overflow") == Some("reject-publish");
        Self {
            quorum: text("x-queue-type") == Some("quorum"),
            dead_letters: text("x-dead-letter-exchange").map(|exchange| DeadLetterTarget {
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
pub(super) struct QueueState {
    pub(super) rules: QueueRules,
    pub(super) arguments: Arguments,
    /// The session that alone may use it, and with which it goes.
    pub(super) exclusive: Option<u64>,
    /// Channels that consume from it; the front one is served next.
    pub(super) consumers: VecDeque<u64>,
    /// Dead letters that no queue took.
    pub(super) stalled: Vec<(QueuedMessage, Reason)>,
    retry_stalled_at: Option<Instant>,
    fresh: VecDeque<QueuedMessage>,
    // Returned by a consumer; delivered before the fresh ones, in the order in which they were
    // returned.
    returned: VecDeque<QueuedMessage>,
    refusing: bool,
    /// Refuses, whatever its bound is.
    pub(super) full: bool,
}

impl QueueState {
    pub(super) fn new(arguments: Arguments, exclusive: Option<u64>) -> Self {
        Self {
            rules: QueueRules::read(&arguments),
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
    pub(super) fn entries(&self) -> impl Iterator<Item = &QueuedMessage> {
        self.returned.iter().chain(&self.fresh)
    }

    /// Whether publishers are refused at this moment.
    pub(super) fn refuses(&self) -> bool {
        self.refusing || self.full
    }

    /// When a message that arrives now expires.
    pub(super) fn expiry(&self, routed: &Routed, now: Instant) -> Option<Instant> {
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
        // A time to live of 0 still lets a waiting consumer have it.
        ttl.map(|ttl| now + ttl.max(Duration::from_millis(1)))
    }

    /// Takes a message in. Gives back the oldest where a bound without `reject-publish` pushes it
    /// out.
    pub(super) fn push(&mut self, entry: QueuedMessage) -> Option<QueuedMessage> {
        self.fresh.push_back(entry);
        if self.rules.max_length.is_none_or(|most| self.occupied() <= most) {
            return None;
        }
        if self.rules.reject_publish {
            // The one that goes over is still taken; RabbitMQ's quorum queues refuse from the next
            // one on.
            self.refusing = true;
            return None;
        }
        self.take()
    }

    /// Takes in what a store has kept: what was delivered before is at the head. What has `died` is
    /// a dead letter that no queue took.
    pub(super) fn restore(&mut self, entry: QueuedMessage, died: Option<Reason>, now: Instant) {
        match died {
            // Its target may be there by now.
            Some(reason) => self.stall(entry, reason, now),
            None if entry.returned > 0 => self.returned.push_back(entry),
            None => self.fresh.push_back(entry),
        }
        let over = self.rules.max_length.is_some_and(|most| self.occupied() > most);
        self.refusing = over && self.rules.reject_publish;
    }

    /// Takes out what was delivered more often than the limit allows.
    pub(super) fn take_over_limit(&mut self) -> Vec<QueuedMessage> {
        let Some(limit) = self.rules.delivery_limit else { return Vec::new() };
        let all = std::mem::take(&mut self.returned);
        let (over, rest) = all.into_iter().partition::<Vec<_>, _>(|entry| entry.returned > limit);
        self.returned = rest.into();
        over
    }

    /// Puts back what a consumer had.
    pub(super) fn put_back(&mut self, entry: QueuedMessage, asked: bool) {
        if asked && self.rules.quorum && self.rules.delivery_limit.is_none() {
            // With nothing to end a loop of requeues, a quorum queue lets the others go first.
            self.fresh.push_back(entry);
        } else {
            self.returned.push_back(entry);
        }
    }

    /// Takes the next message out.
    pub(super) fn take(&mut self) -> Option<QueuedMessage> {
        let entry = self.returned.pop_front().or_else(|| self.fresh.pop_front());
        self.see_room();
        entry
    }

    /// Takes the next message out if it has expired. One behind a message that has not stays where
    /// it is.
    pub(super) fn take_expired(&mut self, now: Instant) -> Option<QueuedMessage> {
        let expired = self.entries().next()?.expires.is_some_and(|at| at <= now);
        if expired { self.take() } else { None }
    }

    /// Keeps a dead letter that no queue took, to be tried again with the others.
    pub(super) fn stall(&mut self, entry: QueuedMessage, reason: Reason, try_at: Instant) {
        self.stalled.push((entry, reason));
        self.retry_stalled_at.get_or_insert(try_at);
    }

    /// The stalled dead letters, where it is time to try them again.
    pub(super) fn take_stalled(&mut self, now: Instant) -> Vec<(QueuedMessage, Reason)> {
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

/// Why a message left its queue for the dead-letter exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    const ALL: [Self; 4] = [Self::Rejected, Self::Expired, Self::MaxLength, Self::DeliveryLimit];

    /// The reason of this name.
    pub(in crate::broker) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }

    pub(in crate::broker) fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The message as its dead letter, and the keys it is routed by. `time` is in seconds since the
/// Unix epoch.
pub(super) fn dead_letter(
    entry: &QueuedMessage,
    queue: &str,
    reason: Reason,
    to: &DeadLetterTarget,
    time: u64,
) -> (Message, Vec<String>) {
    let routed = &entry.routed;
    let mut message = routed.message.clone();
    let expiration = message.properties.expiration.take();
    let headers = &mut message.properties.headers;
    let keys = match &to.key {
        Some(key) => {
            // Carbon copies belong to the keys that are replaced.
            headers.remove("CC");
            vec![key.clone()]
        }
        None => routed.keys.clone(),
    };
    let mut death = Headers::from([
        ("count".into(), Value::Int(1)),
        ("reason".into(), reason.name().into()),
        ("queue".into(), queue.into()),
        ("time".into(), Value::Timestamp(time)),
        ("exchange".into(), routed.exchange.as_str().into()),
        ("routing-keys".into(), Value::Array(routed.keys.iter().map(|key| key.as_str().into()).collect())),
    ]);
    if let Some(expiration) = expiration {
        death.insert("original-expiration".into(), expiration.into());
    }
    record(headers, death);
    for (name, value) in [
        ("x-first-death-reason", reason.name()),
        ("x-first-death-queue", queue),
        ("x-first-death-exchange", routed.exchange.as_str()),
    ] {
        headers.entry(name.into()).or_insert_with(|| value.into());
    }
    (message, keys)
}

/// Puts a death in front of those before it. One of the same queue and reason is counted up
/// instead, and keeps the time of its first.
fn record(headers: &mut Headers, mut death: Headers) {
    let mut others = match headers.remove("x-death") {
        Some(Value::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    let same = |other: &Value| match other {
        Value::Table(table) => ["queue", "reason"].into_iter().all(|key| table.get(key) == death.get(key)),
        _ => false,
    };
    if let Some(place) = others.iter().position(same)
        && let Value::Table(mut earlier) = others.remove(place)
    {
        let count = match earlier.get("count") {
            Some(Value::Int(count)) => *count,
            _ => 0,
        };
        earlier.insert("count".into(), Value::Int(count + 1));
        death = earlier;
    }
    others.insert(0, Value::Table(death));
    headers.insert("x-death".into(), Value::Array(others));
}

/// Whether the dead letter would return to a queue it has died in without anybody having
/// rejected it since: such cycles are cut.
pub(super) fn is_cycle(message: &Message, target: &str) -> bool {
    let Some(Value::Array(deaths)) = message.properties.headers.get("x-death") else {
        return false;
    };
    let field = |death: &Value, key: &str| match death {
        Value::Table(table) => table.get(key).and_then(Value::as_text).map(str::to_owned),
        _ => None,
    };
    let Some(place) = deaths.iter().position(|death| field(death, "queue").as_deref() == Some(target)) else {
        return false;
    };
    deaths[..=place].iter().all(|death| field(death, "reason").as_deref() != Some("rejected"))
}
