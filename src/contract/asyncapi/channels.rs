//! Exchanges and queues that others than workers meet.

use serde_json::{Map, Value, json};

use crate::broker::topology::{Exchange, Names, Topology};
use crate::domain::class::Class;

/// Extension that names what is bound to what: AsyncAPI's own binding holds either an exchange or a queue.
const BOUND: &str = "x-bound-to";

/// What is met.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Jobs,
    Outcomes,
    Results,
    Dead(Class),
    DeadRaw,
    Unrouted,
    Reply,
}

impl Kind {
    /// The channel's name in the document.
    pub(super) fn key(self) -> String {
        match self {
            Kind::Jobs => "jobs".to_owned(),
            Kind::Outcomes => "outcomes".to_owned(),
            Kind::Results => "results".to_owned(),
            Kind::Dead(class) => format!("dead.{class}"),
            Kind::DeadRaw => "dead.raw".to_owned(),
            Kind::Unrouted => "unrouted".to_owned(),
            Kind::Reply => "reply".to_owned(),
        }
    }

    fn messages(self) -> &'static [&'static str] {
        match self {
            Kind::Jobs => &["job"],
            Kind::Results => &["solved"],
            Kind::Dead(_) => &["failed"],
            Kind::DeadRaw => &["raw"],
            Kind::Outcomes | Kind::Unrouted | Kind::Reply => &["solved", "failed"],
        }
    }

    fn description(self) -> String {
        match self {
            Kind::Jobs => "Where jobs are published. An empty routing key and 'jobs' reach the same queue, and so does the default exchange \
                with the queue's name."
                .to_owned(),
            Kind::Outcomes => "All outcomes, by routing key: solved.<task type> or dead.<class>.<code>, in which every character but ASCII \
                letters, digits, '_' and '-' is replaced by '_'. Bind queues of your own for a part of them; results and dead \
                letters have theirs."
                .to_owned(),
            Kind::Results => "Outcomes of solved jobs.".to_owned(),
            Kind::Dead(class) => format!("Outcomes of jobs that failed in class {class}."),
            Kind::DeadRaw => "What the broker itself dead-lettered, as it was, with its x-death header: expired by its publisher, too large, \
                or delivered too often. No worker sends it."
                .to_owned(),
            Kind::Unrouted => "Outcomes that no queue was bound for.".to_owned(),
            Kind::Reply => "A copy of the outcome, where the job asked for one: transient, sent once the durable one is confirmed. The \
                durable one is the one to rely on."
                .to_owned(),
        }
    }
}

/// A channel and what it is on the broker.
pub(super) struct Channel {
    kind: Kind,
    place: Place,
}

enum Place {
    Exchange {
        exchange: Exchange,
        address: String,
    },
    Queue {
        name: String,
        bound: Vec<Value>,
    },
    /// Known from a message only.
    Told,
}

/// Every channel.
pub(super) fn all(names: &Names, topology: &Topology) -> Vec<Channel> {
    let exchange = |kind, name: String, address: &str| {
        let exchange = topology.exchanges.iter().find(|exchange| exchange.name == name)?.clone();
        Some(Channel { kind, place: Place::Exchange { exchange, address: address.to_owned() } })
    };
    let queue = |kind, name: String| {
        let bindings = topology.bindings.iter().filter(|binding| binding.queue == name);
        let bound =
            bindings.map(|it| json!({"exchange": it.exchange, "routingKey": it.routing_key})).collect();
        Channel { kind, place: Place::Queue { name, bound } }
    };
    let mut all: Vec<Channel> = [
        exchange(Kind::Jobs, names.jobs(), &names.jobs()),
        exchange(Kind::Outcomes, names.outcomes(), "{routingKey}"),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.push(queue(Kind::Results, names.results()));
    all.extend(Class::finals().map(|class| queue(Kind::Dead(class), names.dead(class))));
    all.push(queue(Kind::DeadRaw, names.dead_raw()));
    all.push(queue(Kind::Unrouted, names.unrouted()));
    all.push(Channel { kind: Kind::Reply, place: Place::Told });
    all
}

impl Channel {
    /// Its name and description in the document.
    pub(super) fn entry(&self) -> (String, Value) {
        let reference =
            |name: &&str| ((*name).to_owned(), json!({"$ref": format!("#/components/messages/{name}")}));
        let mut channel = json!({
            "address": self.address(),
            "description": self.kind.description(),
            "messages": self.kind.messages().iter().map(reference).collect::<Map<_, _>>(),
            "servers": [{"$ref": "#/servers/broker"}],
        });
        match &self.place {
            Place::Exchange { exchange, address } => {
                channel["bindings"] = json!({"amqp": {
                    "is": "routingKey",
                    "exchange": {"name": exchange.name, "type": exchange.kind.name(), "durable": true, "autoDelete": false},
                    "bindingVersion": "0.3.0",
                }});
                if address.contains('{') {
                    let what = "solved.<task type>, or dead.<class>.<code>";
                    channel["parameters"] = json!({"routingKey": {"description": what}});
                }
            }
            Place::Queue { name, bound } => {
                channel["bindings"] = json!({"amqp": {
                    "is": "queue",
                    "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false},
                    "bindingVersion": "0.3.0",
                }});
                channel[BOUND] = json!(bound);
            }
            Place::Told => {}
        }
        (self.kind.key(), channel)
    }

    fn address(&self) -> Value {
        match &self.place {
            Place::Exchange { address, .. } => json!(address),
            Place::Queue { name, .. } => json!(name),
            Place::Told => Value::Null,
        }
    }
}
