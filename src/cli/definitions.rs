//! The topology in the shape of RabbitMQ's definition files.

use serde_json::{Value as Json, json};

use crate::broker::topology::{Arguments, Topology};
use crate::domain::message::Value;

/// Exchanges, queues and bindings of a virtual host. The virtual host itself, users and policies are the operator's.
pub(super) fn of(topology: &Topology, vhost: &str) -> Json {
    let exchanges: Vec<_> = topology
        .exchanges
        .iter()
        .map(|exchange| {
            json!({
                "name": exchange.name, "vhost": vhost, "type": exchange.kind.name(), "durable": true,
                "auto_delete": false, "internal": false, "arguments": arguments(&exchange.arguments),
            })
        })
        .collect();
    let queues: Vec<_> = topology
        .queues
        .iter()
        .map(|queue| {
            json!({
                "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false,
                "arguments": arguments(&queue.arguments),
            })
        })
        .collect();
    let bindings: Vec<_> = topology
        .bindings
        .iter()
        .map(|binding| {
            json!({
                "source": binding.exchange, "vhost": vhost, "destination": binding.queue,
                "destination_type": "queue", "routing_key": binding.routing_key, "arguments": {},
            })
        })
        .collect();
    json!({ "exchanges": exchanges, "queues": queues, "bindings": bindings })
}

fn arguments(arguments: &Arguments) -> Json {
    arguments
        .iter()
        .map(|(name, value)| (name.clone(), as_json(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn as_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Decimal(scale, unscaled) => json!(f64::from(*unscaled) / 10_f64.powi(i32::from(*scale))),
        Value::Timestamp(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Bytes(value) => json!(String::from_utf8_lossy(value)),
        Value::Array(values) => values.iter().map(as_json).collect(),
        Value::Table(values) => arguments(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::topology::Names;

    #[test]
    fn every_part_of_the_topology_is_exported_with_its_virtual_host_and_arguments() {
        let topology = Topology::new(&Names::new("lane2"));
        let exported = of(&topology, "/");
        let count = |part: &str| exported[part].as_array().unwrap().len();
        assert_eq!(count("exchanges"), topology.exchanges.len());
        assert_eq!(count("queues"), topology.queues.len());
        assert_eq!(count("bindings"), topology.bindings.len());
        for part in ["exchanges", "queues", "bindings"] {
            let items = exported[part].as_array().unwrap();
            assert!(items.iter().all(|item| item["vhost"] == "/"), "{part}");
        }
        let jobs = exported["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "lane2.jobs");
        let jobs = jobs.unwrap();
        assert_eq!(jobs["arguments"]["x-queue-type"], "quorum");
        assert_eq!(jobs["arguments"]["x-delivery-limit"], 20);
        assert_eq!(jobs["durable"], true);
    }
}
