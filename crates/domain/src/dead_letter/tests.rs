use serde_json::json;

use super::*;
use crate::message::{Headers, Value};

const PLACE: LetterQueue<'static> =
    LetterQueue { class: Some(Class::Unsolved), jobs: "c.jobs", tickets: "c.tickets" };
const RAW: LetterQueue<'static> = LetterQueue { class: None, ..PLACE };
const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const JOB: &str = r#"{"id":"a", "task":{"type":"T","x":1.50}}"#;

fn message(body: &str, kind: Option<&str>, headers: Headers) -> Message {
    let properties = Properties {
        headers,
        message_id: Some("a".to_owned()),
        correlation_id: Some("c-9".to_owned()),
        expiration: Some("1".to_owned()),
        user_id: Some("shop".to_owned()),
        kind: kind.map(str::to_owned),
        ..Properties::default()
    };
    Message { body: body.to_owned().into(), properties, transient: false }
}

fn failed(rest: &str) -> Message {
    let body = format!(
        r#"{{"version":1,"id":"a","status":"failed","task_type":"T","failure":{{"class":"unsolved","code":"E","description":"d","stage":"poll"}},{rest},"attempts":[],"times":{{"received_at":"2026-11-23T10:00:00Z","finished_at":"2026-11-23T10:00:01Z"}},"worker":"w"}}"#
    );
    message(
        &body,
        Some(KIND),
        Headers::from([(TRACEPARENT.to_owned(), "t".into()), ("n".to_owned(), "m".into())]),
    )
}

fn dead(queue: &str, reason: &str) -> Headers {
    let death = Headers::from([
        ("queue".to_owned(), queue.into()),
        ("reason".to_owned(), reason.into()),
        ("time".to_owned(), Value::Timestamp(1_790_000_000)),
        ("count".to_owned(), Value::Int(1)),
    ]);
    Headers::from([
        ("x-death".to_owned(), Value::Array(vec![Value::Table(death)])),
        ("x-delivery-count".to_owned(), Value::Int(3)),
        ("tenant".to_owned(), "blue".into()),
    ])
}

fn read(message: &Message, place: LetterQueue<'_>) -> DeadLetter {
    DeadLetter::read(message, place).expect("a letter")
}

