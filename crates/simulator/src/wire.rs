//! The API's language: bytes to what was asked, with the faults that the API finds in a task by
//! itself, and what it answers, down to the bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::kinds::{IMAGES, KINDS, METADATA_TASK, answer_of, fnv1a, index_of, render};
use super::script::{HttpStep, Script};
use super::tasks::TaskId;

/// Decoded sizes of an image that the API takes, in bytes. [documented; that the decoded bytes are
/// meant is assumed]
const IMAGE_BYTES: std::ops::RangeInclusive<usize> = 100..=50_000;

/// An error the API answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    pub(super) description: String,
}

/// createTask, as read.
pub(super) struct CreateCall {
    pub(super) key: Option<String>,
    pub(super) task: Result<Submission, Refusal>,
    pub(super) callback_url: Option<String>,
}

/// A task that has what its type needs.
#[derive(Debug)]
pub(super) struct Submission {
    /// Place in [`KINDS`].
    pub(super) kind: usize,
    /// Of the task's JSON bytes: identifies a repeated submission.
    pub(super) digest: u64,
    /// What the solution is derived from.
    pub(super) answer: u64,
    /// Digest of the proxy's address and port, where the task brings one.
    pub(super) proxy: Option<u64>,
    /// The script that rides in the task.
    pub(super) script: Option<Arc<Script>>,
}

/// getTaskResult, as read.
pub(super) struct PollCall {
    pub(super) key: Option<String>,
    pub(super) task_id: Option<TaskId>,
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "clientKey")]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    task: Option<&'a RawValue>,
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "callbackUrl")]
    callback_url: Option<&'a RawValue>,
}

/// Fields are kept raw, so that one of a wrong JSON type is a property missing and not a body that
/// cannot be read.
struct TaskFields<'a>(BTreeMap<String, &'a RawValue>);

/// Reads createTask; `scripts` says whether a task may carry one.
pub(super) fn read_create(body: &[u8], scripts: bool) -> CreateCall {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return CreateCall {
            key: None,
            task: Err(refusal("ERROR_TASK_ABSENT", "the body is not a JSON object")),
            callback_url: None,
        };
    };
    let task = match envelope.task {
        Some(task) => read_task(task.get().as_bytes(), scripts),
        None => Err(refusal("ERROR_TASK_ABSENT", "the field task is absent")),
    };
    CreateCall { key: envelope.key.and_then(text), task, callback_url: envelope.callback_url.and_then(text) }
}

/// Reads getTaskResult.
pub(super) fn read_poll(body: &[u8]) -> PollCall {
    match serde_json::from_slice::<Envelope>(body) {
        Ok(envelope) => PollCall {
            key: envelope.key.and_then(text),
            task_id: envelope.task_id.and_then(|raw| TaskId::from_json(raw.get())),
        },
        Err(_) => PollCall { key: None, task_id: None },
    }
}

/// Reads the key of getBalance.
pub(super) fn read_key(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Envelope>(body).ok().and_then(|envelope| envelope.key).and_then(text)
}

/// Checks a task as the API would; `scripts` says whether it may carry a script.
pub(super) fn read_task(task: &[u8], scripts: bool) -> Result<Submission, Refusal> {
    let Ok(fields) = serde_json::from_slice(task).map(TaskFields) else {
        return Err(refusal("ERROR_TASK_ABSENT", "task is not an object"));
    };
    let kind = kind_of(&fields)?;
    for &field in KINDS[kind].required {
        if !fields.has(field) {
            return Err(refusal("ERROR_TASK_PROPERTY_EMPTY", field));
        }
    }
    let body = fields.text("body");
    let carries_body = KINDS[kind].required.contains(&"body");
    if let Some(body) = body.as_deref().filter(|_| carries_body) {
        check_image(body)?;
    }
    for image in fields.list("imagesBase64").unwrap_or_default() {
        check_image(&image)?;
    }
    let digest = fnv1a(task);
    Ok(Submission {
        kind,
        digest,
        answer: answer_of(kind, digest, body.as_deref()),
        proxy: fields.proxy(),
        script: if scripts { fields.script()? } else { None },
    })
}

