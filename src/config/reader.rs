//! Reads settings key by key, and keeps what `check` shows and what is wrong.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::config::{Value, ValueKind};
use humantime::format_duration;
use serde::Serialize;

use super::fault::SettingFault;
use super::layers::Leaf;

/// Longest piece of a value that a message or table shows, in characters.
const MAX_SHOWN: usize = 200;

/// One setting as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SettingLine {
    /// Such as `broker.url`.
    pub key: String,
    /// Its value; masked where it is secret.
    #[serde(rename = "value")]
    pub value_shown: String,
    /// `default`, a file, `environment NAME` or an option.
    pub origin: String,
    /// Whether the value is secret, in whole or in part.
    pub secret: bool,
}

/// A value that has not been read yet.
pub(super) struct Raw {
    pub(super) kind: ValueKind,
    pub(super) origin: String,
}

pub(super) struct Reader {
    values: BTreeMap<String, Raw>,
    dir: PathBuf,
    lines: Vec<SettingLine>,
    faults: Vec<SettingFault>,
    #[cfg(test)]
    pub(super) ranges: Vec<(String, String)>,
}

impl Reader {
    pub(super) fn new(leaves: Vec<Leaf>, dir: &Path, faults: Vec<SettingFault>) -> Self {
        let raw = |leaf: Leaf| {
            let (kind, origin) = (leaf.kind, leaf.origin);
            (leaf.path.join("."), Raw { kind, origin })
        };
        Self {
            values: leaves.into_iter().map(raw).collect(),
            dir: dir.to_owned(),
            lines: Vec::new(),
            faults,
            #[cfg(test)]
            ranges: Vec::new(),
        }
    }

    /// What may be shown, and every fault. A setting that nobody read is a fault of this program,
    /// reported rather than ignored.
    pub(super) fn finish(mut self) -> (Vec<SettingLine>, Vec<SettingFault>) {
        for (key, raw) in std::mem::take(&mut self.values) {
            self.fault(&key, &raw.origin, "is listed but unknown to this version", "");
        }
        (self.lines, self.faults)
    }

    pub(super) fn fault(&mut self, key: &str, origin: &str, problem: impl Into<String>, allowed: &str) {
        self.faults.push(SettingFault {
            key: key.to_owned(),
            origin: origin.to_owned(),
            problem: problem.into(),
            allowed: allowed.to_owned(),
        });
    }

