//! The contract for machines says what the code does: what the schemas take, admission takes; what
//! the code writes, they describe.

mod admission;
mod asyncapi;
mod files;
mod outcomes;

use jsonschema::Validator;
use serde_json::Value;

/// A validator of a published schema, that minds formats.
fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).expect("a published schema is a schema")
}

/// What is wrong with a value, where anything is.
fn faults(validator: &Validator, value: &Value) -> String {
    validator.iter_errors(value).map(|error| format!("{}: {error}\n", error.instance_path())).collect()
}
