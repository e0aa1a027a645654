//! The end of a job, as it is published: contract version 1.

mod schema;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::call::TaskId;
use crate::class::Class;
use crate::fault::{Fault, Stage};
use crate::history::{Attempt, Ended, History};
use crate::job::{Job, MAX_ID, MAX_TYPE, RejectedMessage, without_mark};
use crate::lane::{LANE_HEADER, LANE_PATTERN, Lane};
use crate::message::{Headers, Message, Properties};
use crate::money::{Acceptance, Cost, Decimal};
use crate::replay::{MAX_REPLAY_ID, MAX_REPLAYS, Replayed};
use crate::time::Timestamp;
use crate::trace::{MAX_TRACE, TRACEPARENT, TRACESTATE};

pub(crate) use schema::Amount;
pub use schema::{TIME_PATTERN, failed_example, solved_example};

/// Version of the contract, as outcomes carry it.
pub const VERSION: u32 = 1;
/// What an id of a replay is made of.
pub const REPLAY_ID_PATTERN: &str = "^[!-~]+$";
/// AMQP's `type` of an outcome.
pub const KIND: &str = "captcha.outcome.v1";
/// Headers that are echoed, so that one trace spans publisher, worker and consumer.
const ECHOED: [&str; 2] = [TRACEPARENT, TRACESTATE];
/// Longest part of a routing key that is taken from the outside.
const MAX_KEY_PART: usize = 100;

/// An outcome ready to be published on the topic exchange of outcomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// `solved.<type>` or `dead.<class>.<code>`.
    pub routing_key: String,
    /// Body and properties.
    pub message: Message,
    /// Why it failed, in a sentence, as far as this is known beside the message.
    pub reason: Option<String>,
}

impl Outcome {
    /// The class it failed in; `None` where it was solved.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        failure_of(&self.routing_key).map(|(class, _)| class)
    }
}

/// In which class, and by which code, an outcome with this routing key failed; `None` where it was
/// solved.
#[must_use]
pub fn failure_of(routing_key: &str) -> Option<(Class, &str)> {
    let (class, code) = routing_key.strip_prefix("dead.")?.split_once('.')?;
    Some((class.parse().ok()?, code))
}

/// Who finishes a job, and when.
#[derive(Debug, Clone, Copy)]
pub struct Finish<'a> {
    /// The replica's name.
    pub worker: &'a str,
    /// The moment.
    pub now: Timestamp,
}

/// The task that a job's last submission made.
#[derive(Debug, Clone, Copy)]
pub struct Task<'a> {
    /// The API's id.
    pub id: &'a TaskId,
    /// When the API accepted it.
    pub accepted_at: Timestamp,
    /// Polls. Those of owners that died are assumed, at the most.
    pub polls: u32,
    /// What it cost, as far as that is known.
    pub cost: Option<Cost>,
    /// By what the books know its acceptance, which its tickets name.
    pub acceptance: Option<&'a Acceptance>,
}

/// How a job ended. Delivery is at least once: drop repeats by the AMQP property message_id, which
/// is the job's id; where jobs are replayed, by it and replay_id together. Readers ignore fields
/// that they do not know.
#[expect(clippy::doc_markdown, reason = "doc comments here are descriptions in the schema: plain text")]
// The one type of an outcome: it is written, described for readers (their doc comments are the
// schema's descriptions), and read again as a dead letter. Whatever a replay does not need is not
// read, so that a letter of another version can be replayed too.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Outcome", transform = schema::by_status)]
#[schemars(example = schema::solved_example(), example = schema::failed_example())]
pub struct OutcomeBody<'a> {
    /// Version of the contract. A changed or dropped field is another version.
    #[serde(skip_deserializing)]
    #[schemars(extend("const" = VERSION))]
    version: u32,
    /// The job's.
    #[serde(borrow)]
    #[schemars(length(min = 1, max = MAX_ID))]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    /// The job's lane: the queue of jobs that it came by; absent for the default lane.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = LANE_PATTERN))]
    pub(crate) lane: Option<Cow<'a, str>>,
    /// The task's type; absent where the message named none.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = MAX_TYPE))]
    pub(crate) task_type: Option<Cow<'a, str>>,
    /// The task that was open at the end: the API's id of it, opaque.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TaskId")]
    task_id: Option<&'a TaskId>,
    /// The API's JSON, byte for byte.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value")]
    solution: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "FailureBody")]
    pub(crate) failure: Option<FailureBody<'a>>,
    /// As the job gave it; absent where it gave none.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value")]
    metadata: Option<&'a RawValue>,
    /// The whole original job: publish it again to replay it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Value")]
    pub(crate) job: Option<&'a RawValue>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "RejectedBody")]
    pub(crate) original: Option<RejectedBody<'a>>,
    /// One entry a submission that was, or may have been, paid.
    #[serde(skip_deserializing)]
    attempts: Cow<'a, [Attempt]>,
    /// What all attempts cost together, in the account's currency; absent where the cost of one is
    /// not known, or there is none.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "schema::Amount")]
    cost: Option<Decimal>,
    /// The cost of one attempt at least is estimated.
    #[serde(skip_deserializing, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("const" = true))]
    estimated: bool,
    pub(crate) times: JobTimes,
    /// The replica that finished it.
    #[serde(skip_deserializing)]
    #[schemars(length(min = 1))]
    worker: &'a str,
    /// Of a replayed job: which dead letter it was published again from; absent for a job that was
    /// never replayed.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", length(min = 1, max = MAX_REPLAY_ID), regex(pattern = REPLAY_ID_PATTERN))]
    pub(crate) replay_id: Option<Cow<'a, str>>,
    /// Of a replayed job: replay count, from 1; absent for a job that was never replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u32", range(min = 1, max = MAX_REPLAYS))]
    pub(crate) replays: Option<u32>,
}

