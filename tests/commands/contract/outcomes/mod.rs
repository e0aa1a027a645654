//! Every outcome that the code makes is described, wholly, and nothing less would pass.

mod fields;
mod refusals;

use std::sync::LazyLock;

use captcha_worker::contract;
use captcha_worker::domain::call::TaskId;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::fault::{Fault, Stage};
use captcha_worker::domain::history::{Attempt, Ended, History};
use captcha_worker::domain::job::{Job, RejectedMessage};
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::money::{Cost, Decimal};
use captcha_worker::domain::outcome::{self, Finish, Outcome, Task};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::time::Timestamp;
use jsonschema::Validator;
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::contract::{faults, validator};

static OUTCOME: LazyLock<Validator> = LazyLock::new(|| validator(&contract::outcome()));

const SEEN: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const ACCEPTED: Timestamp = Timestamp::from_millis(1_790_000_000_003);
const BY: Finish<'static> = Finish { worker: "host-1/4711", now: Timestamp::from_millis(1_790_000_002_103) };
/// What a publisher or the API sent, as it was: anything.
const VERBATIM: [&str; 3] = ["solution", "metadata", "job"];

fn read(body: &str) -> Result<Job, Box<RejectedMessage>> {
    let policy = Policy::try_new(&[], &["My.Task"]).expect("a type");
    let mut message =
        Message { body: body.to_owned().into(), properties: Properties::default(), transient: false };
    Job::read(&mut message, &policy, || "made".to_owned())
}

fn some_job() -> Job {
    let job =
        read(r#"{"id":"order-17","task":{"type":"My.Task"},"metadata":{"any":"json"}}"#).expect("a job");
    Job { lane: "urgent".parse().expect("a lane"), ..job }
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

const COST: Option<Cost> = Some(Cost { amount: Decimal::from_parts(25, 0, 0, false, 5), estimated: false });

/// With a submission of every end behind it.
fn long_history() -> History {
    let ends = Class::finals().map(Ended::Failed).chain([Ended::Ambiguous]);
    let attempt = |ended| Attempt {
        submitted_at: SEEN,
        task_id: (ended != Ended::Ambiguous).then(|| task_id("\"a-task\"")),
        polls: 3,
        ended,
        cost: Some(Decimal::new(3, 4)),
        estimated: true,
    };
    History { attempts: ends.map(attempt).collect(), retries: 2, ..History::begin(SEEN) }
}

fn solved(job: &Job, history: &History, id: &str, solution: &str) -> Value {
    let id = task_id(id);
    let task = Task { id: &id, accepted_at: ACCEPTED, polls: 2, cost: COST, acceptance: None };
    read_back(&outcome::solved(job, history, task, &raw(solution), BY))
}

fn failed(job: &Job, history: &History, fault: &Fault, with_task: bool) -> Value {
    let id = task_id("7654321");
    let task =
        with_task.then_some(Task { id: &id, accepted_at: ACCEPTED, polls: 2, cost: COST, acceptance: None });
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
        for stage in [Stage::Admission, Stage::Submit, Stage::Poll] {
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
        let task = Task { id: &id, accepted_at: ACCEPTED, polls, cost: None, acceptance: None };
        let by = Finish { worker: "w", now: ACCEPTED.plus(std::time::Duration::from_millis(later)) };
        let solved = outcome::solved(&job, &History::begin(SEEN), task, &raw(&json!(junk).to_string()), by);
        prop_assert_eq!(faults(&OUTCOME, &read_back(&solved)), "");
        if let Err(no_job) = read(&junk) {
            let outcome = read_back(&outcome::refused(&no_job, SEEN, by));
            prop_assert_eq!(faults(&OUTCOME, &outcome), "");
        }
    }
}
