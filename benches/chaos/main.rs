//! Chaos on real parts: RabbitMQ, the API's stand-in and four replicas as processes, a foreign
//! publisher and consumer, and everything that can go wrong between them, by a seed. See
//! docs/CHAOS.md; run by `make chaos`.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../harness/mod.rs"]
mod harness;

mod cluster;
mod embedded;
mod environment;
mod faults;
mod foreign;
mod gauges;
mod inject;
mod ledger;
mod log;
mod relay;
mod storm;
mod verdict;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::time::Instant;

use faults::Schedule;
use harness::{completion, jobs, report, wait};
use report::Harness;

/// What comes beside the storm itself: the strict phase, and until everything has ended.
const BESIDE: Duration = Duration::from_secs(15 * 60);

/// Chaos on real parts.
#[derive(Debug, Parser)]
struct Options {
    /// What is played
    #[arg(value_enum, default_value = "storm")]
    play: Play,
    /// Seed of the order of faults and of their victims
    #[arg(long, env = "CHAOS_SEED", default_value = "1")]
    seed: u64,
    /// How long faults go on, in minutes
    #[arg(long, env = "CHAOS_MINUTES", default_value = "5")]
    minutes: u64,
    /// Only these faults, by their names in the table; an unknown one lists them
    #[arg(long = "fault", value_name = "NAME")]
    faults: Vec<String>,
    /// Given by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Play {
    /// Faults of every kind on one node, by the seed
    Storm,
    /// Three nodes, of which the leader of each queue is killed in turn
    Cluster,
    /// The embedded broker: `run` and `batch` are killed 50 times each
    Embedded,
}

// Calls of the broker's command line block one thread each, while relays must go on.
#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> ExitCode {
    let options = Options::parse();
    // Whatever ends this program in order also ends the processes that it has started: their owners
    // are dropped.
    tokio::select! {
        code = run(&options) => code,
        () = completion::asked_to_stop() => ExitCode::from(130),
    }
}

async fn run(options: &Options) -> ExitCode {
    let began = Instant::now();
    let known = Schedule::names();
    if let Some(unknown) = options.faults.iter().find(|name| !known.contains(name)) {
        eprintln!("no fault is called '{unknown}'; there are: {}", known.join(", "));
        return ExitCode::from(2);
    }
    println!("seed {} (CHAOS_SEED), {} min of faults (CHAOS_MINUTES)", options.seed, options.minutes);
    let length = Duration::from_secs(60 * options.minutes);
    let name = match options.play {
        Play::Storm => "storm",
        Play::Cluster => "cluster",
        Play::Embedded => "embedded",
    };
    let harness = Arc::new(Harness::new("chaos", name, "", options.seed));
    let acting = async {
        match options.play {
            Play::Storm => storm::run(Arc::clone(&harness), length, options.faults.clone()).await,
            Play::Cluster => cluster::run(Arc::clone(&harness)).await,
            Play::Embedded => embedded::run(Arc::clone(&harness)).await,
        }
    };
    completion::to_its_end(&harness, length + BESIDE, acting).await;
    harness.say(format_args!("logs are in {}", harness.folder().display()));
    report::close(&harness.findings(), began)
}
