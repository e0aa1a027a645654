//! By what a message is known again when the broker delivers it once more.

use sha2::{Digest, Sha256};

use super::envelope::{Message, Value};
use super::history::HISTORY_HEADER;
use super::ticket::TICKET_HEADER;

/// Sixteen bytes of a SHA-256 over what stays the same from one delivery to the next: the publisher's id, the worker's headers, and the body.
///
/// A job and its parked copy differ by the history; two jobs that a publisher repeats byte for byte do not, and need not: one stands for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity([u8; 16]);

impl Identity {
    /// That of a message off the job or the ticket queue.
    #[must_use]
    pub fn of(message: &Message) -> Self {
        let properties = &message.properties;
        let header = |name: &str| properties.headers.get(name).and_then(Value::as_text).unwrap_or_default();
        let id = properties.message_id.as_deref().unwrap_or_default();
        let mut hash = Sha256::new();
        for part in [id, header(HISTORY_HEADER), header(TICKET_HEADER)] {
            hash.update(part.as_bytes());
            // No text holds it, so that no two lists of parts run together.
            hash.update([0xff]);
        }
        hash.update(&message.body);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str, history: &str, body: &str) -> Message {
        let mut message = Message { body: body.into(), ..Message::default() };
        message.properties.message_id = Some(id.to_owned());
        message.properties.headers.insert(HISTORY_HEADER.to_owned(), history.into());
        message
    }

    #[test]
    fn the_counter_of_deliveries_is_no_part_of_it_and_all_else_is() {
        let first = message("a", "h", "body");
        let mut again = first.clone();
        again.properties.headers.insert("x-delivery-count".to_owned(), Value::Int(3));
        assert_eq!(Identity::of(&first), Identity::of(&again));
        for other in [message("b", "h", "body"), message("a", "i", "body"), message("a", "h", "bodies")] {
            assert_ne!(Identity::of(&first), Identity::of(&other));
        }
        assert_ne!(Identity::of(&message("a", "hb", "")), Identity::of(&message("ah", "b", "")));
    }
}
