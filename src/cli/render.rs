//! Messages as lines: NDJSON for programs, columns for people.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};

use super::redact::{HELD_BACK, masked, shows_secret};
use crate::domain::message::{Headers, Message, Value};
use crate::domain::sanitize::shown;

/// A message as one line of JSON, without the line end.
///
/// A body that is JSON stays byte for byte, save that line breaks between its values become spaces,
/// and credentials become `"***"` unless `show_secrets`. What is not JSON becomes
/// `{"raw":{"encoding":"utf-8"|"base64","body":…},"x_death":…}`.
#[must_use]
pub fn ndjson(message: &Message, show_secrets: bool) -> String {
    let text = str::from_utf8(&message.body);
    if let Ok(text) = text
        && serde_json::from_str::<&RawValue>(text).is_ok()
    {
        let shown = if show_secrets { Cow::Borrowed(text) } else { masked(text) };
        return on_one_line(shown.trim_ascii());
    }
    let (encoding, body) = match text {
        Ok(text) => ("utf-8", Cow::Borrowed(text)),
        Err(_) => ("base64", STANDARD.encode(&message.body).into()),
    };
    let body = if !show_secrets && shows_secret(&String::from_utf8_lossy(&message.body)) {
        HELD_BACK.into()
    } else {
        body
    };
    json!({"raw": {"encoding": encoding, "body": body}, "x_death": x_death(&message.properties.headers)})
        .to_string()
}

/// JSON without line breaks. Inside of strings there are none: they would be escaped there.
pub(super) fn on_one_line(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

/// Why and from where the broker dead-lettered a message; null where it did not.
pub(super) fn x_death(headers: &Headers) -> Json {
    headers.get("x-death").map_or(Json::Null, to_json)
}

/// A header's value.
pub(super) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(number) => (*number).into(),
        Value::Double(number) => (*number).into(),
        Value::Decimal(scale, unscaled) => (f64::from(*unscaled) / 10_f64.powi(i32::from(*scale))).into(),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Table(table) => {
            table.iter().map(|(name, value)| (name.clone(), to_json(value))).collect::<Map<_, _>>().into()
        }
    }
}

/// The columns with their widths, where all have room. Fixed, since rows are printed as they come.
const COLUMNS: [(&str, usize); 7] = [
    ("ID", 24),
    ("STATUS", 6),
    ("TYPE", 24),
    ("CLASS/CODE", 34),
    ("SUBM", 4),
    ("FINISHED (UTC)", 19),
    ("ANSWER OR REASON", 48),
];
/// The widths elsewhere, for 80 columns: what has no room is left out. The last one grows.
const NARROW: [usize; 7] = [20, 6, 0, 28, 0, 0, 20];

/// The columns' widths for a table of this width.
fn widths(width: usize) -> [usize; 7] {
    let whole = |widths: &[usize]| {
        widths.iter().filter(|width| **width > 0).map(|width| width + 2).sum::<usize>() - 2
    };
    let all = COLUMNS.map(|(_, width)| width);
    if width >= whole(&all) {
        return all;
    }
    let mut widths = NARROW;
    widths[6] = (widths[6] + width).saturating_sub(whole(&NARROW)).max(10);
    widths
}

/// The table's head.
#[must_use]
pub fn table_head(width: usize) -> String {
    line(COLUMNS.map(|(name, _)| name.to_owned()), width)
}

/// A message as a row of the table. Control characters become dots: what a site or a publisher
/// wrote must not steer the terminal.
#[must_use]
pub fn table_row(message: &Message, width: usize) -> String {
    let cells = match serde_json::from_slice::<Json>(&message.body) {
        Ok(outcome) if outcome.get("status").is_some() => outcome_cells(&outcome),
        Ok(job) => raw_cells(message, &text_at(&job, "/id"), &text_at(&job, "/task/type")),
        Err(_) => raw_cells(message, "", ""),
    };
    line(cells, width)
}

fn outcome_cells(outcome: &Json) -> [String; 7] {
    let class = [text_at(outcome, "/failure/class"), text_at(outcome, "/failure/code")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    let submissions = outcome
        .get("attempts")
        .and_then(Json::as_array)
        .map_or_else(String::new, |attempts| attempts.len().to_string());
    let finished = text_at(outcome, "/times/finished_at").replace('T', " ");
    let answer_or_reason = match outcome.get("solution") {
        Some(solution) => answer(solution),
        None => text_at(outcome, "/failure/description"),
    };
    [
        text_at(outcome, "/id"),
        text_at(outcome, "/status"),
        match outcome.get("lane") {
            Some(_) => format!("{} ({})", text_at(outcome, "/task_type"), text_at(outcome, "/lane")),
            None => text_at(outcome, "/task_type"),
        },
        class,
        submissions,
        finished.chars().take(19).collect(),
        answer_or_reason,
    ]
}

/// What the broker dead-lettered: a job as it was, or anything else.
fn raw_cells(message: &Message, id: &str, task_type: &str) -> [String; 7] {
    let death = x_death(&message.properties.headers);
    let id = if id.is_empty() { message.properties.message_id.as_deref().unwrap_or_default() } else { id };
    let from = match text_at(&death, "/0/queue") {
        queue if queue.is_empty() => String::new(),
        queue => format!("from {queue}"),
    };
    [
        id.to_owned(),
        "raw".to_owned(),
        task_type.to_owned(),
        text_at(&death, "/0/reason"),
        String::new(),
        String::new(),
        format!("{} bytes {from}", message.body.len()),
    ]
}

/// The text of a solution that has one, else all of it.
fn answer(solution: &Json) -> String {
    main_text(solution).map_or_else(|| masked(&solution.to_string()).into_owned(), str::to_owned)
}

/// The one text that is wanted of a solution: what it is by name, or the only field that it has.
pub(super) fn main_text(solution: &Json) -> Option<&str> {
    let named = ["text", "token", "gRecaptchaResponse"];
    let only = || solution.as_object().filter(|fields| fields.len() == 1)?.values().next()?.as_str();
    named.into_iter().find_map(|name| solution.get(name)?.as_str()).or_else(only)
}

/// A text or a number; empty where there is neither.
fn text_at(json: &Json, pointer: &str) -> String {
    match json.pointer(pointer) {
        Some(Json::String(text)) => text.clone(),
        Some(Json::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn line(cells: [String; 7], width: usize) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths(width)).filter(|(_, width)| *width > 0) {
        let cell = cut(cell, width);
        line.push_str(&format!("{cell:<width$}  "));
    }
    line.truncate(line.trim_end().len());
    line
}

/// A text of somebody else's that cannot steer the terminal, show a secret, or be longer than so
/// many characters.
pub(super) fn cut(text: &str, width: usize) -> String {
    let text = if shows_secret(text) { HELD_BACK } else { text };
    shown(text, width)
}

#[cfg(test)]
mod tests;
