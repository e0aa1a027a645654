//! The API's replies: any status, any `Retry-After` and any bytes are read into something bounded
//! that does not show the key.

use parking_lot::Mutex;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use captcha_worker::domain::api_code::Overrides;
use captcha_worker::domain::call::{Accepted, CallError, TaskId, TaskState};
use captcha_worker::domain::fault::{Stage, charge_of, classify, is_wrong_id};
use captcha_worker::domain::money;
use captcha_worker::solver::{
    Mask, RawReply, Solver, Transport, TransportError,
    wire::{self, MAX_CODE, MAX_DESCRIPTION, MAX_RETRY_AFTER},
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde_json::Value;
use serde_json::value::RawValue;

use super::letter::DeadLetter;

/// Keys that an API may echo: a plain one, and one that looks otherwise inside JSON.
pub(crate) const KEYS: [&str; 2] = ["planted-0123456789abcdef__nocache", r#"pl"anted\key/7"#];
/// Where an input wants the key to stand.
pub(crate) const KEY_HERE: &str = "%KEY%";

/// The property.
pub(crate) fn holds(input: &[u8]) {
    let letter = DeadLetter::read(input);
    let status = letter.text("status").and_then(|text| text.trim().parse().ok()).unwrap_or(200);
    let retry_after = letter.text("retry-after").and_then(wire::read_retry_after);
    assert!(retry_after.is_none_or(|wait| wait <= MAX_RETRY_AFTER));
    for key in KEYS {
        let reply = RawReply { status, retry_after, body: planted(letter.body, key).into() };
        let mask = Mask::new(&SecretString::from(key));
        let created = wire::read_created(&reply, &mask);
        let state = wire::read_state(&reply, &mask);
        let balance = wire::read_balance(&reply, &mask);
        errors_are_bounded_and_show_no_key(&created, key);
        errors_are_bounded_and_show_no_key(&state, key);
        errors_are_bounded_and_show_no_key(&balance, key);
        if let Ok(balance) = &balance {
            assert!(balance.text.len() <= MAX_CODE);
            assert_eq!(money::decimal(&balance.text), Some(balance.amount));
        }
        if let Ok(TaskState::Ready { solution, cost }) = &state {
            let text = std::str::from_utf8(&reply.body).expect("what is not UTF-8 is not handed on");
            assert!(text.contains(solution.get()), "the solution is the API's very bytes");
            assert!(cost.is_none_or(|cost| cost >= money::Decimal::ZERO));
        }
        if let Ok(Accepted { task_id }) = &created {
            is_sent_back_as_it_came(task_id, &reply, key);
        }
        agrees_with_another_reader(&reply, &created, &state);
        assert!(!format!("{reply:?}").contains(key));
    }
}

/// The body with the key wherever the input wants it: plain, and as JSON writes it.
fn planted(body: &[u8], key: &str) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(body) else { return body.to_vec() };
    let quoted = Value::from(key).to_string();
    text.replacen(KEY_HERE, &quoted[1..quoted.len() - 1], 1).replace(KEY_HERE, key).into_bytes()
}

fn errors_are_bounded_and_show_no_key<T: Debug>(end: &Result<T, CallError>, key: &str) {
    let Err(error) = end else { return };
    // Debug writes a quote or a backslash as JSON does, and that form must not be there either.
    let quoted = format!("{key:?}");
    for shown in [error.to_string(), format!("{error:?}")] {
        assert!(
            !shown.contains(key) && !shown.contains(&quoted[1..quoted.len() - 1]),
            "the key is shown: {shown}"
        );
    }
    match error {
        CallError::Refused(refusal) => {
            assert!(refusal.code.as_ref().is_none_or(|code| code.chars().count() <= MAX_CODE));
            assert!(refusal.description.as_ref().is_none_or(|text| text.chars().count() <= MAX_DESCRIPTION));
            assert!(refusal.retry_after.is_none_or(|wait| wait <= MAX_RETRY_AFTER));
        }
        CallError::NoAnswer { detail, .. } => assert!(detail.chars().count() <= MAX_DESCRIPTION),
        CallError::NeverSent(_) => panic!("an answer came, so it was sent"),
    }
    for (stage, own_proxy) in [(Stage::Submit, false), (Stage::Poll, true)] {
        let fault = classify(error, stage, own_proxy, &Overrides::default());
        assert!(!fault.code.is_empty(), "a fault has a code: {error:?}");
        assert!(!fault.description.contains(key) && !fault.code.contains(key));
        let _ = (fault.reason(), fault.bans_proxy(), charge_of(error), is_wrong_id(error));
    }
}

/// A task's id keeps its JSON type and text on the way back to the API.
fn is_sent_back_as_it_came(id: &TaskId, reply: &RawReply, key: &str) {
    assert!(id.as_json().len() <= TaskId::MAX_LEN);
    let text = String::from_utf8_lossy(&reply.body);
    assert!(text.contains(id.as_json()), "the id is the API's very text: {}", id.as_json());
    let posted = Arc::new(Posted { reply: reply.clone(), body: Mutex::default() });
    let solver = Solver::with_transport(SecretString::from(key), Arc::clone(&posted) as Arc<dyn Transport>);
    let polled = solver.task_state(id).now_or_never().expect("the answer is ready");
    errors_are_bounded_and_show_no_key(&polled, key);
    let sent = posted.body.lock().clone();
    let wanted = format!("{{\"clientKey\":{},\"taskId\":{}}}", Value::from(key), id.as_json());
    assert_eq!(String::from_utf8_lossy(&sent), wanted);
}

/// Answers with what it was given, and keeps what was sent.
struct Posted {
    reply: RawReply,
    body: Mutex<Bytes>,
}

impl Transport for Posted {
    fn post<'a>(&'a self, _: &'static str, body: Bytes) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        *self.body.lock() = body;
        Box::pin(std::future::ready(Ok(self.reply.clone())))
    }
}

/// What a reader that builds everything finds in a plain reply, this one must find too.
fn agrees_with_another_reader(
    reply: &RawReply,
    created: &Result<Accepted, CallError>,
    state: &Result<TaskState, CallError>,
) {
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&reply.body) else { return };
    let error_id = fields.get("errorId").and_then(Value::as_i64);
    if error_id.is_some_and(|id| id != 0) {
        assert!(
            matches!(created, Err(CallError::Refused(_))),
            "an error is never an acceptance: {created:?}"
        );
        assert!(matches!(state, Err(CallError::Refused(_))), "nor a solution: {state:?}");
        return;
    }
    if error_id != Some(0) {
        return;
    }
    let status = fields.get("status").and_then(Value::as_str);
    let solution = fields.get("solution").filter(|solution| !solution.is_null());
    if let (Some("ready"), Some(solution)) = (status, solution) {
        let Ok(TaskState::Ready { solution: read, .. }) = state else {
            panic!("a solution is lost: {state:?}")
        };
        assert_eq!(serde_json::from_str::<Value>(read.get()).ok().as_ref(), Some(solution));
    }
    if let Some(Value::Number(id)) = fields.get("taskId").filter(|id| id.as_u64().is_some_and(|id| id > 0)) {
        let Ok(accepted) = created else { panic!("a paid task is lost: {created:?}") };
        assert_eq!(
            serde_json::from_str::<&RawValue>(accepted.task_id.as_json()).map(RawValue::get).ok(),
            Some(&*id.to_string())
        );
    }
}
