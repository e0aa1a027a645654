//! Bad days on real parts: RabbitMQ, the API's stand-in and two replicas as processes, a steady
//! load, and one kind of trouble at a time. What it costs the jobs that it does not hit is measured
//! and judged. See docs/RELIABILITY.md; run by `make interference`.

#[path = "../../tests/support/mod.rs"]
mod support;

#[path = "../harness/mod.rs"]
mod harness;

#[path = "../trials/namespace.rs"]
#[allow(dead_code, reason = "trials use more of it")]
mod namespace;

mod cases;
mod environment;
mod faults;
mod ledger;
mod load;
mod row;
mod scene;
mod series;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::time::Instant;

use cases::{GROUPS, Group};
use environment::{Environment, Lengths};
use harness::{completion, jobs, simulator, wait};

/// Bad days: trouble costs the jobs that it hits, and no others.
#[derive(Debug, Parser)]
struct Options {
    /// Groups, or cases by a part of their name; all where none is named
    names: Vec<String>,
    /// List groups and cases and end
    #[arg(long)]
    list: bool,
    /// The most telling cases only, for less long: what CI runs
    #[arg(long)]
    part: bool,
    /// Seed of the simulators' random sources
    #[arg(long, default_value = "1")]
    seed: u64,
    /// Cases that are under load at one time; the calm run has as many. 2, or 3 with --part
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8))]
    lanes: Option<u32>,
    /// Write the table as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Given by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

// Declaring and deleting queues must not hold up the clock of the load.
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    let picked = |group: &Group| cases::pick(group, &options.names, options.part);
    if options.list {
        for group in &GROUPS {
            println!("{:<10} {}", group.name, group.shows);
            picked(group).iter().for_each(|case| println!("           {}", case.name()));
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = options.names.iter().find(|name| !cases::is_known(name)) {
        eprintln!("no group or case is called '{unknown}'; --list tells them");
        return ExitCode::from(2);
    }
    let Ok(amqp) = std::env::var("CAPTCHA_WORKER_TEST_AMQP") else {
        eprintln!("run this by `make interference`, or under scripts/with-rabbitmq: it needs a broker");
        return ExitCode::from(2);
    };
    let began = Instant::now();
    let lanes = options.lanes.unwrap_or(if options.part { 3 } else { 2 });
    println!("seed {} (--seed), {lanes} under load at a time (--lanes)", options.seed);
    let lengths = if options.part { Lengths::PART } else { Lengths::WHOLE };
    let environment = Arc::new(Environment::new(amqp, options.seed, lanes as usize, lengths));
    let running = async {
        let (mut rows, mut others) = (Vec::new(), Vec::new());
        for group in &GROUPS {
            let cases = picked(group);
            if cases.is_empty() {
                continue;
            }
            println!("\n{}: {}", group.name, group.shows);
            match group.run {
                Some(run) => {
                    let began = Instant::now();
                    rows.extend(run(Arc::clone(&environment), cases).await);
                    println!("{}: {}", group.name, wait::seconds(began.elapsed()));
                }
                None => others.extend(cases.into_iter().map(|case| (group.name, case))),
            }
        }
        rows.extend(cases::each(&environment, others).await);
        rows
    };
    // Whatever ends this program in order also ends the processes that it has started: their owners
    // are dropped.
    let rows = tokio::select! {
        rows = running => rows,
        () = completion::asked_to_stop() => return ExitCode::from(130),
    };
    row::close(&rows, began, options.json.as_deref(), options.markdown.as_deref())
}
