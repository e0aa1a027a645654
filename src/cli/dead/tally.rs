//! Letters counted by class, code and type; and what of each queue was seen.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::letter::{age, age_seconds};
use crate::cli::render::cut;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::time::Timestamp;

/// Widest text of somebody else's in a table, in characters.
const WIDTH: usize = 40;
/// The table's head.
pub(super) const HEAD: [&str; 6] = ["class", "code", "type", "letters", "oldest", "newest"];

/// Letters of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    letters: u64,
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
    replayed_before: u64,
}

/// Letters by kind. At most as many kinds as a scan looks at.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kinds: BTreeMap<(&'static str, String, String), Kind>,
}

impl Tally {
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
