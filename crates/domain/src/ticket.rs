//! The ticket of a paid task: the job's bytes, with all that another replica needs to finish it in
//! a header.

use serde::{Deserialize, Serialize};

use super::call::TaskId;
use super::callback::CallbackToken;
use super::fault::{Fault, local_code};
use super::fingerprint::Fingerprint;
use super::history::{HISTORY_HEADER, History, MAX_HEADER, MAX_PUBLISHERS_HEADERS, publishers_headers};
use super::job::{Job, JobBody, MAX_ID, MAX_MESSAGE, MAX_TYPE};
use super::kind;
use super::lane::Lane;
use super::message::{Headers, Message, Properties, Value, wire_size};
use super::money::{Acceptance, Decimal};
use super::outcome::Task;
use super::time::Timestamp;
use super::unreadable::UNREADABLE_HEADER;

/// Carries the ticket; the body is the job's, byte for byte.
pub const TICKET_HEADER: &str = "x-captcha-ticket";
/// Carries the routing key of an outcome that could not be published yet; the body is the
/// outcome's.
pub const ANSWER_HEADER: &str = "x-captcha-answer";
/// Longest routing key that AMQP can hold, in bytes.
const MAX_KEY: usize = 255;
/// The largest outcome that a worker keeps: it holds a job and its metadata once more, or metadata
/// and a solution, each within [`MAX_MESSAGE`], and a few KiB of its own.
pub const MAX_KEPT_OUTCOME: usize = 3 * MAX_MESSAGE;

/// What a ticket says beside the job's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The job's id, which may have been generated.
    pub job_id: String,
    /// The job's lane; absent for the default one, and from tickets of earlier versions.
    #[serde(default, skip_serializing_if = "Lane::is_default")]
    pub lane: Lane,
    /// The task's type.
    pub task_type: String,
    /// The task's class, where its kind has one; absent from tickets of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_class: Option<String>,
    /// When the answer is no longer wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The task names a proxy of the publisher's.
    pub own_proxy: bool,
    /// That proxy's fingerprint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Fingerprint>,
    /// The API's id of the task.
    pub task_id: TaskId,
    /// When the API accepted it.
    pub accepted_at: Timestamp,
    /// Polls so far, in a ticket that another replica has handed over. Before that, and in tickets
    /// of earlier versions, it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub polls: Option<u32>,
    /// Of those, the ones that earlier owners are only assumed to have made; absent for none, and
    /// from tickets of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assumed_polls: Option<u32>,
    /// Before that nobody may poll, as the API has asked for a pause. Absent as a rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Of the callback that the API was asked for, if any; absent from tickets of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback: Option<CallbackToken>,
    /// What the task costs by the settings of the replica that submitted it, and what the books
    /// count until the API says more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Decimal>,
    /// By what the books know its acceptance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceptance: Option<Acceptance>,
    /// What the job went through before.
    pub history: History,
}

/// A message off the ticket queue.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, taken apart at once")]
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    /// A task to ask for.
    Open {
        /// The job.
        job: Job,
        /// What the job went through before this task.
        history: History,
        /// The API's id of the task.
        task_id: TaskId,
        /// When the API accepted it.
        accepted_at: Timestamp,
        /// Polls so far.
        polls: u32,
        /// Of those, the ones that are only assumed.
        assumed_polls: u32,
        /// Before that nobody may poll.
        not_before: Option<Timestamp>,
        /// Of the callback that the API was asked for, if any.
        callback: Option<CallbackToken>,
        /// What it costs by the settings.
        price: Option<Decimal>,
        /// By what the books know its acceptance.
        acceptance: Option<Acceptance>,
    },
    /// An outcome to publish.
    Answered {
        /// Its routing key.
        routing_key: String,
        /// The outcome as it is to be published.
        outcome: Message,
    },
}

