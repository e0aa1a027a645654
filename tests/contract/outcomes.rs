//! Every outcome that the code makes is described, wholly, and nothing less would pass.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use captcha_worker::contract;
use captcha_worker::domain::call::TaskId;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::envelope::{Message, Properties};
use captcha_worker::domain::fault::{Fault, Stage};
use captcha_worker::domain::history::{Attempt, Ended, History};
use captcha_worker::domain::job::{Job, NotAJob};
use captcha_worker::domain::outcome::{self, Finish, Outcome, Task};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::time::Timestamp;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::{faults, validator};

static OUTCOME: LazyLock<Validator> = LazyLock::new(|| validator(&contract::outcome()));

const SEEN: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const ACCEPTED: Timestamp = Timestamp::from_millis(1_790_000_000_003);
const BY: Finish<'static> = Finish { worker: "host-1/4711", now: Timestamp::from_millis(1_790_000_002_103) };
/// Fields that only a replay of an earlier job brings.
const OF_REPLAYS: [&str; 2] = ["replay_id", "replays"];
/// What a publisher or the API sent, as it was: anything.
const VERBATIM: [&str; 3] = ["solution", "metadata", "job"];

fn read(body: &str) -> Result<Job, Box<NotAJob>> {
    let policy = Policy::try_new(&[], &["My.Task"]).expect("a type");
    let mut message =
        Message { body: body.to_owned().into(), properties: Properties::default(), transient: false };
    Job::read(&mut message, &policy, || "made".to_owned())
}

fn some_job() -> Job {
    read(r#"{"id":"order-17","task":{"type":"My.Task"},"metadata":{"any":"json"}}"#).expect("a job")
}

fn task_id(json: &str) -> TaskId {
    TaskId::from_raw(&raw(json)).expect("an id")
}

fn raw(json: &str) -> Box<RawValue> {
    serde_json::from_str(json).expect("JSON")
}

fn read_back(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.message.body).expect("an outcome is JSON")
}

/// With a submission of every end behind it.
fn long_history() -> History {
    let ends = Class::finals().map(Ended::Failed).chain([Ended::Ambiguous]);
    let attempt = |ended| Attempt {
        submitted_at: SEEN,
        task_id: (ended != Ended::Ambiguous).then(|| task_id("\"a-task\"")),
        polls: 3,
        ended,
    };
    History { attempts: ends.map(attempt).collect(), retries: 2, ..History::begin(SEEN) }
}

fn solved(job: &Job, history: &History, id: &str, solution: &str) -> Value {
    let id = task_id(id);
    let task = Task { id: &id, accepted_at: ACCEPTED, polls: 2 };
    read_back(&outcome::solved(job, history, task, &raw(solution), BY))
}

fn failed(job: &Job, history: &History, fault: &Fault, with_task: bool) -> Value {
    let id = task_id("7654321");
    let task = with_task.then_some(Task { id: &id, accepted_at: ACCEPTED, polls: 2 });
    read_back(&outcome::failed(job, history, task, fault, BY))
}

fn refused(body: &str) -> Value {
    read_back(&outcome::refused(&read(body).expect_err("no job"), SEEN, BY))
}

