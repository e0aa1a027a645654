//! Settings from environment variables.

use std::ffi::OsString;

use ::config::{Value, ValueKind};

use super::ENV_PREFIX;
use super::fault::Fault;
use super::layer::Leaf;
use super::schema::Schema;

/// The leaves of all variables that begin with the prefix. One that names no setting is a fault by the variable's name.
pub(super) fn leaves(
    variables: &[(OsString, OsString)],
    schema: &Schema,
    faults: &mut Vec<Fault>,
) -> Vec<Leaf> {
    let mut leaves = Vec::new();
    for (name, value) in variables {
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(ENV_PREFIX)) else {
            continue;
        };
        let origin = format!("environment {ENV_PREFIX}{rest}");
        let path = path_of(rest, schema);
        let Some(default) = schema.default_of(&path) else {
            let mut fault = Fault::of_layer(origin, "the variable names no setting");
            fault.allowed = schema.known_near(&path);
            faults.push(fault);
            continue;
        };
        match value.to_str() {
            Some(text) => leaves.push(Leaf { kind: shaped(text, &default), path, origin }),
            None => faults.push(Fault::of_layer(origin, "the value is not UTF-8")),
        }
    }
    // Two spellings of one name: which of them wins must not depend on the order of the environment.
    leaves.sort_by(|one, other| one.origin.cmp(&other.origin));
    leaves
}

/// `BROKER__CALL_TIMEOUT` is `broker.call_timeout`. Task types and error codes keep their case, which the API cares about.
fn path_of(name: &str, schema: &Schema) -> Vec<String> {
    let (section, rest) = name.split_once("__").unwrap_or((name, ""));
    let section = section.to_ascii_lowercase();
    match section.as_str() {
        "codes" => vec![section, rest.to_owned()],
        "caps" => vec![section, schema.task_type(rest)],
        "polling" => {
            let (task_type, field) = rest.rsplit_once("__").unwrap_or((rest, ""));
            vec![section, schema.task_type(task_type), field.to_ascii_lowercase()]
        }
        _ => vec![section, rest.to_ascii_lowercase()],
    }
}

/// Gives a text the shape of the setting. What cannot take it stays text, and is refused where the setting is read.
fn shaped(text: &str, default: &ValueKind) -> ValueKind {
    let trimmed = text.trim();
    let as_shape = match default {
        ValueKind::Boolean(_) => trimmed.parse().ok().map(ValueKind::Boolean),
        ValueKind::I64(_) => trimmed.parse().ok().map(ValueKind::I64),
        ValueKind::Float(_) => trimmed.parse().ok().map(ValueKind::Float),
        ValueKind::Array(_) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(ValueKind::Array(items.map(|item| Value::new(None, item)).collect()))
        }
        _ => None,
    };
    as_shape.unwrap_or_else(|| ValueKind::String(text.to_owned()))
}