    /// Where relative paths begin.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Names in an open table: for `polling`, the types; for `codes`, the codes.
    pub(super) fn names_in(&self, table: &str, suffixes: &[&str]) -> Vec<String> {
        let inside = self.values.keys().filter_map(|key| key.strip_prefix(table)?.strip_prefix('.'));
        let mut names: Vec<String> = inside
            .map(|name| {
                let cut = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)?.strip_suffix('.'));
                cut.unwrap_or(name).to_owned()
            })
            .collect();
        names.dedup();
        names
    }

    /// Takes a value without showing it.
    pub(super) fn take_hidden(&mut self, key: &str) -> Option<Raw> {
        let raw = self.values.remove(key);
        if raw.is_none() {
            self.fault(key, "default", "is missing from the defaults", "");
        }
        raw
    }

    pub(super) fn show(&mut self, key: &str, value: String, origin: &str, secret: bool) {
        let line = SettingLine { key: key.to_owned(), value_shown: value, origin: origin.to_owned(), secret };
        // A secret can be shown only after the setting of its file was read, and is shown before it
        // all the same.
        let file_key = format!("{key}_file");
        let file = self.lines.iter().position(|line| line.key == file_key);
        self.lines.insert(file.unwrap_or(self.lines.len()), line);
    }

    /// Where a value that was read comes from; of a setting left out, the default that stands for
    /// it.
    pub(super) fn shown_origin(&self, key: &str) -> String {
        let line = self.lines.iter().find(|line| line.key == key);
        line.map_or_else(|| "default".to_owned(), |line| line.origin.clone())
    }

    #[cfg_attr(not(test), expect(unused_variables, reason = "tests hold the comments to the ranges"))]
    fn take(&mut self, key: &str, allowed: &str) -> Option<Raw> {
        #[cfg(test)]
        self.ranges.push((key.to_owned(), allowed.to_owned()));
        let raw = self.take_hidden(key)?;
        self.show(key, shown(&raw.kind), &raw.origin, false);
        Some(raw)
    }

    /// Whether a value is an empty text: a setting that is off.
    pub(super) fn is_empty_text(&self, key: &str) -> bool {
        self.values
            .get(key)
            .is_some_and(|raw| matches!(&raw.kind, ValueKind::String(text) if text.is_empty()))
    }

    /// A setting that may be left out of an open table.
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Self, &str) -> Option<T>,
    ) -> Option<Option<T>> {
        if self.values.contains_key(key) { read(self, key).map(Some) } else { Some(None) }
    }

    /// A text that `parse` understands, or says what is wrong with.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let raw = self.take(key, allowed)?;
        let parsed = match &raw.kind {
            ValueKind::String(text) => parse(text),
            other => Err(format!("{} is not a text in quotes", shown(other))),
        };
        parsed.map_err(|problem| self.fault(key, &raw.origin, problem, allowed)).ok()
    }

    /// One of several words, each of which stands for a value.
    pub(super) fn choice<T, const N: usize>(&mut self, key: &str, words: [(&str, T); N]) -> Option<T> {
        let allowed = words.each_ref().map(|(word, _)| format!("\"{word}\"")).join(", ");
        self.text(key, &allowed, |text| {
            let found = words.into_iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| value).ok_or_else(|| format!("{} is none of them", quoted(text)))
        })
    }

    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Option<Duration> {
        let (least, most) = (format_duration(*range.start()), format_duration(*range.end()));
        self.text(key, &format!("{least} to {most}"), |text| {
            let span = parse_duration(text)?;
            if range.contains(&span) { Ok(span) } else { Err(format!("{} is out of range", quoted(text))) }
        })
    }

    pub(super) fn whole<T>(&mut self, key: &str, range: RangeInclusive<i64>) -> Option<T>
    where
        T: TryFrom<i64>,
    {
        let allowed = format!("{} to {}", range.start(), range.end());
        let raw = self.take(key, &allowed)?;
        let value = match raw.kind {
            ValueKind::I64(value) if range.contains(&value) => T::try_from(value).ok(),
            _ => None,
        };
        if value.is_none() {
            let problem = match &raw.kind {
                ValueKind::I64(value) => format!("{value} is out of range"),
                other => format!("{} is not a whole number", shown(other)),
            };
            self.fault(key, &raw.origin, problem, &allowed);
        }
        value
    }

    /// A number, whole or not.
    pub(super) fn number(&mut self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let allowed = format!("{} to {}", range.start(), range.end());
        let raw = self.take(key, &allowed)?;
        let value = match &raw.kind {
            ValueKind::Float(value) => Some(*value),
            ValueKind::I64(value) => i32::try_from(*value).ok().map(f64::from),
            _ => None,
        };
        let fits = value.filter(|value| range.contains(value));
        if fits.is_none() {
            let problem = if value.is_some() { "is out of range" } else { "is not a number" };
            self.fault(key, &raw.origin, format!("{} {problem}", shown(&raw.kind)), &allowed);
        }
        fits
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let raw = self.take(key, "")?;
        if let ValueKind::Boolean(value) = raw.kind {
            return Some(value);
        }
        let problem = format!("{} is neither", shown(&raw.kind));
        self.fault(key, &raw.origin, problem, "true, false");
        None
    }

    /// A list of texts, and its origin.
    pub(super) fn list(&mut self, key: &str) -> Option<(Vec<String>, String)> {
        let raw = self.take(key, "")?;
        let items = match &raw.kind {
            ValueKind::Array(items) => items.iter().map(text_of).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        if items.is_none() {
            let problem = format!("{} is not a list of texts", shown(&raw.kind));
            self.fault(key, &raw.origin, problem, "such as [\"one\", \"two\"]");
        }
        items.map(|items| (items, raw.origin))
    }
}

fn text_of(value: &Value) -> Option<String> {
    match &value.kind {
        ValueKind::String(text) => Some(text.clone()),
        _ => None,
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| format!("{} is not a duration such as \"2s\" or \"500ms\"", quoted(text)))
}

/// A value as a message shows it.
pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", cut(text))
}

fn cut(text: &str) -> String {
    if text.chars().count() <= MAX_SHOWN {
        return text.to_owned();
    }
    text.chars().take(MAX_SHOWN).chain("…".chars()).collect()
}

fn shown(kind: &ValueKind) -> String {
    match kind {
        ValueKind::Array(items) => {
            let items: Vec<_> = items.iter().map(|item| shown(&item.kind)).collect();
            cut(&items.join(", "))
        }
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Nil => "nothing".to_owned(),
        other => cut(&other.to_string()),
    }
}
