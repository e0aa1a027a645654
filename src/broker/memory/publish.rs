//! Publishing: what is refused, returned or stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::USER;
use super::core::Core;
use super::dead_letter::Reason;
use super::exchange::{NoExchange, route};
use super::observer::{Event, Fate};
use super::queue::Routed;
use crate::broker::{PublishError, PublishRequest};
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
        let copy = self.told.is_anybody().then(|| message.clone());
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
            self.told.of(&Event::Published {
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
            if let Some(pushed_out) = queue.push(routed.clone(), now) {
                let more = self.bury(name, pushed_out, Reason::MaxLength);
                self.run(more);
            }
        }
    }
}

/// RabbitMQ closes the channel over a user name that is not the publisher's, and over an expiration that is no number.
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

/// The routing key with those of the sender's `CC` header, and those of its `BCC` header, which goes no further.
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
