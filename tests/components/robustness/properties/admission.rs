//! Admission: bytes become a job or a fault, and nothing is altered or lost on the way.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::domain::call::TaskId;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::fault::{Fault, Stage};
use captcha_worker::domain::history::{
    HISTORY_HEADER, History, MAX_HEADER, MAX_PUBLISHERS_HEADERS, publishers_headers,
};
use captcha_worker::domain::job::{Job, JobBody, MAX_DEPTH, MAX_ID, RejectedMessage, without_mark};
use captcha_worker::domain::message::{Message, wire_size};
use captcha_worker::domain::outcome::{self, Finish, Outcome, Task};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::ticket::{self, Kept};
use captcha_worker::domain::trace::{inject, parent};
use serde_json::Value;
use serde_json::value::RawValue;

use super::letter::{DeadLetter, died_in};
use super::{MAX_DESCRIPTION, NOW};

const RETRY_PREFIX: &str = "captcha.retry.";
/// What an outcome holds beside the message: ids, times, attempts, the fault.
const OUTCOMES_OWN: usize = 32 * 1024;
/// All properties of a message travel in one frame, of 64 KiB at least.
const FRAME: usize = 64 * 1024;

/// The property.
pub(crate) fn holds(input: &[u8]) {
    let sent = DeadLetter::read(input).message();
    let policy = policy();
    let history = History::of_job(&sent.properties.headers, RETRY_PREFIX, NOW);
    if let Ok(Some(history)) = &history {
        a_believed_history_is_read_again(history);
    }
    if let Err(fault) = &history {
        is_described(fault);
    }
    let mut delivered = sent.clone();
    match Job::read(&mut delivered, &policy, || "fresh".to_owned()) {
        Ok(job) => {
            let body = without_mark(&sent.body);
            let sent = Message { body, ..sent };
            assert_eq!(job.message(), sent, "the publisher's bytes and properties are the job's");
            is_within_bounds(&job, &policy);
            agrees_with_another_reader(&job);
            let history = history.ok().map(|known| known.unwrap_or_else(|| History::begin(NOW)));
            if let Some(history) = history {
                goes_round_by_the_retry_queue(&job, &history, &policy);
                becomes_a_ticket(&job, &history);
                carries_a_trace(&job, &history);
                ends_whole(&job, &history);
            }
        }
        Err(refused) => {
            assert_eq!(refused.message, sent, "what is refused is given back as it came");
            is_kept(&refused);
        }
    }
}

/// A policy under which some of everything passes.
pub(crate) fn policy() -> Policy {
    let sites = ["example.com", "*.example.org", "127.0.0.1"];
    Policy::try_new(&sites, &["SomeTask"; 1]).expect("the sites are hosts")
}

fn is_described(fault: &Fault) {
    assert!(!fault.code.is_empty() && !fault.description.is_empty(), "{fault:?}");
    assert!(fault.description.len() <= MAX_DESCRIPTION, "a description of {} bytes", fault.description.len());
    assert_eq!(fault.stage, Stage::Admission);
}

fn a_believed_history_is_read_again(history: &History) {
    let text = history.to_header();
    assert!(text.as_text().is_some_and(|text| text.len() <= MAX_HEADER), "what was believed once is again");
    let mut headers = captcha_worker::domain::message::Headers::new();
    headers.insert("x-death".to_owned(), died_in("captcha.retry.5s"));
    headers.insert(HISTORY_HEADER.to_owned(), text);
    assert_eq!(History::of_job(&headers, RETRY_PREFIX, NOW).as_ref(), Ok(&Some(history.clone())));
}

