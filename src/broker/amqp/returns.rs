//! Which publish a returned message belongs to.
//!
//! The broker returns a mandatory message that no queue takes, and then acks it like any other.
//! lapin attaches a returned message to whichever confirm of the channel it resolves next, so the
//! confirm that carries it does not identify the publish. What does:
//!
//! * The broker returns unroutable messages in the order of their publishing, each before its own
//!   ack, and acks them in that order, since no queue is waited for. lapin hands returned messages
//!   out first in, first out, one to each confirm it resolves. So a returned message surfaces no
//!   later than with its own `basic.ack` (though, where that acks several, perhaps with another of
//!   them).
//! * A returned message carries exchange, routing key and `message_id`. A return is given to the
//!   oldest publish under way that shares all three. Those that share them also share a fate,
//!   unless a binding changed just between them: then an older one was stored though it is reported
//!   as unroutable, and a younger one was returned though acked. Therefore all that share the key
//!   of a returned message are in doubt: an ack for one of them is answered as
//!   "unknown", never as stored. No message is ever called stored that was returned.

use std::collections::BTreeMap;

use lapin::message::BasicReturnMessage;

use crate::domain::message::Message;

/// What a returned message can be known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReturnKey {
    exchange: String,
    routing_key: String,
    message_id: Option<String>,
}

impl ReturnKey {
    pub(super) fn new(exchange: String, routing_key: String, message: &Message) -> Self {
        Self { exchange, routing_key, message_id: message.properties.message_id.clone() }
    }

    pub(super) fn of_returned(returned: &BasicReturnMessage) -> Self {
        let delivery = &returned.delivery;
        let message_id = delivery.properties.message_id().as_ref();
        Self {
            exchange: delivery.exchange.as_str().to_owned(),
            routing_key: delivery.routing_key.as_str().to_owned(),
            message_id: message_id.map(|id| id.as_str().to_owned()),
        }
    }
}

#[derive(Debug)]
struct Expected {
    key: ReturnKey,
    returned: bool,
    in_doubt: bool,
}

/// The mandatory publishes under way, oldest first, since numbers are given in the order of
/// publishing. A return is rare, so it may search all of them; a publish searches none.
#[derive(Debug, Default)]
pub(super) struct Returns {
    expected: BTreeMap<u64, Expected>,
}

impl Returns {
    /// A mandatory publish goes out.
    pub(super) fn expect(&mut self, number: u64, key: ReturnKey) {
        self.expected.insert(number, Expected { key, returned: false, in_doubt: false });
    }

    /// A message was returned. Returns the publish that it is taken for, or `None` where no such
    /// publish is under way.
    pub(super) fn take_back(&mut self, key: &ReturnKey) -> Option<u64> {
        let mut taken = None;
        for (number, expected) in self.expected.iter_mut().filter(|(_, expected)| expected.key == *key) {
            if taken.is_none() && !expected.returned {
                expected.returned = true;
                taken = Some(*number);
            } else {
                expected.in_doubt = true;
            }
        }
        taken
    }

    /// A publish has its confirm. Returns whether an ack must not be taken for "stored".
    pub(super) fn conclude(&mut self, number: u64) -> bool {
        self.expected.remove(&number).is_some_and(|expected| expected.in_doubt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn return_key(key: &str, id: &str) -> ReturnKey {
        ReturnKey { exchange: "x".to_owned(), routing_key: key.to_owned(), message_id: Some(id.to_owned()) }
    }

    #[test]
    fn a_return_finds_its_publish_whatever_confirm_carried_it() {
        let mut returns = Returns::default();
        returns.expect(0, return_key("routed", "a"));
        returns.expect(1, return_key("unroutable", "b"));
        returns.expect(2, return_key("routed", "c"));
        assert_eq!(returns.take_back(&return_key("unroutable", "b")), Some(1));
        assert!(!returns.conclude(0) && !returns.conclude(1) && !returns.conclude(2));
    }

    #[test]
    fn equal_keys_that_are_all_returned_are_each_answered() {
        let mut returns = Returns::default();
        for number in 0..3 {
            returns.expect(number, return_key("unroutable", "same"));
        }
        let answered: Vec<_> = (0..3).map(|_| returns.take_back(&return_key("unroutable", "same"))).collect();
        assert_eq!(answered, [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn an_ack_with_the_key_of_a_returned_message_is_not_taken_for_stored() {
        let mut returns = Returns::default();
        returns.expect(0, return_key("rebound", "same"));
        returns.expect(1, return_key("rebound", "same"));
        assert_eq!(returns.take_back(&return_key("rebound", "same")), Some(0));
        assert!(returns.conclude(1), "its message may be the returned one");
    }

    #[test]
    fn a_publish_after_the_return_is_not_in_doubt() {
        let mut returns = Returns::default();
        returns.expect(0, return_key("k", "same"));
        assert_eq!(returns.take_back(&return_key("k", "same")), Some(0));
        returns.expect(1, return_key("k", "same"));
        assert!(!returns.conclude(1));
    }

    #[test]
    fn a_return_of_an_unknown_publish_belongs_to_none() {
        let mut returns = Returns::default();
        returns.expect(0, return_key("k", "a"));
        assert_eq!(returns.take_back(&return_key("k", "b")), None);
        returns.conclude(0);
        assert_eq!(returns.take_back(&return_key("k", "a")), None);
    }

    #[test]
    fn nothing_is_kept_of_what_is_concluded() {
        let mut returns = Returns::default();
        for number in 0..100 {
            returns.expect(number, return_key("k", &number.to_string()));
            returns.conclude(number);
        }
        assert!(returns.expected.is_empty());
    }
}