/// One of every shape.
fn all() -> Vec<Value> {
    let (job, fresh, long) = (some_job(), History::begin(SEEN), long_history());
    let bare = read(r#"{"task":{"type":"My.Task"}}"#).expect("a job");
    let mut all = Vec::new();
    for (id, solution) in
        [("1", "{}"), ("\"x-1\"", "null"), ("18446744073709551616", "[1.50]"), ("0.5", "\"t\"")]
    {
        all.push(solved(&job, &fresh, id, solution));
        all.push(solved(&bare, &long, id, solution));
    }
    for class in Class::finals() {
        for stage in [Stage::Door, Stage::Submit, Stage::Poll] {
            let fault = Fault::local(class, "ERROR_OF_SOME_KIND", stage, "why");
            for with_task in [false, true] {
                all.push(failed(&job, &fresh, &fault, with_task));
                all.push(failed(&bare, &long, &fault, with_task));
            }
        }
    }
    let no_jobs = [
        "",
        "not json",
        "[]",
        "\u{0}",
        r#"{"id":"a"}"#,
        r#"{"id":"a","task":{"type":"Other"}}"#,
        r#"{"clientKey":1,"task":{}}"#,
        r#"{"id":"a","task":{"type":"ImageToTextTask","body":"AAAA"}}"#,
    ];
    all.extend(no_jobs.map(refused));
    all
}

#[test]
fn every_outcome_that_the_code_makes_is_valid() {
    for outcome in all() {
        assert_eq!(faults(&OUTCOME, &outcome), "", "{outcome:#}");
    }
}

/// The names of fields, nested ones by their path: a schema's, wherever in it they are described.
fn described(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("#/$defs/")) {
        described(&root["$defs"][name], root, path, found);
    }
    for part in schema["oneOf"].as_array().into_iter().flatten() {
        described(part, root, path, found);
    }
    described_items(schema, root, path, found);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if *property != json!(false) {
            let path = format!("{path}/{name}");
            described(property, root, &path, found);
            found.insert(path);
        }
    }
}

fn described_items(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
    if schema["items"].is_object() {
        described(&schema["items"], root, path, found);
    }
}

/// The same of a value.
fn written(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    if VERBATIM.iter().any(|name| path == format!("/{name}")) {
        return;
    }
    for item in value.as_array().into_iter().flatten() {
        written(item, path, found);
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        written(field, &path, found);
        found.insert(path);
    }
}

#[test]
fn every_field_that_is_written_is_described_and_no_other() {
    let schema = contract::outcome();
    let (mut told, mut made) = (BTreeSet::new(), BTreeSet::new());
    described(&schema, &schema, "", &mut told);
    all().iter().for_each(|outcome| written(outcome, "", &mut made));
    for name in OF_REPLAYS {
        assert!(told.contains(&format!("/{name}")), "{name}");
        made.insert(format!("/{name}"));
    }
    assert_eq!(told, made);
}

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
        (solved(&job, &history, "7", "{}"), &["metadata"]),
        (failed(&job, &history, &fault, true), &["metadata", "task_id", "task_type", "queued_ms"]),
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
    failed["replay_id"] = json!("mended-on-monday");
    failed["replays"] = json!(3);
    assert_eq!(faults(&OUTCOME, &failed), "");
}

proptest! {
    #[test]
    fn no_text_from_outside_makes_an_outcome_that_is_not_valid(
        id in ".{1,60}", code in ".{1,60}", description in ".{0,60}", junk in ".{0,80}", class in 0_usize..12, polls in any::<u32>(),
        later in 0_u64..10_000_000_000,
    ) {
        let job = json!({"id": id.replace('\0', "0"), "task": {"type": "My.Task", "x": junk}, "metadata": junk}).to_string();
        let job = read(&job).expect("a job");
        let class = Class::finals().nth(class).expect("twelve");
        let fault = Fault { code: code.into(), description: description.into(), ..Fault::local(class, "", Stage::Poll, "") };
        prop_assert_eq!(faults(&OUTCOME, &failed(&job, &long_history(), &fault, true)), "");
        let id = task_id("\"t\"");
        let task = Task { id: &id, accepted_at: ACCEPTED, polls };
        let by = Finish { worker: "w", now: ACCEPTED.plus(std::time::Duration::from_millis(later)) };
        let solved = outcome::solved(&job, &History::begin(SEEN), task, &raw(&json!(junk).to_string()), by);
        prop_assert_eq!(faults(&OUTCOME, &read_back(&solved)), "");
        if let Err(no_job) = read(&junk) {
            let outcome = read_back(&outcome::refused(&no_job, SEEN, by));
            prop_assert_eq!(faults(&OUTCOME, &outcome), "");
        }
    }
}
