//! `captcha-worker dead`: what failed, found, understood and run again.
//!
//! Every command here is a bounded scan of the queues of dead letters; see [`scan`] for what it
//! costs.

mod export;
mod letters;
mod list;
mod lookup;
mod purge;
mod replay;
mod replay_permission;
mod scan;
mod select;
mod show;
#[cfg(test)]
mod tests;

use std::io::Write;

use clap::{Args, Subcommand};
use tokio_util::sync::CancellationToken;

pub(super) use lookup::{FoundLetter, look_up};
pub(super) use replay::replay_chosen;
pub(super) use select::ScanLimit;

use super::console::Console;
use super::{CommandError, Exit};
use crate::broker::Broker;
use crate::broker::topology::Names;

const COSTS: &str = "\
What a scan costs: a queue cannot be asked for messages by their content, so each scanned letter is delivered and put \
back. That counts one more of its 1,000 deliveries (after them the broker moves it to dead.raw), and while the scan lasts nobody \
else can have it. A scan takes at most --scan letters of a queue (10,000 by default), says how many it has not seen, and ends \
after 20 minutes, since the broker takes back what is held for 30. What was not chosen goes back to the head of its queue, in order.

What a replay costs: a replayed job begins anew, and is paid anew. Try --dry-run, --limit and --rate first.

Examples:
  captcha-worker dead list
  captcha-worker dead list --class proxy,unsolved --since 2h
  captcha-worker dead show order-17
  captcha-worker dead replay --class capacity --dry-run
  captcha-worker dead replay --class capacity --rate 50/s
  captcha-worker dead export --class unknown unknown.ndjson
  captcha-worker dead purge --class expired --until 7d --to old.ndjson

More: docs/DEAD-LETTERS.md.";

/// Dead letters: find, understand, replay, export or remove them.
#[derive(Debug, Args)]
#[command(after_help = COSTS)]
pub(super) struct DeadArgs {
    #[command(subcommand)]
    command: DeadCommand,
}

#[derive(Debug, Subcommand)]
enum DeadCommand {
    /// Count letters by class, code, type and age
    List(list::ListArgs),
    /// Print every letter of a job
    Show(show::ShowArgs),
    /// Publish the jobs of chosen letters again; each is paid anew
    Replay(replay::ReplayArgs),
    /// Copy chosen letters into a file; they stay
    Export(export::ExportArgs),
    /// Remove chosen letters
    Purge(purge::PurgeArgs),
}

/// The console, whatever it writes to.
pub(super) type DynConsole<'a> = Console<&'a mut dyn Write, &'a mut dyn Write>;

/// What every one of the commands is given.
pub(super) struct CommandContext<'a> {
    pub(super) broker: &'a Broker,
    pub(super) names: &'a Names,
    pub(super) console: DynConsole<'a>,
    stop: &'a CancellationToken,
}

impl<'a> CommandContext<'a> {
    pub(super) fn new<O: Write, E: Write>(
        broker: &'a Broker,
        names: &'a Names,
        console: &'a mut Console<O, E>,
        stop: &'a CancellationToken,
    ) -> Self {
        let Console { out, err, out_is_terminal, err_is_terminal, format } = console;
        let (out_is_terminal, err_is_terminal, format) = (*out_is_terminal, *err_is_terminal, *format);
        Self { broker, names, console: Console { out, err, out_is_terminal, err_is_terminal, format }, stop }
    }
}

pub(super) async fn run<O: Write, E: Write>(
    args: DeadArgs,
    broker: &Broker,
    names: &Names,
    console: &mut Console<O, E>,
    stop: &CancellationToken,
) -> Result<Exit, CommandError> {
    let mut context = CommandContext::new(broker, names, console, stop);
    match args.command {
        DeadCommand::List(args) => list::run(&args, &mut context).await,
        DeadCommand::Show(args) => show::run(&args, &mut context).await,
        DeadCommand::Replay(args) => replay::run(&args, &mut context).await,
        DeadCommand::Export(args) => export::run(&args, &mut context).await,
        DeadCommand::Purge(args) => purge::run(&args, &mut context).await,
    }
}
