//! The ticket queue: what no worker has written is given back whole, and what a worker takes on can
//! be handed on.

use captcha_worker::domain::call::TaskId;
use captcha_worker::domain::fault::local_code;
use captcha_worker::domain::history::{MAX_ATTEMPTS, MAX_PUBLISHERS_HEADERS, publishers_headers};
use captcha_worker::domain::job::{MAX_ID, RejectedMessage};
use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::message::wire_size;
use captcha_worker::domain::outcome::{self, Finish, Task};
use captcha_worker::domain::ticket::{self, Kept, TICKET_HEADER};

use super::letter::DeadLetter;
use super::{MAX_DESCRIPTION, NOW, admission};

/// The property.
pub(crate) fn holds(input: &[u8]) {
    let sent = DeadLetter::read(input).message();
    match ticket::read(sent.clone(), NOW) {
        Ok(kept @ Kept::Open { .. }) => {
            is_handed_on(&kept, &sent.body);
        }
        Ok(Kept::Answered { routing_key, outcome }) => {
            assert_eq!(outcome.body, sent.body, "the outcome, byte for byte");
            assert!(routing_key.len() <= 255, "no exchange takes a key of {} bytes", routing_key.len());
            assert!(routing_key.starts_with("solved.") || routing_key.starts_with("dead."), "{routing_key}");
            let properties = &outcome.properties;
            assert_eq!(
                (&properties.user_id, &properties.expiration),
                (&None, &None),
                "the broker would refuse them"
            );
            assert!(wire_size(&properties.headers) <= MAX_PUBLISHERS_HEADERS);
            let again = ticket::read(ticket::answered(&routing_key, &outcome), NOW);
            assert_eq!(again, Ok(Kept::Answered { routing_key, outcome }), "it can wait again");
        }
        Err(refusal) => {
            let (fault, message) = *refusal;
            assert_eq!(message, sent, "what is refused is given back as it came");
            assert_eq!(fault.code, local_code::NOT_A_TICKET);
            assert!(fault.description.len() <= MAX_DESCRIPTION);
            let id = message.properties.message_id.clone().unwrap_or_else(|| "fresh".to_owned());
            let refused = RejectedMessage { id, lane: Lane::default(), task_type: None, fault, message };
            let outcome = outcome::refused(&refused, NOW, Finish { worker: "w", now: NOW });
            admission::is_publishable(&outcome, &sent.body);
        }
    }
}

fn is_handed_on(kept: &Kept, body: &[u8]) {
    let Kept::Open { job, history, task_id, accepted_at, polls, callback, .. } = kept else { return };
    assert_eq!(job.body.bytes(), body, "the job, byte for byte");
    assert!((1..=MAX_ID).contains(&job.id.len()));
    assert!(job.task_type.len() <= 100, "a type of {} bytes", job.task_type.len());
    admission::is_a_kind(job);
    assert!(history.attempts.len() <= MAX_ATTEMPTS);
    assert!(*accepted_at <= NOW && history.first_seen <= NOW, "the future is taken for now");
    let ids = history.attempts.iter().filter_map(|attempt| attempt.task_id.as_ref());
    for id in ids.chain([task_id]) {
        assert!(id.as_json().len() <= TaskId::MAX_LEN, "an id of {} bytes", id.as_json().len());
    }
    // Neither judged by a policy that does not know it, nor panicking over a body that is no job.
    let _ =
        (job.recheck(&admission::policy()), job.task().is_some(), job.metadata().is_some(), job.is_late(NOW));
    let task = Task { id: task_id, accepted_at: *accepted_at, polls: *polls, cost: None, acceptance: None };
    let message = ticket::ticket(job, history, task, *callback);
    let own = message.properties.headers.get(TICKET_HEADER).and_then(|value| value.as_text());
    assert!(own.is_some_and(|text| text.len() <= 32 * 1024), "the header's text is bounded");
    assert!(wire_size(&publishers_headers(&message.properties.headers)) <= MAX_PUBLISHERS_HEADERS);
    let Ok(again) = ticket::read(message, NOW) else { panic!("what was read is read again") };
    let Kept::Open {
        job: other,
        history: past,
        task_id: id,
        accepted_at: at,
        polls: count,
        callback: token,
        ..
    } = again
    else {
        panic!("an open ticket stays one")
    };
    assert_eq!((&other.id, other.kind(), other.deadline), (&job.id, job.kind(), job.deadline));
    assert_eq!(
        (&other.proxy, other.own_proxy, &other.body.bytes()),
        (&job.proxy, job.own_proxy, &job.body.bytes())
    );
    assert_eq!((&past, id.as_json(), at, count), (history, task_id.as_json(), *accepted_at, *polls));
    assert_eq!(token, *callback);
}
