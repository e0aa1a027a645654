//! A job, and admission that bytes must pass to become one.

mod body;
mod fields;
mod shape;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use memchr::{memchr, memmem};
use serde_json::value::RawValue;

use super::class::Class;
use super::fault::{Fault, Stage, local_code};
use super::fingerprint::Fingerprint;
use super::kind;
use super::lane::Lane;
use super::message::{Message, Properties};
use super::policy::Policy;
use super::time::Timestamp;
use fields::{JobFields, TaskFields};

pub use body::JobBody;
pub use shape::{IMAGE_BYTES, MAX_DEPTH};

/// The largest message that is read at all. A larger one is rejected whole, so that it need not be
/// copied.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The longest id: it travels as an AMQP short string.
pub const MAX_ID: usize = 255;
/// The longest task type that is passed on.
pub const MAX_TYPE: usize = 100;

/// The bytes of a JSON text without a byte order mark, which many programs write before it.
#[must_use]
pub fn without_mark(body: &Bytes) -> Bytes {
    if body.starts_with(b"\xEF\xBB\xBF") { body.slice(3..) } else { body.clone() }
}

/// A job as its publisher sent it, read once.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// From the job, else from `message_id`, else generated.
    pub id: String,
    /// Of the queue that it came by, which its message does not say: the reader sets it.
    pub lane: Lane,
    /// `task.type`.
    pub task_type: String,
    /// `type/class`, where the task has a class: see [`Job::kind`].
    pub kind: Option<Box<str>>,
    /// When the answer is no longer wanted.
    pub deadline: Option<Timestamp>,
    /// The task names a proxy of the publisher's.
    pub own_proxy: bool,
    /// That proxy's mark, where the task gives it an address.
    pub proxy: Option<Fingerprint>,
    /// The publisher's properties. Of a ticket, the headers are the publisher's alone.
    pub properties: Properties,
    /// What a worker wrote of it, where it came as a ticket.
    pub ticket: Option<Box<str>>,
    /// The publisher's bytes, without a byte order mark.
    pub body: JobBody,
    /// Where the task stands in the bytes, of a job that has just passed admission.
    pub task_at: Option<Range<usize>>,
}

/// A message that is no job, with what could be read of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RejectedMessage {
    /// The id, as far as it could be read.
    pub id: String,
    /// Of the queue that it came by; the reader sets it.
    pub lane: Lane,
    /// The task's type, as far as it could be read.
    pub task_type: Option<String>,
    /// What is wrong.
    pub fault: Fault,
    /// The bytes and properties.
    pub message: Message,
}

impl Job {
    /// Reads a message. `fresh_id` is used where neither the job nor its `message_id` names one.
    ///
    /// The message is taken only once it has been judged: were there a bug in the judging that
    /// panics, its caller still has it.
    ///
    /// # Errors
    /// What is wrong with it, naming the field, with the message inside.
    pub fn read(
        message: &mut Message,
        policy: &Policy,
        fresh_id: impl FnOnce() -> String,
    ) -> Result<Self, Box<RejectedMessage>> {
        let given = message.properties.message_id.clone().filter(|id| !id.is_empty() && id.len() <= MAX_ID);
        let id = given.unwrap_or_else(fresh_id);
        let body = without_mark(&message.body);
        let judged = admit(&body, &id, policy);
        let message = std::mem::take(message);
        match judged {
            Ok(facts) => Ok(Self {
                properties: message.properties,
                ticket: None,
                body: JobBody::plain(body),
                id: facts.id,
                lane: Lane::default(),
                task_type: facts.task_type,
                kind: facts.kind,
                deadline: facts.deadline,
                own_proxy: facts.proxy.is_some(),
                proxy: facts.proxy,
                task_at: facts.task_at,
            }),
            Err(RefusedJob { id, task_type, fault }) => {
                Err(Box::new(RejectedMessage { id, lane: Lane::default(), task_type, fault, message }))
            }
        }
    }

    /// What its poll schedule, cap, slots, solve time and figures are kept by: `type/class`, or the
    /// type where there is no class.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.kind.as_deref().unwrap_or(&self.task_type)
    }

    /// The task's class, where its kind has one.
    #[must_use]
    pub fn task_class(&self) -> Option<&str> {
        self.kind.as_deref()?.get(self.task_type.len() + 1..)
    }

    /// The task's JSON, verbatim.
    #[must_use]
    pub fn task(&self) -> Option<Bytes> {
        let bytes = self.body.bytes();
        let place = match &self.task_at {
            Some(place) => place.clone(),
            None => {
                let text = std::str::from_utf8(&bytes).ok()?;
                JobFields::read(text).ok()?.task?.place
            }
        };
        (place.end <= bytes.len()).then(|| bytes.slice(place))
    }

    /// The publisher's metadata, verbatim.
    #[must_use]
    pub fn metadata(&self) -> Option<Box<RawValue>> {
        // Without its name in the text there is none, and most jobs have none. An escape may write
        // the name otherwise.
        let frame = self.body.frame();
        if memchr(b'\\', frame).is_none() && memmem::find(frame, b"\"metadata\"").is_none() {
            return None;
        }
        let bytes = self.body.bytes();
        let fields = JobFields::read(std::str::from_utf8(&bytes).ok()?).ok()?;
        fields.metadata.map(RawValue::to_owned)
    }

    /// The whole message, as its publisher sent it.
    #[must_use]
    pub fn message(&self) -> Message {
        Message { body: self.body.bytes(), properties: self.properties.clone(), transient: false }
    }

    /// Judges the task once more, by the policy of now.
    ///
    /// # Errors
    /// What admission would say.
    pub fn recheck(&self, policy: &Policy) -> Result<(), Fault> {
        let not_a_job = || Fault::malformed(local_code::NOT_A_TICKET, "the ticket's body is not a job");
        let bytes = self.body.bytes();
        let text = std::str::from_utf8(&bytes).map_err(|_| not_a_job())?;
        let fields = JobFields::read(text).map_err(|_| not_a_job())?;
        let task = task_of(&fields)?;
        check_task(task, &type_of(task)?, policy)
    }

    /// The fault of a deadline that leaves less time than the API needs even for its quicker
    /// answers.
    #[must_use]
    pub fn deadline_unreachable(&self, now: Timestamp, least: Option<Duration>) -> Option<Fault> {
        let (deadline, least) = (self.deadline?, least?);
        let left = deadline.since(now);
        (left < least).then(|| {
            let text = format!(
                "{} ms are left until the deadline; answers for this type have been taking {} ms at least",
                left.as_millis(),
                least.as_millis()
            );
            Fault::local(Class::Expired, local_code::DEADLINE_UNREACHABLE, Stage::Submit, text)
        })
    }

    /// Whether the deadline is over.
    #[must_use]
    pub fn is_late(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }
}

/// What admission reads of a job.
struct Facts {
    id: String,
    task_type: String,
    kind: Option<Box<str>>,
    deadline: Option<Timestamp>,
    proxy: Option<Fingerprint>,
    task_at: Option<Range<usize>>,
}

/// Why a message is no job, with what could be read of it.
struct RefusedJob {
    id: String,
    task_type: Option<String>,
    fault: Fault,
}

fn admit(body: &[u8], fallback_id: &str, policy: &Policy) -> Result<Facts, RefusedJob> {
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

fn task_of<'f, 'a>(fields: &'f JobFields<'a>) -> Result<&'f TaskFields<'a>, Fault> {
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

fn type_of(task: &TaskFields<'_>) -> Result<String, Fault> {
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

fn check_task(task: &TaskFields<'_>, task_type: &str, policy: &Policy) -> Result<(), Fault> {
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
