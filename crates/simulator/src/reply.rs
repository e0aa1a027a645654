//! What the API answers, down to the bytes.

use std::borrow::Cow;
use std::sync::LazyLock;

use bytes::Bytes;

use super::script::HttpStep;
use super::tasks::TaskId;

/// What a caller meets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An HTTP answer.
    Answer {
        /// HTTP status; 200 for every answer the API gives by itself, errors included.
        status: u16,
        /// The header `Content-Type`.
        content_type: Cow<'static, str>,
        /// The header `Retry-After`, in seconds.
        retry_after: Option<u64>,
        /// The body.
        body: Bytes,
    },
    /// The connection closes in the middle of an answer.
    Cut,
    /// No answer ever comes.
    Hang,
}

/// Which call an error answers; createTask's errors carry a `taskId` of 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    CreateTask,
    GetTaskResult,
    GetBalance,
}

/// Just above the 1 MiB at which careful clients stop reading.
static OVERSIZE: LazyLock<Bytes> = LazyLock::new(|| {
    let padding = "x".repeat(1024 * 1024);
    Bytes::from(format!(r#"{{"errorId":0,"status":"ready","solution":{{"text":"{padding}"}}}}"#))
});

pub(super) const JSON: &str = "application/json";

impl Reply {
    pub(super) fn json(body: impl Into<Bytes>) -> Self {
        Self::ok(JSON, body)
    }

    fn ok(content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let content_type = Cow::Borrowed(content_type);
        Self::Answer { status: 200, content_type, retry_after: None, body: body.into() }
    }

    /// A task was accepted.
    pub(super) fn accepted(id: TaskId) -> Self {
        Self::json(format!(r#"{{"errorId":0,"taskId":{id}}}"#))
    }

    pub(super) fn processing() -> Self {
        Self::json(Bytes::from_static(
            br#"{"errorId":0,"errorCode":null,"errorDescription":null,"status":"processing"}"#,
        ))
    }

    /// `solution` is JSON text. The cost is not documented; relatives of the API send it, as a string.
    pub(super) fn ready(solution: &str, cost: f64) -> Self {
        Self::json(format!(r#"{{"errorId":0,"status":"ready","solution":{solution},"cost":"{cost}"}}"#))
    }

    pub(super) fn balance(amount: f64) -> Self {
        Self::json(format!(r#"{{"errorId":0,"balance":{amount}}}"#))
    }

    /// An error as the API words it. `code` is capitals; the description is quoted here, since parts of a task may
    /// stand in it.
    pub(super) fn error(endpoint: Endpoint, code: &str, description: &str) -> Self {
        let description = serde_json::Value::from(description);
        let task_id = if endpoint == Endpoint::CreateTask { r#","taskId":0"# } else { "" };
        Self::json(format!(
            r#"{{"errorId":1,"errorCode":"{code}","errorDescription":{description}{task_id}}}"#
        ))
    }

    /// An answer that no API method gave: an unknown path, a proxy in front.
    pub(super) fn bare(status: u16, retry_after: Option<u64>, text: &'static str) -> Self {
        let body = Bytes::from_static(text.as_bytes());
        Self::Answer { status, content_type: Cow::Borrowed("text/plain"), retry_after, body }
    }

    pub(super) fn scripted(step: &HttpStep) -> Self {
        Self::Answer {
            status: step.status,
            content_type: step.content_type.clone().map_or(Cow::Borrowed(JSON), Cow::Owned),
            retry_after: step.retry_after,
            body: Bytes::from(step.body.clone()),
        }
    }

    pub(super) fn html() -> Self {
        let page =
            b"<!DOCTYPE html><html><head><title>Just a moment</title></head><body>Checking</body></html>";
        Self::ok("text/html; charset=utf-8", Bytes::from_static(page))
    }

    pub(super) fn empty() -> Self {
        Self::json(Bytes::new())
    }

    pub(super) fn truncated(endpoint: Endpoint) -> Self {
        Self::json(Bytes::from_static(match endpoint {
            Endpoint::CreateTask => br#"{"errorId":0,"taskId":70000"#,
            Endpoint::GetTaskResult | Endpoint::GetBalance => br#"{"errorId":0,"status":"ready","solu"#,
        }))
    }

    pub(super) fn oversize() -> Self {
        Self::json(OVERSIZE.clone())
    }

    pub(super) fn no_status() -> Self {
        Self::json(Bytes::from_static(br#"{"errorId":0,"errorCode":null,"errorDescription":null}"#))
    }
}
