//! What a derived schema of an outcome cannot say by itself.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::VERSION;
use crate::call::TaskId;
use crate::class::Class;
use crate::fault::Stage;
use crate::history::Ended;
use crate::time::Timestamp;

/// What all times look like, for validators that take `format` for a remark.
pub const TIME_PATTERN: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$";
/// As many characters as the longest id of the API has bytes, its quotes left out.
const MAX_TASK_ID: usize = TaskId::MAX_LEN - 2;

/// Gives a type a schema by hand; one without a name of its own stands where it is used.
macro_rules! described {
    ($type:ty, $name:literal, $inline:literal, $($schema:tt)+) => {
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn inline_schema() -> bool {
                $inline
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)+)
            }
        }
    };
}

described!(Timestamp, "Timestamp", true, {"type": "string", "format": "date-time", "pattern": TIME_PATTERN});
described!(Stage, "Stage", true, {"type": "string", "enum": [Stage::Admission, Stage::Submit, Stage::Poll]});
described!(Ended, "Ended", true, {"type": "string", "enum": ends()});
/// An amount of money, as it stands in JSON.
pub(crate) struct Amount;

described!(Amount, "Amount", true, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"});
described!(TaskId, "ApiId", false, {
    "description": "The API's id of a task, as it came.",
    "type": ["number", "string"], "minLength": 1, "maxLength": MAX_TASK_ID,
});

fn ends() -> Value {
    ["ready", "ambiguous"].into_iter().chain(Class::ALL.into_iter().map(Class::name)).collect()
}

pub(super) fn final_classes() -> Value {
    Class::finals().map(Class::name).collect()
}

/// A solved outcome always has what a failed one never has, and the other way round.
pub(super) fn by_status(schema: &mut Schema) {
    let object = schema.ensure_object();
    if let Some(Value::Array(required)) = object.get_mut("required") {
        required.retain(|name| name != "status");
    }
    let Some(Value::Object(fields)) = object.get_mut("properties") else { return };
    let [_, solution, failure, job, original] = ["status", "solution", "failure", "job", "original"]
        .map(|name| fields.remove(name).unwrap_or_default());
    let alternatives = json!([
        {
            "type": "object",
            "description": "On the queue of results.",
            "properties": {
                "status": {"type": "string", "const": "solved"},
                "solution": solution,
                "times": {"type": "object", "required": ["solved_at", "queued_ms", "solving_ms"]},
                "failure": false, "job": false, "original": false,
            },
            "required": ["status", "solution", "task_type", "task_id"],
        },
        {
            "type": "object",
            "description": "On the dead-letter queue of its class.",
            "properties": {
                "status": {"type": "string", "const": "failed"},
                "failure": failure, "job": job, "original": original,
                "solution": false,
            },
            "required": ["status", "failure"],
            // Either can be published again.
            "anyOf": [{"required": ["job"]}, {"required": ["original"]}],
        },
    ]);
    object.insert("oneOf".to_owned(), alternatives);
}

/// An outcome of a solved job.
#[must_use]
pub fn solved_example() -> Value {
    json!({
        "version": VERSION, "id": "order-17", "status": "solved", "task_type": "ImageToTextTask", "task_id": 7_654_321,
        "solution": {"text": "answer"}, "metadata": {"any": "json"},
        "attempts": [{"submitted_at": "2026-11-23T09:59:58.003Z", "task_id": 7_654_321, "polls": 2, "ended": "ready", "cost": "0.0003"}],
        "cost": "0.0003",
        "times": {
            "received_at": "2026-11-23T09:59:58.000Z", "solved_at": "2026-11-23T10:00:00.103Z",
            "finished_at": "2026-11-23T10:00:00.103Z", "queued_ms": 3, "solving_ms": 2_100
        },
        "worker": "host-1/4711"
    })
}

/// An outcome of a job that failed.
#[must_use]
pub fn failed_example() -> Value {
    json!({
        "version": VERSION, "id": "order-18", "status": "failed", "task_type": "TurnstileTask",
        "failure": {
            "class": "forbidden", "code": "POLICY_SITE_NOT_ALLOWED", "stage": "admission",
            "description": "policy.allowed_domains does not list 'example.com'"
        },
        "job": {"id": "order-18", "task": {"type": "TurnstileTask", "websiteURL": "https://example.com/"}},
        "attempts": [],
        "times": {"received_at": "2026-11-23T09:59:58.000Z", "finished_at": "2026-11-23T09:59:58.000Z"},
        "worker": "host-1/4711"
    })
}
