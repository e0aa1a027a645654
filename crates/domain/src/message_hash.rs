//! By what a message is known again when the broker delivers it once more.

use std::fmt;

use sha2::{Digest, Sha256};

use super::history::HISTORY_HEADER;
use super::job::Job;
use super::message::Value;

/// Sixteen bytes of a SHA-256 over what stays the same from one delivery to the next: the
/// publisher's id, the worker's headers, and the body.
///
/// A job and its retried copy differ by the history; two jobs that a publisher repeats byte for
/// byte do not, and need not: one stands for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageHash([u8; 16]);

impl MessageHash {
    /// That of a job, whichever queue it came from.
    #[must_use]
    pub fn of(job: &Job) -> Self {
        let id = job.properties.message_id.as_deref().unwrap_or_default();
        let history = job.properties.headers.get(HISTORY_HEADER).and_then(Value::as_text);
        let ticket = job.ticket.as_deref();
        Self::of_parts([id, history.unwrap_or_default(), ticket.unwrap_or_default()], &job.body.bytes())
    }

    /// The hash of a message with these properties and this body.
    #[must_use]
    pub fn of_parts(texts: [&str; 3], body: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for text in texts {
            hash.update(text.as_bytes());
            // No text holds it, so that no two lists of parts run together.
            hash.update([0xff]);
        }
        hash.update(body);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(bytes)
    }
}

/// In the form of a UUID, of the version that is left to whoever makes it (8).
impl fmt::Display for MessageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.0;
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        for (place, byte) in bytes.iter().enumerate() {
            if matches!(place, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobBody;
    use crate::message::Message;
    use crate::policy::Policy;

    #[test]
    fn it_is_written_as_a_uuid() {
        let text = MessageHash([0xff; 16]).to_string();
        assert_eq!(text, "ffffffff-ffff-8fff-bfff-ffffffffffff");
    }

    #[test]
    fn the_counter_of_deliveries_is_no_part_of_it_and_all_else_is() {
        let job = |id: &str, history: &str, deliveries| {
            let body = br#"{"task":{"type":"T"}}"#.as_slice().into();
            let mut message = Message { body, ..Message::default() };
            message.properties.message_id = Some(id.to_owned());
            let headers = [(HISTORY_HEADER, history.into()), ("x-delivery-count", Value::Int(deliveries))];
            message.properties.headers = headers.map(|(name, value)| (name.to_owned(), value)).into();
            Job::read(&mut message, &Policy::try_new(&[], &["T"]).unwrap(), String::new).unwrap()
        };
        let first = job("a", "h", 0);
        assert_eq!(MessageHash::of(&first), MessageHash::of(&job("a", "h", 3)));
        let ticket = Job { ticket: Some("t".into()), ..first.clone() };
        let packed = Job { body: JobBody::packed(first.body.bytes()), ..first.clone() };
        assert_eq!(MessageHash::of(&first), MessageHash::of(&packed));
        for other in [job("b", "h", 0), job("a", "i", 0), ticket] {
            assert_ne!(MessageHash::of(&first), MessageHash::of(&other));
        }
        assert_ne!(MessageHash::of_parts(["a", "hb", ""], b""), MessageHash::of_parts(["ah", "b", ""], b""));
        assert_ne!(MessageHash::of_parts(["a", "", ""], b"1"), MessageHash::of_parts(["a", "", ""], b"2"));
    }
}
