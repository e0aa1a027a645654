//! Who is compared, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use captcha_worker::broker::topology::Names;
use tokio::process::Command;

use crate::load::Load;
use crate::process;

/// Where `scripts/install-baselines` has put what foreign peers need.
const FOREIGN: &str = "BENCH_FOREIGN";
/// The simulator's key.
const KEY: &str = "simulator-key";

/// A worker that is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Candidate {
    /// The shortest loop in Rust, which holds a job until its end.
    Minimal,
    /// The same with a ticket on a durable queue: what ours does, and nothing more.
    Ticket,
    Node,
    Python,
    Celery,
    Ours,
}

/// Where a candidate works.
#[derive(Debug, Clone)]
pub(crate) struct Ground {
    pub(crate) amqp: String,
    pub(crate) api: String,
    pub(crate) names: Names,
    pub(crate) folder: PathBuf,
    /// A program that runs the candidate, with its own arguments; none as a rule.
    pub(crate) under: Vec<String>,
}

impl Candidate {
    pub(crate) const ALL: [Self; 6] =
        [Self::Minimal, Self::Ticket, Self::Node, Self::Python, Self::Celery, Self::Ours];

    /// As tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Ticket => "minimal+ticket",
            Self::Node => "node",
            Self::Python => "python",
            Self::Celery => "celery",
            Self::Ours => "ours",
        }
    }

    /// By its name, or `ticket` for short.
    pub(crate) fn called(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|candidate| candidate.name() == name || (*candidate == Self::Ticket && name == "ticket"))
    }

    /// Whether it is built or installed.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Minimal | Self::Ticket | Self::Ours => true,
            Self::Node => foreign().is_some_and(|folder| folder.join("node/node_modules").exists()),
            Self::Python | Self::Celery => foreign().is_some_and(|folder| python(&folder).exists()),
        }
    }

    /// The queue that its jobs are published to.
    pub(crate) fn jobs(self, names: &Names) -> String {
        match self {
            Self::Celery => format!("{}.celery", names.namespace()),
            _ => names.jobs(),
        }
    }

    /// Queues that are no part of the topology.
    pub(crate) fn queues_of_its_own(self, names: &Names) -> Vec<String> {
        match self {
            Self::Celery => vec![self.jobs(names), format!("{}.polls", self.jobs(names))],
            _ => Vec::new(),
        }
    }

    /// How one of its processes is started; with a port on which ours reports of itself.
    pub(crate) fn command(self, ground: &Ground, load: &Load, place: usize, ops: u16) -> Command {
        let command = match self {
            Self::Ours => ours(ground, load, place, ops),
            _ => self.peer(ground, load),
        };
        let mut command = under(&ground.under, command);
        command
            .current_dir(&ground.folder)
            .stdin(Stdio::null())
            .stdout(process::log(&ground.folder, &output(place)))
            .stderr(process::log(&ground.folder, &format!("worker-{place}")))
            .kill_on_drop(true);
        command
    }

    fn peer(self, ground: &Ground, load: &Load) -> Command {
        let foreign = foreign().unwrap_or_default();
        let script = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/baselines").join(path);
        let mut command = match self {
            Self::Node => Command::new("node"),
            Self::Python | Self::Celery => Command::new(python(&foreign)),
            _ => Command::new(process::as_shipped().unwrap_or_default().join("minimal")),
        };
        match self {
            Self::Ticket => command.arg("--ticket"),
            Self::Node => command.arg(foreign.join("node/worker.mjs")),
            Self::Python => command.arg(script("python/worker.py")),
            Self::Celery => command.arg(script("celery/run.py")),
            Self::Minimal | Self::Ours => &mut command,
        };
        command
            .env("PEER_AMQP", &ground.amqp)
            .env("PEER_API", &ground.api)
            .env("PEER_KEY", KEY)
            .env("PEER_PREFIX", ground.names.namespace())
            .envs(load.for_peers());
        command
    }
}

/// The log that holds what a process has printed to its standard output.
pub(crate) fn output(place: usize) -> String {
    format!("output-{place}")
}

fn ours(ground: &Ground, load: &Load, place: usize, ops: u16) -> Command {
    let mut command = process::program(&ground.folder, &["run"]);
    command
        .env("CAPTCHA_WORKER__BROKER__URL", &ground.amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", ground.names.namespace())
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &ground.api)
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", KEY)
        .env("CAPTCHA_WORKER__WORKER__NAME", format!("replica-{place}"))
        .env("CAPTCHA_WORKER__OPS__LISTEN", format!("127.0.0.1:{ops}"))
        .envs(load.for_ours());
    command
}

/// The same command, run by another program.
fn under(runner: &[String], command: Command) -> Command {
    let Some((program, arguments)) = runner.split_first() else { return command };
    let inner = command.as_std();
    let mut outer = Command::new(program);
    outer.args(arguments).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

fn foreign() -> Option<PathBuf> {
    std::env::var_os(FOREIGN).map(PathBuf::from)
}

fn python(foreign: &Path) -> PathBuf {
    foreign.join("venv/bin/python")
}
