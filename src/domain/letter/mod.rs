//! A dead letter: what failed, as far as its message tells, and the job that a replay of it publishes.

mod death;
mod stays;
#[cfg(test)]
mod tests;
mod written;

use std::borrow::Cow;

use bytes::Bytes;

use super::class::Class;
use super::envelope::{Message, Properties};
use super::history::publishers_headers;
use super::identity::Identity;
use super::job::{MAX_ID, MAX_MESSAGE};
use super::outcome::KIND;
use super::replay::{REPLAY_ID, REPLAYS, Replayed};
use super::ticket::{ANSWER_HEADER, TICKET_HEADER};
use super::time::Timestamp;
use super::trace::{TRACEPARENT, TRACESTATE};
use death::Death;
use written::{Seen, Written};

pub use stays::Stays;

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