fn is_within_bounds(job: &Job, policy: &Policy) {
    assert!((1..=MAX_ID).contains(&job.id.len()), "an id of {} bytes", job.id.len());
    assert!((1..=100).contains(&job.task_type.len()), "a type of {} bytes", job.task_type.len());
    is_a_kind(job);
    assert_eq!(job.own_proxy, job.proxy.is_some());
    assert_eq!(job.recheck(policy), Ok(()), "what admission lets in, it lets in again");
    let task = job.task().expect("a job has its task");
    let body = job.body.bytes();
    let (body, part) = (std::str::from_utf8(&body), std::str::from_utf8(&task));
    assert!(
        body.expect("a job is UTF-8").contains(part.expect("so is its task")),
        "the task is the job's very bytes"
    );
    let packed = JobBody::packed(job.body.bytes());
    assert_eq!(packed.bytes(), job.body.bytes(), "verbatim");
    let again = Job { task_at: None, body: packed, ..job.clone() };
    assert_eq!(again.task(), Some(task), "found again in the bytes, as for a ticket's job");
    assert_eq!(
        again.metadata().map(|json| json.get().to_owned()),
        job.metadata().map(|json| json.get().to_owned())
    );
}

/// What it goes by is its type, or its type and class.
pub(crate) fn is_a_kind(job: &Job) {
    let kind = job.kind();
    match job.task_class() {
        Some(class) => assert_eq!(kind, format!("{}/{class}", job.task_type)),
        None => assert_eq!(kind, job.task_type),
    }
    assert!(kind.len() <= 100 && !job.task_class().is_some_and(|class| class.contains(char::is_control)));
}

/// A reader that builds everything must find what admission found, where it can read the bytes at
/// all.
fn agrees_with_another_reader(job: &Job) {
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&job.body.bytes()) else { return };
    let known = ["id", "task", "deadline", "metadata"];
    assert!(fields.keys().all(|name| known.contains(&&**name)), "only what a job has: {:?}", fields.keys());
    assert_eq!(fields["task"]["type"], Value::from(&*job.task_type));
    if let Some(class) = job.task_class() {
        assert_eq!(fields["task"]["class"], Value::from(class));
    }
    let metadata = job.metadata().map(|json| serde_json::from_str::<Value>(json.get()).expect("it is JSON"));
    assert_eq!(metadata, fields.get("metadata").cloned());
    if let Some(Value::String(id)) = fields.get("id") {
        assert_eq!(*id, job.id);
    }
    assert_eq!(fields.get("deadline").is_some_and(Value::is_string), job.deadline.is_some());
    assert!(depth(&Value::Object(fields)) <= MAX_DEPTH);
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(values) => 1 + values.iter().map(depth).max().unwrap_or(0),
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn goes_round_by_the_retry_queue(job: &Job, history: &History, policy: &Policy) {
    let mut retried = ticket::retried(job, history);
    is_republished(job, &retried);
    retried.properties.headers.insert("x-death".to_owned(), died_in("captcha.retry.30s"));
    let known = History::of_job(&retried.properties.headers, RETRY_PREFIX, NOW);
    assert_eq!(known, Ok(Some(history.clone())), "a retried job is never taken for a forgery");
    let again = Job::read(&mut retried, policy, || panic!("it has an id")).expect("what was let in once");
    same_job(job, &again);
}

/// Whatever its headers say of a trace: this attempt's goes on with the job, or there is no room
/// for it beside a ticket.
fn carries_a_trace(job: &Job, history: &History) {
    let mut traced = job.clone();
    inject(&mut traced.properties.headers, 1, 2, true);
    if traced != *job {
        let from = parent(&traced.properties.headers).expect("it was written to be read");
        assert_eq!((from.trace_id, from.span_id, from.sampled), (1, 2, true));
    }
    becomes_a_ticket(&traced, history);
}

fn becomes_a_ticket(job: &Job, history: &History) {
    let id: Box<RawValue> = serde_json::from_str("98765432109876543210").expect("JSON");
    let id = TaskId::from_raw(&id).expect("an id");
    let message = ticket::ticket(
        job,
        history,
        Task { id: &id, accepted_at: NOW, polls: 0, cost: None, acceptance: None },
        None,
    );
    is_republished(job, &message);
    let Ok(Kept::Open { job: again, history: past, task_id, accepted_at, .. }) = ticket::read(message, NOW)
    else {
        panic!("a ticket of a worker's own is read")
    };
    same_job(job, &again);
    assert_eq!((&past, task_id.as_json(), accepted_at), (history, id.as_json(), NOW));
}

