//! End-to-end trials of the guard and the fleet: RabbitMQ, the API's stand-in and eight replicas as
//! processes, judged by the stand-in's own counters. See docs/TRIALS.md; run by `make trials`.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../harness/mod.rs"]
mod harness;

mod ends;
mod killer;
mod namespace;
mod scene;
mod series;
mod trials;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::time::Instant;

use harness::{command, completion, fleet, jobs, report, simulator, wait};
use report::Finding;
use scene::Harness;
use trials::{TRIALS, Trial};

/// No trial takes half as long; one that does hangs.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Trials of the guard and the fleet.
#[derive(Debug, Parser)]
struct Options {
    /// Trials to run; all where none is named
    names: Vec<String>,
    /// List the trials and end
    #[arg(long)]
    list: bool,
    /// Seed of the random kills
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Given by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        TRIALS.iter().for_each(|trial| println!("{:<12} {}", trial.name, trial.shows));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = options.names.iter().find(|name| TRIALS.iter().all(|trial| trial.name != **name)) {
        eprintln!("no trial is called '{unknown}'; --list tells them");
        return ExitCode::from(2);
    }
    // Whatever ends this program in order also ends the processes that it has started: their owners
    // are dropped.
    tokio::select! {
        code = run(&options) => code,
        () = completion::asked_to_stop() => ExitCode::from(130),
    }
}

async fn run(options: &Options) -> ExitCode {
    let Ok(amqp) = std::env::var("CAPTCHA_WORKER_TEST_AMQP") else {
        eprintln!("run this by `make trials`, or under scripts/with-rabbitmq: it needs a broker");
        return ExitCode::from(2);
    };
    let began = Instant::now();
    println!("seed of the random kills: {} (--seed)", options.seed);
    let mut findings = Vec::new();
    for trial in TRIALS
        .iter()
        .filter(|trial| options.names.is_empty() || options.names.iter().any(|name| name == trial.name))
    {
        println!("\n{}: {}", trial.name, trial.shows);
        findings.extend(perform(trial, &amqp, options.seed).await);
    }
    report::close(&findings, began)
}

/// Runs one trial; one that breaks off has failed, with what it found until then.
async fn perform(trial: &Trial, amqp: &str, seed: u64) -> Vec<Finding> {
    let harness = Arc::new(Harness::new("trials", trial.name, amqp, seed));
    completion::to_its_end(&harness, LONGEST, (trial.run)(Arc::clone(&harness))).await;
    harness.say(format_args!("logs and ends are in {}", harness.folder().display()));
    harness.findings()
}
