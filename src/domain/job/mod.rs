//! A job, and the door that bytes must pass to become one.

mod fields;
mod shape;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use memchr::{memchr, memmem};
use serde_json::value::RawValue;

use super::class::Class;
use super::envelope::Message;
use super::fault::{Fault, Stage, codes};
use super::mark::Mark;
use super::policy::Policy;
use super::time::Timestamp;
use fields::{JobFields, TaskFields};

pub use shape::{IMAGE_BYTES, MAX_DEPTH};

/// The largest message that is read at all. A larger one is rejected whole, so that it need not be copied.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The longest id: it travels as an AMQP short string.
pub const MAX_ID: usize = 255;
/// The longest task type that is passed on.
pub const MAX_TYPE: usize = 100;

/// A job as its publisher sent it, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// From the job, else from `message_id`, else generated.
    pub id: String,
    /// `task.type`.
    pub task_type: String,
    /// When the answer is no longer wanted.
    pub deadline: Option<Timestamp>,
    /// The task names a proxy of the publisher's.
    pub own_proxy: bool,
    /// That proxy's mark, where the task gives it an address.
    pub proxy: Option<Mark>,
    /// The publisher's bytes and properties.
    pub message: Message,
    /// Where the task stands in the bytes, of a job that has just passed the door.
    pub task_at: Option<Range<usize>>,
}

/// A message that is no job, with what can be told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct NotAJob {
    /// The id, as far as it can be told.
    pub id: String,
    /// The task's type, as far as it can be told.
    pub task_type: Option<String>,
    /// What is wrong.
    pub fault: Fault,
    /// The bytes and properties.
    pub message: Message,
}

impl Job {
    /// Reads a message. `fresh_id` is used where neither the job nor its `message_id` names one.
    ///
    /// The message is taken only once it has been judged: were there a bug in the judging that panics, its caller still has it.
    ///
    /// # Errors
    /// What is wrong with it, naming the field, with the message inside.
    pub fn read(
        message: &mut Message,
        policy: &Policy,
        fresh_id: impl FnOnce() -> String,
    ) -> Result<Self, Box<NotAJob>> {
        let given = message.properties.message_id.clone().filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let id = given.unwrap_or_else(fresh_id);
        let judged = read(&message.body, &id, policy);
        let message = std::mem::take(message);
        match judged {
            Ok(facts) => Ok(Self {
                id: facts.id,
                task_type: facts.task_type,
                deadline: facts.deadline,
                own_proxy: facts.proxy.is_some(),
                proxy: facts.proxy,
                task_at: facts.task_at,
                message,
            }),
            Err(Refused { id, task_type, fault }) => Err(Box::new(NotAJob { id, task_type, fault, message })),
        }
    }

    /// The task's JSON, verbatim: a part of the bytes, since a second copy of each job in flight would be dear.
    #[must_use]
    pub fn task(&self) -> Option<&str> {
        match &self.task_at {
            Some(place) => std::str::from_utf8(self.message.body.get(place.clone())?).ok(),
            None => Some(JobFields::read(self.text()?).ok()?.task?.get()),
        }
    }

    /// The publisher's metadata, verbatim.
    #[must_use]
    pub fn metadata(&self) -> Option<&RawValue> {
        let body = &self.message.body;
        // Without its name in the text there is none, and most jobs have none. An escape may write the name otherwise.
        if memchr(b'\\', body).is_none() && memmem::find(body, b"\"metadata\"").is_none() {
            return None;
        }
        JobFields::read(self.text()?).ok()?.metadata
    }

    fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.message.body).ok()
    }

    /// Judges the task once more, by the policy of now.
    ///
    /// # Errors
    /// What the door would say.
    pub fn recheck(&self, policy: &Policy) -> Result<(), Fault> {
        let not_a_job = || Fault::malformed(codes::NOT_A_TICKET, "the ticket's body is not a job");
        let text = self.text().ok_or_else(not_a_job)?;
        let fields = JobFields::read(text).map_err(|_| not_a_job())?;
        let task = task_of(&fields)?;
        check_task(&task, &type_of(&task)?, policy)
    }

    /// The fault of a deadline that leaves less time than the API needs even for its quicker answers.
    #[must_use]
    pub fn unreachable(&self, now: Timestamp, least: Option<Duration>) -> Option<Fault> {
        let (deadline, least) = (self.deadline?, least?);
        let left = deadline.since(now);
        (left < least).then(|| {
            let text = format!(
                "{} ms are left until the deadline; answers for this type have been taking {} ms at least",
                left.as_millis(),
                least.as_millis()
            );
            Fault::local(Class::Expired, codes::DEADLINE_UNREACHABLE, Stage::Submit, text)
        })
    }

    /// Whether the deadline is over.
    #[must_use]
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

struct Facts {
    id: String,
    task_type: String,
    deadline: Option<Timestamp>,
    proxy: Option<Mark>,
    task_at: Option<Range<usize>>,
}

struct Refused {
    id: String,
    task_type: Option<String>,
    fault: Fault,
}

fn read(body: &[u8], fallback_id: &str, policy: &Policy) -> Result<Facts, Refused> {
    let refused = |id: &str, task_type: Option<&str>, fault| Refused {
        id: id.to_owned(),
        task_type: task_type.map(str::to_owned),
        fault,
    };
    let fields = top_level(body).map_err(|fault| refused(fallback_id, None, fault))?;
    let id = id_of(&fields).map_err(|fault| refused(fallback_id, None, fault))?;
    let id = id.unwrap_or_else(|| fallback_id.to_owned());
    let deadline = deadline_of(&fields).map_err(|fault| refused(&id, None, fault))?;
    let task = task_of(&fields).map_err(|fault| refused(&id, None, fault))?;
    let task_type = type_of(&task).map_err(|fault| refused(&id, None, fault))?;
    check_task(&task, &task_type, policy).map_err(|fault| refused(&id, Some(&task_type), fault))?;
    Ok(Facts { id, deadline, proxy: proxy_of(&task), task_type, task_at: place_of(fields.task, body) })
}