fn is_republished(job: &Job, message: &Message) {
    assert_eq!(message.body, job.body.bytes(), "byte for byte");
    assert!(wire_size(&publishers_headers(&message.properties.headers)) <= MAX_PUBLISHERS_HEADERS);
    assert!(
        wire_size(&message.properties.headers) <= FRAME - 4 * 1024,
        "room for all properties in one frame"
    );
    assert_eq!((&message.properties.expiration, &message.properties.user_id), (&None, &None));
    assert_eq!(message.properties.correlation_id, job.properties.correlation_id);
    assert_eq!(message.properties.reply_to, job.properties.reply_to);
}

fn same_job(one: &Job, other: &Job) {
    assert_eq!((&one.id, one.kind(), one.deadline), (&other.id, other.kind(), other.deadline));
    assert_eq!((one.own_proxy, &one.proxy), (other.own_proxy, &other.proxy));
    assert_eq!(one.body.bytes(), other.body.bytes());
}

/// A job that fails is in its outcome whole.
fn ends_whole(job: &Job, history: &History) {
    let fault = Fault::local(Class::Invalid, "CODE", Stage::Submit, "why");
    let by = Finish { worker: "w", now: NOW };
    let outcome = outcome::failed(job, history, None, &fault, by);
    let kept = read(&outcome);
    let job_kept = kept.job.expect("the job stands in it").get().as_bytes();
    assert_eq!(job_kept, job.body.bytes().trim_ascii(), "byte for byte");
    is_publishable(&outcome, &job.body.bytes());
}

/// What is no job is in its outcome whole, and can be sent again.
fn is_kept(refused: &RejectedMessage) {
    is_described(&refused.fault);
    assert!((1..=MAX_ID).contains(&refused.id.len()), "an id of {} bytes", refused.id.len());
    let by = Finish { worker: "w", now: NOW };
    let outcome = outcome::refused(refused, NOW, by);
    let kept = read(&outcome);
    let body = &refused.message.body;
    match (kept.job, kept.original) {
        (Some(job), None) => assert_eq!(job.get().as_bytes(), without_mark(body).trim_ascii()),
        (None, Some(original)) => assert_eq!(original.decoded(), *body),
        other => panic!("one of the two holds it: {other:?}"),
    }
    is_publishable(&outcome, body);
}

/// An outcome's size is bounded by its message's, and its key and id fit AMQP's short strings.
pub(crate) fn is_publishable(outcome: &Outcome, body: &[u8]) {
    let size = outcome.message.body.len();
    assert!(size <= 2 * body.len() + OUTCOMES_OWN, "{size} bytes for a message of {}", body.len());
    assert!(outcome.routing_key.len() <= 255 && outcome.class().is_some(), "{}", outcome.routing_key);
    assert_eq!(outcome.routing_key.split('.').count(), 3, "no level is added: {}", outcome.routing_key);
    let id = &outcome.message.properties.message_id;
    assert!(id.as_ref().is_some_and(|id| id.len() <= 255));
    assert!(wire_size(&outcome.message.properties.headers) <= 2_048, "echoed headers are bounded");
}

#[derive(Debug, serde::Deserialize)]
struct OutcomeView<'a> {
    #[serde(borrow)]
    job: Option<&'a RawValue>,
    original: Option<Original>,
}

#[derive(Debug, serde::Deserialize)]
struct Original {
    encoding: String,
    body: String,
}

impl Original {
    fn decoded(&self) -> Vec<u8> {
        match &*self.encoding {
            "utf-8" => self.body.clone().into_bytes(),
            "base64" => STANDARD.decode(&self.body).expect("base64"),
            other => panic!("an encoding that the contract does not have: {other}"),
        }
    }
}

fn read(outcome: &Outcome) -> OutcomeView<'_> {
    serde_json::from_slice(&outcome.message.body).expect("an outcome is JSON")
}
