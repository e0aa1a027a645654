//! The seam: a POST with a body goes down, a status with a bounded body comes up.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::domain::call::NoAnswer;

/// Path of createTask.
pub const CREATE_TASK: &str = "/createTask";
/// Path of getTaskResult.
pub const GET_TASK_RESULT: &str = "/getTaskResult";
/// Path of getBalance.
pub const GET_BALANCE: &str = "/getBalance";

/// How a request reaches the API and an answer comes back.
///
/// An implementation bounds the time of an exchange and the length of the answer, sends nothing
/// twice, and keeps the request's body out of its errors and logs: the key rides in it.
pub trait Transport: Send + Sync {
    /// Sends one JSON body to one of [`CREATE_TASK`], [`GET_TASK_RESULT`] or [`GET_BALANCE`].
    ///
    /// Any HTTP status is an `Ok`. Errors separate requests that never left from those that may
    /// have arrived.
    fn post<'a>(&'a self, path: &'static str, body: Bytes)
    -> BoxFuture<'a, Result<RawReply, TransportError>>;
}

/// An answer, whole and unread.
#[derive(Clone)]
pub struct RawReply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, where it was sent in seconds; see [`crate::solver::wire::read_retry_after`].
    pub retry_after: Option<Duration>,
    /// The body, at most 1 MiB of it.
    pub body: Bytes,
}

impl RawReply {
    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl fmt::Debug for RawReply {
    /// Only the body's length is shown: an API may echo the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawReply")
            .field("status", &self.status)
            .field("retry_after", &self.retry_after)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}

/// An exchange without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// No byte of the request left this machine.
    #[error("not sent: {0}")]
    NeverSent(String),
    /// Sent, or perhaps sent, and no whole answer came.
    #[error("no answer: {detail}")]
    NoAnswer {
        /// In which way.
        kind: NoAnswer,
        /// The HTTP status, where one was read.
        status: Option<u16>,
        /// For people.
        detail: String,
    },
}
