//! The command line: one file a command.
//!
//! A command gets its arguments, the settings and where to print, and ends in an [`Exit`]. Before
//! anything is opened, settings are loaded and every fault in them is reported.

mod account;
mod acts;
mod batch;
mod check;
mod completions;
mod connect;
pub mod console;
mod dead;
mod demo;
mod exit;
mod find;
mod fleet;
pub mod input;
pub mod outcomes;
pub mod publish;
mod queue_reader;
mod redact;
pub mod render;
pub mod report;
mod reroute;
mod run;
mod schema;
mod signals;
mod simulate;
mod solve;
mod spend;
mod top;
mod topology;

use std::io;
use std::path::PathBuf;

use clap::{Args, ColorChoice, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::broker::topology::Names;
use crate::config::{LoadOptions, Loaded, LogFilter, LogFormat, Override, Settings};
use crate::linger::Linger;
use crate::telemetry::{self, Logging};
pub use acts::ConsoleCommands;
use console::{Format, Output};
pub use exit::{CommandError, Exit};

const EXAMPLES: &str = "\
Examples:
  captcha-worker demo                    see it work, with nothing installed
  captcha-worker solve captcha.png       solve one captcha, and print its text
  captcha-worker batch jobs.ndjson --out outcomes.ndjson
                                         solve a file of jobs, resumably
  captcha-worker check                   show the settings, and test them
  captcha-worker topology declare        create exchanges, queues and bindings
  captcha-worker --config prod.toml run  work until SIGTERM
  CAPTCHA_WORKER__SOLVER__API_KEY_FILE=/run/secrets/key captcha-worker run

Settings come from built-in defaults, ./config/*.toml, --config FILE, the environment \
(CAPTCHA_WORKER__SECTION__KEY) and the command line, each over those before it.

Exit codes: 0 fine; 1 failed; 2 the command line or the settings cannot be used. `solve` and `batch` have further \
ones.";

/// Takes captcha-recognition jobs from RabbitMQ, or from a queue file on one machine, has them
/// solved by a recognition API, and routes every outcome to the result queue or to the dead-letter
/// queue of its class.
#[derive(Debug, Parser)]
#[command(name = "captcha-worker", version, after_help = EXAMPLES, max_term_width = 120, color = help_color())]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

/// A dumb terminal takes no escapes, not even where clap finds the variable CI.
fn help_color() -> ColorChoice {
    if telemetry::is_dumb_terminal() { ColorChoice::Never } else { ColorChoice::Auto }
}

/// The heading of the options that every command has, apart from its own.
const GLOBAL: &str = "Global options";

/// Options of every command.
#[derive(Debug, Args)]
struct Globals {
    /// A settings file (TOML), over ./config/*.toml; can be given several times, later ones win
    #[arg(long = "config", value_name = "FILE", global = true, help_heading = GLOBAL)]
    files: Vec<PathBuf>,
    /// How to print; the default is a table on a terminal, and JSON elsewhere
    #[arg(long, value_enum, global = true, help_heading = GLOBAL)]
    format: Option<Format>,
    /// The same as --format json
    #[arg(long, global = true, conflicts_with = "format", help_heading = GLOBAL)]
    json: bool,
    /// What to log to stderr, over log.level: error, warn, info, debug, or such as
    /// `info,captcha_worker=debug`
    #[arg(long, value_name = "LEVEL", global = true, help_heading = GLOBAL)]
    log: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Configured(Configured),
    /// Run a demonstration in one process: 1,000 jobs through every class; exit code 1 if a result
    /// differs from the expected one
    Demo,
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
}

/// The commands that need the settings. The others must not fail for settings of another purpose.
#[derive(Debug, Subcommand)]
enum Configured {
    /// Solve one captcha and print the answer: alone, or by the fleet that broker.url names
    Solve(solve::SolveArgs),
    /// Solve a file of jobs, or images, and write the outcomes to a file; goes on where it was
    Batch(batch::BatchArgs),
    /// Run a replica: take jobs, submit them, poll, deliver the outcomes, until SIGTERM or Ctrl-C
    Run(run::RunArgs),
    /// Show the settings and where they come from, and test the broker and the API
    Check(check::CheckArgs),
    /// Show the state of the fleet and the account: leader, replicas, guard, balance, backlog
    Status(fleet::StatusArgs),
    /// Watch the fleet: replicas, guard, throughput, classes, types, backlog, balance, latest
    /// failures
    Top(top::TopArgs),
    /// Stop all replicas from taking jobs, until `resume`
    Pause(fleet::PauseArgs),
    /// End a pause, and probe a tripped account at once
    Resume(fleet::ResumeArgs),
    /// Show what the fleet has spent, by type, lane or hour
    Spend(spend::SpendArgs),
    /// Raise a budget for a while
    Budget(spend::BudgetArgs),
    /// Declare, check or export exchanges, queues and bindings
    Topology(topology::TopologyArgs),
    /// Print the contract for machines: JSON Schemas of job and outcome, and an AsyncAPI document
    Schema(schema::SchemaArgs),
    /// Publish jobs: NDJSON from a file or standard input, or images
    Publish(publish::PublishArgs),
    /// Print outcomes, or take them: results or a dead-letter queue
    Outcomes(outcomes::OutcomesArgs),
    /// Find a job by its id: in flight, waiting, solved, or dead-lettered
    Find(find::FindArgs),
    /// Find, inspect, replay, export or remove dead letters
    Dead(dead::DeadArgs),
    /// Publish again the outcomes that had no queue
    Reroute(reroute::RerouteArgs),
    /// Simulate the recognition API, over HTTP
    Simulate(simulate::SimulateArgs),
}

impl Configured {
    /// What is logged where nobody has set log.level; `None`: what its default says, for what runs
    /// long. The others answer and end.
    fn quiet_level(&self) -> Option<&'static str> {
        match self {
            Configured::Run(_) | Configured::Simulate(_) => None,
            // A worker's warnings arise in it, and it prints their result itself.
            Configured::Solve(_) => Some("off"),
            Configured::Batch(_) => Some("off,captcha_worker::broker=error"),
            _ => Some("warn"),
        }
    }

    async fn run(
        self,
        loaded: &Loaded,
        options: LoadOptions,
        logging: &Logging,
        output: &mut Output,
    ) -> Result<Exit, CommandError> {
        let settings = &loaded.settings;
        match self {
            Configured::Solve(args) => solve::run(&args, loaded, &mut output.console()).await,
            Configured::Batch(args) => batch::run(&args, settings, &mut output.console()).await,
            Configured::Run(args) => run::run(&args, loaded, options, logging).await,
            Configured::Check(args) => check::run(&args, loaded, output).await,
            Configured::Status(args) => fleet::status(&args, settings, logging, output).await,
            Configured::Top(args) => top::run(args, settings, logging, output).await,
            Configured::Pause(args) => fleet::pause(args, settings, output).await,
            Configured::Resume(args) => fleet::resume(&args, settings, output).await,
            Configured::Spend(args) => spend::spend(&args, settings, output).await,
            Configured::Budget(args) => spend::budget(args, settings, output).await,
            Configured::Topology(args) => topology::run(&args, settings, output).await,
            Configured::Schema(args) => schema::run(&args, settings, output),
            Configured::Publish(args) => {
                args.check_lane(&settings.lanes)?;
                let broker = connect::working_broker(settings, "captcha-worker publish", Linger::none())?;
                let (names, stop) = (Names::new(&settings.broker.namespace), signals::stop()?);
                publish::publish(args, &broker, &names, &mut output.console(), &stop).await
            }
            Configured::Outcomes(args) => {
                if args.ack && console::is_stdout_closed() {
                    return Err(CommandError::Output(io::Error::other(
                        "standard output is closed, so nothing is taken",
                    )));
                }
                let (broker, names, stop) = reach(settings, "outcomes")?;
                outcomes::outcomes(args, &broker, &names, &mut output.console(), &stop).await
            }
            Configured::Dead(args) => {
                let (broker, names, stop) = reach(settings, "dead")?;
                dead::run(args, &broker, &names, &mut output.console(), &stop).await
            }
            Configured::Find(args) => {
                let (broker, names, stop) = reach(settings, "find")?;
                let mut console = output.console();
                find::run(&args, &mut dead::CommandContext::new(&broker, &names, &mut console, &stop)).await
            }
            Configured::Reroute(args) => {
                let (broker, names, stop) = reach(settings, "reroute")?;
                reroute::run(&args, &broker, &names, output, &stop).await
            }
            Configured::Simulate(args) => simulate::run(&args, output).await,
        }
    }
}

/// What a command needs that works on the queues: the broker, its names, and a token that Ctrl-C
/// cancels.
fn reach(settings: &Settings, name: &str) -> Result<(Broker, Names, CancellationToken), CommandError> {
    let broker = connect::broker(settings, &format!("captcha-worker {name}"))?;
    Ok((broker, Names::new(&settings.broker.namespace), signals::stop()?))
}

/// Carries out a command, and prints to stderr why it could not.
#[must_use]
pub fn run(cli: Cli) -> Exit {
    carry_out(cli).unwrap_or_else(|error| error.report())
}

fn carry_out(cli: Cli) -> Result<Exit, CommandError> {
    let Cli { globals, command } = cli;
    let mut output = Output::stdout(globals.format.or(globals.json.then_some(Format::Json)));
    match command {
        Command::Completions(args) => completions::run(&args, &mut output),
        Command::Demo => demonstrate(&globals, &mut output),
        Command::Configured(command) => {
            let options = globals.load_options();
            let loaded = Settings::load(&options)?;
            let logging = start_logging(&loaded, command.quiet_level())?;
            let end = on_runtime(command.run(&loaded, options, &logging, &mut output));
            logging.log_all_suppressed();
            end
        }
    }
}

/// The demo's own report shows everything; logs are for those who ask for them.
fn demonstrate(globals: &Globals, output: &mut Output) -> Result<Exit, CommandError> {
    if let Some(level) = &globals.log {
        let level = LogFilter::try_new(level).map_err(CommandError::failed)?;
        telemetry::init(&level, LogFormat::Auto, false).map_err(CommandError::failed)?;
    }
    let report = on_runtime(async { demo::run().await.map_err(CommandError::failed) })?;
    if output.is_json() {
        output.value(&report.json())?;
    } else {
        output.line(report.text())?;
    }
    Ok(Exit::when(report.passed()))
}

fn on_runtime<T>(work: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    telemetry::expect_end();
    // A read of standard input cannot be called off, and dropping the runtime would wait for it.
    runtime.shutdown_background();
    done
}

fn start_logging(loaded: &Loaded, quiet_level: Option<&str>) -> Result<Logging, CommandError> {
    let log = &loaded.settings.log;
    let level = match quiet_level.filter(|_| loaded.origin("log.level") == Some("default")) {
        Some(level) => LogFilter::try_new(level).map_err(CommandError::failed)?,
        None => log.level.clone(),
    };
    telemetry::init(&level, log.format, log.target).map_err(CommandError::failed)
}

impl Globals {
    fn load_options(&self) -> LoadOptions {
        let mut options = LoadOptions::of_process(self.files.clone());
        options.overrides.extend(self.log.iter().map(|level| Override {
            key: "log.level",
            value: level.clone(),
            origin: "--log",
        }));
        options
    }
}
