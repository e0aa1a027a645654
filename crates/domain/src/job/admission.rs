//! What a message must be to be taken for a job.

use std::borrow::Cow;
use std::ops::Range;

use serde_json::value::RawValue;

use super::fields::{self, JobFields, TaskFields};
use super::{MAX_ID, MAX_TYPE, shape};
use crate::class::Class;
use crate::fault::{Fault, Stage, local_code};
use crate::fingerprint::Fingerprint;
use crate::kind;
use crate::policy::Policy;
use crate::time::Timestamp;

pub(super) struct Facts {
    pub(super) id: String,
    pub(super) task_type: String,
    pub(super) kind: Option<Box<str>>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) proxy: Option<Fingerprint>,
    pub(super) task_at: Option<Range<usize>>,
}

pub(super) struct RefusedJob {
    pub(super) id: String,
    pub(super) task_type: Option<String>,
    pub(super) fault: Fault,
}

pub(super) fn read(body: &[u8], fallback_id: &str, policy: &Policy) -> Result<Facts, RefusedJob> {
    let refused = |id: &str, task_type: Option<&str>, fault| RefusedJob {
        id: id.to_owned(),
        task_type: task_type.map(str::to_owned),
        fault,
    };
    let fields = top_level(body).map_err(|fault| refused(fallback_id, None, fault))?;
    let id = id_of(&fields).map_err(|fault| refused(fallback_id, None, fault))?;
    let id = id.unwrap_or_else(|| fallback_id.to_owned());
    let deadline = deadline_of(&fields).map_err(|fault| refused(&id, None, fault))?;
    let task = task_of(&fields).map_err(|fault| refused(&id, None, fault))?;
    let task_type = type_of(task).map_err(|fault| refused(&id, None, fault))?;
    check_task(task, &task_type, policy).map_err(|fault| refused(&id, Some(&task_type), fault))?;
    let class = task.class.and_then(|raw| fields::text(raw.get()));
    Ok(Facts {
        kind: class.and_then(|class| kind::of(&task_type, &class)),
        id,
        deadline,
        proxy: proxy_of(task),
        task_type,
        task_at: fields.task.as_ref().map(|task| task.place.clone()),
    })
}

fn top_level(body: &[u8]) -> Result<JobFields<'_>, Fault> {
    if body.is_empty() {
        return Err(Fault::malformed(local_code::EMPTY_BODY, "the body is empty"));
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Fault::malformed(local_code::NOT_UTF8, "the body is not UTF-8"));
    };
    if shape::too_deep(body) {
        return Err(Fault::malformed(local_code::TOO_DEEP, "the body nests more than 64 levels"));
    }
    let fields = JobFields::read(text)?;
    match (fields.forbidden.first(), fields.unknown.first(), fields.duplicate.first()) {
        (Some(name), _, _) => Err(Fault::malformed(
            local_code::FORBIDDEN_FIELD,
            format!("field '{name}' is the worker's to set, not a job's"),
        )),
        (_, Some(name), _) => Err(Fault::malformed(
            local_code::UNKNOWN_FIELD,
            format!("field '{name}' is not known; a job has id, task, deadline and metadata"),
        )),
        (_, _, Some(name)) => {
            Err(Fault::malformed(local_code::DUPLICATE_FIELD, format!("field '{name}' stands twice")))
        }
        (None, None, None) => Ok(fields),
    }
}

/// A string field: absent or null, its text, or a fault that names it.
fn text_of<'a>(raw: Option<&'a RawValue>, field: &str) -> Result<Option<Cow<'a, str>>, Fault> {
    let Some(json) = raw.map(RawValue::get).filter(|json| *json != "null") else {
        return Ok(None);
    };
    fields::text(json)
        .map(Some)
        .ok_or_else(|| Fault::malformed(local_code::WRONG_TYPE, format!("field '{field}' must be a string")))
}

fn id_of(fields: &JobFields<'_>) -> Result<Option<String>, Fault> {
    let Some(id) = text_of(fields.id, "id")? else {
        return Ok(None);
    };
    if id.is_empty() || id.len() > MAX_ID || id.contains('\0') {
        return Err(Fault::malformed(
            local_code::WRONG_TYPE,
            "field 'id' must have 1 to 255 bytes and no NUL",
        ));
    }
    Ok(Some(id.into_owned()))
}

fn deadline_of(fields: &JobFields<'_>) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = text_of(fields.deadline, "deadline")? else {
        return Ok(None);
    };
    Timestamp::parse(&text).map(Some).ok_or_else(|| {
        Fault::malformed(
            local_code::DEADLINE_UNREADABLE,
            "field 'deadline' must be an RFC 3339 time such as 2026-11-23T10:00:00Z",
        )
    })
}

pub(super) fn task_of<'f, 'a>(fields: &'f JobFields<'a>) -> Result<&'f TaskFields<'a>, Fault> {
    let Some(task) = &fields.task else {
        return Err(Fault::malformed(local_code::MISSING_FIELD, "field 'task' is missing"));
    };
    let Some(task) = &task.fields else {
        return Err(Fault::malformed(local_code::WRONG_TYPE, "field 'task' must be an object"));
    };
    // Which of two values the API would read is not known, and the policy must judge the one it
    // reads.
    if let Some(name) = task.duplicate.first() {
        return Err(Fault::malformed(
            local_code::DUPLICATE_FIELD,
            format!("field 'task.{name}' stands twice"),
        ));
    }
    // Nor is it known whether it minds the case of names.
    if let Some(name) = task.lookalike.first() {
        let text =
            format!("field 'task.{name}' differs only by case from one that decides where the task may go");
        return Err(Fault::malformed(local_code::UNKNOWN_FIELD, text));
    }
    Ok(task)
}

pub(super) fn type_of(task: &TaskFields<'_>) -> Result<String, Fault> {
    match text_of(task.kind, "task.type")? {
        None => Err(Fault::malformed(local_code::MISSING_FIELD, "field 'task.type' is missing")),
        Some(kind) if kind.is_empty() || kind.len() > MAX_TYPE => {
            Err(Fault::malformed(local_code::WRONG_TYPE, "field 'task.type' must have 1 to 100 bytes"))
        }
        Some(kind) => Ok(kind.into_owned()),
    }
}

/// Whatever JSON a publisher writes the address and port in: only that two are the same matters.
fn proxy_of(task: &TaskFields<'_>) -> Option<Fingerprint> {
    let bare = |raw: &RawValue| fields::text(raw.get()).map_or_else(|| raw.get().to_owned(), Cow::into_owned);
    let host = bare(task.proxy_address?);
    Some(Fingerprint::of_proxy(host.trim(), task.proxy_port.map(bare).unwrap_or_default().trim()))
}

pub(super) fn check_task(task: &TaskFields<'_>, task_type: &str, policy: &Policy) -> Result<(), Fault> {
    let site = text_of(task.website_url, "task.websiteURL")?;
    policy.permits(task_type, site.as_deref()).map_err(|refused| {
        Fault::local(
            Class::Forbidden,
            local_code::POLICY_SITE_NOT_ALLOWED,
            Stage::Admission,
            refused.to_string(),
        )
    })?;
    if task_type == "ImageToTextTask" {
        let Some(image) = text_of(task.body, "task.body")? else {
            return Err(Fault::local(
                Class::Invalid,
                local_code::IMAGE_TOO_SMALL,
                Stage::Admission,
                "field 'task.body' is missing",
            ));
        };
        shape::check_image(&image)?;
    }
    Ok(())
}
