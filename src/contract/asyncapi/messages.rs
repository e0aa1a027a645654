//! What travels, with its headers.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::super::{job, outcome, settings};
use crate::domain::history::OWNED_PREFIX;
use crate::domain::outcome::KIND;
use crate::domain::replay::{MAX_REPLAY_ID, MAX_REPLAYS, REPLAY_ID, REPLAYS};
use crate::domain::trace::{MAX_TRACE, TRACEPARENT, TRACESTATE};

/// The types, by what AsyncAPI's own schemas are made after: draft 7, with every name under `components`.
pub(super) fn schemas() -> Value {
    let draft = settings(SchemaSettings::draft07()).with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = draft.into_generator();
    generator.subschema_for::<job::Job>();
    generator.subschema_for::<outcome::Outcome>();
    generator.take_definitions(true).into()
}

/// The messages.
pub(super) fn all() -> Value {
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
        "headers": {"type": "object", "properties": with_replays(trace("The job's own, or that of the attempt that ended it."))},
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

/// Present where the job was replayed.
fn with_replays(mut headers: Value) -> Value {
    headers[REPLAY_ID] = json!({
        "type": "string", "minLength": 1, "maxLength": MAX_REPLAY_ID, "pattern": outcome::OF_REPLAY_ID,
        "description": "Which dead letter the job was published again from.",
    });
    headers[REPLAYS] = json!({
        "type": "integer", "minimum": 1, "maximum": MAX_REPLAYS,
        "description": "The how manieth replay of the job it is.",
    });
    headers
}
