//! Every field that is written is described, and no other.

use std::collections::BTreeSet;

use captcha_worker::contract;
use serde_json::{Value, json};

use super::{VERBATIM, all};

/// Fields that only a replay of an earlier job brings.
const OF_REPLAYS: [&str; 2] = ["replay_id", "replays"];

/// The names of fields, nested ones by their path: a schema's, wherever in it they are described.
fn described(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.strip_prefix("#/$defs/")) {
        described(&root["$defs"][name], root, path, found);
    }
    for part in schema["oneOf"].as_array().into_iter().flatten() {
        described(part, root, path, found);
    }
    described_items(schema, root, path, found);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if *property != json!(false) {
            let path = format!("{path}/{name}");
            described(property, root, &path, found);
            found.insert(path);
        }
    }
}

fn described_items(schema: &Value, root: &Value, path: &str, found: &mut BTreeSet<String>) {
    if schema["items"].is_object() {
        described(&schema["items"], root, path, found);
    }
}

/// The same of a value.
fn written(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    if VERBATIM.iter().any(|name| path == format!("/{name}")) {
        return;
    }
    for item in value.as_array().into_iter().flatten() {
        written(item, path, found);
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{name}");
        written(field, &path, found);
        found.insert(path);
    }
}

#[test]
fn every_field_that_is_written_is_described_and_no_other() {
    let schema = contract::outcome();
    let (mut in_schema, mut made) = (BTreeSet::new(), BTreeSet::new());
    described(&schema, &schema, "", &mut in_schema);
    all().iter().for_each(|outcome| written(outcome, "", &mut made));
    for name in OF_REPLAYS {
        assert!(in_schema.contains(&format!("/{name}")), "{name}");
        made.insert(format!("/{name}"));
    }
    assert_eq!(in_schema, made);
}
