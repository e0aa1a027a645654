//! Bytes of requests and replies. Reading is lenient: the API's dialect has many speakers, and few write it alike.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::domain::call::{Accepted, CallError, NoAnswer, Refusal, TaskId, TaskState};

/// The first part of every request: `{"clientKey":"…"`.
pub(super) fn opening(key: &str) -> String {
    // A string is always written: there is nothing in it that could fail.
    format!("{{\"clientKey\":{}", serde_json::to_string(key).unwrap_or_default())
}

/// A request with one more field, whose JSON is copied byte for byte.
pub(super) fn request(opening: &str, field: Option<(&str, &str)>) -> Bytes {
    let length = opening.len() + field.map_or(0, |(name, json)| name.len() + json.len() + 4) + 1;
    let mut body = BytesMut::with_capacity(length);
    body.put_slice(opening.as_bytes());
    if let Some((name, json)) = field {
        for part in [",\"", name, "\":", json] {
            body.put_slice(part.as_bytes());
        }
    }
    body.put_u8(b'}');
    body.freeze()
}

/// The fields that matter, raw, so that none of an unexpected type spoils the others. The last of a repeated field counts.
#[derive(Default)]
struct Fields<'a> {
    error_id: Option<&'a str>,
    error_code: Option<&'a str>,
    error_description: Option<&'a str>,
    status: Option<&'a str>,
    task_id: Option<&'a RawValue>,
    solution: Option<&'a RawValue>,
    balance: Option<&'a str>,
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> serde::de::Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let raw: &'de RawValue = map.next_value()?;
                    let json = Some(raw.get()).filter(|json| *json != "null");
                    match &*name {
                        "errorId" => fields.error_id = json,
                        "errorCode" => fields.error_code = json,
                        "errorDescription" => fields.error_description = json,
                        "status" => fields.status = json,
                        "taskId" => fields.task_id = json.map(|_| raw),
                        "solution" => fields.solution = json.map(|_| raw),
                        "balance" => fields.balance = json,
                        _ => {}
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

/// The text of a JSON string, or the JSON of anything else.
fn text(json: &str) -> Cow<'_, str> {
    if json.starts_with('"') {
        serde_json::from_str::<String>(json).map_or(Cow::Borrowed(json), Cow::Owned)
    } else {
        Cow::Borrowed(json)
    }
}

impl Fields<'_> {
    /// An error is any `errorId` but 0; without one, a code alone says it.
    fn is_error(&self) -> bool {
        let code_alone = self.error_code.is_some_and(|code| code != "\"\"");
        match self.error_id.map(text) {
            Some(id) => !matches!(id.trim(), "0" | "0.0" | "false" | ""),
            None => code_alone,
        }
    }
}

/// Reads what every reply has in common: an error in the body goes before the status, and the status before the rest of the body.
fn read(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Fields<'_>, CallError> {
    let refused = |code: Option<String>, description: Option<String>| {
        CallError::Refused(Refusal { code, description, status, retry_after })
    };
    let ok = (200..300).contains(&status);
    let trimmed = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    match serde_json::from_slice::<Fields<'_>>(trimmed) {
        Ok(fields) if fields.is_error() => {
            let code = fields.error_code.map(|json| text(json).into_owned()).filter(|code| !code.is_empty());
            Err(refused(code, fields.error_description.map(|json| text(json).into_owned())))
        }
        Ok(fields) if ok => Ok(fields),
        Err(error) if ok => {
            Err(unreadable(status, format!("{} bytes that are not the reply: {error}", body.len())))
        }
        Ok(_) | Err(_) => Err(refused(None, None)),
    }
}

fn unreadable(status: u16, detail: String) -> CallError {
    CallError::NoAnswer { kind: NoAnswer::Unreadable, status: Some(status), detail }
}

/// Reads createTask's reply.
///
/// # Errors
/// A refusal; or no answer, where no task id can be read: the task may have been accepted all the same.
pub fn created(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Accepted, CallError> {
    let fields = read(status, retry_after, body)?;
    let task_id = fields.task_id.and_then(TaskId::from_raw);
    task_id
        .map(|task_id| Accepted { task_id })
        .ok_or_else(|| unreadable(status, "a reply without a task id".to_owned()))
}

/// Reads getTaskResult's reply.
///
/// # Errors
/// A refusal; or no answer, where the task is said to be ready and no solution is there.
pub fn task_state(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<TaskState, CallError> {
    let fields = read(status, retry_after, body)?;
    match (fields.status.map(text).as_deref(), fields.solution) {
        (Some("ready") | None, Some(solution)) => Ok(TaskState::Ready(solution.to_owned())),
        (Some("ready"), None) => Err(unreadable(status, "ready, without a solution".to_owned())),
        // Neither a missing status nor a word that is not documented is a reason to ask again sooner, or to give up.
        (_, _) => Ok(TaskState::Processing),
    }
}

/// Reads getBalance's reply, in the account's currency.
///
/// # Errors
/// A refusal; or no answer, where no balance can be read.
pub fn balance(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<f64, CallError> {
    let fields = read(status, retry_after, body)?;
    let amount = fields
        .balance
        .and_then(|json| text(json).trim().parse::<f64>().ok())
        .filter(|amount| amount.is_finite());
    amount.ok_or_else(|| unreadable(status, "a reply without a balance".to_owned()))
}
