//! The ticket of a paid task: the job's bytes, with all that another replica needs to finish it in a header.

use serde::{Deserialize, Serialize};

use super::call::TaskId;
use super::envelope::{Headers, Message, Value};
use super::fault::{Fault, codes};
use super::history::{HISTORY_HEADER, History, publishers_headers};
use super::job::{Job, MAX_ID};
use super::mark::Mark;
use super::time::Timestamp;

/// Carries the ticket; the body is the job's, byte for byte.
pub const TICKET_HEADER: &str = "x-captcha-ticket";
/// Carries the routing key of an outcome that could not be published yet; the body is the outcome's.
pub const ANSWER_HEADER: &str = "x-captcha-answer";

/// What a ticket says beside the job's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The job's id, which may have been generated.
    pub job_id: String,
    /// The task's type.
    pub task_type: String,
    /// When the answer is no longer wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The task names a proxy of the publisher's.
    pub own_proxy: bool,
    /// That proxy's mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<Mark>,
    /// The API's id of the task.
    pub task_id: TaskId,
    /// When the API accepted it.
    pub accepted_at: Timestamp,
    /// What the job went through before.
    pub history: History,
}

/// A message off the ticket queue.
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
    },
    /// An outcome to publish.
    Answered {
        /// Its routing key.
        routing_key: String,
        /// The outcome as it is to be published.
        outcome: Message,
    },
}

/// The publisher's properties for another hop: without what belongs to one hop or one user, and with the id that the job goes by.
fn next_hop(job: &Job) -> Message {
    let mut properties = job.message.properties.clone();
    properties.expiration = None;
    properties.user_id = None;
    properties.message_id = Some(job.id.clone());
    properties.headers = publishers_headers(&job.message.properties.headers);
    Message { body: job.message.body.clone(), properties, transient: false }
}

/// A job to be parked, with its history.
#[must_use]
pub fn parked(job: &Job, history: &History) -> Message {
    let mut message = next_hop(job);
    message.properties.headers.insert(HISTORY_HEADER.to_owned(), history.to_header());
    message
}

/// The ticket of an accepted task.
#[must_use]
pub fn ticket(job: &Job, history: &History, task_id: &TaskId, accepted_at: Timestamp) -> Message {
    let ticket = Ticket {
        job_id: job.id.clone(),
        task_type: job.task_type.clone(),
        deadline: job.deadline,
        own_proxy: job.own_proxy,
        proxy: job.proxy.clone(),
        task_id: task_id.clone(),
        accepted_at,
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

/// Reads a message off the ticket queue.
///
/// # Errors
/// A fault, with the message given back, where it is no ticket of this version.
pub fn read(mut message: Message, now: Timestamp) -> Result<Kept, Box<(Fault, Message)>> {
    let headers = &mut message.properties.headers;
    if let Some(Value::Text(routing_key)) = headers.remove(ANSWER_HEADER) {
        *headers = publishers_headers(headers);
        return Ok(Kept::Answered { routing_key, outcome: message });
    }
    match read_open(headers) {
        Ok(ticket) => Ok(Kept::Open {
            history: ticket.history.no_later_than(now),
            task_id: ticket.task_id,
            accepted_at: ticket.accepted_at.min(now),
            job: Job {
                id: ticket.job_id,
                task_type: ticket.task_type,
                deadline: ticket.deadline,
                own_proxy: ticket.own_proxy,
                proxy: ticket.proxy,
                message,
            },
        }),
        Err(why) => {
            let fault = Fault::malformed(codes::NOT_A_TICKET, format!("header '{TICKET_HEADER}' {why}"));
            Err(Box::new((fault, message)))
        }
    }
}

fn read_open(headers: &Headers) -> Result<Ticket, String> {
    let text = headers.get(TICKET_HEADER).and_then(Value::as_text).ok_or("is missing")?;
    let ticket: Ticket = serde_json::from_str(text).map_err(|error| format!("cannot be read: {error}"))?;
    let sound = ticket.history.is_plausible()
        && !ticket.job_id.is_empty()
        && ticket.job_id.len() <= MAX_ID
        && ticket.task_id.as_json().len() <= TaskId::MAX_LEN;
    if sound { Ok(ticket) } else { Err("holds what no worker writes".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::envelope::Properties;
    use crate::domain::policy::Policy;

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
        Job::read(&mut Message { body, properties, transient: false }, &policy, || "gen-1".to_owned())
            .unwrap()
    }

    fn task_id(json: &str) -> TaskId {
        TaskId::from_raw(serde_json::from_str(json).unwrap()).unwrap()
    }

    #[test]
    fn an_open_ticket_reads_back_with_the_job_verbatim() {
        let history = History { retries: 2, ..History::begin(NOW) };
        for id in ["7654321", "\"8f14e45f-ceea\"", "98765432109876543210"] {
            let message = ticket(&job(), &history, &task_id(id), NOW);
            assert_eq!(message.body, job().message.body);
            let Ok(Kept::Open { job: read, history: past, task_id, accepted_at }) = read(message, NOW) else {
                panic!("must be an open ticket")
            };
            assert_eq!(
                (read.id.as_str(), read.task_type.as_str(), read.deadline),
                ("gen-1", "SomeTask", job().deadline)
            );
            assert_eq!((past, accepted_at, task_id.as_json()), (history.clone(), NOW, id));
        }
    }

    #[test]
    fn republishing_keeps_the_publishers_properties_save_what_belongs_to_one_hop() {
        let message = parked(&job(), &History::begin(NOW));
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
            read(ticket(&job(), &History::begin(NOW), &task_id("7"), NOW), NOW)
        else {
            panic!("must be an open ticket")
        };
        let parked = parked(&job, &history);
        assert_eq!(parked.properties.headers.keys().collect::<Vec<_>>(), ["tenant", HISTORY_HEADER]);
    }

    #[test]
    fn an_answered_ticket_carries_the_outcome_whole() {
        let outcome = Message { body: b"{}".to_vec(), ..Message::default() };
        let kept = read(answered("solved.SomeTask", &outcome), NOW);
        assert_eq!(kept, Ok(Kept::Answered { routing_key: "solved.SomeTask".to_owned(), outcome }));
    }

    #[test]
    fn what_is_no_ticket_is_given_back_with_its_reason() {
        let mut broken = ticket(&job(), &History::begin(NOW), &task_id("7"), NOW);
        broken.properties.headers.insert(TICKET_HEADER.to_owned(), "{\"job_id\":1}".into());
        for message in [job().message, broken] {
            let refused = read(message.clone(), NOW).expect_err("must be refused");
            assert_eq!(refused.0.code, codes::NOT_A_TICKET);
            assert_eq!(refused.1.body, message.body);
        }
    }
}