#[test]
fn a_failed_outcome_is_replayed_as_its_job_byte_for_byte_and_says_so() {
    let message = failed(&format!(r#""job":{JOB}"#));
    let letter = read(&message, PLACE);
    assert_eq!((&*letter.id, letter.class_name(), &*letter.code), ("a", "unsolved", "E"));
    assert_eq!((letter.task_type.as_deref(), letter.replays), (Some("T"), 0));
    assert_eq!(letter.ended, Timestamp::parse("2026-11-23T10:00:01Z"));
    let again = letter.replay(&message, 3, NOW).unwrap();
    assert_eq!(again.body, JOB);
    let properties = &again.properties;
    assert_eq!(
        (properties.message_id.as_deref(), properties.correlation_id.as_deref()),
        (Some("a"), Some("c-9"))
    );
    assert_eq!((&properties.expiration, &properties.user_id, &properties.kind), (&None, &None, &None));
    assert_eq!(properties.headers.keys().collect::<Vec<_>>(), [REPLAY_ID, REPLAYS, TRACEPARENT]);
    assert_eq!(Replayed::of(&properties.headers).map(|mark| mark.count), Some(1));
}

#[test]
fn a_letter_keeps_its_replay_id_wherever_it_is_moved_and_the_next_one_has_another() {
    let message = failed(&format!(r#""job":{JOB}"#));
    let mark = |message: &Message, place| {
        Replayed::of(&read(message, place).replay(message, 9, NOW).unwrap().properties.headers).unwrap()
    };
    let first = mark(&message, PLACE);
    let mut moved = message.clone();
    moved.properties.headers.extend(dead("c.dead.unsolved", "expired"));
    assert_eq!(mark(&moved, RAW), first);
    let mut again = message;
    first.write(&mut again.properties.headers);
    assert_eq!(mark(&again, PLACE).count, 2);
    assert_ne!(mark(&again, PLACE).id, first.id);
}

#[test]
fn a_letter_has_the_lane_that_its_outcome_names_or_its_queue_of_jobs() {
    let named = |lane: &str| failed(&format!(r#""job":{JOB}{lane}"#));
    for (rest, lane) in
        [("", "default"), (r#","lane":"urgent""#, "urgent"), (r#","lane":"No lane""#, "default")]
    {
        assert_eq!(read(&named(rest), PLACE).lane.name(), lane);
    }
    for (queue, lane, can_be_replayed) in
        [("c.jobs", "default", true), ("c.jobs.urgent", "urgent", true), ("c.jobs.No", "default", false)]
    {
        let message = message(JOB, None, dead(queue, "delivery_limit"));
        let letter = read(&message, RAW);
        assert_eq!((letter.lane.name(), letter.replay(&message, 3, NOW).is_ok()), (lane, can_be_replayed));
    }
}

#[test]
fn what_was_replayed_often_enough_or_is_too_late_stays() {
    let late = failed(r#""job":{"task":{"type":"T"},"deadline":"2020-01-01T00:00:00Z"}"#);
    assert_eq!(read(&late, PLACE).replay(&late, 3, NOW), Err(SkipReason::TooLate));
    let mut often = failed(&format!(r#""job":{JOB}"#));
    Replayed { id: "r".to_owned(), count: 3 }.write(&mut often.properties.headers);
    assert_eq!(read(&often, PLACE).replay(&often, 3, NOW), Err(SkipReason::TooOften));
    assert!(read(&often, PLACE).replay(&often, 4, NOW).is_ok());
    let in_the_body = failed(&format!(r#""job":{JOB},"replays":3"#));
    assert_eq!(read(&in_the_body, PLACE).replays, 3);
}

#[test]
fn what_was_no_job_is_replayed_as_it_came() {
    for (encoding, body, bytes) in [("utf-8", "no job", &b"no job"[..]), ("base64", "/wA=", b"\xff\x00")] {
        let original = json!({"encoding": encoding, "body": body});
        let message = failed(&format!(r#""original":{original}"#));
        assert_eq!(read(&message, PLACE).replay(&message, 3, NOW).unwrap().body, bytes);
    }
    for rest in [
        r#""original":{"encoding":"rot13","body":"x"}"#,
        r#""original":{"encoding":"base64","body":"?"}"#,
        r#""x":1"#,
    ] {
        let message = failed(rest);
        assert_eq!(
            read(&message, PLACE).replay(&message, 3, NOW),
            Err(SkipReason::RejectedMessage),
            "{rest}"
        );
    }
}

#[test]
fn a_job_that_the_broker_put_aside_goes_again_with_its_publishers_properties() {
    let message = message(JOB, Some("their.type"), dead("c.jobs", "expired"));
    let letter = read(&message, RAW);
    assert_eq!(
        (letter.class_name(), &*letter.code, letter.task_type.as_deref()),
        ("raw", "expired", Some("T"))
    );
    assert_eq!(letter.ended, Some(Timestamp::from_millis(1_790_000_000_000)));
    let again = letter.replay(&message, 3, NOW).unwrap();
    assert_eq!(again.body, JOB);
    assert_eq!(again.properties.kind.as_deref(), Some("their.type"));
    assert_eq!((&again.properties.expiration, &again.properties.user_id), (&None, &None));
    assert_eq!(again.properties.headers.keys().collect::<Vec<_>>(), [REPLAY_ID, REPLAYS, "tenant"]);
    let marked = Message { body: format!("\u{feff}{JOB}").into(), ..message.clone() };
    assert_eq!(read(&marked, RAW).replay(&marked, 3, NOW).unwrap().body, JOB);
    let mut once_more = message;
    once_more.properties.headers.insert("x-delivery-count".to_owned(), Value::Int(4));
    assert_eq!(read(&once_more, RAW).replay(&once_more, 3, NOW).unwrap().properties, again.properties);
}

#[test]
fn what_else_the_broker_put_aside_stays_and_says_why() {
    let large = format!(r#"{{"task":{{"type":"T","x":"{}"}}}}"#, "x".repeat(MAX_MESSAGE));
    let mut answer = dead("c.tickets", "rejected");
    answer.insert(ANSWER_HEADER.to_owned(), "solved.T".into());
    let mut unreadable = dead("c.jobs", "expired");
    unreadable.insert(UNREADABLE_HEADER.to_owned(), "HEADERS_UNREADABLE cut off".into());
    let mut many = dead("c.jobs", "expired");
    many.extend((0..4_000).map(|n| (n.to_string(), Value::Int(1))));
    for (body, headers, why) in [
        (JOB, many, SkipReason::TooLarge),
        (&*large, dead("c.jobs", "rejected"), SkipReason::TooLarge),
        (JOB, dead("c.tickets", "delivery_limit"), SkipReason::Ticket),
        (JOB, answer, SkipReason::Ticket),
        ("no job", dead("c.jobs", "delivery_limit"), SkipReason::RejectedMessage),
        (r#"{"task":7}"#, dead("c.jobs", "expired"), SkipReason::RejectedMessage),
        (JOB, dead("c.guard", "rejected"), SkipReason::RejectedMessage),
        (JOB, Headers::new(), SkipReason::RejectedMessage),
        (JOB, unreadable, SkipReason::Unreadable),
    ] {
        let message = message(body, None, headers);
        assert_eq!(read(&message, RAW).replay(&message, 3, NOW), Err(why), "{why:?}");
    }
    let body = r#"{"id":"a","status":"solved","times":{"finished_at":"2026-11-23T10:00:01Z"},"solution":{}}"#;
    let solved = message(body, Some(KIND), dead("c.results", "expired"));
    assert_eq!(read(&solved, RAW).replay(&solved, 3, NOW), Err(SkipReason::Solved));
}

#[test]
fn a_job_whose_properties_are_lost_is_not_replayed_as_another() {
    let mut message = failed(&format!(r#""job":{JOB}"#));
    for code in ["PROPERTIES_NOT_UTF8", "HEADERS_UNREADABLE"] {
        let text = String::from_utf8(failed(&format!(r#""job":{JOB}"#)).body.to_vec()).unwrap();
        message.body = text.replace(r#""code":"E""#, &format!(r#""code":"{code}""#)).into();
        assert_eq!(read(&message, PLACE).replay(&message, 3, NOW), Err(SkipReason::Unreadable));
    }
}

#[test]
fn what_is_no_outcome_among_outcomes_is_unreadable() {
    for body in ["", "no json", "{}", JOB, r#"{"id":1,"status":"failed"}"#] {
        assert_eq!(DeadLetter::read(&message(body, Some(KIND), Headers::new()), PLACE), None, "{body}");
    }
}

#[test]
fn copies_are_known_by_their_marks_and_so_is_what_two_runs_of_one_replay_have_become() {
    let replay_ids = |message: &Message| read(message, PLACE).replay_ids().collect::<Vec<_>>();
    let letter = failed(&format!(r#""job":{JOB}"#));
    assert_eq!(replay_ids(&letter), replay_ids(&letter.clone()));
    let mut runs = [r#""x":1"#, r#""x":2"#].map(|rest| failed(&format!(r#""job":{JOB},{rest}"#)));
    assert!(replay_ids(&runs[0]).iter().all(|id| !replay_ids(&runs[1]).contains(id)));
    for run in &mut runs {
        Replayed { id: "r".to_owned(), count: 1 }.write(&mut run.properties.headers);
    }
    assert!(replay_ids(&runs[0]).iter().any(|id| replay_ids(&runs[1]).contains(id)));
    let in_the_body = failed(&format!(r#""job":{JOB},"replay_id":"r","replays":1"#));
    assert!(replay_ids(&in_the_body).iter().any(|id| replay_ids(&runs[1]).contains(id)));
}

#[test]
fn foreign_texts_are_cut_and_a_cut_id_names_no_message() {
    let long = "ä".repeat(5_000);
    let raw = json!({"id": long, "task": {"type": long}}).to_string();
    let raw = message(&raw, None, dead("c.jobs", &long));
    let body = String::from_utf8(failed(&format!(r#""job":{JOB}"#)).body.to_vec()).unwrap();
    let body =
        [(r#""id":"a","status""#, "id"), (r#""task_type":"T""#, "task_type"), (r#""code":"E""#, "code")]
            .iter()
            .fold(body, |body, (written, name)| {
                let status = if *name == "id" { r#","status""# } else { "" };
                body.replace(written, &format!(r#""{name}":"{long}"{status}"#))
            });
    let outcome = message(&body, Some(KIND), Headers::new());
    for (message, place) in [(&raw, RAW), (&outcome, PLACE)] {
        let letter = read(message, place);
        assert_eq!((letter.id.len(), letter.code.len()), (254, 100));
        assert_eq!(letter.task_type.as_ref().map(String::len), Some(100));
        assert_eq!(letter.replay(message, 3, NOW).unwrap().properties.message_id, None);
    }
}

#[test]
fn what_is_printed_of_a_letter_for_debugging_holds_no_secret() {
    let message = failed(r#""job":{"task":{"type":"T","proxyPassword":"s3cret"}}"#);
    let letter = read(&message, PLACE);
    let printed = format!("{letter:?} {:?}", letter.replay(&message, 3, NOW));
    assert!(printed.contains("bytes") && !printed.contains("s3cret"), "{printed}");
}
