//! The end of a job, as it is published: contract version 1.

#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::call::TaskId;
use crate::class::Class;
use crate::fault::{Fault, Stage};
use crate::history::{Attempt, Ended, History};
use crate::job::{Job, RejectedMessage};
use crate::message::{Headers, Message, Properties};
use crate::replay::Replayed;
use crate::time::Timestamp;
use crate::trace::{MAX_TRACE, TRACEPARENT, TRACESTATE};

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
}

impl Outcome {
    /// The class it failed in; `None` where it was solved.
    #[must_use]
    pub fn class(&self) -> Option<Class> {
        failure_of(&self.routing_key).map(|(class, _)| class)
    }
}

/// In which class, and by which code, an outcome with this routing key failed; `None` where it was solved.
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
    /// Polls by this owner.
    pub polls: u32,
}

#[derive(Serialize)]
struct Body<'a> {
    version: u32,
    id: &'a str,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<&'a TaskId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    solution: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<Failure<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original: Option<Original<'a>>,
    attempts: &'a [Attempt],
    times: Times,
    worker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    replay_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replays: Option<u32>,
}

#[derive(Serialize)]
struct Failure<'a> {
    class: Class,
    code: &'a str,
    description: &'a str,
    stage: Stage,
}

/// A message that is no job, kept so that it can be looked at and sent again.
#[derive(Serialize)]
struct Original<'a> {
    encoding: &'static str,
    body: std::borrow::Cow<'a, str>,
}

#[derive(Serialize)]
struct Times {
    received_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    solved_at: Option<Timestamp>,
    finished_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    solving_ms: Option<u64>,
}

/// The outcome of a solved job. The solution is the API's, byte for byte.
#[must_use]
pub fn solved(job: &Job, history: &History, task: Task<'_>, solution: &RawValue, by: Finish<'_>) -> Outcome {
    let metadata = job.metadata();
    let mut attempts = history.attempts.clone();
    attempts.push(Attempt {
        submitted_at: task.accepted_at,
        task_id: Some(task.id.clone()),
        polls: task.polls,
        ended: Ended::Ready,
    });
    let body = Body {
        version: 1,
        id: &job.id,
        status: "solved",
        task_type: Some(&job.task_type),
        task_id: Some(task.id),
        solution: Some(solution),
        failure: None,
        metadata: metadata.as_deref(),
        job: None,
        original: None,
        attempts: &attempts,
        times: times(history.first_seen, Some(task.accepted_at), true, by.now),
        worker: by.worker,
        replay_id: None,
        replays: None,
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
    let body = Body {
        version: 1,
        id: &job.id,
        status: "failed",
        task_type: Some(&job.task_type),
        task_id: task.map(|task| task.id),
        solution: None,
        failure: Some(failure(fault)),
        metadata: metadata.as_deref(),
        job: raw(&bytes),
        original: None,
        attempts: &history.attempts,
        times: times(history.first_seen, task.map(|task| task.accepted_at), false, by.now),
        worker: by.worker,
        replay_id: None,
        replays: None,
    };
    outcome(dead_key(fault), body, &job.properties, by.now)
}

/// The outcome of a message that is no job, or of one that admission refuses.
#[must_use]
pub fn refused(refused: &RejectedMessage, received_at: Timestamp, by: Finish<'_>) -> Outcome {
    let message = &refused.message;
    let whole_job = if refused.fault.class == Class::Malformed { None } else { raw(&message.body) };
    let original = whole_job.is_none().then(|| match std::str::from_utf8(&message.body) {
        Ok(text) if !text.contains(is_written_long) => Original { encoding: "utf-8", body: text.into() },
        Ok(_) | Err(_) => Original { encoding: "base64", body: STANDARD.encode(&message.body).into() },
    });
    let body = Body {
        version: 1,
        id: &refused.id,
        status: "failed",
        task_type: refused.task_type.as_deref(),
        task_id: None,
        solution: None,
        failure: Some(failure(&refused.fault)),
        metadata: None,
        job: whole_job,
        original,
        attempts: &[],
        times: times(received_at, None, false, by.now),
        worker: by.worker,
        replay_id: None,
        replays: None,
    };
    outcome(dead_key(&refused.fault), body, &message.properties, by.now)
}

/// Whether JSON writes it as six characters: a message of such would be six times as large in its outcome.
fn is_written_long(character: char) -> bool {
    character.is_ascii_control() && !matches!(character, '\t' | '\n' | '\r')
}

fn raw(body: &[u8]) -> Option<&RawValue> {
    serde_json::from_slice(body).ok()
}

fn failure(fault: &Fault) -> Failure<'_> {
    Failure { class: fault.class, code: &fault.code, description: &fault.description, stage: fault.stage }
}

fn times(received_at: Timestamp, accepted_at: Option<Timestamp>, solved: bool, now: Timestamp) -> Times {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Times {
        received_at,
        solved_at: solved.then_some(now),
        finished_at: now,
        queued_ms: accepted_at.map(|at| millis(at.since(received_at))),
        solving_ms: accepted_at.filter(|_| solved).map(|at| millis(now.since(at))),
    }
}

fn dead_key(fault: &Fault) -> String {
    format!("dead.{}.{}", fault.class, key_part(&fault.code))
}

/// A word of a routing key: what comes from outside must not add levels to it, nor exceed AMQP's short string.
fn key_part(text: &str) -> String {
    text.chars()
        .take(MAX_KEY_PART)
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' })
        .collect()
}

fn outcome(routing_key: String, mut body: Body<'_>, publisher: &Properties, now: Timestamp) -> Outcome {
    let mut headers: Headers = ECHOED
        .iter()
        .filter_map(|name| publisher.headers.get(*name).map(|value| ((*name).to_owned(), value.clone())))
        .filter(|(_, value)| value.as_text().is_some_and(|text| text.len() <= MAX_TRACE))
        .collect();
    if let Some(replayed) = Replayed::of(&publisher.headers) {
        replayed.write(&mut headers);
        (body.replay_id, body.replays) = (Some(replayed.id), Some(replayed.count));
    }
    let properties = Properties {
        content_type: Some("application/json".to_owned()),
        headers,
        correlation_id: publisher.correlation_id.clone(),
        message_id: Some(body.id.to_owned()),
        timestamp: u64::try_from(now.as_millis() / 1_000).ok(),
        kind: Some(KIND.to_owned()),
        ..Properties::default()
    };
    // Plain data with string keys: there is nothing in it that could fail to be written.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    Outcome { routing_key, message: Message { body: body.into(), properties, transient: false } }
}
