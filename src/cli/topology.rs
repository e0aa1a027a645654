//! `topology declare|check|export`.

use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use super::console::Output;
use super::{CommandError, Exit, connect};
use crate::broker::topology::{Arguments, Mismatch, Topology};
use crate::broker::{Broker, BrokerError};
use crate::config::Settings;
use crate::domain::message::Value;
use crate::linger::Linger;

const EXAMPLES: &str = "\
Examples:
  captcha-worker topology declare
  captcha-worker topology check --json
  captcha-worker topology export > definitions.json &&
    rabbitmqctl import_definitions definitions.json
  CAPTCHA_WORKER__BROKER__NAMESPACE=other captcha-worker topology declare";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TopologyArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Make what is missing; what exists must be as it should be
    Declare,
    /// Compare with the broker, and change nothing; exit code 1 where anything differs
    Check,
    /// Print definitions as RabbitMQ's management and `rabbitmqctl import_definitions` take them
    Export,
}

pub(super) async fn run(
    args: &TopologyArgs,
    settings: &Settings,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let topology = connect::topology(settings);
    let vhost = settings.broker.url.vhost();
    if let Action::Export = args.action {
        output.value(&definitions(&topology, vhost))?;
        return Ok(Exit::Fine);
    }
    let name = "captcha-worker topology";
    match args.action {
        Action::Declare => {
            let broker = connect::working_broker(settings, name, Linger::none())?;
            declare(&broker, &topology, vhost, output).await
        }
        Action::Check | Action::Export => check(&connect::broker(settings, name)?, &topology, output).await,
    }
}

async fn declare(
    broker: &Broker,
    topology: &Topology,
    vhost: &str,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let declared = on_session(broker, async |session| session.link().declare(topology).await).await;
    declared?;
    let (exchanges, queues, bindings) = counts(topology);
    if output.is_json() {
        output.value(&json!({
            "vhost": vhost, "exchanges": exchanges, "queues": queues, "bindings": bindings
        }))?;
    } else {
        output.line(format_args!(
            "{exchanges} exchanges, {queues} queues and {bindings} bindings are in place in virtual host '{vhost}'"
        ))?;
    }
    Ok(Exit::Fine)
}

async fn check(broker: &Broker, topology: &Topology, output: &mut Output) -> Result<Exit, CommandError> {
    let mismatches = compare(broker, topology).await?;
    let (exchanges, queues, _) = counts(topology);
    if output.is_json() {
        let listed: Vec<_> = mismatches.iter().map(mismatch_json).collect();
        output.value(&json!({
            "ok": mismatches.is_empty(), "exchanges": exchanges, "queues": queues, "mismatches": listed
        }))?;
    } else if mismatches.is_empty() {
        output.line(format_args!("{exchanges} exchanges and {queues} queues are as they should be"))?;
    } else {
        for mismatch in &mismatches {
            output.line(mismatch)?;
        }
        output.line(format_args!("\n{REMEDY}"))?;
    }
    Ok(Exit::when(mismatches.is_empty()))
}

/// What helps against mismatches of every kind.
pub(super) const REMEDY: &str = "What is missing, `captcha-worker topology declare` makes. What differs cannot be changed \
    in place: delete it when it is empty and declare it anew, or choose another broker.namespace.";

fn mismatch_json(mismatch: &Mismatch) -> serde_json::Value {
    json!({ "kind": mismatch.kind, "name": mismatch.name, "problem": mismatch.problem })
}

fn counts(topology: &Topology) -> (usize, usize, usize) {
    (topology.exchanges.len(), topology.queues.len(), topology.bindings.len())
}

/// Where the broker differs from the topology.
async fn compare(broker: &Broker, topology: &Topology) -> Result<Vec<Mismatch>, BrokerError> {
    on_session(broker, async |session| session.link().check(topology).await).await
}

/// Does something on a session of its own, and closes the session whatever the result.
async fn on_session<T>(
    broker: &Broker,
    act: impl AsyncFnOnce(&crate::broker::Session) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let session = broker.connect().await?;
    let done = act(&session).await;
    session.link().close().await;
    done
}

/// Exchanges, queues and bindings of a virtual host. The virtual host itself, users and policies
/// are the operator's.
fn definitions(topology: &Topology, vhost: &str) -> Json {
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
        .map(|(name, value)| (name.clone(), argument_json(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn argument_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Decimal(scale, unscaled) => json!(f64::from(*unscaled) / 10_f64.powi(i32::from(*scale))),
        Value::Timestamp(value) => json!(value),
        Value::Text(value) => json!(value),
        Value::Bytes(value) => json!(String::from_utf8_lossy(value)),
        Value::Array(values) => values.iter().map(argument_json).collect(),
        Value::Table(values) => arguments(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::memory::MemoryBroker;
    use crate::broker::topology::Names;

    #[tokio::test]
    async fn what_is_missing_is_reported_until_it_is_declared() {
        let broker = Broker::Memory(MemoryBroker::new());
        let topology = Topology::new(&Names::new("other"));
        let missing = compare(&broker, &topology).await.unwrap();
        assert!(missing.iter().any(|mismatch| mismatch.name == "other.jobs"), "{missing:?}");
        on_session(&broker, async |session| session.link().declare(&topology).await).await.unwrap();
        assert_eq!(compare(&broker, &topology).await, Ok(Vec::new()));
    }

    #[test]
    fn every_part_of_the_topology_is_exported_with_its_virtual_host_and_arguments() {
        let topology = Topology::new(&Names::new("other"));
        let exported = definitions(&topology, "/");
        let count = |part: &str| exported[part].as_array().unwrap().len();
        assert_eq!(count("exchanges"), topology.exchanges.len());
        assert_eq!(count("queues"), topology.queues.len());
        assert_eq!(count("bindings"), topology.bindings.len());
        for part in ["exchanges", "queues", "bindings"] {
            let items = exported[part].as_array().unwrap();
            assert!(items.iter().all(|item| item["vhost"] == "/"), "{part}");
        }
        let jobs = exported["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "other.jobs");
        let jobs = jobs.unwrap();
        assert_eq!(jobs["arguments"]["x-queue-type"], "quorum");
        assert_eq!(jobs["arguments"]["x-delivery-limit"], 20);
        assert_eq!(jobs["durable"], true);
    }
}
