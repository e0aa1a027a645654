//! AsyncAPI 3: who meets whom where on the broker, and with which message.
//!
//! The application that it describes is the worker: it receives jobs and sends outcomes. Whoever
//! publishes jobs or consumes outcomes reads each operation the other way round.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::{VERSION, job, settings};
use crate::broker::topology::{Exchange, Names, Topology};
use crate::domain::class::Class;
use crate::domain::history::OWNED_PREFIX;
use crate::domain::lane::{LANE_HEADER, LANE_PATTERN};
use crate::domain::outcome;
use crate::domain::outcome::KIND;
use crate::domain::replay::{MAX_REPLAY_ID, MAX_REPLAYS, REPLAY_ID, REPLAYS};
use crate::domain::trace::{MAX_TRACE, TRACEPARENT, TRACESTATE};

const DESCRIPTION: &str = "Jobs for a slow, paid, poll-based recognition API, and their outcomes. The application described here is the \
    worker: it receives jobs and sends outcomes, so that publishers of jobs and consumers of outcomes read each operation the other way \
    round. Delivery is at least once: drop repeated outcomes by message_id, and where jobs are replayed by it and the header \
    captcha-replay-id together. AsyncAPI has no words for AMQP's own properties: where an expression says $message.header, the \
    property of that name is meant, and not a header.";

/// The AsyncAPI document of a namespace.
#[must_use]
pub fn asyncapi(names: &Names) -> Value {
    let channels = all_channels(names, &Topology::new(names));
    json!({
        "asyncapi": "3.0.0",
        "id": format!("urn:captcha-worker:{}", names.namespace()),
        "info": {
            "title": "captcha-worker",
            "version": format!("{VERSION}.0.0"),
            "description": DESCRIPTION,
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": server()},
        "channels": channels.iter().map(Channel::entry).collect::<Map<_, _>>(),
        "operations": operations(),
        "components": {
            "schemas": schemas(),
            "messages": all_messages(),
            "correlationIds": {"publishers": {
                "location": "$message.header#/correlation_id",
                "description": "The AMQP property correlation_id: echoed in the outcome as the job had it.",
            }},
            "securitySchemes": {
                "login": {"type": "userPassword", "description": "A user of the broker; deploy/rabbitmq makes some with the least rights."},
                "certificate": {"type": "X509", "description": "With amqps and auth_mechanism=external."},
            },
        },
    })
}

fn server() -> Value {
    json!({
        "host": "{host}:{port}",
        "pathname": "/{vhost}",
        "protocol": "amqp",
        "protocolVersion": "0-9-1",
        "description": "RabbitMQ, where the worker and its publishers and consumers meet. By amqps too.",
        "variables": {
            "host": {"default": "127.0.0.1"},
            "port": {"default": "5672"},
            "vhost": {"default": "%2f", "description": "The virtual host, percent-encoded."},
        },
        "security": [
            {"$ref": "#/components/securitySchemes/login"},
            {"$ref": "#/components/securitySchemes/certificate"},
        ],
    })
}

fn operations() -> Value {
    let mut all = Map::new();
    all.insert("receiveJob".to_owned(), receive_job());
    all.insert("sendSolved".to_owned(), send(&ChannelKind::Results, "solved", "A solved job's outcome."));
    for class in Class::finals() {
        let summary = format!("The outcome of a job that failed in class {class}.");
        all.insert(format!("sendFailed.{class}"), send(&ChannelKind::Dead(class), "failed", &summary));
    }
    all.into()
}

fn receive_job() -> Value {
    let jobs = ChannelKind::Jobs.key();
    let reply = ChannelKind::Reply.key();
    json!({
        "action": "receive",
        "channel": {"$ref": format!("#/channels/{jobs}")},
        "summary": "Take a job.",
        "description": "Publish it persistent, mandatory and with publisher confirms: before the confirm the job is still yours.",
        "messages": [{"$ref": format!("#/channels/{jobs}/messages/job")}],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": true, "ack": true, "bindingVersion": "0.3.0"}},
        "reply": {
            "address": {
                "location": "$message.header#/reply_to",
                "description": "The AMQP property reply_to: amq.rabbitmq.reply-to, or a queue whose name begins with the operator's \
                    broker.reply_to_prefix.",
            },
            "channel": {"$ref": format!("#/channels/{reply}")},
            "messages": [
                {"$ref": format!("#/channels/{reply}/messages/solved")},
                {"$ref": format!("#/channels/{reply}/messages/failed")},
            ],
        },
    })
}

fn send(channel: &ChannelKind, message: &str, summary: &str) -> Value {
    let key = channel.key();
    json!({
        "action": "send",
        "channel": {"$ref": format!("#/channels/{key}")},
        "summary": summary,
        "messages": [{"$ref": format!("#/channels/{key}/messages/{message}")}],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": true, "timestamp": true, "ack": true, "bindingVersion": "0.3.0"}},
    })
}

/// Extension that names what is bound to what: AsyncAPI's own binding holds either an exchange or a
/// queue.
const BOUND: &str = "x-bound-to";

/// What is met.
#[derive(Debug, Clone, Copy)]
pub(super) enum ChannelKind {
    Jobs,
    Outcomes,
    Results,
    Dead(Class),
    DeadRaw,
    Unrouted,
    Reply,
}

impl ChannelKind {
    /// The channel's name in the document.
    pub(super) fn key(self) -> String {
        match self {
            ChannelKind::Jobs => "jobs".to_owned(),
            ChannelKind::Outcomes => "outcomes".to_owned(),
            ChannelKind::Results => "results".to_owned(),
            ChannelKind::Dead(class) => format!("dead.{class}"),
            ChannelKind::DeadRaw => "dead.raw".to_owned(),
            ChannelKind::Unrouted => "unrouted".to_owned(),
            ChannelKind::Reply => "reply".to_owned(),
        }
    }

    fn messages(self) -> &'static [&'static str] {
        match self {
            ChannelKind::Jobs => &["job"],
            ChannelKind::Results => &["solved"],
            ChannelKind::Dead(_) => &["failed"],
            ChannelKind::DeadRaw => &["raw"],
            ChannelKind::Outcomes | ChannelKind::Unrouted | ChannelKind::Reply => &["solved", "failed"],
        }
    }

    fn description(self) -> String {
        match self {
            ChannelKind::Jobs => "Where jobs are published. An empty routing key and 'jobs' reach the same queue, and so does the default exchange \
                with the queue's name."
                .to_owned(),
            ChannelKind::Outcomes => "All outcomes, by routing key: solved.<task type> or dead.<class>.<code>, in which every character but ASCII \
                letters, digits, '_' and '-' is replaced by '_'. Bind queues of your own for a part of them; results and dead \
                letters have theirs."
                .to_owned(),
            ChannelKind::Results => "Outcomes of solved jobs.".to_owned(),
            ChannelKind::Dead(class) => format!("Outcomes of jobs that failed in class {class}."),
            ChannelKind::DeadRaw => "What the broker itself dead-lettered, as it was, with its x-death header: expired by its publisher, too large, \
                or delivered too often. No worker sends it."
                .to_owned(),
            ChannelKind::Unrouted => "Outcomes that no queue was bound for.".to_owned(),
            ChannelKind::Reply => "A copy of the outcome, where the job asked for one: transient, sent once the durable one is confirmed. The \
                durable one is the one to rely on."
                .to_owned(),
        }
    }
}

