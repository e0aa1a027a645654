//! What clients ask of the broker beside consuming: topologies are declared and compared, messages
//! are refused, returned or stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::core::Core;
use super::exchange::{ExchangeState, NoExchange, route};
use super::journal::{Change, StoredPublish, Waiter};
use super::observer::{BrokerEvent, DeliveryEnd, MessageFate};
use super::queue::QueueState;
use crate::broker::topology::{self, Arguments, Mismatch, Topology};
use crate::broker::{BrokerError, PublishError, PublishRequest};
use crate::domain::message::{Message, Value};
use crate::failpoint::Failpoint;

/// The user that every session is logged in as; a message's `user_id` must name it or nobody.
pub(in crate::broker) const USER: &str = "guest";

/// Messages in all queues together, past which publishes are refused.
const MOST_MESSAGES: usize = 1_000_000;
/// Bytes of bodies in all queues together, past which publishes are refused.
const MOST_BYTES: usize = 1 << 30;

/// What became of a publish.
enum Published {
    Stored,
    Refused,
    Unrouted,
}

impl Core {
    /// Carries out a publish and answers it.
    pub(super) fn publish(&mut self, session: u64, request: PublishRequest) {
        let PublishRequest { exchange, routing_key, mandatory, message, may_batch, reply } = request;
        if let Some(state) = self.sessions.get_mut(&session).filter(|state| state.cut_off) {
            state.lost_confirms.push(reply);
            return;
        }
        let unroutable = || PublishError::Unroutable(format!("exchange '{exchange}', key '{routing_key}'"));
        self.journal.relax(may_batch);
        let seen = self.observer.is_anybody().then(|| {
            let (exchange, routing_key) = (exchange.clone(), routing_key.clone());
            let (connection, message) = (self.connection(session), (*message).clone());
            Box::new(StoredPublish { session, connection, exchange, routing_key, message })
        });
        let fate = match self.store(&exchange, &routing_key, Arc::unwrap_or_clone(message)) {
            Ok(Published::Stored) => Ok(()),
            Ok(Published::Refused) => Err(PublishError::Rejected),
            Ok(Published::Unrouted) if mandatory => Err(unroutable()),
            Ok(Published::Unrouted) => Ok(()),
            Err(reason) => {
                self.end_session(session, &reason);
                Err(PublishError::Unknown(reason))
            }
        };
        let loses = fate.is_ok() && self.confirms_to_lose > 0;
        if fate.is_ok() && !loses {
            self.when_stored(Waiter::Publish(reply, seen));
        } else {
            if let Some(seen) = seen {
                self.show(&seen, &fate);
            }
            match self.sessions.get_mut(&session).filter(|_| loses) {
                Some(state) => state.lost_confirms.push(reply),
                // A publisher that no longer waits has given the message's fate up as unknown.
                None => drop(reply.send(fate)),
            }
            self.confirms_to_lose -= usize::from(loses);
        }
        self.journal.relax(false);
    }

    /// Answers once everything so far is stored.
    pub(super) fn when_stored(&mut self, waiter: Waiter) {
        let at_once = matches!(waiter, Waiter::Publish(..)) && Failpoint::ConfirmBeforeStored.in_force();
        let stored = if at_once { Some(waiter) } else { self.journal.wait(waiter) };
        if let Some(waiter) = stored {
            self.answer(waiter);
        }
    }

