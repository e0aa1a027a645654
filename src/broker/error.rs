//! What can go wrong with a broker.

use serde::{Deserialize, Serialize};

/// A publish without the wanted end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishError {
    /// It never left: the broker cannot have it.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The broker refused it (`basic.nack`): a queue is full, or could not take it.
    #[error("the broker refused the message (queue full or unavailable)")]
    Rejected,
    /// No queue took it; nothing was stored.
    #[error("no queue took the message: {0}")]
    Unroutable(String),
    /// It may or may not have been stored.
    #[error("not known whether the broker has the message: {0}")]
    Unknown(String),
}

/// A broker call that failed. Texts never carry the broker's URL with its password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Name not resolved, connection refused, TLS failed, or no answer in time.
    #[error("cannot reach the broker at {address}: {reason}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What happened.
        reason: String,
    },
    /// User or password refused.
    #[error("the broker at {address} refused the log-in of user '{user}'")]
    Refused {
        /// Host and port.
        address: String,
        /// The user name.
        user: String,
    },
    /// The virtual host does not exist, or the user may not use it.
    #[error("virtual host '{vhost}': {reason}")]
    VirtualHost {
        /// Its name.
        vhost: String,
        /// The broker's reason.
        reason: String,
    },
    /// The broker is set so that a session could not work.
    #[error("the broker at {address} cannot be used: {reason}")]
    Unfit {
        /// Host and port.
        address: String,
        /// What is set, and what is needed.
        reason: String,
    },
    /// The file that holds the queues cannot be used.
    #[error("queue file {path}: {reason}")]
    File {
        /// As it was given.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
        /// Whether it can be well again by itself.
        is_passing: bool,
    },
    /// A queue or exchange exists with other arguments.
    #[error("{kind} '{name}' exists with other settings: {detail}")]
    Mismatch {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
        /// Which argument, with both values, as the broker reported it.
        detail: String,
    },
    /// A queue or exchange does not exist.
    #[error("{kind} '{name}' does not exist")]
    Missing {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The user lacks a permission.
    #[error("not permitted: {0}")]
    Forbidden(String),
    /// No answer in time.
    #[error("the broker did not answer {call} in time")]
    TimedOut {
        /// The call.
        call: &'static str,
    },
    /// Connection or channel lost.
    #[error("connection lost: {0}")]
    Lost(String),
}

impl BrokerError {
    /// Whether trying again later, with nothing changed here, can help.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            BrokerError::Unreachable { .. } | BrokerError::TimedOut { .. } | BrokerError::Lost(_) => true,
            BrokerError::File { is_passing, .. } => *is_passing,
            BrokerError::Refused { .. }
            | BrokerError::VirtualHost { .. }
            | BrokerError::Unfit { .. }
            | BrokerError::Mismatch { .. }
            | BrokerError::Missing { .. }
            | BrokerError::Forbidden(_) => false,
        }
    }
}