/// Where a part of the bytes stands in them.
fn place_of(part: Option<&RawValue>, body: &[u8]) -> Option<Range<usize>> {
    let part = part?.get();
    let from = part.as_ptr().addr().checked_sub(body.as_ptr().addr())?;
    Some(from..from + part.len())
}

fn top_level(body: &[u8]) -> Result<JobFields<'_>, Fault> {
    if body.is_empty() {
        return Err(Fault::malformed(codes::EMPTY_BODY, "the body is empty"));
    }
    let Ok(text) = std::str::from_utf8(body) else {
        return Err(Fault::malformed(codes::NOT_UTF8, "the body is not UTF-8"));
    };
    if shape::too_deep(body) {
        return Err(Fault::malformed(codes::TOO_DEEP, "the body nests more than 64 levels"));
    }
    let fields = JobFields::read(text)?;
    match (fields.forbidden.first(), fields.unknown.first(), fields.duplicate.first()) {
        (Some(name), _, _) => Err(Fault::malformed(
            codes::FORBIDDEN_FIELD,
            format!("field '{name}' is the worker's to set, not a job's"),
        )),
        (_, Some(name), _) => Err(Fault::malformed(
            codes::UNKNOWN_FIELD,
            format!("field '{name}' is not known; a job has id, task, deadline and metadata"),
        )),
        (_, _, Some(name)) => {
            Err(Fault::malformed(codes::DUPLICATE_FIELD, format!("field '{name}' stands twice")))
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
        .ok_or_else(|| Fault::malformed(codes::WRONG_TYPE, format!("field '{field}' must be a string")))
}

fn id_of(fields: &JobFields<'_>) -> Result<Option<String>, Fault> {
    let Some(id) = text_of(fields.id, "id")? else {
        return Ok(None);
    };
    if id.is_empty() || id.len() > MAX_ID || id.contains('\0') {
        return Err(Fault::malformed(codes::WRONG_TYPE, "field 'id' must have 1 to 255 bytes and no NUL"));
    }
    Ok(Some(id.into_owned()))
}

fn deadline_of(fields: &JobFields<'_>) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = text_of(fields.deadline, "deadline")? else {
        return Ok(None);
    };
    Timestamp::parse(&text).map(Some).ok_or_else(|| {
        Fault::malformed(
            codes::DEADLINE_UNREADABLE,
            "field 'deadline' must be an RFC 3339 time such as 2026-11-23T10:00:00Z",
        )
    })
}

fn task_of<'a>(fields: &JobFields<'a>) -> Result<TaskFields<'a>, Fault> {
    let Some(task) = fields.task else {
        return Err(Fault::malformed(codes::MISSING_FIELD, "field 'task' is missing"));
    };
    if !task.get().starts_with('{') {
        return Err(Fault::malformed(codes::WRONG_TYPE, "field 'task' must be an object"));
    }
    let task = TaskFields::read(task)?;
    // Which of two values the API would read is not known, and the policy must judge the one it reads.
    if let Some(name) = task.duplicate.first() {
        return Err(Fault::malformed(codes::DUPLICATE_FIELD, format!("field 'task.{name}' stands twice")));
    }
    // Nor is it known whether it minds the case of names.
    if let Some(name) = task.lookalike.first() {
        let text =
            format!("field 'task.{name}' differs only by case from one that decides where the task may go");
        return Err(Fault::malformed(codes::UNKNOWN_FIELD, text));
    }
    Ok(task)
}

fn type_of(task: &TaskFields<'_>) -> Result<String, Fault> {
    match text_of(task.kind, "task.type")? {
        None => Err(Fault::malformed(codes::MISSING_FIELD, "field 'task.type' is missing")),
        Some(kind) if kind.is_empty() || kind.len() > MAX_TYPE => {
            Err(Fault::malformed(codes::WRONG_TYPE, "field 'task.type' must have 1 to 100 bytes"))
        }
        Some(kind) => Ok(kind.into_owned()),
    }
}

/// Whatever JSON a publisher writes the address and port in: only that two are the same matters.
fn proxy_of(task: &TaskFields<'_>) -> Option<Mark> {
    let bare = |raw: &RawValue| fields::text(raw.get()).map_or_else(|| raw.get().to_owned(), Cow::into_owned);
    let host = bare(task.proxy_address?);
    Some(Mark::of_proxy(host.trim(), task.proxy_port.map(bare).unwrap_or_default().trim()))
}

fn check_task(task: &TaskFields<'_>, task_type: &str, policy: &Policy) -> Result<(), Fault> {
    let site = text_of(task.website_url, "task.websiteURL")?;
    policy.permits(task_type, site.as_deref()).map_err(|refused| {
        Fault::local(Class::Forbidden, codes::POLICY_SITE_NOT_ALLOWED, Stage::Door, refused.to_string())
    })?;
    if task_type == "ImageToTextTask" {
        let Some(image) = text_of(task.body, "task.body")? else {
            return Err(Fault::local(
                Class::Invalid,
                codes::IMAGE_TOO_SMALL,
                Stage::Door,
                "field 'task.body' is missing",
            ));
        };
        shape::check_image(&image)?;
    }
    Ok(())
}
