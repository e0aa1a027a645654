//! How long calls take, by which call it was and how it ended.

use std::time::Duration;

use super::transport::{CREATE_TASK, GET_BALANCE, GET_TASK_RESULT};
use crate::domain::call::{CallError, NoAnswer};
use crate::histogram::{CALLS, Distribution, Histogram};

const PATHS: [&str; 3] = [CREATE_TASK, GET_TASK_RESULT, GET_BALANCE];

/// How a call ended, as figures tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    Error,
    Http,
    Timeout,
    Unreachable,
    Unreadable,
}

impl Status {
    const ALL: [Status; 6] =
        [Status::Ok, Status::Error, Status::Http, Status::Timeout, Status::Unreachable, Status::Unreadable];

    fn of<T>(end: &Result<T, CallError>) -> Self {
        match end {
            Ok(_) => Status::Ok,
            Err(CallError::Refused(refusal)) if refusal.code.is_some() => Status::Error,
            Err(CallError::Refused(_)) => Status::Http,
            Err(CallError::NeverSent(_) | CallError::NoAnswer { kind: NoAnswer::Cut, .. }) => {
                Status::Unreachable
            }
            Err(CallError::NoAnswer { kind: NoAnswer::TimedOut, .. }) => Status::Timeout,
            Err(CallError::NoAnswer { kind: NoAnswer::Unreadable | NoAnswer::TooLong, .. }) => {
                Status::Unreadable
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Error => "error",
            Status::Http => "http",
            Status::Timeout => "timeout",
            Status::Unreachable => "unreachable",
            Status::Unreadable => "unreadable",
        }
    }
}

/// A histogram for each call and status.
#[derive(Debug)]
pub(super) struct Timing([[Histogram; Status::ALL.len()]; PATHS.len()]);

/// A reading of one of them.
#[derive(Debug, Clone, PartialEq)]
pub struct CallTimes {
    /// `createTask`, `getTaskResult` or `getBalance`.
    pub call: &'static str,
    /// `ok`; `error`: an answer with an error code; `http`: an HTTP status without one; `timeout`; `unreachable`: not sent, or cut off;
    /// `unreadable`.
    pub status: &'static str,
    /// How long such calls took.
    pub times: Distribution,
}

impl Default for Timing {
    fn default() -> Self {
        Self(PATHS.map(|_| Status::ALL.map(|_| Histogram::new(CALLS))))
    }
}

impl Timing {
    pub(super) fn note<T>(&self, path: &str, end: &Result<T, CallError>, took: Duration) {
        let call = PATHS.iter().position(|known| *known == path);
        if let Some(by_status) = call.and_then(|call| self.0.get(call)) {
            by_status[Status::of(end) as usize].note(took);
        }
    }

    pub(super) fn read(&self) -> Vec<CallTimes> {
        let calls = PATHS.iter().zip(&self.0);
        calls
            .flat_map(|(path, by_status)| {
                Status::ALL.iter().zip(by_status).map(|(status, histogram)| CallTimes {
                    call: path.trim_start_matches('/'),
                    status: status.name(),
                    times: histogram.read(),
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::{Refusal, ReplyBody};

    fn refused(code: Option<&str>) -> CallError {
        let code = code.map(str::to_owned);
        let body = if code.is_some() { ReplyBody::Api } else { ReplyBody::Empty };
        CallError::Refused(Refusal { code, description: None, status: 503, retry_after: None, body })
    }

    fn unanswered(kind: NoAnswer) -> CallError {
        CallError::NoAnswer { kind, status: None, detail: String::new() }
    }

    #[test]
    fn each_end_is_counted_under_its_call_and_status() {
        let timing = Timing::default();
        for (path, end) in [
            (CREATE_TASK, Ok(())),
            (CREATE_TASK, Err(refused(Some("ERROR_NO_SLOT_AVAILABLE")))),
            (GET_TASK_RESULT, Err(refused(None))),
            (GET_TASK_RESULT, Err(unanswered(NoAnswer::TimedOut))),
            (GET_TASK_RESULT, Err(unanswered(NoAnswer::Cut))),
            (GET_TASK_RESULT, Err(CallError::NeverSent(String::new()))),
            (GET_BALANCE, Err(unanswered(NoAnswer::TooLong))),
        ] {
            timing.note(path, &end, Duration::from_millis(7));
        }
        let read = timing.read();
        let counted: Vec<_> = read.iter().filter(|of| of.times.count > 0).collect();
        let counted: Vec<_> = counted.iter().map(|of| (of.call, of.status, of.times.count)).collect();
        assert_eq!(
            counted,
            [
                ("createTask", "ok", 1),
                ("createTask", "error", 1),
                ("getTaskResult", "http", 1),
                ("getTaskResult", "timeout", 1),
                ("getTaskResult", "unreachable", 2),
                ("getBalance", "unreadable", 1),
            ]
        );
        assert_eq!(read.len(), 18);
    }
}