    /// What somebody has waited for is stored. The observer sees it, and decides what follows.
    pub(super) fn answer(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Publish(reply, Some(seen)) => {
                let wanted = self.show(&seen, &Ok(()));
                if wanted == MessageFate::Usual {
                    // A publisher that no longer waits has given the message's fate up as unknown.
                    let _ = reply.send(Ok(()));
                } else if let Some(state) = self.sessions.get_mut(&seen.session) {
                    state.lost_confirms.push(reply);
                }
                if wanted == MessageFate::Cut {
                    self.end_session(seen.session, "connection cut");
                }
            }
            Waiter::Acked { session, connection, delivery } => {
                let how = DeliveryEnd::Acked;
                let event = BrokerEvent::Settled { connection: &connection, delivery, how };
                if self.observer.of(&event) == MessageFate::Cut {
                    self.end_session(session, "connection cut");
                }
            }
            waiter => waiter.stored(),
        }
    }

    /// What somebody has waited for is not stored: an ack that the observer was to see is undone.
    pub(super) fn refuse(&mut self, waiter: Waiter, reason: &str) {
        if let Waiter::Acked { connection, delivery, .. } = &waiter {
            let how = DeliveryEnd::Returned;
            self.observer.of(&BrokerEvent::Settled { connection, delivery: *delivery, how });
        }
        waiter.failed(reason);
    }

    fn show(&self, seen: &StoredPublish, fate: &Result<(), PublishError>) -> MessageFate {
        let StoredPublish { connection, exchange, routing_key, message, .. } = seen;
        self.observer.of(&BrokerEvent::Published { connection, exchange, routing_key, message, fate })
    }

    /// Routes a message and stores it. The error is what closes the publisher's channel.
    fn store(&mut self, exchange: &str, key: &str, mut message: Message) -> Result<Published, String> {
        check_properties(&message)?;
        let (keys, blind) = routing_keys(key, &mut message);
        let all = [keys.as_slice(), &blind].concat();
        let reached = route(&self.exchanges, &self.queues, exchange, &all)
            .map_err(|NoExchange| format!("404 NOT_FOUND - no exchange '{exchange}'"))?;
        if reached.is_empty() {
            return Ok(Published::Unrouted);
        }
        if self.messages + reached.len() > MOST_MESSAGES
            || self.bytes + reached.len() * message.body.len() > MOST_BYTES
            || !self.journal.has_room(message.body.len())
                && reached.iter().any(|name| self.queues[name].exclusive.is_none())
        {
            return Ok(Published::Refused);
        }
        let (refusing, taking): (BTreeSet<_>, BTreeSet<_>) =
            reached.into_iter().partition(|name| self.queues[name].refuses());
        self.push(&taking, exchange, keys, message);
        self.run(taking);
        Ok(if refusing.is_empty() { Published::Stored } else { Published::Refused })
    }
}

/// RabbitMQ closes the channel over a user name that is not the publisher's, and over an expiration
/// that is no number.
fn check_properties(message: &Message) -> Result<(), String> {
    let properties = &message.properties;
    if let Some(user) = properties.user_id.as_deref().filter(|user| *user != USER) {
        return Err(format!(
            "406 PRECONDITION_FAILED - user_id property set to '{user}' but authenticated user was '{USER}'"
        ));
    }
    match properties.expiration.as_deref() {
        Some(expiration) if expiration.parse::<u32>().is_err() => {
            Err(format!("406 PRECONDITION_FAILED - invalid expiration '{expiration}'"))
        }
        _ => Ok(()),
    }
}