/// The publisher's properties for another hop: without what belongs to one hop or one user, and
/// with the id that the job goes by.
fn next_hop(job: &Job) -> Message {
    let from = &job.properties;
    let properties = Properties {
        content_type: from.content_type.clone(),
        content_encoding: from.content_encoding.clone(),
        headers: publishers_headers(&from.headers),
        priority: from.priority,
        correlation_id: from.correlation_id.clone(),
        reply_to: from.reply_to.clone(),
        expiration: None,
        message_id: Some(job.id.clone()),
        timestamp: from.timestamp,
        kind: from.kind.clone(),
        user_id: None,
        app_id: from.app_id.clone(),
    };
    Message { body: job.body.bytes(), properties, transient: false }
}

/// The copy of a job that waits in a retry queue, with its history.
#[must_use]
pub fn retried(job: &Job, history: &History) -> Message {
    let mut message = next_hop(job);
    message.properties.headers.insert(HISTORY_HEADER.to_owned(), history.to_header());
    message
}

/// The ticket of an accepted task, which was polled so often.
#[must_use]
pub fn ticket(job: &Job, history: &History, task: Task<'_>, callback: Option<CallbackToken>) -> Message {
    written(job, history, task, callback, (0, None))
}

/// The ticket of a task that another replica is to poll, but not before this moment. The callback
/// may have come already, so that the next owner does not wait for it.
#[must_use]
pub fn handed_over(
    job: &Job,
    history: &History,
    task: Task<'_>,
    assumed_polls: u32,
    not_before: Option<Timestamp>,
) -> Message {
    written(job, history, task, None, (assumed_polls, not_before))
}

fn written(
    job: &Job,
    history: &History,
    task: Task<'_>,
    callback: Option<CallbackToken>,
    (assumed_polls, not_before): (u32, Option<Timestamp>),
) -> Message {
    let ticket = Ticket {
        job_id: job.id.clone(),
        lane: job.lane.clone(),
        task_type: job.task_type.clone(),
        task_class: job.task_class().map(str::to_owned),
        deadline: job.deadline,
        own_proxy: job.own_proxy,
        proxy: job.proxy.clone(),
        task_id: task.id.clone(),
        accepted_at: task.accepted_at,
        polls: (task.polls > 0).then_some(task.polls),
        assumed_polls: (assumed_polls > 0).then_some(assumed_polls),
        not_before,
        callback,
        // Until the task has ended the settings are the best estimate.
        price: task.cost.filter(|cost| cost.estimated).map(|cost| cost.amount),
        acceptance: task.acceptance.cloned(),
        history: history.clone(),
    };
    let mut message = next_hop(job);
    // Plain data with string keys: there is nothing in it that could fail to be written.
    let text = serde_json::to_string(&ticket).unwrap_or_default();
    message.properties.headers.insert(TICKET_HEADER.to_owned(), text.into());
    message
}

/// An answered ticket: an outcome that is kept on the ticket queue until it can be published.
#[must_use]
pub fn answered(routing_key: &str, outcome: &Message) -> Message {
    let mut message = outcome.clone();
    message.properties.headers.insert(ANSWER_HEADER.to_owned(), routing_key.into());
    message
}

/// Whether the message is larger than anything that a worker puts on the ticket queue, so that it
/// need not be read.
#[must_use]
pub fn is_too_large(message: &Message) -> bool {
    let most = match message.properties.headers.contains_key(ANSWER_HEADER) {
        true => MAX_KEPT_OUTCOME,
        false => MAX_MESSAGE,
    };
    message.body.len() > most
}

/// Reads a message off the ticket queue.
///
/// # Errors
/// A fault, with the message given back, where it is no ticket of this version.
pub fn read(message: Message, now: Timestamp) -> Result<Kept, Box<(Fault, Message)>> {
    let headers = &message.properties.headers;
    let judged = match headers.get(ANSWER_HEADER) {
        _ if headers.contains_key(UNREADABLE_HEADER) => {
            Err("its properties hold what no worker writes".to_owned())
        }
        Some(key) => routing_key(headers, key).map(Judged::Answered),
        None => read_open(headers).map(|ticket| Judged::Open(Box::new(ticket))),
    };
    match judged {
        Ok(Judged::Answered(routing_key)) => Ok(Kept::Answered { routing_key, outcome: unwrapped(message) }),
        Ok(Judged::Open(ticket)) => Ok(opened(*ticket, message, now)),
        Err(why) => Err(Box::new((Fault::malformed(local_code::NOT_A_TICKET, why), message))),
    }
}

