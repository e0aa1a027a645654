//! The broker's own record of why a message was put aside.

use crate::message::{Headers, Value};
use crate::time::Timestamp;

/// The broker's record of the hop that brought a message here.
pub(super) struct Death<'a> {
    pub(super) queue: &'a str,
    pub(super) reason: &'a str,
    pub(super) at: Option<Timestamp>,
    pub(super) count: i64,
}

impl<'a> Death<'a> {
    pub(super) fn of(headers: &'a Headers) -> Self {
        let last = match headers.get("x-death") {
            Some(Value::Array(deaths)) => deaths.first(),
            _ => None,
        };
        let Some(Value::Table(death)) = last else {
            return Self { queue: "", reason: "none", at: None, count: 0 };
        };
        let text = |name: &str| death.get(name).and_then(Value::as_text);
        let at = match death.get("time") {
            Some(Value::Timestamp(seconds)) => i64::try_from(seconds.saturating_mul(1_000)).ok(),
            _ => None,
        };
        let count = if let Some(Value::Int(count)) = death.get("count") { *count } else { 0 };
        Self {
            queue: text("queue").unwrap_or_default(),
            reason: text("reason").unwrap_or("none"),
            at: at.map(Timestamp::from_millis),
            count,
        }
    }

    pub(super) fn told(&self) -> String {
        format!("{} {} {} {}", self.queue, self.reason, self.at.map_or(0, Timestamp::as_millis), self.count)
    }
}
