//! Reading the few fields that matter out of a job's JSON, without building the rest.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use memchr::memchr;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
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
    pub(super) task: Option<TaskField<'a>>,
    pub(super) deadline: Option<&'a RawValue>,
    pub(super) metadata: Option<&'a RawValue>,
    pub(super) forbidden: Vec<String>,
    pub(super) unknown: Vec<String>,
    pub(super) duplicate: Vec<String>,
}

/// A job's task. Pictures make it long, so it is read in the same pass as the job.
pub(super) struct TaskField<'a> {
    /// Where it stands in the job.
    pub(super) place: Range<usize>,
    /// `None`: it is not an object.
    pub(super) fields: Option<TaskFields<'a>>,
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
        let mut reader = serde_json::Deserializer::from_str(body);
        let object = Object { json: body, from: 0, fields: &mut fields };
        object.deserialize(&mut reader).and_then(|_| reader.end()).map_err(|error| {
            // A well-formed value of another kind is a different mistake from a slip in the syntax.
            match serde_json::from_str::<IgnoredAny>(body) {
                Ok(_) if !body.trim_ascii_start().starts_with('{') => {
                    Fault::malformed(local_code::NOT_AN_OBJECT, "the body is JSON but not an object")
                }
                _ => Fault::malformed(local_code::NOT_JSON, format!("the body is not JSON: {error}")),
            }
        })?;
        Ok(fields)
    }
}

/// What becomes of a field.
enum Slot<'f, 'a> {
    Raw(&'f mut Option<&'a RawValue>),
    /// May stand twice, and counts with its last value, as the API's own clients would read it.
    Last(&'f mut Option<&'a RawValue>),
    Task(&'f mut Option<TaskField<'a>>),
    Name(&'f mut Vec<String>),
    Pass,
}

/// A record of an object's fields.
trait Fields<'a> {
    fn slot(&mut self, name: &str) -> Slot<'_, 'a>;
    fn duplicates(&mut self) -> &mut Vec<String>;
}

impl<'a> Fields<'a> for JobFields<'a> {
    fn slot(&mut self, name: &str) -> Slot<'_, 'a> {
        match name {
            "id" => Slot::Raw(&mut self.id),
            "task" => Slot::Task(&mut self.task),
            "deadline" => Slot::Raw(&mut self.deadline),
            "metadata" => Slot::Raw(&mut self.metadata),
            "clientKey" | "callbackUrl" => Slot::Name(&mut self.forbidden),
            _ => Slot::Name(&mut self.unknown),
        }
    }

    fn duplicates(&mut self) -> &mut Vec<String> {
        &mut self.duplicate
    }
}

impl<'a> Fields<'a> for TaskFields<'a> {
    fn slot(&mut self, name: &str) -> Slot<'_, 'a> {
        match name {
            "type" => Slot::Raw(&mut self.kind),
            "class" => Slot::Last(&mut self.class),
            "body" => Slot::Raw(&mut self.body),
            "websiteURL" => Slot::Raw(&mut self.website_url),
            "proxyAddress" => Slot::Raw(&mut self.proxy_address),
            "proxyPort" => Slot::Raw(&mut self.proxy_port),
            _ if JUDGED.iter().any(|judged| judged.eq_ignore_ascii_case(name)) => {
                Slot::Name(&mut self.lookalike)
            }
            _ => Slot::Pass,
        }
    }

    fn duplicates(&mut self) -> &mut Vec<String> {
        &mut self.duplicate
    }
}

/// Reads an object of this JSON, which begins `from` there, into a record; returns where it ends.
struct Object<'t, 'a, T> {
    json: &'a str,
    from: usize,
    fields: &'t mut T,
}

impl<'a, T: Fields<'a>> DeserializeSeed<'a> for Object<'_, 'a, T> {
    type Value = usize;

    fn deserialize<D: Deserializer<'a>>(self, reader: D) -> Result<usize, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'a, T: Fields<'a>> Visitor<'a> for Object<'_, 'a, T> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<usize, A::Error> {
        let place = |raw: &RawValue| {
            let from = raw.get().as_ptr().addr() - self.json.as_ptr().addr();
            from..from + raw.get().len()
        };
        // After the opening brace. Between what was read last and the closing one, or the next
        // value, stand white space and punctuation only.
        let mut end = self.from + 1;
        while let Some(key) = map.next_key::<&'a RawValue>()? {
            let name = text(key.get()).ok_or_else(|| A::Error::custom("a name cannot be read"))?;
            let slot = self.fields.slot(&name);
            let twice = if let Slot::Task(task) = slot {
                let after_key = &self.json[place(key).end..];
                let value = after_key.trim_start_matches([':', ' ', '\t', '\n', '\r']);
                let found = if value.starts_with('{') {
                    let from = self.json.len() - value.len();
                    let mut fields = TaskFields::default();
                    let object = Object { json: self.json, from, fields: &mut fields };
                    end = map.next_value_seed(object)?;
                    TaskField { place: from..end, fields: Some(fields) }
                } else {
                    let place = place(map.next_value()?);
                    end = place.end;
                    TaskField { place, fields: None }
                };
                task.replace(found).is_some()
            } else {
                let value = map.next_value::<&'a RawValue>()?;
                end = place(value).end;
                match slot {
                    Slot::Raw(place) => place.replace(value).is_some(),
                    Slot::Last(place) => {
                        *place = Some(value);
                        false
                    }
                    Slot::Name(names) => {
                        if names.len() < KEPT_NAMES {
                            names.push(name.chars().take(100).collect());
                        }
                        false
                    }
                    Slot::Task(_) | Slot::Pass => false,
                }
            };
            let names = self.fields.duplicates();
            if twice && names.len() < KEPT_NAMES {
                names.push(name.into_owned());
            }
        }
        Ok(self.json[end..].find('}').map_or(end, |at| end + at + 1))
    }
}

/// The text of a JSON string; borrowed where it holds no escape.
pub(super) fn text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if memchr(b'\\', inner.as_bytes()).is_some() {
        serde_json::from_str::<String>(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Job<'a> {
        #[serde(borrow)]
        task: &'a RawValue,
    }

    proptest! {
        #[test]
        fn a_task_is_found_where_it_stands(
            spaces in prop::collection::vec("[ \t\n\r]{0,2}", 12),
            name in prop::sample::select(vec!["task", "t\\u0061sk"]),
            task in prop::sample::select(vec![
                "{}", "{\"type\":\"a}\"}", "{\"a\":{\"b\":[{}]}}", "{\"body\":\"x\",\"c\": {\"}\":1} }", "{ }", "null", "7", "[{}]",
            ]),
            before in any::<bool>(), after in any::<bool>(),
        ) {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = <[String; 12]>::try_from(spaces).unwrap();
            let before = if before { format!("\"id\"{a}:{b}\"{{\"{c},{d}") } else { a + &b };
            let after = if after { format!("{e},{f}\"metadata\"{g}:{h}{{\"x\":\"}}\"}}") } else { e + &f };
            let json = format!("{c}{{{before}\"{name}\"{i}:{j}{task}{after}{k}}}{l}");
            let read = JobFields::read(&json).unwrap().task.unwrap();
            prop_assert_eq!(&json[read.place], serde_json::from_str::<Job<'_>>(&json).unwrap().task.get());
            prop_assert_eq!(read.fields.is_some(), task.starts_with('{'));
        }
    }
}
