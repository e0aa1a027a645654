//! What an answer of the API means for the job that met it, by the tables of docs/CONTRACT.md and
//! not by the worker's.

use captcha_worker::solver::{CREATE_TASK, RawReply, TransportError};
use serde_json::Value;

/// What a call has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Said {
    /// Accepted, still being worked on, or solved.
    Well,
    /// Fewer calls.
    Throttled,
    /// No slot.
    Capacity,
    /// Not possible at the moment; nothing is paid.
    Transient,
    /// A submission of which nobody knows whether it was accepted.
    Ambiguous,
    /// No task of this id.
    WrongId,
    /// Not recognised.
    Unsolved,
    /// A code that is in no table.
    Unknown,
    KeyRefused,
    /// The account is refused for another reason.
    AccountRefused,
    /// The job itself is wrong, refused or too late.
    Final,
}

/// What a call of the API has come to.
pub(crate) fn said(path: &str, end: &Result<RawReply, TransportError>) -> Said {
    let submits = path == CREATE_TASK;
    let unanswered = if submits { Said::Ambiguous } else { Said::Transient };
    let reply = match end {
        Ok(reply) => reply,
        Err(TransportError::NeverSent(_)) => return Said::Transient,
        Err(TransportError::NoAnswer { .. }) => return unanswered,
    };
    let answer: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    if let Some(code) = answer["errorCode"].as_str() {
        return of_code(code);
    }
    match reply.status {
        200..=299 if submits && answer["taskId"].is_null() => unanswered,
        200..=299 if !submits && answer["status"].is_null() => unanswered,
        200..=299 => Said::Well,
        500..=502 | 504..=599 => unanswered,
        _ => Said::Transient,
    }
}

/// The codes that histories use.
fn of_code(code: &str) -> Said {
    match code {
        "ERROR_TOO_MUCH_REQUESTS" => Said::Throttled,
        "ERROR_NO_SLOT_AVAILABLE" => Said::Capacity,
        "ERROR_SERVICE_NOT_AVAILABLE" => Said::Transient,
        "ERROR_NO_SUCH_CAPCHA_ID" | "WRONG_CAPTCHA_ID" => Said::WrongId,
        "ERROR_CAPTCHA_UNSOLVABLE" => Said::Unsolved,
        "ERROR_KEY_DOES_NOT_EXIST" => Said::KeyRefused,
        "ERROR_IP_NOT_ALLOWED" | "ERROR_ZERO_BALANCE" | "ERROR_IP_BANNED" => Said::AccountRefused,
        "ERROR_TASK_ABSENT" | "ERROR_DOMAIN_NOT_ALLOWED" | "ERROR_TOKEN_EXPIRED" => Said::Final,
        _ => Said::Unknown,
    }
}
