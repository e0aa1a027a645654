//! One line of the output: made of a message, or of a job that could not be published, and read
//! again when a batch goes on.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::lines::id_hash;
use crate::cli::redact::{HELD_BACK, masked};
use crate::cli::render::{main_text, ndjson, on_one_line, x_death};
use crate::domain::class::Class;
use crate::domain::message::Message;

/// The class of what the queue itself dead-lettered.
const RAW: &str = "raw";
/// The code of a job that could not be published.
const UNUSABLE: &str = "INPUT_UNUSABLE";
/// The head of the table.
const HEAD: &str = "line,id,status,text,class,code,task_id";
/// The beginning of each line of JSON.
const BEGINNING: &str = "{\"line\":";
/// More than any batch has: what names a higher line is not an output of this program.
const MOST_LINES: u64 = 1 << 32;

/// How the output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RowFormat {
    Ndjson,
    Csv,
}

/// A line of the output.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// The job's.
    pub(super) line: u64,
    /// In which class it failed; `None`: solved.
    pub(super) class: Option<String>,
    /// With the line end.
    pub(super) text: String,
}

/// What is read of an outcome.
#[derive(Deserialize)]
struct RowOutcome<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    solution: Option<&'a RawValue>,
    #[serde(borrow, default)]
    failure: Option<RowFailure<'a>>,
    #[serde(borrow, default)]
    task_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RowFailure<'a> {
    #[serde(borrow)]
    class: Cow<'a, str>,
    #[serde(borrow, default)]
    code: Cow<'a, str>,
}

impl Row {
    /// The row of a message from a queue of outcomes, or of what the queue itself dead-lettered.
    pub(super) fn of_message(line: u64, message: &Message, format: RowFormat) -> Self {
        let outcome = ndjson(message, false);
        if serde_json::from_str::<RowOutcome<'_>>(&outcome).is_ok() {
            return Self::of_outcome(line, &outcome, format);
        }
        let death = x_death(&message.properties.headers);
        let reason = death.pointer("/0/reason").and_then(Json::as_str).unwrap_or("unknown");
        let queue = death.pointer("/0/queue").and_then(Json::as_str).unwrap_or("unknown");
        let body = json!({
            "id": message.properties.message_id, "status": "failed",
            "failure": {"class": RAW, "code": reason,
                "description": format!("the queue '{queue}' put the job aside")},
        });
        Self::of_outcome(line, &body.to_string(), format)
    }

    /// The row of a job that could not be published.
    pub(super) fn of_unusable(line: u64, id: &str, reason: &str, format: RowFormat) -> Self {
        let body = json!({
            "id": id, "status": "failed",
            "failure": {"class": Class::Malformed.name(), "code": UNUSABLE, "description": reason, "stage": "admission"},
        });
        Self::of_outcome(line, &body.to_string(), format)
    }

    fn of_outcome(line: u64, outcome: &str, format: RowFormat) -> Self {
        let view: Option<RowOutcome<'_>> = serde_json::from_str(outcome).ok();
        let failure = view.as_ref().and_then(|view| view.failure.as_ref());
        let text = match (format, &view) {
            (RowFormat::Csv, Some(view)) => table_row(line, view),
            _ => format!("{BEGINNING}{line},{}\n", outcome.trim_start().trim_start_matches('{')),
        };
        let class = failure.map(|failure| failure.class.clone().into_owned());
        Self { line, class, text }
    }
}

fn table_row(line: u64, outcome: &RowOutcome<'_>) -> String {
    let text = outcome.solution.map_or_else(String::new, |solution| {
        let parsed: Json = serde_json::from_str(solution.get()).unwrap_or_default();
        main_text(&parsed).map_or_else(|| masked(solution.get()).into_owned(), str::to_owned)
    });
    let (class, code) = match &outcome.failure {
        Some(failure) => (&*failure.class, &*failure.code),
        None => ("", ""),
    };
    let task_id = outcome.task_id.map_or("", |id| id.get().trim_matches('"'));
    let cells = [&*outcome.id, &*outcome.status, &text, class, code, task_id].map(cell);
    format!("{line},{}\n", cells.join(","))
}

/// A value of the table. Line breaks become spaces, so that each row is one line.
fn cell(text: &str) -> String {
    let text = on_one_line(text);
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}

/// A row of an output that is there already.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The job's.
    pub(super) line: u64,
    /// In which class it failed; `None`: solved.
    pub(super) class: Option<String>,
    /// By what its id is recognised, where the id is sure to be the job's.
    pub(super) id_hash: Option<u64>,
}

#[derive(Deserialize)]
struct WrittenView<'a> {
    line: u64,
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    failure: Option<RowFailure<'a>>,
}

impl RowFormat {
    /// The first line of the output.
    pub(super) fn head(self) -> &'static str {
        match self {
            RowFormat::Ndjson => "",
            RowFormat::Csv => HEAD,
        }
    }

    /// Whether a text without its end can be the beginning of a line that was being written.
    pub(super) fn can_begin_with(self, torn: &[u8]) -> bool {
        let is_part = |whole: &str| torn.starts_with(whole.as_bytes()) || whole.as_bytes().starts_with(torn);
        match self {
            RowFormat::Ndjson => is_part(BEGINNING),
            RowFormat::Csv => is_part(HEAD) || torn[0].is_ascii_digit(),
        }
    }

    /// Reads a line of the output, without its end; `None` where it is none.
    pub(super) fn read(self, line: &[u8]) -> Option<Written> {
        let text = str::from_utf8(line).ok()?;
        let (line, id, status, class, code) = match self {
            RowFormat::Ndjson => {
                let WrittenView { line, id, status, failure } = serde_json::from_str(text).ok()?;
                let (class, code) = failure.map(|failure| (failure.class, failure.code)).unzip();
                let code = code.unwrap_or_default().into_owned();
                (line, id.into_owned(), status.into_owned(), class.map(Cow::into_owned), code)
            }
            RowFormat::Csv => {
                let [line, id, status, _, class, code, _] = <[String; 7]>::try_from(cells(text)?).ok()?;
                (line.parse().ok()?, id, status, Some(class).filter(|class| !class.is_empty()), code)
            }
        };
        if !(1..MOST_LINES).contains(&line) || (status == "solved") != class.is_none() {
            return None;
        }
        // Admission may not know the id of what it refuses.
        let is_refused = class.as_deref() == Some(Class::Malformed.name()) && code != UNUSABLE;
        let is_sure = !is_refused && id != HELD_BACK;
        Some(Written { line, class, id_hash: is_sure.then(|| id_hash(&id)) })
    }
}

