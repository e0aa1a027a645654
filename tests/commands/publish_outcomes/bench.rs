//! What the tests share: a broker with the topology on it, and inputs.

use std::io::Write;
use std::time::Duration;

use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{Broker, Session};
use captcha_worker::cli::console::Console;
use captcha_worker::cli::outcomes::{OutcomesArgs, outcomes};
use captcha_worker::cli::publish::{PublishArgs, publish};
use captcha_worker::cli::{CommandError, Exit};
use captcha_worker::domain::message::Message;
use clap::Parser;
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Far more than any of these takes; a test that hangs fails instead.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Parser)]
pub(crate) enum Command {
    Publish(PublishArgs),
    Outcomes(OutcomesArgs),
}

pub(crate) fn parse(arguments: &str) -> Result<Command, clap::Error> {
    Command::try_parse_from(std::iter::once("test").chain(arguments.split_whitespace()))
}

/// A broker with the topology on it, and a session of the test's own.
pub(crate) struct Bench {
    pub(crate) local: MemoryBroker,
    pub(crate) broker: Broker,
    pub(crate) names: Names,
    pub(crate) session: Session,
    pub(crate) stop: CancellationToken,
}

pub(crate) struct RunOutput {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) ending: Result<Exit, CommandError>,
}

impl Bench {
    pub(crate) async fn new() -> Self {
        let names = Names::new("captcha");
        Self::with(Topology::new(&names), names).await
    }

    pub(crate) async fn with(topology: Topology, names: Names) -> Self {
        let local = MemoryBroker::new();
        let session = local.connect().await.unwrap();
        session.link().declare(&topology).await.unwrap();
        Self { broker: Broker::Memory(local.clone()), local, names, session, stop: CancellationToken::new() }
    }

    pub(crate) async fn run(&self, arguments: &str) -> RunOutput {
        let mut console = Console {
            out: Vec::new(),
            err: Vec::new(),
            out_is_terminal: false,
            err_is_terminal: false,
            format: None,
        };
        let ending = self.run_on(arguments, &mut console).await;
        RunOutput {
            out: String::from_utf8(console.out).unwrap(),
            err: String::from_utf8(console.err).unwrap(),
            ending,
        }
    }

    pub(crate) async fn run_on<O: Write, E: Write>(
        &self,
        arguments: &str,
        console: &mut Console<O, E>,
    ) -> Result<Exit, CommandError> {
        let (broker, names, stop) = (&self.broker, &self.names, &self.stop);
        let run = async {
            match parse(arguments).unwrap() {
                Command::Publish(args) => publish(args, broker, names, console, stop).await,
                Command::Outcomes(args) => outcomes(args, broker, names, console, stop).await,
            }
        };
        timeout(DEADLINE, run).await.expect("the command ends in time")
    }

    /// Puts messages straight into a queue, by way of the default exchange.
    pub(crate) async fn fill(&self, queue: &str, bodies: impl IntoIterator<Item = String>) {
        for body in bodies {
            let message = Message { body: body.into(), ..Message::default() };
            self.session.publish("", queue, message).await.unwrap();
        }
    }

    pub(crate) fn bodies(&self, queue: &str) -> Vec<String> {
        let messages = self.local.snapshot(queue).into_iter();
        messages.map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
    }

    /// Waits until the job queue has so many.
    pub(crate) async fn jobs_arrive(&self, count: usize) {
        let arrival = async {
            while self.local.queue_len(&self.names.jobs()) < count {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, arrival).await.expect("the jobs arrive");
    }
}

pub(crate) fn file(lines: &[String]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.ndjson");
    std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

pub(crate) fn jobs(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| {
            let image = "A".repeat(136);
            format!(r#"{{"id": "order-{n}",  "task": {{"type": "ImageToTextTask", "body": "{image}"}}}}"#)
        })
        .collect()
}

pub(crate) fn results(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| json!({"version": 1, "id": format!("order-{n}"), "status": "solved"}).to_string())
        .collect()
}

pub(crate) fn report(output: &RunOutput) -> serde_json::Value {
    serde_json::from_str(&output.out).unwrap()
}
