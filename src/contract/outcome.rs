//! What a consumer receives.

use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::{TIME, VERSION};
use crate::domain::call::TaskId;
use crate::domain::class::Class;
use crate::domain::job::{MAX_ID, MAX_TYPE};
use crate::domain::replay::{MAX_REPLAY_ID, MAX_REPLAYS};

/// As many characters as the longest id of the API has bytes, its quotes left out.
const MAX_TASK_ID: usize = TaskId::MAX_LEN - 2;
/// What an id of a replay is made of.
pub(super) const OF_REPLAY_ID: &str = "^[!-~]+$";

#[derive(JsonSchema)]
#[schemars(
    description = "How a job ended. Delivery is at least once: drop repeats by the AMQP property message_id, which is the job's id; where jobs \
        are replayed, by it and replay_id together. Readers ignore fields that they do not know.",
    example = solved_example(),
    example = failed_example()
)]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
pub(super) struct Outcome {
    #[schemars(extend("const" = VERSION), description = "Version of the contract. A changed or dropped field is another version.")]
    version: u32,
    #[schemars(length(min = 1, max = MAX_ID), description = "The job's.")]
    id: String,
    #[schemars(
        with = "String",
        skip_serializing_if = "Option::is_none",
        length(min = 1, max = MAX_TYPE),
        description = "The task's type; absent where the message named none."
    )]
    task_type: Option<String>,
    #[schemars(
        with = "ApiId",
        skip_serializing_if = "Option::is_none",
        description = "The task that was open at the end: the API's id of it, opaque."
    )]
    task_id: Option<ApiId>,
    #[schemars(
        with = "Value",
        skip_serializing_if = "Option::is_none",
        description = "As the job gave it; absent where it gave none."
    )]
    metadata: Option<Value>,
    #[schemars(description = "One entry a submission that was, or may have been, paid.")]
    attempts: Vec<Attempt>,
    times: Times,
    #[schemars(length(min = 1), description = "The replica that finished it.")]
    worker: String,
    #[schemars(
        with = "String",
        skip_serializing_if = "Option::is_none",
        length(min = 1, max = MAX_REPLAY_ID),
        regex(pattern = OF_REPLAY_ID),
        description = "Of a replayed job: which dead letter it was published again from; absent for a job that was never replayed."
    )]
    replay_id: Option<String>,
    #[schemars(
        with = "u32",
        skip_serializing_if = "Option::is_none",
        range(min = 1, max = MAX_REPLAYS),
        description = "Of a replayed job: the how manieth replay it is; absent for a job that was never replayed."
    )]
    replays: Option<u32>,
    #[schemars(flatten)]
    end: End,
}

#[derive(JsonSchema)]
#[schemars(tag = "status", rename_all = "lowercase")]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
enum End {
    #[schemars(description = "On the queue of results.", transform = is_solved)]
    Solved {
        #[schemars(description = "The API's JSON, byte for byte.")]
        solution: Value,
    },
    #[schemars(description = "On the dead-letter queue of its class.", transform = is_failed)]
    Failed {
        failure: Failure,
        #[schemars(
            with = "Value",
            skip_serializing_if = "Option::is_none",
            description = "The whole original job: publish it again to replay it."
        )]
        job: Option<Value>,
        #[schemars(with = "Original", skip_serializing_if = "Option::is_none")]
        original: Option<Original>,
    },
}

#[derive(JsonSchema)]
#[schemars(
    description = "The API's id of a task, as it came.",
    extend("type" = ["number", "string"], "minLength" = 1, "maxLength" = MAX_TASK_ID)
)]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct ApiId(Value);

#[derive(JsonSchema)]
#[schemars(description = "Why it failed.")]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct Failure {
    #[schemars(extend("enum" = finals()), description = "Decides what is done about it, and names the dead-letter queue.")]
    class: String,
    #[schemars(
        length(min = 1),
        description = "The API's code verbatim, HTTP_<status>, or one of the worker's own."
    )]
    code: String,
    #[schemars(description = "For people; it may change.")]
    description: String,
    #[schemars(description = "Where on its way: before any call, at createTask, or at getTaskResult.")]
    stage: Stage,
}

