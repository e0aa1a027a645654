//! A dead letter: what failed, as far as its message tells, and the job that a replay of it publishes.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use super::class::Class;
use super::envelope::{Headers, Message, Properties, Value};
use super::history::publishers_headers;
use super::identity::Identity;
use super::job::{MAX_ID, MAX_MESSAGE};
use super::outcome::KIND;
use super::replay::{REPLAY_ID, REPLAYS, Replayed};
use super::ticket::{ANSWER_HEADER, TICKET_HEADER};
use super::time::Timestamp;
use super::trace::{TRACEPARENT, TRACESTATE};

/// What a reply-to begins with that belongs to a connection of the publisher's.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to";

/// The queue that a letter lies in, and names that its record of earlier hops is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The queue's class; `None` for what the broker itself dead-lettered.
    pub class: Option<Class>,
    /// Full name of the queue of jobs.
    pub jobs: &'a str,
    /// Full name of the queue of tickets.
    pub tickets: &'a str,
}

/// Why a letter is left where it is, though it was chosen for a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// It has been replayed as often as is allowed.
    TooOften,
    /// Its deadline is over: it would fail at the door.
    TooLate,
    /// It is over the size that a worker reads.
    TooLarge,
    /// A ticket: its task was paid, and the API has forgotten it.
    Ticket,
    /// A solved outcome that was moved here.
    Solved,
    /// No job can be made out in it.
    NotAJob,
}

impl Stays {
    /// Every reason.
    pub const ALL: [Stays; 6] =
        [Stays::TooOften, Stays::TooLate, Stays::TooLarge, Stays::Ticket, Stays::Solved, Stays::NotAJob];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stays::TooOften => "max_replays",
            Stays::TooLate => "deadline_passed",
            Stays::TooLarge => "too_large",
            Stays::Ticket => "ticket",
            Stays::Solved => "solved",
            Stays::NotAJob => "not_a_job",
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stays::TooOften => "replayed as often as --max-replays allows",
            Stays::TooLate => "deadline over: would fail at once",
            Stays::TooLarge => "over 1 MiB: no worker reads it",
            Stays::Ticket => "a ticket: its task was paid, and a new one would be paid again",
            Stays::Solved => "a solved outcome, moved here from the results",
            Stays::NotAJob => "no job can be made out in it",
        })
    }
}

/// A letter, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The job's id; empty where none is told.
    pub id: String,
    /// The class it failed in; `None` for what the broker itself dead-lettered.
    pub class: Option<Class>,
    /// The code; of what the broker dead-lettered its reason: `expired`, `rejected`, `delivery_limit`, `maxlen`.
    pub code: String,
    /// The task's type.
    pub task_type: Option<String>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// When the answer is no longer wanted.
    pub deadline: Option<Timestamp>,
    /// How often the job has been replayed.
    pub replays: u32,
    identity: Identity,
    job: Result<Bytes, Stays>,
}

/// An outcome, as far as a replay needs it.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    task_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    failure: Option<Failure<'a>>,
    times: Times,
    #[serde(borrow, default)]
    job: Option<&'a RawValue>,
    #[serde(borrow, default)]
    original: Option<Original<'a>>,
    #[serde(default)]
    replays: Option<u32>,
}

#[derive(Deserialize)]
struct Failure<'a> {
    #[serde(borrow)]
    class: Cow<'a, str>,
    #[serde(borrow)]
    code: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Times {
    finished_at: Timestamp,
}

#[derive(Deserialize)]
struct Original<'a> {
    #[serde(borrow)]
    encoding: Cow<'a, str>,
    #[serde(borrow)]
    body: Cow<'a, str>,
}

/// A job, as far as it is looked at here. What is wrong with it otherwise is the door's to tell.
#[derive(Default, Deserialize)]
struct Seen {
    #[serde(default)]
    id: Json,
    #[serde(default)]
    deadline: Json,
    task: Task,
}

#[derive(Default, Deserialize)]
struct Task {
    #[serde(default, rename = "type")]
    kind: Json,
}

impl Letter {
    /// Reads a letter. `None` where a message lies among the outcomes of a class and is none.
    #[must_use]
    pub fn read(message: &Message, place: Place<'_>) -> Option<Self> {
        let is_outcome = place.class.is_some() || message.properties.kind.as_deref() == Some(KIND);
        match serde_json::from_slice(&message.body) {
            Ok(written) if is_outcome => Some(Self::of_outcome(message, &written, place.class)),
            Ok(_) | Err(_) if place.class.is_none() => Some(Self::of_raw(message, place)),
            Ok(_) | Err(_) => None,
        }
    }

    fn of_outcome(message: &Message, written: &Written<'_>, queue: Option<Class>) -> Self {
        let job = match (&*written.status, written.job, &written.original) {
            ("solved", _, _) => Err(Stays::Solved),
            (_, Some(job), _) => Ok(message.body.slice_ref(job.get().as_bytes())),
            (_, None, Some(original)) => original.decoded().ok_or(Stays::NotAJob),
            (_, None, None) => Err(Stays::NotAJob),
        };
        let seen: Option<Seen> = written.job.and_then(|job| serde_json::from_str(job.get()).ok());
        let failure = written.failure.as_ref();
        let replays = Replayed::of(&message.properties.headers).map(|replayed| replayed.count);
        Self {
            id: written.id.clone().into_owned(),
            class: failure.and_then(|failure| failure.class.parse().ok()).or(queue),
            code: failure.map_or("none", |failure| &failure.code).to_owned(),
            task_type: written.task_type.clone().map(Cow::into_owned),
            ended: Some(written.times.finished_at),
            deadline: seen.and_then(|seen| seen.deadline()),
            replays: replays.or(written.replays).unwrap_or(0),
            identity: identity(message, ""),
            job: job.and_then(within_bounds),
        }
    }

