//! What happens to a message on its way out of a queue: the headers that tell where it died, and the cycles that are cut.

use super::queue::{DeadLetters, Entry};
use crate::domain::message::{Headers, Message, Value};

/// Why a message left its queue for the dead-letter exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Rejected,
    Expired,
    MaxLength,
    DeliveryLimit,
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::Expired => "expired",
            Reason::MaxLength => "maxlen",
            Reason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The message as its dead letter, and the keys it is routed by. `time` is in seconds since the Unix epoch.
pub(super) fn letter(
    entry: &Entry,
    queue: &str,
    reason: Reason,
    to: &DeadLetters,
    time: u64,
) -> (Message, Vec<String>) {
    let routed = &entry.routed;
    let mut message = routed.message.clone();
    let expiration = message.properties.expiration.take();
    let headers = &mut message.properties.headers;
    let keys = match &to.key {
        Some(key) => {
            // Carbon copies belong to the keys that are replaced.
            headers.remove("CC");
            vec![key.clone()]
        }
        None => routed.keys.clone(),
    };
    let mut death = Headers::from([
        ("count".into(), Value::Int(1)),
        ("reason".into(), reason.name().into()),
        ("queue".into(), queue.into()),
        ("time".into(), Value::Timestamp(time)),
        ("exchange".into(), routed.exchange.as_str().into()),
        ("routing-keys".into(), Value::Array(routed.keys.iter().map(|key| key.as_str().into()).collect())),
    ]);
    if let Some(expiration) = expiration {
        death.insert("original-expiration".into(), expiration.into());
    }
    record(headers, death);
    for (name, value) in [
        ("x-first-death-reason", reason.name()),
        ("x-first-death-queue", queue),
        ("x-first-death-exchange", routed.exchange.as_str()),
    ] {
        headers.entry(name.into()).or_insert_with(|| value.into());
    }
    (message, keys)
}

/// Puts a death in front of those before it. One of the same queue and reason is counted up instead, and keeps the time of its first.
fn record(headers: &mut Headers, mut death: Headers) {
    let mut others = match headers.remove("x-death") {
        Some(Value::Array(deaths)) => deaths,
        _ => Vec::new(),
    };
    let same = |other: &Value| match other {
        Value::Table(table) => ["queue", "reason"].into_iter().all(|key| table.get(key) == death.get(key)),
        _ => false,
    };
    if let Some(place) = others.iter().position(same)
        && let Value::Table(mut earlier) = others.remove(place)
    {
        let count = match earlier.get("count") {
            Some(Value::Int(count)) => *count,
            _ => 0,
        };
        earlier.insert("count".into(), Value::Int(count + 1));
        death = earlier;
    }
    others.insert(0, Value::Table(death));
    headers.insert("x-death".into(), Value::Array(others));
}

/// Whether the dead letter would come back to a queue it has died in without anybody having rejected it since: such cycles are cut.
pub(super) fn is_cycle(message: &Message, target: &str) -> bool {
    let Some(Value::Array(deaths)) = message.properties.headers.get("x-death") else {
        return false;
    };
    let field = |death: &Value, key: &str| match death {
        Value::Table(table) => table.get(key).and_then(Value::as_text).map(str::to_owned),
        _ => None,
    };
    let Some(place) = deaths.iter().position(|death| field(death, "queue").as_deref() == Some(target)) else {
        return false;
    };
    deaths[..=place].iter().all(|death| field(death, "reason").as_deref() != Some("rejected"))
}
