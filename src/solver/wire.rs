//! The API's language, both ways, as pure functions: no I/O, no clock, and no input that makes them
//! panic.
//!
//! Order of reading: a JSON body first, the HTTP status second, since the API documents no statuses
//! and sends errors under 200. A body without JSON, or with JSON that says nothing, is judged by
//! its status.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::key::{Key, Mask};
use super::transport::RawReply;
use crate::domain::call::{Accepted, CallError, NoAnswer, Refusal, ReplyBody, TaskId, TaskState};
use crate::domain::money::{Decimal, amount, decimal};

/// Longest `errorDescription` (and detail of an error) that is kept, in characters.
pub const MAX_DESCRIPTION: usize = 512;
/// Longest `errorCode` that is kept, in characters. The documented ones stay under 40.
pub const MAX_CODE: usize = 128;
/// Longest wait that a `Retry-After` can ask for: the length of the API's own bans.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
/// How much of an unreadable body is shown to people, in characters.
const MAX_EXCERPT: usize = 120;

/// An account's funds.
#[derive(Debug, Clone, PartialEq)]
pub struct Balance {
    /// The decimal as the API wrote it: money is shown from this.
    pub text: String,
    /// The same as a number.
    pub amount: Decimal,
}

/// `{"clientKey":…,"task":…}` with the task's bytes as they came, and `callbackUrl` where a
/// callback is wanted.
pub(super) fn create_body(key: &Key, task: &[u8], callback_url: Option<&str>) -> Bytes {
    let callback = callback_url.map(|url| format!(",\"callbackUrl\":{}", serde_json::Value::from(url)));
    let callback = callback.unwrap_or_default();
    body(key, ",\"task\":".len() + task.len() + callback.len(), |out| {
        out.extend_from_slice(b",\"task\":");
        out.extend_from_slice(task);
        out.extend_from_slice(callback.as_bytes());
    })
}

/// `{"clientKey":…,"taskId":…}` with the id's JSON as it came.
pub(super) fn result_body(key: &Key, id: &TaskId) -> Bytes {
    body(key, ",\"taskId\":".len() + id.as_json().len(), |out| {
        out.extend_from_slice(b",\"taskId\":");
        out.extend_from_slice(id.as_json().as_bytes());
    })
}

/// `{"clientKey":…}`.
pub(super) fn balance_body(key: &Key) -> Bytes {
    body(key, 0, |_| {})
}

fn body(key: &Key, rest: usize, append: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    const HEAD: &[u8] = b"{\"clientKey\":";
    let mut out = Vec::with_capacity(HEAD.len() + key.as_json().len() + rest + 1);
    out.extend_from_slice(HEAD);
    out.extend_from_slice(key.as_json().as_bytes());
    append(&mut out);
    out.push(b'}');
    out.into()
}

/// createTask's answer. A success without a plausible id is [`NoAnswer::Unreadable`]: the task may
/// have been accepted.
///
/// # Errors
/// The API's refusal, or no readable answer.
pub fn read_created(reply: &RawReply, mask: &Mask) -> Result<Accepted, CallError> {
    read(reply, mask, "a taskId", |fields, _| {
        fields.task_id.and_then(TaskId::from_raw).map(|task_id| Accepted { task_id })
    })
}

/// getTaskResult's answer.
///
/// `ready` without a solution is [`NoAnswer::Unreadable`], to be asked again. A missing status
/// means ready where there is a solution and processing where there is none. A status that is
/// neither of the two documented words (`completed`, as relatives of the API write) means ready
/// where there is a solution with something in it, and processing otherwise: the API would say an
/// error by an error, and a solution that is not taken is paid anew. Our assumption: no status but
/// `processing` comes beside a solution that is not the final one.
///
/// # Errors
/// The API's refusal, or no readable answer.
pub fn read_state(reply: &RawReply, mask: &Mask) -> Result<TaskState, CallError> {
    read(reply, mask, "the solution of a ready task", |fields, verbatim| {
        let solved = || {
            let solution = fields.solution.filter(|_| verbatim)?.to_owned();
            Some(TaskState::Ready { solution, cost: fields.cost() })
        };
        match fields.status.map(text_of).as_deref().map(str::trim) {
            Some(word) if word.eq_ignore_ascii_case("ready") => solved(),
            Some(word) if word.eq_ignore_ascii_case("processing") => Some(TaskState::Processing),
            None | Some("") if fields.solution.is_some() => solved(),
            Some(_) if fields.solution.is_some_and(|solution| !is_blank(solution)) => solved(),
            _ if reply.is_success() => Some(TaskState::Processing),
            _ => None,
        }
    })
}