/// The routing key with those of the sender's `CC` header, and those of its `BCC` header, which
/// goes no further.
fn routing_keys(key: &str, message: &mut Message) -> (Vec<String>, Vec<String>) {
    let headers = &mut message.properties.headers;
    let texts = |copies: Option<Value>| match copies {
        Some(Value::Array(keys)) => keys.iter().filter_map(Value::as_text).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    let mut keys = vec![key.to_owned()];
    keys.extend(texts(headers.get("CC").cloned()));
    (keys, texts(headers.remove("BCC")))
}

impl Core {
    /// Makes what is missing; stops at the first thing that exists with other settings, as a broker
    /// that closes the channel does.
    pub(super) fn declare(&mut self, topology: &Topology) -> Result<(), BrokerError> {
        for wanted in &topology.exchanges {
            if self.compare_exchange(wanted).or_mismatch("exchange", &wanted.name)? {
                let (kind, arguments) = (wanted.kind, wanted.arguments.clone());
                let made = ExchangeState { kind, arguments, bindings: BTreeSet::new() };
                self.journal.declare(|| Change::Exchange(wanted.clone()));
                self.exchanges.insert(wanted.name.clone(), made);
            }
        }
        for wanted in &topology.queues {
            if self.compare_queue(wanted).or_mismatch("queue", &wanted.name)? {
                self.journal.declare(|| Change::Queue(wanted.clone()));
                self.queues.insert(wanted.name.clone(), QueueState::new(wanted.arguments.clone(), None));
            }
        }
        for binding in &topology.bindings {
            let queue = &binding.queue;
            if !self.queues.contains_key(queue) {
                return Err(missing("queue", queue));
            }
            let exchange = self
                .exchanges
                .get_mut(&binding.exchange)
                .ok_or_else(|| missing("exchange", &binding.exchange))?;
            if exchange.bindings.insert((binding.routing_key.clone(), queue.clone())) {
                self.journal.declare(|| Change::Binding(binding.clone()));
            }
        }
        Ok(())
    }

    /// Every difference; changes nothing.
    pub(super) fn check(&self, topology: &Topology) -> Vec<Mismatch> {
        let mut found = Vec::new();
        let mut note = |kind, name: &str, comparison: Comparison| {
            let problem = match comparison {
                Comparison::Same => return,
                Comparison::Missing => format!("{}; declare the topology", Mismatch::MISSING),
                Comparison::Differs(detail) => {
                    format!("{detail}; delete it once it is empty, and declare the topology")
                }
            };
            found.push(Mismatch { kind, name: name.to_owned(), problem });
        };
        for exchange in &topology.exchanges {
            note("exchange", &exchange.name, self.compare_exchange(exchange));
        }
        for queue in &topology.queues {
            note("queue", &queue.name, self.compare_queue(queue));
        }
        for binding in &topology.bindings {
            // A missing end has been reported already.
            let ends = (self.exchanges.get(&binding.exchange), self.queues.get(&binding.queue));
            if let (Some(exchange), Some(_)) = ends {
                let bound = (binding.routing_key.clone(), binding.queue.clone());
                let name = format!("{} -> {} ({})", binding.exchange, binding.queue, binding.routing_key);
                if !exchange.bindings.contains(&bound) {
                    note("binding", &name, Comparison::Missing);
                }
            }
        }
        found
    }

    fn compare_exchange(&self, wanted: &topology::Exchange) -> Comparison {
        let Some(exchange) = self.exchanges.get(&wanted.name) else { return Comparison::Missing };
        if exchange.kind != wanted.kind {
            let (received, current) = (wanted.kind.name(), exchange.kind.name());
            return Comparison::Differs(format!(
                "inequivalent arg 'type': received '{received}' but current is '{current}'"
            ));
        }
        compare_arguments(&wanted.arguments, &exchange.arguments)
    }

    fn compare_queue(&self, wanted: &topology::Queue) -> Comparison {
        let queue = self.queues.get(&wanted.name);
        queue.map_or(Comparison::Missing, |queue| compare_arguments(&wanted.arguments, &queue.arguments))
    }
}

/// What there is, beside what is wanted.
enum Comparison {
    Missing,
    Same,
    Differs(String),
}

impl Comparison {
    /// Whether it is to be made; an error where it exists with other settings.
    fn or_mismatch(self, kind: &'static str, name: &str) -> Result<bool, BrokerError> {
        match self {
            Comparison::Missing => Ok(true),
            Comparison::Same => Ok(false),
            Comparison::Differs(detail) => Err(BrokerError::Mismatch { kind, name: name.to_owned(), detail }),
        }
    }
}

fn compare_arguments(received: &Arguments, current: &Arguments) -> Comparison {
    let mut names = received.keys().chain(current.keys());
    let Some(name) = names.find(|name| received.get(*name) != current.get(*name)) else {
        return Comparison::Same;
    };
    let shown = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::Text(text)) => format!("'{text}'"),
        Some(Value::Int(number)) => format!("'{number}'"),
        Some(Value::Bool(flag)) => format!("'{flag}'"),
        Some(other) => format!("'{other:?}'"),
    };
    let (received, current) = (shown(received.get(name)), shown(current.get(name)));
    Comparison::Differs(format!("inequivalent arg '{name}': received {received} but current is {current}"))
}

pub(super) fn missing(kind: &'static str, name: &str) -> BrokerError {
    let name = name.to_owned();
    BrokerError::Missing { kind, name }
}
