//! The fields of a reply, picked out of any JSON object without re-encoding one of them.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The fields that mean something to us, as the JSON text they came as. A null is as good as absent.
///
/// A key that comes twice counts with its last value, as the API's own clients (JS, Python, .NET) would read it.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) error_id: Option<&'a RawValue>,
    pub(super) error_code: Option<&'a RawValue>,
    pub(super) error_description: Option<&'a RawValue>,
    pub(super) task_id: Option<&'a RawValue>,
    pub(super) status: Option<&'a RawValue>,
    pub(super) solution: Option<&'a RawValue>,
    pub(super) balance: Option<&'a RawValue>,
    cost: Option<&'a RawValue>,
}

impl<'a> Fields<'a> {
    /// The fields of `text`, where it is one whole JSON object. A byte order mark and white space around are tolerated.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text.trim_start_matches('\u{feff}')).ok()
    }

    /// What `errorId` says: `Some(true)` an error, `Some(false)` none, `None` nothing at all.
    ///
    /// Documented as 0 or 1; relatives of the API answer other integers, so any but 0 is an error, and so is a word.
    pub(super) fn declared_error(&self) -> Option<bool> {
        let text = bare(self.error_id?);
        match text {
            "" => None,
            "false" => Some(false),
            _ if text.starts_with(['{', '[']) => None,
            _ => Some(text.parse::<f64>() != Ok(0.0)),
        }
    }

    /// `errorCode`, where it holds one: an empty text or a 0 beside a success does not.
    pub(super) fn code(&self) -> Option<String> {
        self.error_code.map(text_of).filter(|code| !matches!(code.trim(), "" | "0" | "false"))
    }

    /// `cost`, where it holds an amount: a number, or a string with one. It is not documented, and some relatives of the API send it.
    pub(super) fn cost(&self) -> Option<f64> {
        finite(bare(self.cost?)).filter(|amount| *amount >= 0.0)
    }

    /// Whether one of the API's error fields is here, whatever it says.
    pub(super) fn speaks_of_errors(&self) -> bool {
        self.error_id.is_some() || self.error_code.is_some() || self.error_description.is_some()
    }

    /// `errorDescription`, where it holds one.
    pub(super) fn description(&self) -> Option<String> {
        self.error_description.map(text_of).filter(|text| !text.trim().is_empty())
    }
}

/// A scalar's text without its quotes; escapes inside are left.
pub(super) fn bare(raw: &RawValue) -> &str {
    raw.get().trim_matches('"').trim()
}

/// Whether there is nothing in a value: an empty object, array or string.
pub(super) fn is_blank(raw: &RawValue) -> bool {
    let inside = |open, close| raw.get().strip_prefix(open)?.strip_suffix(close);
    let inside = inside('{', '}').or_else(|| inside('[', ']')).or_else(|| inside('"', '"'));
    inside.is_some_and(|inside: &str| inside.trim().is_empty())
}

/// A number that can be reckoned with.
pub(super) fn finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// A string's content, or the JSON text of anything else (and of a string with broken escapes).
pub(super) fn text_of(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).unwrap_or_else(|_| bare(raw).to_owned())
}

/// A body as text: `Cow::Owned` tells that it was not UTF-8, so that nothing in it is what the API sent any more.
pub(super) fn decode(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Name {
    ErrorId,
    ErrorCode,
    ErrorDescription,
    TaskId,
    Status,
    Solution,
    Balance,
    Cost,
    #[serde(other)]
    Other,
}

/// By hand, because the derived reader refuses an object in which a key comes twice.
impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(FieldsVisitor)
    }
}

struct FieldsVisitor;

impl<'de> Visitor<'de> for FieldsVisitor {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Fields::default();
        while let Some(name) = map.next_key()? {
            let value: &'de RawValue = map.next_value()?;
            let slot = match name {
                Name::ErrorId => &mut fields.error_id,
                Name::ErrorCode => &mut fields.error_code,
                Name::ErrorDescription => &mut fields.error_description,
                Name::TaskId => &mut fields.task_id,
                Name::Status => &mut fields.status,
                Name::Solution => &mut fields.solution,
                Name::Balance => &mut fields.balance,
                Name::Cost => &mut fields.cost,
                Name::Other => continue,
            };
            *slot = (value.get() != "null").then_some(value);
        }
        Ok(fields)
    }
}
