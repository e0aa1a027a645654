mod ending;
mod look;
mod purge;
mod replay;

use clap::Parser;
use serde_json::{Value as Json, json};

use super::replay_permission::ReplayPermission;
use super::*;
use crate::broker::Session;
use crate::broker::memory::MemoryBroker;
use crate::broker::topology::Topology;
use crate::cli::console::Format;
use crate::domain::message::{Message, Properties, Value};
use crate::domain::outcome::KIND;
use crate::domain::replay::Replayed;

#[derive(Parser)]
struct DeadLine {
    #[command(subcommand)]
    command: DeadCommand,
}

fn parse(line: &str) -> Result<DeadCommand, clap::Error> {
    DeadLine::try_parse_from(std::iter::once("dead").chain(line.split_whitespace())).map(|line| line.command)
}

struct Bench {
    local: MemoryBroker,
    session: Session,
    names: Names,
    stop: CancellationToken,
}

struct RunResult {
    ending: Result<Exit, CommandError>,
    out: String,
    err: String,
}

impl RunResult {
    fn json(&self) -> Json {
        serde_json::from_str(&self.out)
            .unwrap_or_else(|_| panic!("{}{}{:?}", self.out, self.err, self.ending))
    }
}

impl Bench {
    async fn new() -> Self {
        Self::without(|_| {}).await
    }

    /// On a topology of which something is missing.
    async fn without(change: impl FnOnce(&mut Topology)) -> Self {
        let (local, names) = (MemoryBroker::new(), Names::new("c"));
        let session = local.connect().await.unwrap();
        let mut topology = Topology::new(&names);
        change(&mut topology);
        session.link().declare(&topology).await.unwrap();
        Self { local, session, names, stop: CancellationToken::new() }
    }

    /// Without the queue of what the broker dead-letters, which every command scans last.
    async fn without_raw() -> Self {
        Self::without(|topology| topology.queues.retain(|queue| queue.name != "c.dead.raw")).await
    }

    /// A job that the broker has dead-lettered.
    async fn raw(&self, id: &str, reason: &str, body: &str) {
        let death = [("queue", "c.jobs".into()), ("reason", reason.into())];
        let death = death.map(|(name, value)| (name.to_owned(), value)).into();
        let headers = [("x-death".to_owned(), Value::Array(vec![Value::Table(death)]))].into();
        let properties = Properties { message_id: Some(id.to_owned()), headers, ..Properties::default() };
        let message = Message { body: body.to_owned().into(), properties, transient: false };
        self.session.publish("", "c.dead.raw", message).await.unwrap();
    }

    /// A failed job's outcome, `id` and `code`, in its class's queue.
    async fn dead(&self, class: &str, id: &str, code: &str) {
        self.dead_with(
            class,
            id,
            code,
            json!({"id": id, "task": {"type": "T", "proxyPassword": "s3cret"}}),
            0,
        )
        .await;
    }

    async fn dead_with(&self, class: &str, id: &str, code: &str, job: Json, replays: u32) {
        let body = json!({
            "version": 1, "id": id, "status": "failed", "task_type": "T", "job": job, "attempts": [], "worker": "w",
            "failure": {"class": class, "code": code, "description": "why", "stage": "poll"},
            "times": {"received_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:00:01Z"},
        });
        let mut properties = Properties {
            message_id: Some(id.to_owned()),
            kind: Some(KIND.to_owned()),
            ..Properties::default()
        };
        if replays > 0 {
            Replayed { id: "before".to_owned(), count: replays }.write(&mut properties.headers);
        }
        let message = Message { body: body.to_string().into(), properties, transient: false };
        self.session.publish("", &format!("c.dead.{class}"), message).await.unwrap();
    }

    async fn run(&self, line: &str) -> RunResult {
        self.run_on(line, false).await
    }

    async fn run_on(&self, line: &str, terminal: bool) -> RunResult {
        self.run_as(line, terminal, false).await
    }

    async fn run_as(&self, line: &str, terminal: bool, json: bool) -> RunResult {
        let mut console = Console {
            out: Vec::new(),
            err: Vec::new(),
            out_is_terminal: terminal,
            err_is_terminal: false,
            format: json.then_some(Format::Json),
        };
        let (broker, command) = (Broker::Memory(self.local.clone()), parse(line).unwrap());
        let mut context = CommandContext::new(&broker, &self.names, &mut console, &self.stop);
        let ending = match command {
            // The fleet's permission is tried on a real one.
            DeadCommand::Replay(args) => {
                super::replay::replay(&args, &ReplayPermission::not_needed(), &mut context).await
            }
            command => run(DeadArgs { command }, &broker, &self.names, &mut console, &self.stop).await,
        };
        let text = |bytes| String::from_utf8(bytes).unwrap();
        RunResult { ending, out: text(console.out), err: text(console.err) }
    }

    fn ids(&self, queue: &str) -> Vec<String> {
        let messages = self.local.snapshot(queue).into_iter();
        messages.map(|message| message.properties.message_id.unwrap_or_default()).collect()
    }
}

fn numbered(prefix: &str, numbers: impl Iterator<Item = usize>) -> Vec<String> {
    numbers.map(|n| format!("{prefix}{n}")).collect()
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for line in [
        "replay --class pending",
        "replay --rate fast",
        "replay --limit 0",
        "replay --max-replays 0",
        "replay --since yesterday",
        "list --scan 65536",
        "list --scan 0",
        "show",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(parse("replay --class raw,lost --class proxy --code A,B --type T --since 2h --until 2026-11-23T10:00:00Z --rate 10/m").is_ok());
}
