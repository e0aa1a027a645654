//! The contract as machines read it: JSON Schemas of job and outcome, and an AsyncAPI document of
//! who meets whom where on the broker.
//!
//! An outcome is described by the type that writes it. A job is described by a type of its own,
//! since it is read by hand, to be kept byte for byte. That both say the same is what
//! `tests/contract` is for.

mod asyncapi;
mod job;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::domain::outcome::OutcomeBody;

pub use crate::domain::outcome::VERSION;
pub use asyncapi::asyncapi;

/// The JSON Schema of a job, draft 2020-12.
#[must_use]
pub fn job() -> Value {
    root_of::<job::Job>("job")
}

/// The JSON Schema of an outcome, draft 2020-12.
#[must_use]
pub fn outcome() -> Value {
    root_of::<OutcomeBody>("outcome")
}

fn root_of<T: JsonSchema>(name: &str) -> Value {
    let mut schema = settings(SchemaSettings::draft2020_12()).into_generator().into_root_schema_for::<T>();
    schema.insert("$id".to_owned(), json!(format!("urn:captcha-worker:contract:{VERSION}:{name}")));
    schema.to_value()
}

/// As what is written, where a field that may be absent is never null. Without Rust's own formats,
/// which strict validators refuse.
fn settings(draft: SchemaSettings) -> SchemaSettings {
    draft.for_serialize().with_transform(RecursiveTransform(|schema: &mut Schema| {
        let is_rusts = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
        if schema.get("format").is_some_and(is_rusts) {
            schema.remove("format");
        }
        // What serde does when it reads is no part of what is written.
        schema.remove("readOnly");
        schema.remove("default");
        if let Some(Value::String(text)) = schema.get_mut("description") {
            // Descriptions are doc comments, broken where their lines end.
            *text = text.replace('\n', " ");
        }
    }))
}
