//! A dead letter: what failed, as far as its message says, and the job that a replay of it
//! publishes.

mod skip_reason;
#[cfg(test)]
mod tests;

use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value as Json;

use super::class::Class;
use super::history::{MAX_PUBLISHERS_HEADERS, publishers_headers};
use super::job::{MAX_ID, MAX_MESSAGE, MAX_TYPE, without_mark};
use super::lane::Lane;
use super::message::{DIRECT_REPLY, Headers, Message, Properties, Value, wire_size};
use super::message_hash::MessageHash;
use super::outcome::{KIND, OutcomeBody};
use super::replay::{REPLAY_ID, REPLAYS, Replayed, identity_of_next};
use super::ticket::{ANSWER_HEADER, TICKET_HEADER};
use super::time::Timestamp;
use super::trace::{TRACEPARENT, TRACESTATE};
use super::unreadable::{UNREADABLE_HEADER, loses_properties};

pub use skip_reason::SkipReason;

/// Longest code that is kept, in bytes. The API's have 40 at most; what a foreign hand wrote may
/// have any length.
const MAX_CODE: usize = 100;
/// The broker's reason for a message whose time in its queue was over.
const EXPIRED: &str = "expired";

/// The queue that a letter lies in, and names that its record of earlier hops is compared with.
#[derive(Debug, Clone, Copy)]
pub struct LetterQueue<'a> {
    /// The queue's class; `None` for what the broker itself dead-lettered.
    pub class: Option<Class>,
    /// Full name of the queue of jobs.
    pub jobs: &'a str,
    /// Full name of the queue of tickets.
    pub tickets: &'a str,
}

/// A letter, read once. Its texts are cut to what the contract allows. A job can hold a publisher's
/// proxy password, so `Debug` shows its length alone.
#[derive(Clone, PartialEq)]
pub struct DeadLetter {
    /// The job's id; empty where none is given.
    pub id: String,
    /// The job's lane.
    pub lane: Lane,
    /// The class it failed in; `None` for what the broker itself dead-lettered.
    pub class: Option<Class>,
    /// The code; of what the broker dead-lettered its reason: `expired`, `rejected`,
    /// `delivery_limit`, `maxlen`.
    pub code: String,
    /// The task's type.
    pub task_type: Option<String>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// When the answer is no longer wanted.
    pub deadline: Option<Timestamp>,
    /// How often the job has been replayed.
    pub replays: u32,
    /// Whether its id is one that a worker would take: neither cut nor empty.
    is_named: bool,
    identity: MessageHash,
    /// The job and the replay that ended here, where it was one.
    ended_replay: Option<MessageHash>,
    job: Result<Bytes, SkipReason>,
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.job.as_ref().map(|job| format!("{} bytes", job.len()));
        f.debug_struct("DeadLetter")
            .field("id", &self.id)
            .field("lane", &self.lane)
            .field("class", &self.class)
            .field("code", &self.code)
            .field("task_type", &self.task_type)
            .field("ended", &self.ended)
            .field("replays", &self.replays)
            .field("job", &job)
            .finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// Reads a letter. `None` where a message lies among the outcomes of a class and is none.
    #[must_use]
    pub fn read(message: &Message, place: LetterQueue<'_>) -> Option<Self> {
        let is_outcome = place.class.is_some() || message.properties.kind.as_deref() == Some(KIND);
        match serde_json::from_slice(&message.body) {
            Ok(written) if is_outcome => Some(Self::of_outcome(message, &written, place.class)),
            Ok(_) | Err(_) if place.class.is_none() => Some(Self::of_raw(message, place)),
            Ok(_) | Err(_) => None,
        }
    }

    fn of_outcome(message: &Message, written: &OutcomeBody<'_>, queue: Option<Class>) -> Self {
        let job = match (&*written.status, written.job, &written.original) {
            ("solved", _, _) => Err(SkipReason::Solved),
            _ if written.failure.as_ref().is_some_and(|failure| loses_properties(&failure.code)) => {
                Err(SkipReason::Unreadable)
            }
            (_, Some(job), _) => Ok(message.body.slice_ref(job.get().as_bytes())),
            (_, None, Some(original)) => original.decoded().ok_or(SkipReason::RejectedMessage),
            (_, None, None) => Err(SkipReason::RejectedMessage),
        };
        let seen: Option<JobView> = written.job.and_then(|job| serde_json::from_str(job.get()).ok());
        let failure = written.failure.as_ref();
        let mark = Replayed::of(&message.properties.headers);
        let replay_id = mark.as_ref().map(|mark| &*mark.id).or(written.replay_id.as_deref());
        Self {
            id: cut(&written.id, MAX_ID),
            is_named: is_named(&written.id),
            ended_replay: replay_id.map(|replay| ended_replay(&written.id, replay)),
            lane: written.lane.as_deref().and_then(|lane| lane.parse().ok()).unwrap_or_default(),
            class: failure.and_then(|failure| failure.class.parse().ok()).or(queue),
            code: cut(failure.map_or("none", |failure| &failure.code), MAX_CODE),
            task_type: written.task_type.as_deref().map(|task_type| cut(task_type, MAX_TYPE)),
            ended: Some(written.times.finished_at),
            deadline: seen.and_then(|seen| seen.deadline()),
            replays: mark.map(|mark| mark.count).or(written.replays).unwrap_or(0),
            identity: identity(message, ""),
            job: job.and_then(within_bounds),
        }
    }

