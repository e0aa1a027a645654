//! Histories until asked to stop, or one of them in words; see docs/RELIABILITY.md. Run by `make
//! soak`.

#[path = "../../tests/simulation/history/mod.rs"]
mod history;
#[path = "../../tests/support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use captcha_worker::failpoint::Failpoint;
use clap::Parser;

use history::sweep::{describe, sweep};

/// Histories played between two lines of progress.
const BATCH: u64 = 2_000;

/// Seeded histories of the whole worker.
#[derive(Debug, Parser)]
struct Options {
    /// Play this one only, and tell it in words
    #[arg(long)]
    seed: Option<u64>,
    /// Begin with this one
    #[arg(long, default_value = "1")]
    from: u64,
    /// Stop after this many seconds; never by default
    #[arg(long)]
    seconds: Option<u64>,
    /// With this deliberate fault, by its name (with the feature `failpoints`)
    #[arg(long)]
    failpoint: Option<String>,
    /// Given by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let failpoint = match options.failpoint.as_deref().map(named) {
        Some(None) => {
            eprintln!("no such deliberate fault; there are {:?}", Failpoint::ALL);
            return ExitCode::from(2);
        }
        Some(named) => named,
        None => None,
    };
    match options.seed {
        Some(seed) => one(seed, failpoint),
        None => soak(&options, failpoint),
    }
}

fn named(name: &str) -> Option<Failpoint> {
    Failpoint::ALL.into_iter().find(|failpoint| format!("{failpoint:?}") == name)
}

fn one(seed: u64, failpoint: Option<Failpoint>) -> ExitCode {
    let verdict = history::play_broken(seed, true, failpoint);
    println!("{}\n\n{:?}", verdict.chronicle, verdict.counts);
    verdict.broken.iter().for_each(|broken| println!("broken: {broken}"));
    if verdict.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak(options: &Options, failpoint: Option<Failpoint>) -> ExitCode {
    let began = Instant::now();
    let until = options.seconds.map(|seconds| began + Duration::from_secs(seconds));
    let (mut from, mut counts) = (options.from, history::Counts::default());
    while until.is_none_or(|until| Instant::now() < until) {
        let swept = sweep(from..from + BATCH, until, failpoint);
        counts += swept.counts;
        from += swept.played;
        if let Some(failure) = swept.failure {
            println!("{}", describe(&failure, failpoint));
            return ExitCode::FAILURE;
        }
        let (played, seconds) = (from - options.from, began.elapsed().as_secs_f64());
        println!(
            "{played} histories in {seconds:.0} s ({:.0} a minute): {counts:?}",
            played as f64 * 60.0 / seconds
        );
    }
    ExitCode::SUCCESS
}