    fn of_raw(message: &Message, place: Place<'_>) -> Self {
        let headers = &message.properties.headers;
        let death = Death::of(headers);
        let seen: Option<Seen> =
            within_bounds(message.body.clone()).ok().and_then(|body| serde_json::from_slice(&body).ok());
        let is_ticket = death.queue == place.tickets
            || headers.contains_key(TICKET_HEADER)
            || headers.contains_key(ANSWER_HEADER);
        let job = if is_ticket {
            Err(Stays::Ticket)
        } else {
            match within_bounds(message.body.clone()) {
                Ok(body) if death.queue == place.jobs && seen.is_some() => Ok(body),
                Ok(_) => Err(Stays::NotAJob),
                Err(stays) => Err(stays),
            }
        };
        let named = seen.as_ref().and_then(Seen::id).or(message.properties.message_id.clone());
        Self {
            id: named.unwrap_or_default(),
            class: None,
            code: death.reason.to_owned(),
            task_type: seen.as_ref().and_then(|seen| Some(seen.task.kind.as_str()?.to_owned())),
            ended: death.at,
            deadline: seen.and_then(|seen| seen.deadline()),
            replays: Replayed::of(headers).map_or(0, |replayed| replayed.count),
            identity: identity(message, &death.told()),
            job,
        }
    }

    /// The name of its class, or `raw`.
    #[must_use]
    pub fn class_name(&self) -> &'static str {
        self.class.map_or("raw", Class::name)
    }

    /// The job as it is to be published once more. `message` is what the letter was read of.
    ///
    /// # Errors
    /// Why it had better stay.
    pub fn replay(&self, message: &Message, max_replays: u32, now: Timestamp) -> Result<Message, Stays> {
        let body = self.job.clone()?;
        if self.replays >= max_replays {
            return Err(Stays::TooOften);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(Stays::TooLate);
        }
        let given = &message.properties;
        let mut properties = match message.properties.kind.as_deref() {
            Some(KIND) => of_outcome(given),
            _ if self.class.is_some() => of_outcome(given),
            _ => of_job(given),
        };
        Replayed::next(&self.identity, self.replays).write(&mut properties.headers);
        properties.message_id =
            Some(self.id.clone()).filter(|id| !id.is_empty() && id.len() <= MAX_ID && !id.contains('\0'));
        // Its wait begins anew.
        properties.timestamp = u64::try_from(now.as_millis() / 1_000).ok();
        Ok(Message { body, properties, transient: false })
    }
}

impl Original<'_> {
    fn decoded(&self) -> Option<Bytes> {
        match &*self.encoding {
            "utf-8" => Some(self.body.clone().into_owned().into()),
            "base64" => STANDARD.decode(self.body.as_bytes()).ok().map(Bytes::from),
            _ => None,
        }
    }
}

impl Seen {
    fn id(&self) -> Option<String> {
        self.id.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    }

    fn deadline(&self) -> Option<Timestamp> {
        Timestamp::parse(self.deadline.as_str()?)
    }
}

fn within_bounds(body: Bytes) -> Result<Bytes, Stays> {
    if body.len() > MAX_MESSAGE { Err(Stays::TooLarge) } else { Ok(body) }
}

/// What stays the same from one delivery of a letter to the next.
fn identity(message: &Message, death: &str) -> Identity {
    let id = message.properties.message_id.as_deref().unwrap_or_default();
    Identity::of_parts([id, death, "letter"], &message.body)
}

/// The publisher's properties that an outcome still has.
fn of_outcome(outcome: &Properties) -> Properties {
    let traced = [TRACEPARENT, TRACESTATE].into_iter();
    Properties {
        content_type: Some("application/json".to_owned()),
        correlation_id: outcome.correlation_id.clone(),
        headers: traced
            .filter_map(|name| Some((name.to_owned(), outcome.headers.get(name)?.clone())))
            .collect(),
        ..Properties::default()
    }
}

/// The publisher's properties of a job that is as it was, without what belongs to one hop, one user or one connection.
fn of_job(job: &Properties) -> Properties {
    let mut headers = publishers_headers(&job.headers);
    headers.remove(REPLAY_ID);
    headers.remove(REPLAYS);
    Properties {
        headers,
        expiration: None,
        user_id: None,
        reply_to: job.reply_to.clone().filter(|queue| !queue.starts_with(DIRECT_REPLY)),
        ..job.clone()
    }
}

/// The broker's record of the hop that brought a message here.
struct Death<'a> {
    queue: &'a str,
    reason: &'a str,
    at: Option<Timestamp>,
    count: i64,
}

impl<'a> Death<'a> {
    fn of(headers: &'a Headers) -> Self {
        let last = match headers.get("x-death") {
            Some(Value::Array(deaths)) => deaths.first(),
            _ => None,
        };
        let Some(Value::Table(death)) = last else {
            return Self { queue: "", reason: "none", at: None, count: 0 };
        };
        let text = |name: &str| death.get(name).and_then(Value::as_text);
        let at = match death.get("time") {
            Some(Value::Timestamp(seconds)) => i64::try_from(seconds.saturating_mul(1_000)).ok(),
            _ => None,
        };
        let count = if let Some(Value::Int(count)) = death.get("count") { *count } else { 0 };
        Self {
            queue: text("queue").unwrap_or_default(),
            reason: text("reason").unwrap_or("none"),
            at: at.map(Timestamp::from_millis),
            count,
        }
    }

    fn told(&self) -> String {
        format!("{} {} {} {}", self.queue, self.reason, self.at.map_or(0, Timestamp::as_millis), self.count)
    }
}