/// What a message's headers make it, before it is taken apart.
enum Judged {
    Open(Box<Ticket>),
    Answered(String),
}

fn opened(ticket: Ticket, mut message: Message, now: Timestamp) -> Kept {
    let text = message.properties.headers.remove(TICKET_HEADER);
    // As a rule there are none, and a table of one costs half a kilobyte for each job that waits.
    message.properties.headers = publishers_headers(&message.properties.headers);
    Kept::Open {
        history: ticket.history.no_later_than(now),
        task_id: ticket.task_id,
        accepted_at: ticket.accepted_at.min(now),
        polls: ticket.polls.unwrap_or(0),
        assumed_polls: ticket.assumed_polls.unwrap_or(0),
        not_before: ticket.not_before,
        callback: ticket.callback,
        price: ticket.price,
        acceptance: ticket.acceptance,
        job: Job {
            id: ticket.job_id,
            lane: ticket.lane,
            kind: ticket.task_class.and_then(|class| kind::of(&ticket.task_type, &class)),
            task_type: ticket.task_type,
            deadline: ticket.deadline,
            own_proxy: ticket.own_proxy,
            proxy: ticket.proxy,
            task_at: None,
            properties: message.properties,
            ticket: text.and_then(Value::into_text).map(String::into_boxed_str),
            body: JobBody::packed(message.body),
        },
    }
}

/// The outcome as it was before it was kept. The two properties are in none of ours, and the broker
/// ends the channel over a message that carries another's.
fn unwrapped(mut outcome: Message) -> Message {
    let properties = &mut outcome.properties;
    properties.headers = publishers_headers(&properties.headers);
    properties.user_id = None;
    properties.expiration = None;
    outcome
}

/// The key of an answered ticket, where an outcome can have it: another would be published in vain
/// for ever.
fn routing_key(headers: &Headers, key: &Value) -> Result<String, String> {
    let ours = |key: &&str| (key.starts_with("solved.") || key.starts_with("dead.")) && key.len() <= MAX_KEY;
    match key.as_text().filter(ours) {
        Some(key) if leaves_room(headers) => Ok(key.to_owned()),
        _ => Err(format!("header '{ANSWER_HEADER}' holds what no worker writes")),
    }
}

/// Whether the message can be published again beside what a worker adds to it: see
/// [`MAX_PUBLISHERS_HEADERS`].
fn leaves_room(headers: &Headers) -> bool {
    wire_size(&publishers_headers(headers)) <= MAX_PUBLISHERS_HEADERS
}