/// getBalance's answer: a number, or a string that holds one.
///
/// # Errors
/// The API's refusal, or no readable answer.
pub fn read_balance(reply: &RawReply, mask: &Mask) -> Result<Balance, CallError> {
    read(reply, mask, "a balance", |fields, _| {
        let text = fields.balance.map(bare).filter(|text| text.len() <= MAX_CODE)?;
        let amount = decimal(text)?;
        Some(Balance { text: text.to_owned(), amount })
    })
}

/// `Retry-After` in whole seconds, at most [`MAX_RETRY_AFTER`].
///
/// The header's other form, a date, is ignored: it would tie the wait to two clocks.
#[must_use]
pub fn read_retry_after(value: &str) -> Option<Duration> {
    let digits = value.trim();
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds = digits.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// Reads a reply whose success `find` recognises; it is given whether the text is the API's very
/// bytes.
///
/// A success under a non-2xx status counts only beside an `errorId` that says so: a proxy's own
/// error page may be JSON too. A code without an `errorId` is an error, and so is one that stands
/// where the success should be.
fn read<T>(
    reply: &RawReply,
    mask: &Mask,
    wanted: &str,
    find: impl FnOnce(&Fields<'_>, bool) -> Option<T>,
) -> Result<T, CallError> {
    let text = decode(&reply.body);
    let verbatim = matches!(text, std::borrow::Cow::Borrowed(_));
    let Some(fields) = Fields::read(&text) else {
        return Err(match reply.is_success() {
            true => unreadable(reply, mask, "JSON", &text),
            false => refused(reply, mask, (None, None), body_without_fields(&text)),
        });
    };
    let declared = fields.declared_error();
    let code = fields.code();
    if declared == Some(true) || (declared.is_none() && code.is_some()) {
        return Err(refused(reply, mask, (code, fields.description()), ReplyBody::Api));
    }
    if (reply.is_success() || declared == Some(false))
        && let Some(found) = find(&fields, verbatim)
    {
        return Ok(found);
    }
    if code.is_some() || !reply.is_success() {
        // `status`, `balance` and the like stand in the JSON of others too.
        let body = if fields.speaks_of_errors() { ReplyBody::Api } else { ReplyBody::Foreign };
        return Err(refused(reply, mask, (code, fields.description()), body));
    }
    Err(unreadable(reply, mask, wanted, &text))
}

/// Whose word a body is that is no JSON object.
fn body_without_fields(text: &str) -> ReplyBody {
    if text.trim_start_matches('\u{feff}').trim().is_empty() { ReplyBody::Empty } else { ReplyBody::Foreign }
}

fn refused(
    reply: &RawReply,
    mask: &Mask,
    (code, description): (Option<String>, Option<String>),
    body: ReplyBody,
) -> CallError {
    CallError::Refused(Refusal {
        code: code.map(|code| mask.bounded(&code, MAX_CODE)),
        description: description.map(|text| mask.bounded(&text, MAX_DESCRIPTION)),
        status: reply.status,
        retry_after: reply.retry_after,
        body,
    })
}

fn unreadable(reply: &RawReply, mask: &Mask, wanted: &str, text: &str) -> CallError {
    let detail = match mask.bounded(text, MAX_EXCERPT) {
        excerpt if excerpt.is_empty() => format!("an empty body instead of {wanted}"),
        excerpt => format!("{} bytes without {wanted}: {excerpt}", reply.body.len()),
    };
    CallError::NoAnswer { kind: NoAnswer::Unreadable, status: Some(reply.status), detail }
}

/// The fields that mean something to us, as the JSON text they came as. A null is as good as
/// absent.
///
/// A key that comes twice counts with its last value, as the API's own clients (JS, Python, .NET)
/// would read it.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) error_id: Option<&'a RawValue>,
    pub(super) error_code: Option<&'a RawValue>,
    pub(super) error_description: Option<&'a RawValue>,
    pub(super) task_id: Option<&'a RawValue>,
    pub(super) status: Option<&'a RawValue>,
    pub(super) solution: Option<&'a RawValue>,
    pub(super) balance: Option<&'a RawValue>,
    cost: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// The fields of `text`, where it is one whole JSON object. A byte order mark and white space
    /// around are tolerated.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
    }

    /// What `errorId` says: `Some(true)` an error, `Some(false)` none, `None` nothing at all.
    ///
    /// Documented as 0 or 1; relatives of the API answer other integers, so any but 0 is an error,
    /// and so is a word.
    pub(super) fn declared_error(&self) -> Option<bool> {
        let text = bare(self.error_id?);
        match text {
            "" => None,
            "false" => Some(false),
            _ if text.starts_with(['{', '[']) => None,
            _ => Some(text.parse::<f64>() != Ok(0.0)),
        }
    }

    /// `errorCode`, where it holds one: an empty text or a 0 beside a success does not.
    pub(super) fn code(&self) -> Option<String> {
        self.error_code.map(text_of).filter(|code| !matches!(code.trim(), "" | "0" | "false"))
    }

    /// `cost`, where it holds an amount: a number, or a string with one. It is not documented, and
    /// some relatives of the API send it.
    pub(super) fn cost(&self) -> Option<Decimal> {
        amount(bare(self.cost?))
    }

    /// Whether one of the API's error fields is here, whatever it says.
    pub(super) fn speaks_of_errors(&self) -> bool {
        self.error_id.is_some() || self.error_code.is_some() || self.error_description.is_some()
    }

    /// `errorDescription`, where it holds one.
    pub(super) fn description(&self) -> Option<String> {
        self.error_description.map(text_of).filter(|text| !text.trim().is_empty())
    }
}

