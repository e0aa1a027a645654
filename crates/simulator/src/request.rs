//! Reading calls: bytes to what was asked, with the faults the API finds in a task by itself.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::digest::fnv1a;
use super::kinds::{Field, KINDS, index_of};
use super::script::Script;
use super::solution::answer_of;
use super::tasks::TaskId;

/// Decoded sizes of an image that the API takes, in bytes. [documented; that the decoded bytes are meant is assumed]
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
}

/// A task that has what its type needs.
#[derive(Debug)]
pub(super) struct Submission {
    /// Place in [`KINDS`].
    pub(super) kind: usize,
    /// Of the task's JSON bytes: tells a submission repeated.
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
}

/// Fields are kept raw, so that one of a wrong JSON type is a property missing and not a body that cannot be read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TaskFields<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(borrow)]
    class: Option<&'a RawValue>,
    #[serde(borrow)]
    image_urls: Option<&'a RawValue>,
    #[serde(borrow)]
    images_base64: Option<&'a RawValue>,
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, rename = "websiteURL")]
    website_url: Option<&'a RawValue>,
    #[serde(borrow)]
    website_key: Option<&'a RawValue>,
    #[serde(borrow)]
    website_public_key: Option<&'a RawValue>,
    #[serde(borrow)]
    user_agent: Option<&'a RawValue>,
    #[serde(borrow)]
    gt: Option<&'a RawValue>,
    #[serde(borrow)]
    proxy_address: Option<&'a RawValue>,
    #[serde(borrow)]
    proxy_port: Option<&'a RawValue>,
    #[serde(borrow, rename = "_sim")]
    script: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow, rename = "Task")]
    task: Option<&'a RawValue>,
}

/// Reads createTask; `scripts` says whether a task may carry one.
pub(super) fn read_create(body: &[u8], scripts: bool) -> CreateCall {
    let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
        return CreateCall {
            key: None,
            task: Err(refusal("ERROR_TASK_ABSENT", "the body is not a JSON object")),
        };
    };
    let task = match envelope.task {
        Some(task) => read_task(task.get().as_bytes(), scripts),
        None => Err(refusal("ERROR_TASK_ABSENT", "the field task is absent")),
    };
    CreateCall { key: envelope.key.and_then(text), task }
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
    let Ok(fields) = serde_json::from_slice::<TaskFields>(task) else {
        return Err(refusal("ERROR_TASK_ABSENT", "task is not an object"));
    };
    let kind = kind_of(&fields)?;
    for &field in KINDS[kind].required {
        if !fields.has(field) {
            return Err(refusal("ERROR_TASK_PROPERTY_EMPTY", field.label()));
        }
    }
    let body = fields.body.and_then(text);
    let carries_body = KINDS[kind].required.iter().any(|field| matches!(field, Field::Body));
    if let Some(body) = body.as_deref().filter(|_| carries_body) {
        check_image(body)?;
    }
    for image in fields.images_base64.and_then(list).unwrap_or_default() {
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

fn kind_of(fields: &TaskFields<'_>) -> Result<usize, Refusal> {
    let name = fields
        .kind
        .and_then(text)
        .ok_or_else(|| refusal("ERROR_NO_SUCH_METHOD", "the field type is absent or empty"))?;
    index_of(&name).ok_or_else(|| refusal("ERROR_TASK_NOT_SUPPORTED", "the task type is not supported"))
}

impl Field {
    /// How the API's error names the field.
    fn label(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Class => "class",
            Self::Images => "imageUrls or imagesBase64",
            Self::MetadataTask => "metadata.Task",
            Self::WebsiteUrl => "websiteURL",
            Self::WebsiteKey => "websiteKey",
            Self::WebsitePublicKey => "websitePublicKey",
            Self::UserAgent => "userAgent",
            Self::Gt => "gt",
        }
    }
}

impl TaskFields<'_> {
    fn has(&self, field: Field) -> bool {
        let filled = |raw: Option<&RawValue>| raw.and_then(text).is_some();
        match field {
            Field::Body => filled(self.body),
            Field::Class => filled(self.class),
            Field::Images => [self.image_urls, self.images_base64]
                .into_iter()
                .any(|raw| raw.and_then(list).is_some_and(|images| !images.is_empty())),
            Field::MetadataTask => {
                let metadata = self.metadata.and_then(|raw| serde_json::from_str::<Metadata>(raw.get()).ok());
                filled(metadata.and_then(|metadata| metadata.task))
            }
            Field::WebsiteUrl => filled(self.website_url),
            Field::WebsiteKey => filled(self.website_key),
            Field::WebsitePublicKey => filled(self.website_public_key),
            Field::UserAgent => filled(self.user_agent),
            Field::Gt => filled(self.gt),
        }
    }

    /// A proxy is told by address and port; its port may be a number or a string.
    fn proxy(&self) -> Option<u64> {
        let address = self.proxy_address.and_then(text)?;
        let port = self.proxy_port.map_or("", RawValue::get).trim_matches('"');
        Some(fnv1a(format!("{address}:{port}").as_bytes()))
    }

    fn script(&self) -> Result<Option<Arc<Script>>, Refusal> {
        let Some(raw) = self.script else { return Ok(None) };
        let invalid = |fault: String| Refusal { code: "SIMULATOR_SCRIPT_INVALID", description: fault };
        let script: Script =
            serde_json::from_str(raw.get()).map_err(|error| invalid(format!("_sim: {error}")))?;
        match script.fault() {
            Some(fault) => Err(invalid(format!("_sim: {fault}"))),
            None => Ok(Some(Arc::new(script))),
        }
    }
}

/// Both size faults are told from the length of the base64 text, so that a body far too big is not decoded.
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

fn list(raw: &RawValue) -> Option<Vec<String>> {
    serde_json::from_str(raw.get()).ok()
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