/// Why it failed.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Failure")]
pub(crate) struct FailureBody<'a> {
    /// Decides what is done about it, and names the dead-letter queue.
    #[serde(borrow)]
    #[schemars(extend("enum" = schema::final_classes()))]
    pub(crate) class: Cow<'a, str>,
    /// The API's code verbatim, HTTP_<status>, or one of the worker's own.
    #[serde(borrow)]
    #[schemars(length(min = 1))]
    pub(crate) code: Cow<'a, str>,
    /// For people; it may change.
    #[serde(skip_deserializing)]
    description: &'a str,
    /// Where on its way: before any call, at createTask, or at getTaskResult.
    #[serde(skip_deserializing)]
    #[schemars(with = "Stage")]
    stage: Option<Stage>,
}

/// What is no job, kept as it was.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Original")]
pub(crate) struct RejectedBody<'a> {
    /// base64 for what is not UTF-8 or holds control characters.
    #[serde(borrow)]
    #[schemars(extend("enum" = ["utf-8", "base64"]))]
    encoding: Cow<'a, str>,
    /// The message's bytes, so written.
    #[serde(borrow)]
    body: Cow<'a, str>,
}

impl RejectedBody<'_> {
    /// The message's bytes again.
    pub(crate) fn decoded(&self) -> Option<Bytes> {
        match &*self.encoding {
            "utf-8" => Some(self.body.clone().into_owned().into()),
            "base64" => STANDARD.decode(self.body.as_bytes()).ok().map(Bytes::from),
            _ => None,
        }
    }
}

/// RFC 3339 in UTC, and milliseconds.
#[derive(Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Times")]
pub(crate) struct JobTimes {
    /// When a worker first saw the job.
    #[serde(skip_deserializing)]
    #[schemars(with = "Timestamp")]
    received_at: Option<Timestamp>,
    /// Where it was solved.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Timestamp")]
    solved_at: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished_at: Timestamp,
    /// Until the API accepted the last task; absent where none was open at the end.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    queued_ms: Option<u64>,
    /// From there to the solution.
    #[serde(skip_deserializing, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    solving_ms: Option<u64>,
}

/// The outcome of a solved job. The solution is the API's, byte for byte.
#[must_use]
pub fn solved(job: &Job, history: &History, task: Task<'_>, solution: &RawValue, by: Finish<'_>) -> Outcome {
    let metadata = job.metadata();
    let mut attempts = history.attempts.clone();
    let attempt = Attempt {
        submitted_at: task.accepted_at,
        task_id: Some(task.id.clone()),
        polls: task.polls,
        ended: Ended::Ready,
        cost: None,
        estimated: false,
    };
    attempts.push(attempt.costing(task.cost));
    let times = times(history.first_seen, Some(task.accepted_at), true, by.now);
    let body = OutcomeBody {
        task_type: Some((&*job.task_type).into()),
        task_id: Some(task.id),
        solution: Some(solution),
        metadata: metadata.as_deref(),
        attempts: attempts.into(),
        ..OutcomeBody::new((&job.id, &job.lane), "solved", times, by)
    };
    outcome(format!("solved.{}", key_part(&job.task_type)), body, &job.properties, by.now)
}

/// The outcome of a job that failed, with the whole job for replay.
#[must_use]
pub fn failed(
    job: &Job,
    history: &History,
    task: Option<Task<'_>>,
    fault: &Fault,
    by: Finish<'_>,
) -> Outcome {
    let (bytes, metadata) = (job.body.bytes(), job.metadata());
    let times = times(history.first_seen, task.map(|task| task.accepted_at), false, by.now);
    let body = OutcomeBody {
        task_type: Some((&*job.task_type).into()),
        task_id: task.map(|task| task.id),
        failure: Some(failure(fault)),
        metadata: metadata.as_deref(),
        job: raw(&bytes),
        attempts: Cow::Borrowed(&history.attempts),
        ..OutcomeBody::new((&job.id, &job.lane), "failed", times, by)
    };
    outcome(dead_key(fault), body, &job.properties, by.now)
}

