//! What a call to the API can end in, before anybody has judged what that means for a job.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::money::Decimal;

/// The API's id of a task: a JSON string or number, kept as the text it came in, and sent back as
/// just that.
///
/// Documented as an integer; related services answer UUID strings and integers beyond 2^32, so
/// nothing is read into it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct TaskId(Box<RawValue>);

/// What was written down as an id and cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a task's id is a number other than 0 or a text that is not empty, of at most 256 bytes")]
pub struct NotATaskId;

impl TryFrom<Box<RawValue>> for TaskId {
    type Error = NotATaskId;

    fn try_from(raw: Box<RawValue>) -> Result<Self, NotATaskId> {
        Self::from_raw(&raw).ok_or(NotATaskId)
    }
}

impl TaskId {
    /// Longest id that is accepted, in bytes of JSON.
    pub const MAX_LEN: usize = 256;

    /// An id, where the value can be one: a non-empty string or a number other than 0 (which the
    /// API answers beside errors).
    #[must_use]
    pub fn from_raw(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let plausible = match text.as_bytes().first() {
            Some(b'"') => text.len() > 2,
            Some(b'-' | b'0'..=b'9') => text != "0",
            _ => false,
        };
        (plausible && text.len() <= Self::MAX_LEN).then(|| Self(raw.to_owned()))
    }

    /// The JSON text.
    #[must_use]
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl PartialEq for TaskId {
    fn eq(&self, other: &Self) -> bool {
        self.as_json() == other.as_json()
    }
}

impl Eq for TaskId {}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_json().trim_matches('"'))
    }
}

/// createTask's good end: accepted, and so to be paid.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// The id to ask for.
    pub task_id: TaskId,
}

/// getTaskResult's good ends.
#[derive(Debug, Clone)]
pub enum TaskState {
    /// Not ready. A reply without a status counts as this: it is no reason to ask again sooner.
    Processing,
    /// Ready.
    Ready {
        /// The solution as raw JSON, byte for byte.
        solution: Box<RawValue>,
        /// What the task cost, in the account's currency, where the API reports it.
        cost: Option<Decimal>,
    },
}

/// The API said no: by an error in its body or, where the body held none, by its HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// `errorCode`, verbatim; absent or null in some replies.
    pub code: Option<String>,
    /// `errorDescription`, cut to a bounded length.
    pub description: Option<String>,
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, where it was sent in seconds.
    pub retry_after: Option<Duration>,
    /// Whose word the body is.
    pub body: ReplyBody,
}

/// Whose word the body of a refusal is.
///
/// A firewall or a gateway before the API answers with pages and JSON of its own, under the same
/// statuses as the API: such a body says nothing about the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyBody {
    /// The API's own: a JSON object with one of its error fields.
    Api,
    /// None at all, or white space alone.
    Empty,
    /// Somebody else's: HTML, another text, JSON of another shape, or the API's JSON cut short.
    Foreign,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.code.as_deref().unwrap_or("no code");
        let description = self.description.as_deref().unwrap_or("no description");
        write!(f, "refused with HTTP {}, {code}: {description}", self.status)
    }
}

/// Why there is no readable answer to a call that was, or may have been, sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAnswer {
    /// No answer within the request's time-out.
    TimedOut,
    /// The connection ended before the answer did.
    Cut,
    /// An answer that is not the JSON it should be.
    Unreadable,
    /// An answer beyond the bound of 1 MiB.
    TooLong,
}

/// The ends of a call that brought neither a task nor its state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The API refused.
    #[error("{0}")]
    Refused(Refusal),
    /// Sent, or perhaps sent, and no readable answer. Whether the API acted on it is not known.
    #[error("no readable answer: {detail}")]
    NoAnswer {
        /// In which way.
        kind: NoAnswer,
        /// The HTTP status, where one was read.
        status: Option<u16>,
        /// For people: bounded, without the key.
        detail: String,
    },
    /// It never left this machine (name not resolved, connection or TLS failed).
    #[error("{0}")]
    NeverSent(String),
}