fn read_open(headers: &Headers) -> Result<Ticket, String> {
    let fault = |why: &str| format!("header '{TICKET_HEADER}' {why}");
    let text = headers.get(TICKET_HEADER).and_then(Value::as_text).ok_or_else(|| fault("is missing"))?;
    let foreign = || fault("holds what no worker writes");
    if text.len() > MAX_HEADER {
        return Err(foreign());
    }
    let ticket: Ticket =
        serde_json::from_str(text).map_err(|error| fault(&format!("cannot be read: {error}")))?;
    let sound = ticket.history.is_plausible()
        && (1..=MAX_ID).contains(&ticket.job_id.len())
        && (1..=MAX_TYPE).contains(&ticket.task_type.len())
        && ticket.proxy.as_ref().is_none_or(Fingerprint::is_plausible)
        && leaves_room(headers);
    if sound { Ok(ticket) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Policy;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn job() -> Job {
        let properties = Properties {
            headers: Headers::from([
                ("tenant".to_owned(), "blue".into()),
                ("x-death".to_owned(), Value::Array(vec![])),
            ]),
            correlation_id: Some("c-1".to_owned()),
            expiration: Some("60000".to_owned()),
            user_id: Some("shop".to_owned()),
            kind: Some("their.type".to_owned()),
            ..Properties::default()
        };
        let body = br#"{"task":{"type":"SomeTask"}, "deadline":"2026-11-23T10:00:00Z"}"#.to_vec();
        let policy = Policy::try_new(&[], &["SomeTask"]).unwrap();
        Job::read(&mut Message { body: body.into(), properties, transient: false }, &policy, || {
            "gen-1".to_owned()
        })
        .unwrap()
    }

    fn task_id(json: &str) -> TaskId {
        TaskId::from_raw(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn task(id: &TaskId) -> Task<'_> {
        Task { id, accepted_at: NOW, polls: 0, cost: None, acceptance: None }
    }

    #[test]
    fn an_open_ticket_reads_back_with_the_job_verbatim() {
        let history = History { retries: 2, ..History::begin(NOW) };
        for id in ["7654321", "\"8f14e45f-ceea\"", "98765432109876543210"] {
            let message = ticket(&job(), &history, Task { polls: 7, ..task(&task_id(id)) }, None);
            assert_eq!(message.body, job().message().body);
            let Ok(Kept::Open { job: read, history: past, task_id, accepted_at, polls, .. }) =
                read(message, NOW)
            else {
                panic!("must be an open ticket")
            };
            assert_eq!(
                (read.id.as_str(), read.task_type.as_str(), read.deadline),
                ("gen-1", "SomeTask", job().deadline)
            );
            assert_eq!((past, accepted_at, task_id.as_json(), polls), (history.clone(), NOW, id, 7));
        }
    }

    #[test]
    fn a_ticket_of_another_version_is_read_with_what_this_one_knows() {
        let (id, earlier) = (task_id("7"), r#""history""#);
        let mut message = ticket(&job(), &History::begin(NOW), task(&id), None);
        let text = message.properties.headers[TICKET_HEADER].as_text().expect("text").to_owned();
        assert!(!text.contains("polls"), "as earlier versions write it: {text}");
        let later = text.replace(earlier, &format!(r#""of_a_later_version":1,{earlier}"#));
        message.properties.headers.insert(TICKET_HEADER.to_owned(), later.into());
        assert!(matches!(read(message, NOW), Ok(Kept::Open { polls: 0, .. })));
    }

    #[test]
    fn a_ticket_keeps_the_class_of_its_task_and_one_without_it_is_read_too() {
        let classed = Job { kind: Some("SomeTask/alibaba".into()), ..job() };
        for (job, kind) in [(classed, "SomeTask/alibaba"), (job(), "SomeTask")] {
            let message = ticket(&job, &History::begin(NOW), task(&task_id("7")), None);
            let Ok(Kept::Open { job: read, .. }) = read(message, NOW) else {
                panic!("must be an open ticket")
            };
            assert_eq!((read.kind(), read.kind.is_some()), (kind, kind != "SomeTask"));
        }
    }

    #[test]
    fn a_ticket_keeps_the_lane_of_its_job_and_one_without_it_is_of_the_default_lane() {
        for lane in [Lane::default(), "urgent".parse().unwrap()] {
            let job = Job { lane: lane.clone(), ..job() };
            let message = ticket(&job, &History::begin(NOW), task(&task_id("7")), None);
            let text = message.properties.headers[TICKET_HEADER].as_text().unwrap().to_owned();
            assert_eq!(text.contains("lane"), !lane.is_default(), "earlier versions wrote none");
            let Ok(Kept::Open { job: read, .. }) = read(message, NOW) else {
                panic!("must be an open ticket")
            };
            assert_eq!(read.lane, lane);
        }
    }

    #[test]
    fn a_ticket_keeps_its_callback_and_one_of_an_earlier_version_has_none() {
        let callback = Some(CallbackToken::new(7));
        for kept in [callback, None] {
            let message = ticket(&job(), &History::begin(NOW), task(&task_id("7")), kept);
            let text = message.properties.headers[TICKET_HEADER].as_text().unwrap().to_owned();
            assert_eq!(text.contains("callback"), kept.is_some(), "earlier versions wrote none");
            let Ok(Kept::Open { callback, .. }) = read(message, NOW) else {
                panic!("must be an open ticket")
            };
            assert_eq!(callback, kept);
        }
    }

    #[test]
    fn republishing_keeps_the_publishers_properties_save_what_belongs_to_one_hop() {
        let message = retried(&job(), &History::begin(NOW));
        let properties = &message.properties;
        assert_eq!(properties.correlation_id.as_deref(), Some("c-1"));
        assert_eq!(properties.kind.as_deref(), Some("their.type"));
        assert_eq!(properties.headers.get("tenant"), Some(&"blue".into()));
        assert_eq!(properties.message_id.as_deref(), Some("gen-1"), "a generated id must stay the job's id");
        assert_eq!((&properties.expiration, &properties.user_id), (&None, &None));
        assert!(!properties.headers.contains_key("x-death"));
    }

    #[test]
    fn a_ticket_taken_on_does_not_pile_up_headers() {
        let Ok(Kept::Open { job, history, .. }) =
            read(ticket(&job(), &History::begin(NOW), task(&task_id("7")), None), NOW)
        else {
            panic!("must be an open ticket")
        };
        let retried = retried(&job, &history);
        assert_eq!(retried.properties.headers.keys().collect::<Vec<_>>(), ["tenant", HISTORY_HEADER]);
    }

    #[test]
    fn an_answered_ticket_carries_the_outcome_whole() {
        let outcome = Message { body: "{}".into(), ..Message::default() };
        let kept = read(answered("solved.SomeTask", &outcome), NOW);
        assert_eq!(kept, Ok(Kept::Answered { routing_key: "solved.SomeTask".to_owned(), outcome }));
    }

    #[test]
    fn an_answered_ticket_that_could_not_be_published_is_no_ticket() {
        let outcome = Message { body: "{}".into(), ..Message::default() };
        let long = format!("solved.{}", "T".repeat(255));
        for key in ["elsewhere", "", &long] {
            let refused = read(answered(key, &outcome), NOW).expect_err("must be refused");
            assert_eq!(
                (refused.0.code, refused.1),
                (local_code::NOT_A_TICKET.into(), answered(key, &outcome))
            );
        }
        let mut anothers = answered("solved.T", &outcome);
        anothers.properties.user_id = Some("shop".to_owned());
        anothers.properties.expiration = Some("no number".to_owned());
        assert_eq!(read(anothers, NOW), Ok(Kept::Answered { routing_key: "solved.T".to_owned(), outcome }));
    }

    #[test]
    fn what_is_larger_than_a_worker_writes_need_not_be_read() {
        let of = |bytes| Message { body: vec![b' '; bytes].into(), ..Message::default() };
        assert!(!is_too_large(&of(MAX_MESSAGE)) && is_too_large(&of(MAX_MESSAGE + 1)));
        let outcome = |bytes| answered("solved.T", &of(bytes));
        assert!(!is_too_large(&outcome(MAX_KEPT_OUTCOME)) && is_too_large(&outcome(MAX_KEPT_OUTCOME + 1)));
    }

    #[test]
    fn what_is_no_ticket_is_given_back_with_its_reason() {
        let mut broken = ticket(&job(), &History::begin(NOW), task(&task_id("7")), None);
        broken.properties.headers.insert(TICKET_HEADER.to_owned(), "{\"job_id\":1}".into());
        for message in [job().message(), broken] {
            let refused = read(message.clone(), NOW).expect_err("must be refused");
            assert_eq!(refused.0.code, local_code::NOT_A_TICKET);
            assert_eq!(refused.1.body, message.body);
        }
    }
}
