//! `topology declare|check|export`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::Output;
use super::{CommandError, Exit, connect, definitions};
use crate::broker::topology::{Mismatch, Names, Topology};
use crate::broker::{Broker, BrokerError};
use crate::config::Settings;

const EXAMPLES: &str = "\
Examples:
  captcha-worker topology declare
  captcha-worker topology check --json
  captcha-worker topology export > definitions.json && rabbitmqctl import_definitions definitions.json
  CAPTCHA_WORKER__BROKER__NAMESPACE=lane2 captcha-worker topology declare";

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
    let topology = Topology::new(&Names::new(&settings.broker.namespace));
    let vhost = settings.broker.url.vhost();
    if let Action::Export = args.action {
        output.value(&definitions::of(&topology, vhost))?;
        return Ok(Exit::Fine);
    }
    let broker = connect::broker(settings, "captcha-worker topology")?;
    match args.action {
        Action::Declare => declare(&broker, &topology, vhost, output).await,
        Action::Check | Action::Export => check(&broker, &topology, output).await,
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
        let told: Vec<_> = mismatches.iter().map(as_json).collect();
        output.value(&json!({
            "ok": mismatches.is_empty(), "exchanges": exchanges, "queues": queues, "mismatches": told
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

fn as_json(mismatch: &Mismatch) -> serde_json::Value {
    json!({ "kind": mismatch.kind, "name": mismatch.name, "problem": mismatch.problem })
}

fn counts(topology: &Topology) -> (usize, usize, usize) {
    (topology.exchanges.len(), topology.queues.len(), topology.bindings.len())
}

/// Where the broker differs from the topology.
pub(super) async fn compare(broker: &Broker, topology: &Topology) -> Result<Vec<Mismatch>, BrokerError> {
    on_session(broker, async |session| session.link().check(topology).await).await
}

/// Does something on a session of its own, and closes the session whatever came of it.
async fn on_session<T>(
    broker: &Broker,
    act: impl AsyncFnOnce(&crate::broker::Session) -> Result<T, BrokerError>,
) -> Result<T, BrokerError> {
    let session = broker.connect().await?;
    let done = act(&session).await;
    session.link().close().await;
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::memory::MemoryBroker;

    #[tokio::test]
    async fn what_is_missing_is_reported_until_it_is_declared() {
        let broker = Broker::Memory(MemoryBroker::new());
        let topology = Topology::new(&Names::new("lane2"));
        let missing = compare(&broker, &topology).await.unwrap();
        assert!(missing.iter().any(|mismatch| mismatch.name == "lane2.jobs"), "{missing:?}");
        on_session(&broker, async |session| session.link().declare(&topology).await).await.unwrap();
        assert_eq!(compare(&broker, &topology).await, Ok(Vec::new()));
    }
}