/// The outcome of a message that is no job, or of one that admission refuses.
#[must_use]
pub fn refused(refused: &RejectedMessage, received_at: Timestamp, by: Finish<'_>) -> Outcome {
    let message = &refused.message;
    let bytes = without_mark(&message.body);
    let whole_job = if refused.fault.class == Class::Malformed { None } else { raw(&bytes) };
    let original = whole_job.is_none().then(|| match std::str::from_utf8(&message.body) {
        Ok(text) if !text.contains(is_written_long) => {
            RejectedBody { encoding: "utf-8".into(), body: text.into() }
        }
        Ok(_) | Err(_) => {
            RejectedBody { encoding: "base64".into(), body: STANDARD.encode(&message.body).into() }
        }
    });
    let body = OutcomeBody {
        task_type: refused.task_type.as_deref().map(Cow::Borrowed),
        failure: Some(failure(&refused.fault)),
        job: whole_job,
        original,
        ..OutcomeBody::new(
            (&refused.id, &refused.lane),
            "failed",
            times(received_at, None, false, by.now),
            by,
        )
    };
    outcome(dead_key(&refused.fault), body, &message.properties, by.now)
}

impl<'a> OutcomeBody<'a> {
    /// What every outcome has.
    fn new((id, lane): (&'a str, &'a Lane), status: &'a str, times: JobTimes, by: Finish<'a>) -> Self {
        Self {
            version: VERSION,
            id: id.into(),
            status: status.into(),
            lane: (!lane.is_default()).then(|| lane.name().into()),
            task_type: None,
            task_id: None,
            solution: None,
            failure: None,
            metadata: None,
            job: None,
            original: None,
            attempts: Cow::Borrowed(&[]),
            cost: None,
            estimated: false,
            times,
            worker: by.worker,
            replay_id: None,
            replays: None,
        }
    }
}

/// Whether JSON writes it as six characters: a message of such would be six times as large in its
/// outcome.
fn is_written_long(character: char) -> bool {
    character.is_ascii_control() && !matches!(character, '\t' | '\n' | '\r')
}

fn raw(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(body).ok()
}

fn failure(fault: &Fault) -> FailureBody<'_> {
    FailureBody {
        class: fault.class.name().into(),
        code: (&*fault.code).into(),
        description: &fault.description,
        stage: Some(fault.stage),
    }
}

fn times(received_at: Timestamp, accepted_at: Option<Timestamp>, solved: bool, now: Timestamp) -> JobTimes {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    JobTimes {
        received_at: Some(received_at),
        solved_at: solved.then_some(now),
        finished_at: now,
        queued_ms: accepted_at.map(|at| millis(at.since(received_at))),
        solving_ms: accepted_at.filter(|_| solved).map(|at| millis(now.since(at))),
    }
}

fn dead_key(fault: &Fault) -> String {
    format!("dead.{}.{}", fault.class, key_part(&fault.code))
}

/// A word of a routing key: what comes from outside must not add levels to it, nor exceed AMQP's
/// short string.
fn key_part(text: &str) -> String {
    text.chars()
        .take(MAX_KEY_PART)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' })
        .collect()
}

fn outcome(
    routing_key: String,
    mut body: OutcomeBody<'_>,
    publisher: &Properties,
    now: Timestamp,
) -> Outcome {
    let mut headers: Headers = ECHOED
        .iter()
        .filter_map(|name| publisher.headers.get(*name).map(|value| ((*name).to_owned(), value.clone())))
        .filter(|(_, value)| value.as_text().is_some_and(|text| text.len() <= MAX_TRACE))
        .collect();
    if let Some(lane) = &body.lane {
        headers.insert(LANE_HEADER.to_owned(), (&**lane).into());
    }
    if let Some(replayed) = Replayed::of(&publisher.headers) {
        replayed.write(&mut headers);
        (body.replay_id, body.replays) = (Some(replayed.id.into()), Some(replayed.count));
    }
    let cost = Cost::sum(body.attempts.iter().map(Attempt::cost));
    (body.cost, body.estimated) = (cost.map(|cost| cost.amount), cost.is_some_and(|cost| cost.estimated));
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        headers,
        correlation_id: publisher.correlation_id.clone(),
        message_id: Some(body.id.clone().into_owned()),
        timestamp: u64::try_from(now.as_millis() / 1_000).ok(),
        kind: Some(KIND.to_owned()),
        ..Properties::default()
    };
    // Plain data with string keys: there is nothing in it that could fail to be written.
    let bytes = serde_json::to_vec(&body).unwrap_or_default();
    let message = Message { body: bytes.into(), properties, transient: false };
    let reason = body.failure.map(|failure| failure.description.into());
    Outcome { routing_key, message, reason }
}
