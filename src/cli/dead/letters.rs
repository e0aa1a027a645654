//! A delivery from a queue of dead letters, read as a letter; and letters as text.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value as Json, json};

use crate::cli::redact::masked;
use crate::cli::render::{cut, ndjson, to_json, x_death};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::message::Message;
use crate::domain::time::Timestamp;

/// Longest text of a letter that is shown whole, in characters.
const LONG: usize = 200;
/// What is shown of a longer one.
const BEGINNING: usize = 60;

/// A whole letter as one line of JSON, which says where it lay. Credentials become `"***"` unless
/// `show_secrets`.
pub(super) fn line(queue: &str, message: &Message, show_secrets: bool) -> String {
    let given = &message.properties;
    let headers: Map<String, Json> = given
        .headers
        .iter()
        .filter(|(name, _)| *name != "x-death")
        .map(|(name, value)| (name.clone(), to_json(value)))
        .collect();
    let properties = json!({
        "message_id": given.message_id, "correlation_id": given.correlation_id, "type": given.kind, "headers": headers,
    })
    .to_string();
    let properties = if show_secrets { properties.into() } else { masked(&properties) };
    let (queue, death) = (Json::from(queue), x_death(&given.headers));
    let letter = ndjson(message, show_secrets);
    format!(r#"{{"queue":{queue},"x_death":{death},"properties":{properties},"letter":{letter}}}"#)
}

/// Texts that are too long to be read, an image's above all, cut to their beginnings.
pub(super) fn shortened(value: &mut Json) {
    match value {
        Json::String(text) => {
            let length = text.chars().count();
            if length > LONG {
                let beginning: String = text.chars().take(BEGINNING).collect();
                *text = format!("{beginning}… ({length} characters)");
            }
        }
        Json::Array(items) => items.iter_mut().for_each(shortened),
        Json::Object(fields) => fields.values_mut().for_each(shortened),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

/// How long ago a moment was, to two units; nothing where it is not known.
pub(super) fn age(moment: Option<Timestamp>, now: Timestamp) -> String {
    let Some(moment) = moment else { return String::new() };
    let seconds = Duration::from_secs(now.since(moment).as_secs());
    humantime::format_duration(seconds).to_string().split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The same in seconds.
fn age_seconds(moment: Option<Timestamp>, now: Timestamp) -> Option<u64> {
    moment.map(|moment| now.since(moment).as_secs())
}

/// Widest text of somebody else's in a table, in characters.
const WIDTH: usize = 40;
/// The table's head.
pub(super) const HEAD: [&str; 6] = ["class", "code", "type", "letters", "oldest", "newest"];

/// So many letters, in words.
pub(super) fn counted(letters: u64) -> String {
    if letters == 1 { "1 letter".to_owned() } else { format!("{letters} letters") }
}

/// Letters of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct LetterGroup {
    letters: u64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    replayed_before: u64,
}

/// Letters by kind. At most as many kinds as a scan reads letters.
#[derive(Debug, Default)]
pub(super) struct LetterCounts {
    kinds: BTreeMap<(&'static str, String, String), LetterGroup>,
}

impl LetterCounts {
    pub(super) fn add(&mut self, letter: &DeadLetter) {
        let of = (letter.class_name(), letter.code.clone(), letter.task_type.clone().unwrap_or_default());
        let kind = self.kinds.entry(of).or_default();
        kind.letters += 1;
        kind.replayed_before += u64::from(letter.replays > 0);
        kind.oldest = kind.oldest.into_iter().chain(letter.ended).min();
        kind.newest = kind.newest.into_iter().chain(letter.ended).max();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// How many letters.
    pub(super) fn total(&self) -> u64 {
        self.kinds.values().map(|kind| kind.letters).sum()
    }

    pub(super) fn by_class(&self) -> BTreeMap<&'static str, u64> {
        let mut classes = BTreeMap::new();
        for ((class, _, _), kind) in &self.kinds {
            *classes.entry(*class).or_default() += kind.letters;
        }
        classes
    }

    pub(super) fn json(&self, now: Timestamp) -> Json {
        let kinds = self.kinds.iter().map(|((class, code, task_type), kind)| {
            json!({
                "class": class, "code": code, "type": Some(task_type).filter(|text| !text.is_empty()),
                "count": kind.letters, "replayed_before": kind.replayed_before,
                "oldest": kind.oldest, "newest": kind.newest,
                "oldest_age_s": age_seconds(kind.oldest, now), "newest_age_s": age_seconds(kind.newest, now),
            })
        });
        kinds.collect()
    }

    pub(super) fn rows(&self, now: Timestamp) -> impl Iterator<Item = [String; 6]> {
        self.kinds.iter().map(move |((class, code, task_type), kind)| {
            let [code, task_type] = [code, task_type].map(|text| cut(text, WIDTH));
            let [oldest, newest] = [kind.oldest, kind.newest].map(|moment| age(moment, now));
            [(*class).to_owned(), code, task_type, kind.letters.to_string(), oldest, newest]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most_and_long_texts_an_end() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let ago = |seconds: i64| Some(Timestamp::from_millis(now.as_millis() - seconds * 1_000));
        assert_eq!((age(ago(93_784), now), age(ago(7), now)), ("1day 2h".to_owned(), "7s".to_owned()));
        assert_eq!((age(None, now), age(ago(0), now)), (String::new(), "0s".to_owned()));
        let mut value = json!({"a": ["x".repeat(201), "y".repeat(200)]});
        shortened(&mut value);
        assert_eq!(value["a"][0], format!("{}… (201 characters)", "x".repeat(60)));
        assert_eq!(value["a"][1], "y".repeat(200));
    }
}
