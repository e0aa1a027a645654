//! From settings to a broker and an API client.

use std::path::Path;

use secrecy::SecretString;

use super::CommandError;
use crate::broker::amqp::{AmqpOptions, Connector};
use crate::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use crate::broker::topology::{Names, Topology};
use crate::broker::{Broker, BrokerError};
use crate::config::{BrokerUrl, Settings, SolverSettings};
use crate::linger::Linger;
use crate::solver::{Solver, SolverOptions};
use crate::trace::{TraceOptions, Tracer};

/// What the API sees as the client.
pub(super) const USER_AGENT: &str = concat!("captcha-worker/", env!("CARGO_PKG_VERSION"));
/// The error for a missing key, and how to fix it.
pub(super) const NO_KEY: &str = "solver.api_key is not set: put the account's key into a file and name it by \
    solver.api_key_file (CAPTCHA_WORKER__SOLVER__API_KEY_FILE), or set CAPTCHA_WORKER__SOLVER__API_KEY";

/// The broker of the settings, not connected yet, for a command that only reads.
/// `name`: as the broker's tools show this process.
pub(super) fn broker(settings: &Settings, name: &str) -> Result<Broker, CommandError> {
    any_broker(settings, name, IfMissing::Fail, Linger::none())
}

/// The same, for a command that brings work: it makes the queue file where there is none.
/// `linger`: of a process that has so much under way that its messages can wait for each other.
pub(super) fn working_broker(
    settings: &Settings,
    name: &str,
    linger: Linger,
) -> Result<Broker, CommandError> {
    any_broker(settings, name, IfMissing::Make, linger)
}

fn any_broker(
    settings: &Settings,
    name: &str,
    if_missing: IfMissing,
    linger: Linger,
) -> Result<Broker, CommandError> {
    let broker = &settings.broker;
    let url = match &broker.url {
        BrokerUrl::Amqp(url) => url,
        BrokerUrl::Sqlite(path) => {
            // A command that only reads declares nothing.
            let declares = broker.declare_topology && if_missing == IfMissing::Make;
            return Ok(Broker::Sqlite(queue_file(settings, path, (if_missing, declares), name, linger)));
        }
    };
    let options = AmqpOptions {
        url: url.secret().clone(),
        tls: broker.tls.clone(),
        connect_timeout: broker.connect_timeout,
        call_timeout: broker.call_timeout,
        confirm_timeout: broker.confirm_timeout,
        // Between 5 and 60 by the settings.
        heartbeat_secs: u16::try_from(broker.heartbeat.as_secs()).unwrap_or(u16::MAX),
        connection_name: name.to_owned(),
        // Each job or ticket in flight has at most one message on its way out.
        publish_depth: settings.worker.max_in_flight,
        linger,
    };
    let connector = Connector::new(options)
        .map_err(|error| CommandError::Failed(format!("broker.url cannot be used: {error}")))?;
    Ok(Broker::Amqp(connector))
}

/// The embedded broker over this file.
pub(super) fn queue_file(
    settings: &Settings,
    path: &Path,
    (if_missing, declares): (IfMissing, bool),
    name: &str,
    linger: Linger,
) -> SqliteBroker {
    let broker = &settings.broker;
    SqliteBroker::new(SqliteOptions {
        path: path.to_owned(),
        if_missing,
        topology: declares.then(|| topology(settings)),
        connect_timeout: broker.connect_timeout,
        call_timeout: broker.call_timeout,
        confirm_timeout: broker.confirm_timeout,
        heartbeat: broker.heartbeat,
        connection_name: name.to_owned(),
        linger,
    })
}

/// What the settings want on the broker.
pub(super) fn topology(settings: &Settings) -> Topology {
    Topology::with_lanes(&Names::new(&settings.broker.namespace), settings.lanes.keys())
}

/// The API of the settings.
pub(super) fn solver(settings: &Settings) -> Result<Solver, CommandError> {
    let solver = &settings.solver;
    let key = solver.api_key.clone().ok_or(CommandError::Missing(NO_KEY))?;
    Solver::new(options(solver, key)).map_err(CommandError::failed)
}

fn options(solver: &SolverSettings, api_key: SecretString) -> SolverOptions {
    SolverOptions {
        base_url: solver.base_url.clone(),
        api_key,
        proxy: solver.proxy.clone(),
        tls_ca_file: solver.tls_ca_file.clone(),
        connect_timeout: solver.connect_timeout,
        request_timeout: solver.request_timeout,
        max_connections: solver.max_connections,
        idle_timeout: solver.idle_timeout,
        allow_plain_http: solver.allow_plain_http,
        user_agent: USER_AGENT.to_owned(),
    }
}

/// What makes spans and sends them; nothing does where no collector is named. `name`: the
/// replica's. `broker`: where its jobs are.
pub(super) fn tracer(settings: &Settings, name: &str, broker: &Broker) -> Result<Tracer, CommandError> {
    let traces = &settings.traces;
    let Some(collector) = &traces.endpoint else { return Ok(Tracer::off()) };
    let (system, address) = match (broker, &settings.broker.url) {
        (Broker::Amqp(_), BrokerUrl::Amqp(url)) => ("rabbitmq", Some(url.host_and_port())),
        (Broker::Memory(_), _) => ("memory", None),
        _ => ("sqlite", None),
    };
    let options = TraceOptions {
        collector,
        protocol: traces.protocol,
        sample_ratio: traces.sample_ratio,
        worker: name,
        system,
        broker: address,
        api: &settings.solver.base_url,
    };
    Tracer::otlp(&options).map_err(|error| CommandError::Failed(format!("traces cannot be sent: {error}")))
}

/// The worker's name in outcomes, logs and the broker's tools: the configured one, or host and
/// process.
pub(super) fn worker_name(settings: &Settings) -> String {
    let name = &settings.worker.name;
    if !name.is_empty() {
        return name.clone();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = match host.trim() {
        "" => "worker",
        host => host,
    };
    format!("{host}/{}", std::process::id())
}

/// What to do about a broker's failure; empty where the error's text says it.
pub(super) fn advice(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::Unreachable { .. } => {
            "see that the broker runs and that broker.url names its host and port"
        }
        BrokerError::Refused { .. } => {
            "correct user and password in broker.url (or the file broker.url_file)"
        }
        BrokerError::VirtualHost { .. } => {
            "create the virtual host and give the user permissions on it, or correct the path of broker.url"
        }
        BrokerError::Mismatch { .. } => {
            "delete it when it is empty and run `captcha-worker topology declare`, or choose another broker.namespace"
        }
        BrokerError::Missing { .. } => "run `captcha-worker topology declare`",
        BrokerError::Forbidden(_) => {
            "give the user of broker.url configure, write and read permissions on names of broker.namespace"
        }
        BrokerError::TimedOut { .. } => {
            "see whether the broker is overloaded or blocks publishers (memory or disk alarm), or the disk of a queue file is slow; or raise broker.call_timeout"
        }
        BrokerError::Unfit { .. } => "change what it names, or broker.url",
        BrokerError::File { .. } => "",
        BrokerError::Lost(_) => {
            "run it again; why the connection ended is in the log of the broker, or of the process that has the queue file"
        }
    }
}