/// The solution this simulator gives for a task, from the task's JSON exactly as it is sent; `None`
/// where the task would be refused.
///
/// For an `ImageToTextTask` the text is the FNV-1a hash (64 bits, 16 lower-case hex digits) of the
/// `body` string. For every other type the answer carries that hash of the task's own JSON bytes.
#[must_use]
pub fn expected_solution(task: &[u8]) -> Option<Value> {
    let submission = read_task(task, false).ok()?;
    serde_json::from_str(&render(submission.kind, submission.answer)).ok()
}

fn kind_of(fields: &TaskFields<'_>) -> Result<usize, Refusal> {
    let name = fields.text("type");
    let name = name.ok_or_else(|| refusal("ERROR_NO_SUCH_METHOD", "the field type is absent or empty"))?;
    index_of(&name).ok_or_else(|| refusal("ERROR_TASK_NOT_SUPPORTED", "the task type is not supported"))
}

impl TaskFields<'_> {
    fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.get(name).copied()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(text)
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    fn has(&self, field: &str) -> bool {
        match field {
            IMAGES => ["imageUrls", "imagesBase64"]
                .into_iter()
                .any(|name| self.list(name).is_some_and(|images| !images.is_empty())),
            METADATA_TASK => {
                let metadata = self.get("metadata").and_then(|raw| serde_json::from_str(raw.get()).ok());
                metadata.is_some_and(|metadata| TaskFields(metadata).text("Task").is_some())
            }
            field => self.text(field).is_some(),
        }
    }

    /// A proxy is known by address and port; its port may be a number or a string.
    fn proxy(&self) -> Option<u64> {
        let address = self.text("proxyAddress")?;
        let port = self.get("proxyPort").map_or("", RawValue::get).trim_matches('"');
        Some(fnv1a(format!("{address}:{port}").as_bytes()))
    }

    fn script(&self) -> Result<Option<Arc<Script>>, Refusal> {
        let Some(raw) = self.get("_sim") else { return Ok(None) };
        let invalid = |fault: String| Refusal { code: "SIMULATOR_SCRIPT_INVALID", description: fault };
        let script: Script =
            serde_json::from_str(raw.get()).map_err(|error| invalid(format!("_sim: {error}")))?;
        match script.fault() {
            Some(fault) => Err(invalid(format!("_sim: {fault}"))),
            None => Ok(Some(Arc::new(script))),
        }
    }
}

/// Both size faults are judged by the length of the base64 text, so that a body far too big is not
/// decoded.
fn check_image(base64: &str) -> Result<(), Refusal> {
    let padding = base64.bytes().rev().take_while(|&byte| byte == b'=').count();
    let size = (base64.len() / 4 * 3).saturating_sub(padding);
    if size > *IMAGE_BYTES.end() {
        return Err(refusal("ERROR_TOO_BIG_CAPTCHA_FILESIZE", "the image is above 50,000 bytes"));
    }
    if size < *IMAGE_BYTES.start() {
        return Err(refusal("ERROR_ZERO_CAPTCHA_FILESIZE", "the image is under 100 bytes"));
    }
    match STANDARD.decode(base64) {
        Ok(_) => Ok(()),
        Err(_) => Err(refusal("ERROR_ZERO_CAPTCHA_FILESIZE", "the image is not base64")),
    }
}

fn refusal(code: &'static str, description: &str) -> Refusal {
    Refusal { code, description: description.to_owned() }
}

/// A JSON string that is not blank.
fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str::<String>(raw.get()).ok().filter(|text| !text.trim().is_empty())
}

impl TaskId {
    /// The id in a poll: the very JSON type that was given out, or no id of ours.
    fn from_json(raw: &str) -> Option<Self> {
        match raw.strip_prefix('"') {
            Some(quoted) => quoted.strip_suffix('"')?.parse::<Uuid>().ok().map(Self::Text),
            None => raw.parse().ok().map(Self::Number),
        }
    }
}

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

    /// `solution` is JSON text. The cost is not documented; relatives of the API send it, as a
    /// string.
    pub(super) fn ready(solution: &str, cost: f64) -> Self {
        Self::json(format!(r#"{{"errorId":0,"status":"ready","solution":{solution},"cost":"{cost}"}}"#))
    }

    pub(super) fn balance(amount: f64) -> Self {
        Self::json(format!(r#"{{"errorId":0,"balance":{amount}}}"#))
    }

    /// An error as the API words it. `code` is capitals; the description is quoted here, since
    /// parts of a task may stand in it.
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
