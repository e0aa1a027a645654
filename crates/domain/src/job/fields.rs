//! Reading the few fields that matter out of a job's JSON, without building the rest.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::super::fault::{Fault, local_code};

/// Fields of a task that the policy judges by.
const JUDGED: [&str; 2] = ["type", "websiteURL"];
/// Names kept for a message to people; more than one is never shown.
const KEPT_NAMES: usize = 1;

/// A job's top-level fields, raw.
#[derive(Default)]
pub(super) struct JobFields<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) task: Option<&'a RawValue>,
    pub(super) deadline: Option<&'a RawValue>,
    pub(super) metadata: Option<&'a RawValue>,
    pub(super) forbidden: Vec<String>,
    pub(super) unknown: Vec<String>,
    pub(super) duplicate: Vec<String>,
}

/// The fields of a task that admission looks at, raw. All others pass.
#[derive(Default)]
pub(super) struct TaskFields<'a> {
    pub(super) kind: Option<&'a RawValue>,
    pub(super) class: Option<&'a RawValue>,
    pub(super) body: Option<&'a RawValue>,
    pub(super) website_url: Option<&'a RawValue>,
    pub(super) proxy_address: Option<&'a RawValue>,
    pub(super) proxy_port: Option<&'a RawValue>,
    pub(super) duplicate: Vec<String>,
    pub(super) lookalike: Vec<String>,
}

impl<'a> JobFields<'a> {
    pub(super) fn read(body: &'a str) -> Result<Self, Fault> {
        let mut fields = Self::default();
        read_object(
            body,
            |fields: &mut Self, name| match name {
                "id" => Slot::Raw(&mut fields.id),
                "task" => Slot::Raw(&mut fields.task),
                "deadline" => Slot::Raw(&mut fields.deadline),
                "metadata" => Slot::Raw(&mut fields.metadata),
                "clientKey" | "callbackUrl" => Slot::Name(&mut fields.forbidden),
                _ => Slot::Name(&mut fields.unknown),
            },
            |fields| &mut fields.duplicate,
            &mut fields,
        )?;
        Ok(fields)
    }
}

impl<'a> TaskFields<'a> {
    pub(super) fn read(task: &'a RawValue) -> Result<Self, Fault> {
        let mut fields = Self::default();
        read_object(
            task.get(),
            |fields: &mut Self, name| match name {
                "type" => Slot::Raw(&mut fields.kind),
                "class" => Slot::Last(&mut fields.class),
                "body" => Slot::Raw(&mut fields.body),
                "websiteURL" => Slot::Raw(&mut fields.website_url),
                "proxyAddress" => Slot::Raw(&mut fields.proxy_address),
                "proxyPort" => Slot::Raw(&mut fields.proxy_port),
                _ if JUDGED.iter().any(|judged| judged.eq_ignore_ascii_case(name)) => {
                    Slot::Name(&mut fields.lookalike)
                }
                _ => Slot::Pass,
            },
            |fields| &mut fields.duplicate,
            &mut fields,
        )?;
        Ok(fields)
    }
}

/// What becomes of a field.
enum Slot<'f, 'a> {
    Raw(&'f mut Option<&'a RawValue>),
    /// May stand twice, and counts with its last value, as the API's own clients would read it.
    Last(&'f mut Option<&'a RawValue>),
    Name(&'f mut Vec<String>),
    Pass,
}

/// Reads an object's fields into a record.
fn read_object<'a, T>(
    json: &'a str,
    slot: impl for<'f> Fn(&'f mut T, &str) -> Slot<'f, 'a>,
    duplicates: impl Fn(&mut T) -> &mut Vec<String>,
    record: &mut T,
) -> Result<(), Fault> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let visitor = Object { slot, duplicates, record };
    reader.deserialize_map(visitor).and_then(|()| reader.end()).map_err(|error| {
        // A well-formed value of another kind is a different mistake from a slip in the syntax.
        match serde_json::from_str::<IgnoredAny>(json) {
            Ok(_) if !is_object(json) => {
                Fault::malformed(local_code::NOT_AN_OBJECT, "the body is JSON but not an object")
            }
            _ => Fault::malformed(local_code::NOT_JSON, format!("the body is not JSON: {error}")),
        }
    })
}

fn is_object(json: &str) -> bool {
    json.trim_ascii_start().starts_with('{')
}

/// A field's name, borrowed where it holds no escape.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Object<'t, T, S, D> {
    slot: S,
    duplicates: D,
    record: &'t mut T,
}

impl<'de, T, S, D> Visitor<'de> for Object<'_, T, S, D>
where
    S: for<'f> Fn(&'f mut T, &str) -> Slot<'f, 'de>,
    D: Fn(&mut T) -> &mut Vec<String>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key::<Name<'de>>()? {
            let twice = match (self.slot)(self.record, &name) {
                Slot::Raw(place) => place.replace(map.next_value()?).is_some(),
                Slot::Last(place) => {
                    *place = Some(map.next_value()?);
                    false
                }
                Slot::Name(names) => {
                    map.next_value::<IgnoredAny>()?;
                    if names.len() < KEPT_NAMES {
                        names.push(name.chars().take(100).collect());
                    }
                    false
                }
                Slot::Pass => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            let names = (self.duplicates)(self.record);
            if twice && names.len() < KEPT_NAMES {
                names.push(name.into_owned());
            }
        }
        Ok(())
    }
}

/// The text of a JSON string; borrowed where it holds no escape.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.as_bytes().contains(&b'\\') {
        serde_json::from_str::<String>(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}
