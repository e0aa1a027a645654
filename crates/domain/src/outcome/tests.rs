use serde_json::{Value as Json, json};

use super::*;
use crate::fault::local_code;
use crate::message::Value;
use crate::policy::Policy;

const SEEN: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const ACCEPTED: Timestamp = Timestamp::from_millis(1_790_000_000_003);
const DONE: Timestamp = Timestamp::from_millis(1_790_000_002_103);
const BY: Finish<'static> = Finish { worker: "host-1/4711", now: DONE };

fn job(body: &str) -> Result<Job, Box<RejectedMessage>> {
    let properties = Properties {
        correlation_id: Some("c-9".to_owned()),
        headers: Headers::from([
            ("traceparent".to_owned(), "00-ab-cd-01".into()),
            ("other".to_owned(), Value::Int(1)),
        ]),
        ..Properties::default()
    };
    let policy = Policy::try_new(&[], &["My.Task"]).unwrap();
    Job::read(&mut Message { body: body.to_owned().into(), properties, transient: false }, &policy, || {
        "gen".to_owned()
    })
}

fn read(outcome: &Outcome) -> Json {
    serde_json::from_slice(&outcome.message.body).unwrap()
}

#[test]
fn a_solved_outcome_has_the_shape_of_the_contract() {
    let job = job(r#"{"id":"order-17","task":{"type":"My.Task"},"metadata":{"any": "json"}}"#).unwrap();
    let id = TaskId::from_raw(serde_json::from_str("7654321").unwrap()).unwrap();
    let task = Task { id: &id, accepted_at: ACCEPTED, polls: 2, cost: None, acceptance: None };
    let solution: &RawValue = serde_json::from_str(r#"{ "text":"an\u0073wer", "n": 1.50 }"#).unwrap();
    let outcome = solved(&job, &History::begin(SEEN), task, solution, BY);
    assert_eq!(
        read(&outcome),
        json!({"version": 1, "id": "order-17", "status": "solved", "task_type": "My.Task", "task_id": 7654321,
            "solution": {"text": "answer", "n": 1.5}, "metadata": {"any": "json"},
            "attempts": [{"submitted_at": ACCEPTED.to_string(), "task_id": 7654321, "polls": 2, "ended": "ready"}],
            "times": {"received_at": SEEN.to_string(), "solved_at": DONE.to_string(), "finished_at": DONE.to_string(),
                "queued_ms": 3, "solving_ms": 2100},
            "worker": "host-1/4711"})
    );
    let text = String::from_utf8(outcome.message.body.to_vec()).unwrap();
    assert!(text.contains(solution.get()), "the solution is verbatim");
    assert_eq!((&*outcome.routing_key, outcome.class()), ("solved.My_Task", None));
}

#[test]
fn an_outcome_carries_the_publishers_correlation_and_trace() {
    let job = job(r#"{"id":"a","task":{"type":"My.Task"}}"#).unwrap();
    let fault = Fault::local(Class::Expired, local_code::DEADLINE_PASSED, Stage::Admission, "late");
    let properties = failed(&job, &History::begin(SEEN), None, &fault, BY).message.properties;
    assert_eq!(properties.message_id.as_deref(), Some("a"));
    assert_eq!(properties.correlation_id.as_deref(), Some("c-9"));
    assert_eq!(properties.kind.as_deref(), Some(KIND));
    assert_eq!(properties.headers, Headers::from([("traceparent".to_owned(), "00-ab-cd-01".into())]));
}

#[test]
fn an_outcome_names_the_lane_of_its_job_unless_it_is_the_default_one() {
    let fault = Fault::local(Class::Expired, local_code::DEADLINE_PASSED, Stage::Admission, "late");
    for (lane, shown) in [("default", None), ("urgent", Some("urgent"))] {
        let lane: Lane = lane.parse().unwrap();
        let solvable = Job { lane: lane.clone(), ..job(r#"{"id":"a","task":{"type":"My.Task"}}"#).unwrap() };
        let refusable = RejectedMessage { lane, ..*job("no job").unwrap_err() };
        let outcomes =
            [failed(&solvable, &History::begin(SEEN), None, &fault, BY), refused(&refusable, SEEN, BY)];
        for outcome in outcomes {
            let header = outcome.message.properties.headers.get(LANE_HEADER).and_then(Value::as_text);
            assert_eq!((header, read(&outcome).get("lane").and_then(Json::as_str)), (shown, shown));
        }
    }
}

#[test]
fn the_outcome_of_a_replayed_job_says_so_in_headers_and_body() {
    let replayed = Replayed { id: "r-7".to_owned(), count: 2 };
    let mut solvable = job(r#"{"id":"a","task":{"type":"My.Task"}}"#).unwrap();
    replayed.write(&mut solvable.properties.headers);
    let mut refusable = job("no job").unwrap_err();
    replayed.write(&mut refusable.message.properties.headers);
    let fault = Fault::local(Class::Expired, local_code::DEADLINE_PASSED, Stage::Admission, "late");
    let outcomes =
        [failed(&solvable, &History::begin(SEEN), None, &fault, BY), refused(&refusable, SEEN, BY)];
    for outcome in outcomes {
        assert_eq!(Replayed::of(&outcome.message.properties.headers), Some(replayed.clone()));
        assert_eq!((&read(&outcome)["replay_id"], &read(&outcome)["replays"]), (&json!("r-7"), &json!(2)));
    }
    solvable.properties.headers.insert("captcha-replays".to_owned(), Value::Int(0));
    let outcome = failed(&solvable, &History::begin(SEEN), None, &fault, BY);
    assert!(read(&outcome).get("replay_id").is_none(), "a mark that cannot be is ignored");
}

#[test]
fn a_failed_outcome_carries_the_whole_job() {
    let body = r#"{"id":"order-18","task":{"type":"My.Task", "x":[1, 2]}}"#;
    let fault =
        Fault { code: "ERROR.WEIRD CODE".into(), ..Fault::local(Class::Unknown, "", Stage::Submit, "why") };
    let outcome = failed(&job(body).unwrap(), &History::begin(SEEN), None, &fault, BY);
    let read = read(&outcome);
    assert_eq!(
        read["failure"],
        json!({"class": "unknown", "code": "ERROR.WEIRD CODE", "description": "why", "stage": "submit"})
    );
    assert_eq!(read["job"], serde_json::from_str::<Json>(body).unwrap());
    assert_eq!(outcome.routing_key, "dead.unknown.ERROR_WEIRD_CODE");
    assert_eq!(outcome.class(), Some(Class::Unknown));
}

#[test]
fn what_is_no_job_is_kept_as_it_was() {
    for (body, encoding, kept) in [
        (&b"not json\t\r\n"[..], "utf-8", "not json\t\r\n"),
        (&b"\xff\x00"[..], "base64", "/wA="),
        (&b"\x00\x1b"[..], "base64", "ABs="),
    ] {
        let mut message = Message { body: body.to_vec().into(), ..Message::default() };
        let no_job = Job::read(&mut message, &Policy::default(), || "gen".to_owned()).unwrap_err();
        let outcome = read(&refused(&no_job, SEEN, BY));
        assert_eq!(outcome["original"], json!({"encoding": encoding, "body": kept}));
        assert_eq!((&outcome["id"], &outcome["status"]), (&json!("gen"), &json!("failed")));
    }
    let forbidden = job(r#"{"id":"b","task":{"type":"Other"}}"#).unwrap_err();
    assert_eq!(
        read(&refused(&forbidden, SEEN, BY))["job"]["id"],
        json!("b"),
        "a refused job can be replayed"
    );
}
