//! The contract as machines read it: JSON Schemas of job and outcome, and an AsyncAPI document of who meets whom where on the broker.
//!
//! Nothing here is used to read or write a message: a job is read by hand, to be kept byte for byte, and an outcome is written by the domain's
//! own type. That all three say the same is what `tests/commands/contract` is for.

mod asyncapi;
mod job;
mod outcome;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

pub use asyncapi::asyncapi;

/// Version of the contract, as outcomes carry it.
pub const VERSION: u32 = 1;

/// What all times look like, for validators that take `format` for a remark.
const TIME: &str =
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})$";

/// The JSON Schema of a job, draft 2020-12.
#[must_use]
pub fn job() -> Value {
    root_of::<job::Job>("job")
}

/// The JSON Schema of an outcome, draft 2020-12.
#[must_use]
pub fn outcome() -> Value {
    root_of::<outcome::Outcome>("outcome")
}

fn root_of<T: JsonSchema>(name: &str) -> Value {
    let mut schema = settings(SchemaSettings::draft2020_12()).into_generator().into_root_schema_for::<T>();
    schema.insert("$id".to_owned(), json!(format!("urn:captcha-worker:contract:{VERSION}:{name}")));
    schema.to_value()
}

/// As what is written, where a field that may be absent is never null. Without Rust's own formats, which strict validators refuse.
fn settings(draft: SchemaSettings) -> SchemaSettings {
    draft.for_serialize().with_transform(RecursiveTransform(|schema: &mut Schema| {
        let is_rusts = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
        if schema.get("format").is_some_and(is_rusts) {
            schema.remove("format");
        }
    }))
}
