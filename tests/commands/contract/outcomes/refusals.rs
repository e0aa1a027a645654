//! What is no outcome is refused, and what a later version adds is not.

use captcha_worker::domain::class::Class;
use captcha_worker::domain::fault::{Fault, Stage};
use serde_json::{Value, json};

use super::{OUTCOME, VERBATIM, failed, long_history, refused, solved, some_job};
use crate::contract::faults;

/// Every place in a value that holds a field.
fn places(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                let at = format!("{at}/{name}");
                if !VERBATIM.contains(&&**name) {
                    places(field, &at, found);
                }
                found.push(at);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn without(value: &Value, place: &str) -> Value {
    let (parent, name) = place.rsplit_once('/').expect("a place");
    let mut value = value.clone();
    let parent = value.pointer_mut(parent).and_then(Value::as_object_mut).expect("an object");
    parent.remove(name).expect("a field");
    value
}

fn with(value: &Value, place: &str, other: Value) -> Value {
    let mut value = value.clone();
    *value.pointer_mut(place).expect("a place") = other;
    value
}

/// An outcome of each shape, with the fields that it may do without.
fn shapes() -> [(Value, &'static [&'static str]); 3] {
    let (job, history) = (some_job(), long_history());
    let fault = Fault::local(Class::Lost, "ERROR_OF_SOME_KIND", Stage::Poll, "why");
    [
        (solved(&job, &history, "7", "{}"), &["lane", "metadata", "cost", "estimated"]),
        (
            failed(&job, &history, &fault, true),
            &["lane", "metadata", "task_id", "task_type", "queued_ms", "cost", "estimated"],
        ),
        (refused(r#"{"id":"a","task":{"type":"ImageToTextTask","Type":"x"}}"#), &["task_type"]),
    ]
}

#[test]
fn an_outcome_that_lacks_a_field_is_refused_save_where_the_contract_lets_it_be_absent() {
    for (outcome, optional) in shapes() {
        let mut places_of = Vec::new();
        places(&outcome, "", &mut places_of);
        assert!(places_of.len() > 10);
        for place in places_of {
            let name = place.rsplit('/').next().unwrap_or_default();
            let may = optional.contains(&name) || place.starts_with("/attempts/") && name == "task_id";
            assert_eq!(OUTCOME.is_valid(&without(&outcome, &place)), may, "without {place}: {outcome:#}");
        }
    }
}

#[test]
fn an_outcome_with_a_field_of_another_type_is_refused() {
    for (outcome, _) in shapes() {
        let mut places_of = Vec::new();
        places(&outcome, "", &mut places_of);
        for place in places_of {
            if VERBATIM.iter().any(|name| place == format!("/{name}")) {
                continue;
            }
            let is = outcome.pointer(&place).expect("a place");
            for other in [json!(null), json!(true), json!({"a": 1}), json!([[]]), json!(-1.5), json!("2026")]
            {
                let is_an_id = place.ends_with("/task_id");
                let like = |value: &Value| {
                    value.is_number() && is_an_id
                        || std::mem::discriminant(value) == std::mem::discriminant(is)
                };
                if like(&other) || is_an_id && other.is_string() {
                    continue;
                }
                assert!(!OUTCOME.is_valid(&with(&outcome, &place, other.clone())), "{place} = {other}");
            }
        }
    }
}

#[test]
fn wrong_words_numbers_and_times_are_refused() {
    let [(solved, _), (failed, _), _] = shapes();
    for (outcome, place, other) in [
        (&solved, "/version", json!(2)),
        (&solved, "/status", json!("failed")),
        (&solved, "/status", json!("ended")),
        (&solved, "/id", json!("")),
        (&solved, "/attempts/0/ended", json!("done")),
        (&solved, "/attempts/0/polls", json!(-1)),
        (&solved, "/times/received_at", json!("2026-13-01T00:00:00.000Z")),
        (&solved, "/times/received_at", json!("yesterday")),
        (&solved, "/times/queued_ms", json!(1.5)),
        (&failed, "/failure/class", json!("pending")),
        (&failed, "/failure/code", json!("")),
        (&failed, "/failure/stage", json!("later")),
        (&failed, "/status", json!("solved")),
    ] {
        assert!(!OUTCOME.is_valid(&with(outcome, place, other.clone())), "{place} = {other}");
    }
    for (name, value) in [
        ("replay_id", json!("")),
        ("replay_id", json!("x".repeat(65))),
        ("replay_id", json!("two words")),
        ("lane", json!("")),
        ("lane", json!("Urgent lane")),
        ("replays", json!(0)),
        ("replays", json!(1_000_001)),
    ] {
        let mut outcome = failed.clone();
        outcome[name] = value;
        assert!(!OUTCOME.is_valid(&outcome), "{name}");
    }
}

#[test]
fn fields_that_a_later_version_adds_are_let_by() {
    for (mut outcome, _) in shapes() {
        outcome["new"] = json!(1);
        outcome["times"]["new"] = json!([]);
        assert_eq!(faults(&OUTCOME, &outcome), "");
    }
    let [_, (mut failed, _), _] = shapes();
    failed["replay_id"] = json!("fixed-on-monday");
    failed["replays"] = json!(3);
    assert_eq!(faults(&OUTCOME, &failed), "");
}
