//! Exchanges and which queues a routing key reaches.

use std::collections::{BTreeMap, BTreeSet};

use super::queue::QueueState;
use crate::broker::topology::{Arguments, ExchangeKind};
use crate::domain::message::Value;

/// An exchange with its bindings.
#[derive(Debug)]
pub(super) struct ExchangeState {
    pub(super) kind: ExchangeKind,
    pub(super) arguments: Arguments,
    /// Pairs of key or pattern, and queue.
    pub(super) bindings: BTreeSet<(String, String)>,
}

impl ExchangeState {
    fn takes(&self, bound: &str, key: &str) -> bool {
        match self.kind {
            ExchangeKind::Direct => bound == key,
            ExchangeKind::Topic => topic_matches(&words(bound), &words(key)),
            ExchangeKind::Fanout => true,
        }
    }
}

/// There is no exchange of that name.
#[derive(Debug)]
pub(super) struct NoExchange;

/// The queues that a message with these keys goes to, each once, in the order of their names.
pub(super) fn route(
    exchanges: &BTreeMap<String, ExchangeState>,
    queues: &BTreeMap<String, QueueState>,
    exchange: &str,
    keys: &[String],
) -> Result<BTreeSet<String>, NoExchange> {
    if exchange.is_empty() {
        return Ok(keys.iter().filter(|key| queues.contains_key(*key)).cloned().collect());
    }
    let mut current = exchanges.get(exchange).ok_or(NoExchange)?;
    let mut seen = BTreeSet::from([exchange]);
    loop {
        let reached: BTreeSet<String> = current
            .bindings
            .iter()
            .filter(|(bound, _)| keys.iter().any(|key| current.takes(bound, key)))
            .map(|(_, queue)| queue.clone())
            .collect();
        let alternate = current.arguments.get("alternate-exchange").and_then(Value::as_text);
        // An alternate that does not exist, or leads back here, is no error to the publisher:
        // nothing takes the message.
        match alternate.and_then(|name| Some((name, exchanges.get(name)?))) {
            Some((name, next)) if reached.is_empty() && seen.insert(name) => current = next,
            _ => return Ok(reached),
        }
    }
}

fn words(key: &str) -> Vec<&str> {
    if key.is_empty() { Vec::new() } else { key.split('.').collect() }
}

fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((&"#", rest)) => (0..=key.len()).any(|skipped| topic_matches(rest, &key[skipped..])),
        Some((word, rest)) => key
            .split_first()
            .is_some_and(|(first, others)| (*word == "*" || word == first) && topic_matches(rest, others)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, key: &str) -> bool {
        topic_matches(&words(pattern), &words(key))
    }

    #[test]
    fn a_star_is_exactly_one_word() {
        assert!(matches("solved.*", "solved.image"));
        assert!(!matches("solved.*", "solved"));
        assert!(!matches("solved.*", "solved.image.text"));
    }

    #[test]
    fn a_hash_is_any_number_of_words() {
        assert!(matches("solved.#", "solved"));
        assert!(matches("solved.#", "solved.image.text"));
        assert!(matches("#.text", "solved.image.text"));
        assert!(matches("#", ""));
        assert!(!matches("dead.lost.#", "dead.lostandfound"));
    }
}
