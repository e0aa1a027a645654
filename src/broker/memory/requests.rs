//! What clients ask of the broker beside consuming: topologies are declared and compared, messages
//! are refused, returned or stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::USER;
use super::core::Core;
use super::exchange::{Exchange, NoExchange, route};
use super::observer::{BrokerEvent, Fate};
use super::queue::Queue;
use crate::broker::topology::{self, Arguments, Mismatch, Topology};
use crate::broker::{BrokerError, PublishError, PublishRequest};
use crate::domain::message::{Message, Value};

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
        let PublishRequest { exchange, routing_key, mandatory, message, reply, .. } = request;
        if let Some(state) = self.sessions.get_mut(&session).filter(|state| state.cut_off) {
            state.lost_confirms.push(reply);
            return;
        }
        let unroutable = || PublishError::Unroutable(format!("exchange '{exchange}', key '{routing_key}'"));
        let copy = self.observer.is_anybody().then(|| message.clone());
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
        let wanted = copy.map_or(Fate::Usual, |message| {
            self.observer.of(&BrokerEvent::Published {
                connection: &self.connection(session),
                exchange: &exchange,
                routing_key: &routing_key,
                message: &message,
                fate: &fate,
            })
        });
        let loses = fate.is_ok() && self.confirms_to_lose > 0;
        if loses {
            self.confirms_to_lose -= 1;
        }
        if (loses || wanted != Fate::Usual)
            && let Some(state) = self.sessions.get_mut(&session)
        {
            state.lost_confirms.push(reply);
        } else {
            // A publisher that no longer waits has given the message's fate up as unknown.
            let _ = reply.send(fate);
        }
        if wanted == Fate::Cut {
            self.end_session(session, "connection cut");
        }
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
        for exchange in &topology.exchanges {
            self.declare_exchange(exchange)?;
        }
        for queue in &topology.queues {
            self.declare_queue(queue)?;
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
            exchange.bindings.insert((binding.routing_key.clone(), queue.clone()));
        }
        Ok(())
    }

    fn declare_exchange(&mut self, wanted: &topology::Exchange) -> Result<(), BrokerError> {
        match self.exchange_differs(wanted) {
            Some(Some(detail)) => Err(mismatch("exchange", &wanted.name, detail)),
            Some(None) => Ok(()),
            None => {
                let made = Exchange {
                    kind: wanted.kind,
                    arguments: wanted.arguments.clone(),
                    bindings: std::collections::BTreeSet::new(),
                };
                self.exchanges.insert(wanted.name.clone(), made);
                Ok(())
            }
        }
    }

    fn declare_queue(&mut self, wanted: &topology::Queue) -> Result<(), BrokerError> {
        match self.queue_differs(wanted) {
            Some(Some(detail)) => Err(mismatch("queue", &wanted.name, detail)),
            Some(None) => Ok(()),
            None => {
                let made = Queue::new(wanted.arguments.clone(), None);
                self.queues.insert(wanted.name.clone(), made);
                Ok(())
            }
        }
    }

    /// Every difference; changes nothing.
    pub(super) fn check(&self, topology: &Topology) -> Vec<Mismatch> {
        let mut found = Vec::new();
        let mut note = |kind, name: &str, differs: Option<Option<String>>| {
            let problem = match differs {
                None => "does not exist; declare the topology".to_owned(),
                Some(Some(detail)) => {
                    format!("{detail}; delete it once it is empty, and declare the topology")
                }
                Some(None) => return,
            };
            let name = name.to_owned();
            found.push(Mismatch { kind, name, problem });
        };
        for exchange in &topology.exchanges {
            note("exchange", &exchange.name, self.exchange_differs(exchange));
        }
        for queue in &topology.queues {
            note("queue", &queue.name, self.queue_differs(queue));
        }
        for binding in &topology.bindings {
            // A missing end has been told already.
            let ends = (self.exchanges.get(&binding.exchange), self.queues.get(&binding.queue));
            if let (Some(exchange), Some(_)) = ends {
                let bound = (binding.routing_key.clone(), binding.queue.clone());
                let name = format!("{} -> {} ({})", binding.exchange, binding.queue, binding.routing_key);
                note("binding", &name, exchange.bindings.contains(&bound).then_some(None));
            }
        }
        found
    }

    /// `None` where it does not exist, `Some(None)` where it is as wanted, else what differs.
    fn exchange_differs(&self, wanted: &topology::Exchange) -> Option<Option<String>> {
        let exchange = self.exchanges.get(&wanted.name)?;
        if exchange.kind != wanted.kind {
            let (received, current) = (wanted.kind.name(), exchange.kind.name());
            return Some(Some(format!(
                "inequivalent arg 'type': received '{received}' but current is '{current}'"
            )));
        }
        Some(arguments_differ(&wanted.arguments, &exchange.arguments))
    }

    fn queue_differs(&self, wanted: &topology::Queue) -> Option<Option<String>> {
        let queue = self.queues.get(&wanted.name)?;
        Some(arguments_differ(&wanted.arguments, &queue.arguments))
    }
}

fn arguments_differ(received: &Arguments, current: &Arguments) -> Option<String> {
    let name =
        received.keys().chain(current.keys()).find(|name| received.get(*name) != current.get(*name))?;
    let shown = |value: Option<&Value>| match value {
        None => "none".to_owned(),
        Some(Value::Text(text)) => format!("'{text}'"),
        Some(Value::Int(number)) => format!("'{number}'"),
        Some(Value::Bool(flag)) => format!("'{flag}'"),
        Some(other) => format!("'{other:?}'"),
    };
    let (received, current) = (shown(received.get(name)), shown(current.get(name)));
    Some(format!("inequivalent arg '{name}': received {received} but current is {current}"))
}

pub(super) fn missing(kind: &'static str, name: &str) -> BrokerError {
    let name = name.to_owned();
    BrokerError::Missing { kind, name }
}

fn mismatch(kind: &'static str, name: &str, detail: String) -> BrokerError {
    let name = name.to_owned();
    BrokerError::Mismatch { kind, name, detail }
}