/// A scalar's text without its quotes; escapes inside are left.
pub(super) fn bare(raw: &RawValue) -> &str {
    raw.get().trim_matches('"').trim()
}

/// Whether there is nothing in a value: an empty object, array or string.
pub(super) fn is_blank(raw: &RawValue) -> bool {
    let inside = |open, close| raw.get().strip_prefix(open)?.strip_suffix(close);
    let inside = inside('{', '}').or_else(|| inside('[', ']')).or_else(|| inside('"', '"'));
    inside.is_some_and(|inside: &str| inside.trim().is_empty())
}

/// A string's content, or the JSON text of anything else (and of a string with broken escapes).
pub(super) fn text_of(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| bare(raw).to_owned())
}

/// A body as text: `Cow::Owned` means that it was not UTF-8, so that nothing in it is what the API
/// sent any more.
pub(super) fn decode(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    ErrorId,
    ErrorCode,
    ErrorDescription,
    TaskId,
    Status,
    Solution,
    Balance,
    Cost,
    #[serde(other)]
    Other,
}

/// By hand, because the derived reader refuses an object in which a key comes twice.
impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            let slot = match name {
                Name::ErrorId => &mut fields.error_id,
                Name::ErrorCode => &mut fields.error_code,
                Name::ErrorDescription => &mut fields.error_description,
                Name::TaskId => &mut fields.task_id,
                Name::Status => &mut fields.status,
                Name::Solution => &mut fields.solution,
                Name::Balance => &mut fields.balance,
                Name::Cost => &mut fields.cost,
                Name::Other => continue,
            };
            *slot = (value.get() != "null").then_some(value);
        }
        Ok(fields)
    }
}