/// A channel and what it is on the broker.
pub(super) struct Channel {
    kind: ChannelKind,
    place: ChannelPlace,
}

enum ChannelPlace {
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
fn all_channels(names: &Names, topology: &Topology) -> Vec<Channel> {
    let exchange = |kind, name: String, address: &str| {
        let exchange = topology.exchanges.iter().find(|exchange| exchange.name == name)?.clone();
        Some(Channel { kind, place: ChannelPlace::Exchange { exchange, address: address.to_owned() } })
    };
    let queue = |kind, name: String| {
        let bindings = topology.bindings.iter().filter(|binding| binding.queue == name);
        let bound =
            bindings.map(|it| json!({"exchange": it.exchange, "routingKey": it.routing_key})).collect();
        Channel { kind, place: ChannelPlace::Queue { name, bound } }
    };
    let mut all: Vec<Channel> = [
        exchange(ChannelKind::Jobs, names.jobs(), &names.jobs()),
        exchange(ChannelKind::Outcomes, names.outcomes(), "{routingKey}"),
    ]
    .into_iter()
    .flatten()
    .collect();
    all.push(queue(ChannelKind::Results, names.results()));
    all.extend(Class::finals().map(|class| queue(ChannelKind::Dead(class), names.dead(class))));
    all.push(queue(ChannelKind::DeadRaw, names.dead_raw()));
    all.push(queue(ChannelKind::Unrouted, names.unrouted()));
    all.push(Channel { kind: ChannelKind::Reply, place: ChannelPlace::Told });
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
            ChannelPlace::Exchange { exchange, address } => {
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
            ChannelPlace::Queue { name, bound } => {
                channel["bindings"] = json!({"amqp": {
                    "is": "queue",
                    "queue": {"name": name, "durable": true, "exclusive": false, "autoDelete": false},
                    "bindingVersion": "0.3.0",
                }});
                channel[BOUND] = json!(bound);
            }
            ChannelPlace::Told => {}
        }
        (self.kind.key(), channel)
    }

