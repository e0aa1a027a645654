//! What a job costs ours, beside the shortest honest loop and beside what one would write in other
//! languages: same machine, broker, simulator and load. See docs/PERFORMANCE.md; run by `make
//! bench`.

#[path = "../harness/mod.rs"]
mod harness;

mod candidate;
mod embedded;
mod feed;
mod figure;
mod goals;
mod instructions;
mod lateness;
mod ledger;
mod load;
mod machine;
mod million;
mod namespace;
mod processes;
mod proxy;
mod run;
mod scene;
mod setup;
mod start;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde_json::json;
use tokio::time::Instant;

use candidate::Candidate;
use figure::{Figure, Figures, digits};
use harness::{completion, process, simulator, wait};
use ledger::{Entry, Ledger};
use scene::{Case, FEWEST_JOBS, SCENES, Scene, Terms};
use setup::Setup;

/// The comparison with minimal and peers.
#[derive(Debug, Parser)]
struct Options {
    /// Scenes to play; all where none is named
    names: Vec<String>,
    /// List the scenes and end
    #[arg(long)]
    list: bool,
    /// Rounds; scenes that take long have fewer
    #[arg(long, env = "BENCH_ROUNDS", default_value = "7")]
    rounds: usize,
    /// Jobs of a run
    #[arg(long, env = "BENCH_JOBS", default_value = "20000")]
    jobs: usize,
    /// Contenders, separated by blanks; all that are installed where none is named
    #[arg(long, env = "BENCH_PEERS", default_value = "", hide_default_value = true)]
    peers: String,
    /// Seed of the order; drawn where none is given
    #[arg(long, env = "BENCH_SEED")]
    seed: Option<u64>,
    /// Where the raw figures of every run are left
    #[arg(long, default_value = "bench.json")]
    json: PathBuf,
    /// Fail where a goal is missed, not only where a run fails
    #[arg(long, env = "BENCH_STRICT", value_parser = clap::builder::FalseyValueParser::new(), default_value = "0")]
    strict: bool,
    /// Count instructions instead
    #[arg(long)]
    instructions: bool,
    /// Compare the embedded broker with RabbitMQ instead
    #[arg(long)]
    embedded: bool,
    /// Take a million jobs through one queue file instead, and measure the file
    #[arg(long)]
    embedded_million: bool,
    /// Given by cargo to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        SCENES.iter().for_each(|scene| println!("{:<10} {}", scene.name, scene.shows));
        return ExitCode::SUCCESS;
    }
    let candidates = match understood(&options).and_then(|()| chosen(&options.peers)) {
        Ok(candidates) => candidates,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    // Whatever ends this program in order also ends the processes that it has started: their owners
    // are dropped.
    tokio::select! {
        code = run(&options, &candidates) => code,
        () = completion::asked_to_stop() => ExitCode::from(130),
    }
}

fn understood(options: &Options) -> Result<(), String> {
    let unknown = options.names.iter().find(|name| SCENES.iter().all(|scene| scene.name != **name));
    match unknown {
        Some(unknown) => Err(format!("no scene is called '{unknown}'; --list tells them")),
        None if options.jobs < FEWEST_JOBS => Err(format!("at least {FEWEST_JOBS} jobs are needed")),
        None => Ok(()),
    }
}

/// Those that are named, or all that can be started.
fn chosen(names: &str) -> Result<Vec<Candidate>, String> {
    let mut candidates = Vec::new();
    for name in names.split_ascii_whitespace() {
        let candidate = Candidate::called(name).ok_or_else(|| format!("no candidate is called '{name}'"))?;
        if !candidate.is_there() {
            return Err(format!("{name} is not installed; scripts/install-baselines does that"));
        }
        candidates.push(candidate);
    }
    if candidates.is_empty() {
        candidates.extend(Candidate::ALL.into_iter().filter(|candidate| candidate.is_there()));
    }
    Ok(candidates)
}

async fn run(options: &Options, candidates: &[Candidate]) -> ExitCode {
    if options.embedded_million {
        return million::pass().await;
    }
    let amqp = std::env::var("CAPTCHA_WORKER_TEST_AMQP").unwrap_or_default();
    let (Some(mut setup), Some(_)) = (Setup::at(&amqp), process::as_shipped()) else {
        eprintln!(
            "run this by `make bench`: it needs a private broker, and programs that are built as they are shipped"
        );
        return ExitCode::from(2);
    };
    if options.instructions {
        return instructions::compare(&setup).await;
    }
    if options.embedded {
        return embedded::compare(&setup, options.jobs).await;
    }
    let began = Instant::now();
    let seed = options.seed.unwrap_or_else(rand::random);
    let terms = Terms { jobs: options.jobs, rounds: options.rounds };
    let absent = Candidate::ALL.into_iter().filter(|candidate| !candidate.is_there());
    absent.for_each(|candidate| println!("{} is not installed, and left out", candidate.name()));
    println!("seed of the order: {seed} (BENCH_SEED); logs are left in {}", setup.folder().display());
    let settings = json!({"seed": seed, "jobs": terms.jobs, "rounds": terms.rounds});
    let mut order = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::default();
    let named =
        |scene: &&Scene| options.names.is_empty() || options.names.iter().any(|name| name == scene.name);
    let scenes: Vec<&Scene> = SCENES.iter().filter(named).collect();
    for scene in &scenes {
        println!("\n{}: {}", scene.name, scene.shows);
        let cases = scene.cases(&terms, candidates);
        for round in 1..=scene.rounds(&terms) {
            let mut turn: Vec<&Case> = cases.iter().collect();
            turn.shuffle(&mut order);
            for case in turn {
                let result = setup.play(scene.name, case, round).await;
                println!(
                    "{:>7} round {round}, {}: {}",
                    wait::seconds(began.elapsed()),
                    case.label,
                    summary(&result)
                );
                ledger.add(Entry { scene: scene.name, case: case.label.clone(), round, result });
                ledger.keep(&options.json, &settings);
            }
        }
    }
    for scene in scenes {
        let cases: Vec<String> = scene.cases(&terms, candidates).into_iter().map(|case| case.label).collect();
        println!("\n{}", ledger.table(scene.name, &cases));
    }
    close(&ledger, options, &terms, began)
}

/// The figures worth a look while it runs.
fn summary(result: &Result<Figures, String>) -> String {
    const SHORT: [Figure; 6] = [
        Figure::CpuPerJob,
        Figure::JobsPerSecond,
        Figure::BytesInFlight,
        Figure::Late99,
        Figure::FirstJob,
        Figure::FirstJobAgain,
    ];
    match result {
        Ok(figures) => {
            let known = SHORT.iter().filter_map(|figure| Some((figure.name(), figures.get(figure)?)));
            known.map(|(name, value)| format!("{name} {}", digits(*value))).collect::<Vec<_>>().join(", ")
        }
        Err(reason) => format!("FAILED: {reason}"),
    }
}

fn close(ledger: &Ledger, options: &Options, terms: &Terms, began: Instant) -> ExitCode {
    let goals = goals::all(ledger, terms);
    println!("\n{}", goals::table(&goals));
    let failures = ledger.failures();
    failures.iter().for_each(|failure| println!("FAILED {failure}"));
    let missed = goals.iter().filter(|goal| goal.is_missed()).count();
    println!(
        "{} failed runs, {missed} goals missed; {} in all",
        failures.len(),
        wait::seconds(began.elapsed())
    );
    let well = failures.is_empty() && (missed == 0 || !options.strict);
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
