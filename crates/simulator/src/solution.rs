//! Solutions, shaped as documented for each type and derived from the task alone.

use serde_json::Value;

use super::digest::fnv1a;
use super::kinds::{KINDS, Shape};
use super::request;

/// The user agent that solutions name where their type names one.
const USER_AGENT: &str = "Mozilla/5.0 (simulator)";

/// The solution this simulator gives for a task, from the task's JSON exactly as it is sent; `None` where the task would
/// be refused.
///
/// For an `ImageToTextTask` the text is the FNV-1a hash (64 bits, 16 lower-case hex digits) of the `body` string. For
/// every other type the answer carries that hash of the task's own JSON bytes.
#[must_use]
pub fn expected_solution(task: &[u8]) -> Option<Value> {
    let submission = request::read_task(task, false).ok()?;
    serde_json::from_str(&render(submission.kind, submission.answer)).ok()
}

/// What a task's answer is derived from.
pub(super) fn answer_of(kind: usize, digest: u64, body: Option<&str>) -> u64 {
    match (KINDS[kind].shape, body) {
        (Shape::Text, Some(body)) => fnv1a(body.as_bytes()),
        _ => digest,
    }
}

/// The solution as JSON text; the parts need no escaping.
pub(super) fn render(kind: usize, answer: u64) -> String {
    match KINDS[kind].shape {
        Shape::Text => format!(r#"{{"text":"{answer:016x}"}}"#),
        Shape::Answer => {
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (answer >> shift) & 0xffff);
            format!(r#"{{"answer":[{a},{b},{c},{d}]}}"#)
        }
        Shape::TokenAndAgent => {
            format!(r#"{{"token":"fun.{answer:016x}","userAgent":"{USER_AGENT}"}}"#)
        }
        Shape::Token => format!(r#"{{"token":"0.{answer:016x}"}}"#),
        Shape::HCaptcha => format!(
            r#"{{"gRecaptchaResponse":"P1_{answer:016x}","respKey":"E0_{answer:016x}","userAgent":"{USER_AGENT}"}}"#
        ),
        Shape::Recaptcha => format!(r#"{{"gRecaptchaResponse":"03A{answer:016x}"}}"#),
        Shape::GeeTest => format!(
            r#"{{"geetest":{{"challenge":"{answer:016x}","validate":"v{answer:016x}","seccode":"v{answer:016x}|jordan"}}}}"#
        ),
    }
}