    fn of_raw(message: &Message, place: LetterQueue<'_>) -> Self {
        let headers = &message.properties.headers;
        let death = Death::of(headers);
        let lane = lane_of(death.queue, place.jobs);
        let body = within_bounds(without_mark(&message.body));
        let seen: Option<JobView> = body.as_ref().ok().and_then(|body| serde_json::from_slice(body).ok());
        let is_ticket = death.queue == place.tickets
            || headers.contains_key(TICKET_HEADER)
            || headers.contains_key(ANSWER_HEADER);
        let job = if is_ticket {
            Err(SkipReason::Ticket)
        } else if headers.contains_key(UNREADABLE_HEADER) {
            Err(SkipReason::Unreadable)
        } else {
            match body {
                Ok(body) if lane.is_some() && seen.is_some() => Ok(body),
                Ok(_) => Err(SkipReason::RejectedMessage),
                Err(stays) => Err(stays),
            }
        };
        let named = seen.as_ref().and_then(JobView::id).or(message.properties.message_id.clone());
        let named = named.unwrap_or_default();
        let mark = Replayed::of(headers);
        Self {
            id: cut(&named, MAX_ID),
            is_named: is_named(&named),
            ended_replay: mark.as_ref().map(|mark| ended_replay(&named, &mark.id)),
            lane: lane.unwrap_or_default(),
            class: None,
            code: cut(death.reason, MAX_CODE),
            task_type: seen.as_ref().and_then(|seen| Some(cut(seen.task.kind.as_str()?, MAX_TYPE))),
            ended: death.at,
            deadline: seen.and_then(|seen| seen.deadline()),
            replays: mark.map_or(0, |mark| mark.count),
            identity: identity(message, &death.summary()),
            job,
        }
    }

    /// The name of its class, or `raw`.
    #[must_use]
    pub fn class_name(&self) -> &'static str {
        self.class.map_or("raw", Class::name)
    }

    /// Whether the broker put it aside since its publisher no longer wanted it.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.class.is_none() && self.code == EXPIRED
    }

    /// By what copies of it are known, and letters that copies of one replay have become: the id
    /// that its next replay has, and the replay that ended here.
    pub fn replay_ids(&self) -> impl Iterator<Item = MessageHash> {
        [identity_of_next(&self.identity, self.replays)].into_iter().chain(self.ended_replay)
    }

    /// The job as it is to be published once more. `message` is what the letter was read of.
    ///
    /// # Errors
    /// Why it had better stay.
    pub fn replay(&self, message: &Message, max_replays: u32, now: Timestamp) -> Result<Message, SkipReason> {
        let body = self.job.clone()?;
        if self.replays >= max_replays {
            return Err(SkipReason::TooOften);
        }
        // Admission would refuse it; and integers grow on their way, beyond what one frame of the
        // broker's holds.
        if self.class.is_none()
            && wire_size(&publishers_headers(&message.properties.headers)) > MAX_PUBLISHERS_HEADERS
        {
            return Err(SkipReason::TooLarge);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(SkipReason::TooLate);
        }
        let given = &message.properties;
        let mut properties = match message.properties.kind.as_deref() {
            Some(KIND) => of_outcome(given),
            _ if self.class.is_some() => of_outcome(given),
            _ => of_job(given),
        };
        Replayed::next(&self.identity, self.replays).write(&mut properties.headers);
        properties.message_id = self.is_named.then(|| self.id.clone());
        // Its wait begins anew.
        properties.timestamp = u64::try_from(now.as_millis() / 1_000).ok();
        Ok(Message { body, properties, transient: false })
    }
}

/// The lane whose queue of jobs this is, if it is one.
fn lane_of(queue: &str, jobs: &str) -> Option<Lane> {
    match queue.strip_prefix(jobs)? {
        "" => Some(Lane::default()),
        named => named.strip_prefix('.')?.parse().ok(),
    }
}

fn within_bounds(body: Bytes) -> Result<Bytes, SkipReason> {
    if body.len() > MAX_MESSAGE { Err(SkipReason::TooLarge) } else { Ok(body) }
}

/// A foreign text of at most so many bytes.
fn cut(text: &str, most: usize) -> String {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

fn is_named(id: &str) -> bool {
    !id.is_empty() && id.len() <= MAX_ID && !id.contains('\0')
}

fn ended_replay(id: &str, replay: &str) -> MessageHash {
    MessageHash::of_parts([id, replay, "replay"], b"")
}

/// What stays the same from one delivery of a letter to the next.
fn identity(message: &Message, death: &str) -> MessageHash {
    let id = message.properties.message_id.as_deref().unwrap_or_default();
    MessageHash::of_parts([id, death, "letter"], &message.body)
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

/// The publisher's properties of a job that is as it was, without what belongs to one hop, one user
/// or one connection.
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

/// A job, as far as it is looked at here. What else is wrong with it, admission finds.
#[derive(Default, Deserialize)]
struct JobView {
    #[serde(default)]
    id: Json,
    #[serde(default)]
    deadline: Json,
    task: JobTaskView,
}

#[derive(Default, Deserialize)]
struct JobTaskView {
    #[serde(default, rename = "type")]
    kind: Json,
}

impl JobView {
    fn id(&self) -> Option<String> {
        self.id.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    }

    fn deadline(&self) -> Option<Timestamp> {
        Timestamp::parse(self.deadline.as_str()?)
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

    fn summary(&self) -> String {
        format!("{} {} {} {}", self.queue, self.reason, self.at.map_or(0, Timestamp::as_millis), self.count)
    }
}
