//! The AsyncAPI document names what stands on the broker, and all of it that others than workers
//! meet.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::contract;
use captcha_worker::domain::class::Class;
use serde_json::{Value, json};

use crate::contract::{faults, validator};
use crate::support::node::staged;

fn document() -> Value {
    contract::asyncapi(&Names::new("other"))
}

fn channels(document: &Value) -> &serde_json::Map<String, Value> {
    document["channels"].as_object().expect("channels")
}

#[test]
fn its_channels_are_the_topology_s_save_what_workers_keep_among_themselves() {
    let (names, document) = (Names::new("other"), document());
    let topology = Topology::new(&names);
    let internal = |name: &str| {
        name == names.tickets()
            || name == names.guard()
            || name == names.control()
            || name.starts_with(&names.retry_prefix())
    };
    let listed = |kind: &str| -> BTreeSet<String> {
        let amqp = channels(&document).values().map(|channel| &channel["bindings"]["amqp"]);
        amqp.filter_map(|it| it[kind]["name"].as_str()).map(str::to_owned).collect()
    };
    let mut queues: BTreeSet<String> =
        topology.queues.iter().map(|queue| queue.name.clone()).filter(|name| !internal(name)).collect();
    assert!(queues.remove(&names.jobs()), "the queue of jobs is met by its exchange");
    assert_eq!(listed("queue"), queues);
    let mut exchanges: BTreeSet<String> = topology
        .exchanges
        .iter()
        .map(|exchange| exchange.name.clone())
        .filter(|name| !internal(name))
        .collect();
    assert!(exchanges.remove(&names.unrouted()), "it is the broker's alternate");
    assert_eq!(listed("exchange"), exchanges);
}

#[test]
fn exchanges_are_of_the_kind_that_they_are_declared_as() {
    let document = document();
    let topology = Topology::new(&Names::new("other"));
    for exchange in channels(&document)
        .values()
        .map(|channel| &channel["bindings"]["amqp"]["exchange"])
        .filter(|it| it.is_object())
    {
        let declared = topology.exchanges.iter().find(|it| exchange["name"] == it.name).expect("declared");
        assert_eq!(exchange["type"], declared.kind.name());
    }
}

#[test]
fn every_queue_lists_its_bindings() {
    let document = document();
    let topology = Topology::new(&Names::new("other"));
    for channel in channels(&document).values().filter(|channel| channel["bindings"]["amqp"]["is"] == "queue")
    {
        let bound: Vec<Value> = topology
            .bindings
            .iter()
            .filter(|binding| channel["address"] == binding.queue)
            .map(|binding| json!({"exchange": binding.exchange, "routingKey": binding.routing_key}))
            .collect();
        assert_eq!(channel["x-bound-to"], json!(bound));
    }
}

#[test]
fn jobs_are_received_by_a_key_that_is_bound_and_outcomes_sent_to_every_queue_of_theirs() {
    let (document, names) = (document(), Names::new("other"));
    let key = document["channels"]["jobs"]["address"].as_str().expect("a key");
    assert!(
        Topology::new(&names).bindings.iter().any(|it| it.exchange == names.jobs() && it.routing_key == key)
    );
    let operations = document["operations"].as_object().expect("operations");
    let sent: BTreeSet<&str> = operations
        .values()
        .filter(|operation| operation["action"] == "send")
        .filter_map(|operation| operation["channel"]["$ref"].as_str()?.strip_prefix("#/channels/"))
        .collect();
    let queues: Vec<String> =
        Class::finals().map(|class| format!("dead.{class}")).chain(["results".to_owned()]).collect();
    assert_eq!(sent, queues.iter().map(String::as_str).collect());
    let received = operations.values().filter(|operation| operation["action"] == "receive").count();
    assert_eq!(received, 1);
    assert_eq!(operations["receiveJob"]["channel"]["$ref"], "#/channels/jobs");
    assert_eq!(operations["receiveJob"]["reply"]["channel"]["$ref"], "#/channels/reply");
}

/// What AsyncAPI's own JSON Schema says of a document, the bindings to AMQP included.
fn judged(document: &Value) -> Output {
    let folder = staged("tests/commands/contract/asyncapi", "asyncapi");
    let mut check = Command::new("node")
        .arg(folder.path().join("check.mjs"))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("node runs");
    let mut input = check.stdin.take().expect("its input");
    input.write_all(document.to_string().as_bytes()).expect("it reads");
    drop(input);
    check.wait_with_output().expect("node ends")
}

#[test]
fn it_is_valid_by_asyncapi_s_own_schema() {
    let good = judged(&document());
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stderr));
    let mut wrong = document();
    wrong["channels"]["results"]["bindings"]["amqp"]["is"] = json!("heap");
    let bad = judged(&wrong);
    assert_eq!(bad.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&bad.stderr).contains("/channels/results/bindings/amqp"));
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn its_payloads_say_what_the_schemas_say() {
    let document = document();
    let payload = |message: &str| {
        let mut schema = document["components"]["messages"][message]["payload"].clone();
        schema["components"] = document["components"].clone();
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        // In draft 7 nothing that stands beside a reference counts.
        if let Some(reference) = schema.as_object_mut().and_then(|schema| schema.remove("$ref")) {
            schema["allOf"] = json!([{"$ref": reference}]);
        }
        validator(&schema)
    };
    let examples = |schema: Value| schema["examples"].as_array().expect("some").clone();
    let outcomes = examples(contract::outcome());
    for (message, right, wrong) in [
        ("job", &examples(contract::job())[0], &json!({"task": {"type": "a"}, "clientKey": "k"})),
        ("solved", &outcomes[0], &outcomes[1]),
        ("failed", &outcomes[1], &outcomes[0]),
    ] {
        let validator = payload(message);
        assert_eq!(faults(&validator, right), "");
        assert!(!validator.is_valid(wrong), "{message}");
        assert_eq!(document["components"]["messages"][message]["examples"][0]["payload"], *right);
    }
}