    fn address(&self) -> Value {
        match &self.place {
            ChannelPlace::Exchange { address, .. } => json!(address),
            ChannelPlace::Queue { name, .. } => json!(name),
            ChannelPlace::Told => Value::Null,
        }
    }
}

/// The types, by what AsyncAPI's own schemas are made after: draft 7, with every name under
/// `components`.
pub(super) fn schemas() -> Value {
    let draft = settings(SchemaSettings::draft07()).with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = draft.into_generator();
    generator.subschema_for::<job::Job>();
    generator.subschema_for::<outcome::OutcomeBody>();
    generator.take_definitions(true).into()
}

/// The messages.
fn all_messages() -> Value {
    json!({
        "job": {
            "title": "Job",
            "summary": "Something to be recognised.",
            "description": "Persistent. The AMQP properties message_id (the id of a job that names none), correlation_id (echoed), \
                reply_to and expiration matter too.",
            "contentType": "application/json",
            "payload": {"$ref": "#/components/schemas/Job"},
            "headers": job_headers(),
            "correlationId": {"$ref": "#/components/correlationIds/publishers"},
            "bindings": {"amqp": {"contentEncoding": "utf-8", "bindingVersion": "0.3.0"}},
            "examples": [{"name": "image", "payload": job::example()}],
        },
        "solved": ended("Solved", "The outcome of a solved job.", "solved", &outcome::solved_example()),
        "failed": ended("Failed", "The outcome of a job that failed.", "failed", &outcome::failed_example()),
        "raw": {
            "title": "Raw",
            "summary": "A message that the broker dead-lettered: whatever its publisher sent.",
            "contentType": "application/octet-stream",
            "headers": {"type": "object", "properties": {
                "x-death": {"type": "array", "description": "The broker's record of where the message died, and why."},
            }},
        },
    })
}

fn ended(title: &str, summary: &str, status: &str, example: &Value) -> Value {
    json!({
        "title": title,
        "summary": summary,
        "description": "The AMQP property message_id is the job's id: repeats are dropped by it, and where jobs are replayed by it and the header \
            captcha-replay-id together, since a replayed job keeps its id.",
        "contentType": "application/json",
        "payload": {"allOf": [
            {"$ref": "#/components/schemas/Outcome"},
            {"type": "object", "properties": {"status": {"const": status}}},
        ]},
        "headers": {"type": "object", "properties": with_lane(with_replays(trace("The job's own, or that of the span that sends the outcome.")))},
        "correlationId": {"$ref": "#/components/correlationIds/publishers"},
        "bindings": {"amqp": {"contentEncoding": "utf-8", "messageType": KIND, "bindingVersion": "0.3.0"}},
        "examples": [{"name": status, "payload": example}],
    })
}

fn job_headers() -> Value {
    let own = format!("^{OWNED_PREFIX}");
    json!({
        "type": "object",
        "properties": with_replays(trace("The span that publishes the job.")),
        "patternProperties": {own: false},
        "description": format!("Headers that begin with {OWNED_PREFIX} are the worker's: a job that carries one is refused."),
    })
}

fn trace(of_what: &str) -> Value {
    json!({
        TRACEPARENT: {"type": "string", "maxLength": MAX_TRACE, "description": format!("W3C Trace Context. {of_what}")},
        TRACESTATE: {"type": "string", "maxLength": MAX_TRACE, "description": "W3C Trace Context; passed on as it came."},
    })
}

/// Present where the job's lane is not the default one.
fn with_lane(mut headers: Value) -> Value {
    headers[LANE_HEADER] =
        json!({"type": "string", "pattern": LANE_PATTERN, "description": "The job's lane."});
    headers
}

/// Present where the job was replayed.
fn with_replays(mut headers: Value) -> Value {
    headers[REPLAY_ID] = json!({
        "type": "string", "minLength": 1, "maxLength": MAX_REPLAY_ID, "pattern": outcome::REPLAY_ID_PATTERN,
        "description": "Which dead letter the job was published again from.",
    });
    headers[REPLAYS] = json!({
        "type": "integer", "minimum": 1, "maximum": MAX_REPLAYS,
        "description": "Replay count, from 1.",
    });
    headers
}