/// The values of a row.
fn cells(row: &str) -> Option<Vec<String>> {
    let (mut cells, mut rest) = (Vec::new(), row);
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
            Some(quoted) => {
                let mut end = 0;
                loop {
                    end += quoted[end..].find('"')?;
                    if !quoted[end + 1..].starts_with('"') {
                        break;
                    }
                    end += 2;
                }
                (quoted[..end].replace("\"\"", "\""), &quoted[end + 1..])
            }
        };
        cells.push(cell);
        match after.strip_prefix(',') {
            Some(more) => rest = more,
            None => return after.is_empty().then_some(cells),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::{Headers, Properties, Value};

    fn outcome(body: &Json) -> Message {
        Message { body: body.to_string().into(), ..Message::default() }
    }

    fn read_back(row: &Row, format: RowFormat) -> Written {
        format.read(row.text.trim_end_matches('\n').as_bytes()).unwrap()
    }

    #[test]
    fn an_outcome_gets_its_line_and_is_read_back() {
        let solved = outcome(&json!({"version": 1, "id": "a,\"b\"\n", "status": "solved", "task_id": 7,
            "solution": {"text": "W9, \"H5\""}}));
        let failed = outcome(&json!({"id": "b", "status": "failed", "task_id": "x-1",
            "failure": {"class": "proxy", "code": "E", "description": "d"},
            "job": {"task": {"type": "T", "proxyPassword": "s3cret"}}}));
        for format in [RowFormat::Ndjson, RowFormat::Csv] {
            let row = Row::of_message(17, &solved, format);
            let written = Written { line: 17, class: None, id_hash: Some(id_hash("a,\"b\"\n")) };
            assert_eq!(read_back(&row, format), written);
            let row = Row::of_message(3, &failed, format);
            assert!(!row.text.contains("s3cret"), "{}", row.text);
            let written = Written { line: 3, class: Some("proxy".to_owned()), id_hash: Some(id_hash("b")) };
            assert_eq!(read_back(&row, format), written);
        }
        let row = Row::of_message(17, &solved, RowFormat::Csv);
        assert_eq!(row.text, "17,\"a,\"\"b\"\" \",solved,\"W9, \"\"H5\"\"\",,,7\n");
        assert_eq!(Row::of_message(3, &failed, RowFormat::Csv).text, "3,b,failed,,proxy,E,x-1\n");
        let row = Row::of_message(17, &solved, RowFormat::Ndjson);
        assert!(row.text.starts_with("{\"line\":17,\"id\":"), "{}", row.text);
    }

    #[test]
    fn what_the_queue_dead_lettered_and_what_is_no_job_are_failed_rows() {
        let death = Value::Array(vec![Value::Table(Headers::from([
            ("reason".to_owned(), "delivery_limit".into()),
            ("queue".to_owned(), "captcha.jobs".into()),
        ]))]);
        let properties = Properties {
            message_id: Some("a".to_owned()),
            headers: Headers::from([("x-death".to_owned(), death)]),
            ..Properties::default()
        };
        let dead = Message { body: "{\"id\":\"a\"}".into(), properties, transient: false };
        for format in [RowFormat::Ndjson, RowFormat::Csv] {
            let row = Row::of_message(2, &dead, format);
            let written = Written { line: 2, class: Some("raw".to_owned()), id_hash: Some(id_hash("a")) };
            assert_eq!(read_back(&row, format), written);
            let row = Row::of_unusable(9, "line-9-0", "longer than a job may be", format);
            let id_hash = Some(id_hash("line-9-0"));
            let written = Written { line: 9, class: Some("malformed".to_owned()), id_hash };
            assert_eq!(read_back(&row, format), written);
        }
        assert_eq!(Row::of_message(2, &dead, RowFormat::Csv).text, "2,a,failed,,raw,delivery_limit,\n");
    }

    #[test]
    fn what_is_no_row_is_not_taken_for_one() {
        for text in ["", "{}", "{\"line\":1}", "{\"line\":0,\"id\":\"a\",\"status\":\"solved\"}", "hello"] {
            assert_eq!(RowFormat::Ndjson.read(text.as_bytes()), None, "{text}");
        }
        for text in ["", "1,a,solved,t,,", "x,a,solved,t,,,", "1,a,solved,t,proxy,,", "1,\"a,solved,t,,,7"] {
            assert_eq!(RowFormat::Csv.read(text.as_bytes()), None, "{text}");
        }
        assert!(
            RowFormat::Ndjson.can_begin_with(b"{\"li")
                && RowFormat::Ndjson.can_begin_with(b"{\"line\":17,\"")
        );
        assert!(!RowFormat::Ndjson.can_begin_with(b"a note"));
        assert!(RowFormat::Csv.can_begin_with(b"line,id") && RowFormat::Csv.can_begin_with(b"17,a"));
        assert!(!RowFormat::Csv.can_begin_with(b"{\"line\":17"));
    }
}
