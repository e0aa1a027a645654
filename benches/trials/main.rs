//! End-to-end trials of the guard and the fleet: RabbitMQ, the API's stand-in and eight replicas as processes, judged by the stand-in's own
//! counters. See docs/TRIALS.md; run by `make trials`.

#[path = "../../tests/support/mod.rs"]
mod support;

mod command;
mod ends;
mod fleet;
mod jobs;
mod lane;
mod patience;
mod process;
mod report;
mod scene;
mod series;
mod simulator;
mod toll;
mod trials;

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout};

use report::{Finding, Verdict};
use scene::Stage;
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
    // Whatever ends this program in order also ends the processes that it has started: their owners are dropped.
    tokio::select! {
        code = run(&options) => code,
        () = told_to_stop() => ExitCode::from(130),
    }
}

async fn told_to_stop() {
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be awaited");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be awaited");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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
    println!("\n{}", report::table(&findings));
    let broken = findings.iter().filter(|finding| finding.verdict == Verdict::Broken).count();
    println!("{broken} broken; {} in all", patience::seconds(began.elapsed()));
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one trial; one that breaks off has failed, with what it found until then.
async fn perform(trial: &Trial, amqp: &str, seed: u64) -> Vec<Finding> {
    let stage = Arc::new(Stage::new(trial.name, amqp, seed));
    let acting = AssertUnwindSafe((trial.run)(Arc::clone(&stage))).catch_unwind();
    match timeout(LONGEST, acting).await {
        Ok(Ok(())) => {}
        Ok(Err(panic)) => stage.check("the trial runs to its end", reason(panic.as_ref()), false),
        Err(_) => stage.check("the trial runs to its end", "it hangs", false),
    }
    stage.say(format_args!("logs and ends are in {}", stage.folder().display()));
    stage.findings()
}

fn reason(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
