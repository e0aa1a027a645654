//! The mark of a replay: which dead letter a job was published again from, and for which time.

use super::message::{Headers, Value};
use super::message_hash::MessageHash;

/// Header of a replayed job, and of its outcome: which letter it was made of. Publishers' headers
/// ride along by themselves; those that begin with the worker's own prefix would be refused at
/// admission.
pub const REPLAY_ID: &str = "captcha-replay-id";
/// Header of a replayed job, and of its outcome: the how manieth replay of the job it is, from 1.
pub const REPLAYS: &str = "captcha-replays";
/// Longest id that is believed, in bytes; all of them are visible ASCII.
pub const MAX_REPLAY_ID: usize = 64;
/// Largest count that is believed.
pub const MAX_REPLAYS: u32 = 1_000_000;

/// What a replayed job says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// The same however often one letter is published: an end in between shows as two jobs with one
    /// id.
    pub id: String,
    /// 1 for a job's first replay.
    pub count: u32,
}

impl Replayed {
    /// What the headers say; `None` where they say nothing, or not both parts within bounds.
    #[must_use]
    pub fn of(headers: &Headers) -> Option<Self> {
        let id = headers.get(REPLAY_ID)?.as_text().filter(|id| {
            (1..=MAX_REPLAY_ID).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
        })?;
        let Some(Value::Int(count)) = headers.get(REPLAYS) else { return None };
        let count = u32::try_from(*count).ok().filter(|count| (1..=MAX_REPLAYS).contains(count))?;
        Some(Self { id: id.to_owned(), count })
    }

    /// The next replay, of the letter that is known by `letter`, of a job that has been replayed so
    /// often before.
    #[must_use]
    pub fn next(letter: &MessageHash, replays: u32) -> Self {
        Self { id: identity_of_next(letter, replays).to_string(), count: replays.saturating_add(1) }
    }

    /// Writes it into a job's or an outcome's headers.
    pub fn write(&self, headers: &mut Headers) {
        headers.insert(REPLAY_ID.to_owned(), self.id.as_str().into());
        headers.insert(REPLAYS.to_owned(), Value::Int(self.count.into()));
    }
}

/// What the next replay's id is written from.
pub(super) fn identity_of_next(letter: &MessageHash, replays: u32) -> MessageHash {
    let count = replays.saturating_add(1);
    MessageHash::of_parts([&letter.to_string(), &count.to_string(), ""], b"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(id: Value, count: Value) -> Headers {
        Headers::from([(REPLAY_ID.to_owned(), id), (REPLAYS.to_owned(), count)])
    }

    #[test]
    fn a_mark_reads_back_and_one_out_of_bounds_is_ignored() {
        let mark = Replayed { id: "r-1".to_owned(), count: 2 };
        let mut written = Headers::new();
        mark.write(&mut written);
        assert_eq!(Replayed::of(&written), Some(mark));
        let long = "x".repeat(MAX_REPLAY_ID + 1);
        for (id, count) in [
            (Value::Int(7), Value::Int(1)),
            ("".into(), Value::Int(1)),
            (long.into(), Value::Int(1)),
            ("a b".into(), Value::Int(1)),
            ("r\u{1b}".into(), Value::Int(1)),
            ("r".into(), Value::Int(0)),
            ("r".into(), Value::Int(i64::from(MAX_REPLAYS) + 1)),
            ("r".into(), "1".into()),
        ] {
            assert_eq!(Replayed::of(&headers(id.clone(), count.clone())), None, "{id:?} {count:?}");
        }
        assert_eq!(Replayed::of(&Headers::new()), None);
    }

    #[test]
    fn one_letter_has_one_id_for_each_count_and_another_letter_has_others() {
        let (a, b) = (
            MessageHash::of_parts(["a", "", ""], b"letter"),
            MessageHash::of_parts(["b", "", ""], b"letter"),
        );
        let first = Replayed::next(&a, 0);
        assert_eq!(first, Replayed::next(&a, 0), "a second publish of one letter is known by it");
        assert_eq!((first.count, first.id.len()), (1, 36));
        assert_ne!(first.id, Replayed::next(&a, 1).id);
        assert_ne!(first.id, Replayed::next(&b, 0).id);
        assert_eq!(Replayed::next(&a, u32::MAX).count, u32::MAX);
    }
}