#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase", inline)]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
enum Stage {
    Admission,
    Submit,
    Poll,
}

#[derive(JsonSchema)]
#[schemars(description = "What is no job, kept as it was.")]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct Original {
    #[schemars(extend("enum" = ["utf-8", "base64"]), description = "base64 for what is not UTF-8 or holds control characters.")]
    encoding: String,
    #[schemars(description = "The message's bytes, so written.")]
    body: String,
}

#[derive(JsonSchema)]
#[schemars(description = "A submission that was, or may have been, paid.")]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct Attempt {
    #[schemars(regex(pattern = TIME), extend("format" = "date-time"), description = "When createTask was answered, or given up.")]
    submitted_at: String,
    #[schemars(
        with = "ApiId",
        skip_serializing_if = "Option::is_none",
        description = "Absent where no answer told it."
    )]
    task_id: Option<ApiId>,
    #[schemars(description = "Polls by its last owner.")]
    polls: u32,
    #[schemars(extend("enum" = ends()), description = "ready: solved; ambiguous: sent, and no answer; else the class that it failed in.")]
    ended: String,
}

#[derive(JsonSchema)]
#[schemars(description = "RFC 3339 in UTC, and milliseconds.")]
#[expect(dead_code, reason = "it has a schema, and nothing is read into it: see this room's head")]
struct Times {
    #[schemars(regex(pattern = TIME), extend("format" = "date-time"), description = "When a worker first saw the job.")]
    received_at: String,
    #[schemars(
        with = "String",
        skip_serializing_if = "Option::is_none",
        regex(pattern = TIME),
        extend("format" = "date-time"),
        description = "Where it was solved."
    )]
    solved_at: Option<String>,
    #[schemars(regex(pattern = TIME), extend("format" = "date-time"), description = "When it ended.")]
    finished_at: String,
    #[schemars(
        with = "u64",
        skip_serializing_if = "Option::is_none",
        description = "Until the API accepted the last task; absent where none was open at the end."
    )]
    queued_ms: Option<u64>,
    #[schemars(
        with = "u64",
        skip_serializing_if = "Option::is_none",
        description = "From there to the solution."
    )]
    solving_ms: Option<u64>,
}

fn finals() -> Value {
    Class::finals().map(Class::name).collect()
}

fn ends() -> Value {
    ["ready", "ambiguous"].into_iter().chain(Class::ALL.into_iter().map(Class::name)).collect()
}

/// Adds to an object's schema what a type cannot say.
fn demand(schema: &mut Schema, required: &[&str], properties: &[(&str, Value)]) {
    let object = schema.ensure_object();
    if let Some(Value::Array(names)) = object.get_mut("required") {
        names.extend(required.iter().map(|name| json!(name)));
    }
    if let Some(Value::Object(known)) = object.get_mut("properties") {
        known.extend(properties.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())));
    }
}

fn is_solved(schema: &mut Schema) {
    let never = ["failure", "job", "original"].map(|name| (name, json!(false)));
    demand(schema, &["task_type", "task_id"], &never);
    demand(
        schema,
        &[],
        &[("times", json!({"type": "object", "required": ["solved_at", "queued_ms", "solving_ms"]}))],
    );
}

fn is_failed(schema: &mut Schema) {
    demand(schema, &[], &[("solution", json!(false))]);
    // Either can be published again.
    schema.insert("anyOf".to_owned(), json!([{"required": ["job"]}, {"required": ["original"]}]));
}

pub(super) fn solved_example() -> Value {
    json!({
        "version": VERSION, "id": "order-17", "status": "solved", "task_type": "ImageToTextTask", "task_id": 7_654_321,
        "solution": {"text": "answer"}, "metadata": {"any": "json"},
        "attempts": [{"submitted_at": "2026-11-23T09:59:58.003Z", "task_id": 7_654_321, "polls": 2, "ended": "ready"}],
        "times": {
            "received_at": "2026-11-23T09:59:58.000Z", "solved_at": "2026-11-23T10:00:00.103Z",
            "finished_at": "2026-11-23T10:00:00.103Z", "queued_ms": 3, "solving_ms": 2_100
        },
        "worker": "host-1/4711"
    })
}

pub(super) fn failed_example() -> Value {
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
