//! AsyncAPI 3: who meets whom where on the broker, and with which message.
//!
//! The application that it describes is the worker: it receives jobs and sends outcomes. Whoever publishes jobs or consumes outcomes reads
//! each operation the other way round.

mod channels;
mod messages;

use serde_json::{Map, Value, json};

use super::VERSION;
use crate::broker::topology::{Names, Topology};
use crate::domain::class::Class;
use channels::{Channel, Kind};

const DESCRIPTION: &str = "Jobs for a slow, paid, poll-based recognition API, and their outcomes. The application described here is the \
    worker: it receives jobs and sends outcomes, so that publishers of jobs and consumers of outcomes read each operation the other way \
    round. Delivery is at least once: drop repeated outcomes by message_id, and where jobs are replayed by it and the header \
    captcha-replay-id together. AsyncAPI has no words for AMQP's own properties: where an expression says $message.header, the \
    property of that name is meant, and not a header.";

/// The AsyncAPI document of a namespace.
#[must_use]
pub fn asyncapi(names: &Names) -> Value {
    let channels = channels::all(names, &Topology::new(names));
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
            "schemas": messages::schemas(),
            "messages": messages::all(),
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
    all.insert("sendSolved".to_owned(), send(&Kind::Results, "solved", "A solved job's outcome."));
    for class in Class::finals() {
        let summary = format!("The outcome of a job that failed in class {class}.");
        all.insert(format!("sendFailed.{class}"), send(&Kind::Dead(class), "failed", &summary));
    }
    all.into()
}

fn receive_job() -> Value {
    let jobs = Kind::Jobs.key();
    let reply = Kind::Reply.key();
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

fn send(channel: &Kind, message: &str, summary: &str) -> Value {
    let key = channel.key();
    json!({
        "action": "send",
        "channel": {"$ref": format!("#/channels/{key}")},
        "summary": summary,
        "messages": [{"$ref": format!("#/channels/{key}/messages/{message}")}],
        "bindings": {"amqp": {"deliveryMode": 2, "mandatory": true, "timestamp": true, "ack": true, "bindingVersion": "0.3.0"}},
    })
}
