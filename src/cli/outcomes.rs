//! `captcha-worker outcomes`: what became of jobs, looked at or taken.

mod reading;

use std::io::Write;
use std::num::NonZeroU64;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::render::Format;
use super::{CommandError, Exit};
use crate::broker::Broker;
use crate::broker::topology::Names;
use crate::domain::class::Class;
use reading::Reading;

/// The most that a look may hold at once: each is one delivery that nobody else can have meanwhile.
const MOST_LOOKED_AT: u64 = 2_000;
/// A look without `--limit`.
const LOOK: u64 = 100;

/// Print outcomes: results, dead letters, or what no queue was bound for.
///
/// Without --ack this is a look: up to --limit outcomes are taken from the queue, printed, and put back. A look counts as a delivery of each
/// (the broker dead-letters a message after 1,000 of them), and hides them from other consumers while it lasts.
/// With --ack each outcome is printed and flushed first and removed then, so that a crash may print one twice but loses none.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  captcha-worker outcomes                              look at up to 100 results
  captcha-worker outcomes --dead proxy --limit 20      look at dead letters of one class
  captcha-worker outcomes --ack > results.ndjson       take all results that are there
  captcha-worker outcomes --ack --follow | consumer    take results as they come, until Ctrl-C

Of failed jobs, `captcha-worker dead list` tells what there is, by class, code and type, and `dead replay` publishes them again.

Exit codes: 0 fine, 1 failed (or output closed early with --ack), 2 wrong usage.")]
pub struct OutcomesArgs {
    /// Dead letters of this class instead of results; 'raw' is what the broker itself dead-lettered
    #[arg(long, value_name = "CLASS", value_parser = dead_letters())]
    pub dead: Option<DeadLetters>,
    /// Outcomes that no queue was bound for, instead of results
    #[arg(long, conflicts_with = "dead")]
    pub unrouted: bool,
    /// Print at most so many. Without it: 100 for a look (2,000 at most), all that is there with --ack, no end with --follow
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
    /// Remove each outcome once it is printed
    #[arg(long)]
    pub ack: bool,
    /// Wait for more until Ctrl-C
    #[arg(long, requires = "ack")]
    pub follow: bool,
    /// How to print; a table on a terminal and NDJSON in a pipe unless told
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Print proxy credentials of failed jobs in NDJSON, as replaying them needs
    #[arg(long)]
    pub show_secrets: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadLetters {
    /// Failed jobs of a class.
    Class(Class),
    /// What the broker itself dead-lettered.
    Raw,
}

impl DeadLetters {
    /// Every queue of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Class::finals().map(DeadLetters::Class).chain([DeadLetters::Raw])
    }

    /// The class's name, or `raw`.
    pub(super) fn name(self) -> &'static str {
        self.class().map_or("raw", Class::name)
    }

    pub(super) fn class(self) -> Option<Class> {
        match self {
            DeadLetters::Class(class) => Some(class),
            DeadLetters::Raw => None,
        }
    }

    /// The queue's full name.
    pub(super) fn queue(self, names: &Names) -> String {
        match self {
            DeadLetters::Class(class) => names.dead(class),
            DeadLetters::Raw => names.dead_raw(),
        }
    }
}

pub(super) fn dead_letters() -> impl TypedValueParser<Value = DeadLetters> {
    let names = Class::finals().map(Class::name).chain(["raw"]);
    // Every listed name save `raw` is a class.
    PossibleValuesParser::new(names).map(|name| name.parse().map_or(DeadLetters::Raw, DeadLetters::Class))
}

impl OutcomesArgs {
    /// The queue that is meant.
    #[must_use]
    pub fn queue(&self, names: &Names) -> String {
        match self.dead {
            Some(letters) => letters.queue(names),
            None if self.unrouted => names.unrouted(),
            None => names.results(),
        }
    }

    fn limit(&self) -> Result<u64, CommandError> {
        let limit = self.limit.map(NonZeroU64::get);
        if self.ack {
            return Ok(limit.unwrap_or(u64::MAX));
        }
        let limit = limit.unwrap_or(LOOK);
        if limit > MOST_LOOKED_AT {
            return Err(CommandError::Usage(format!(
                "--limit {limit}: a look holds at most {MOST_LOOKED_AT} outcomes back from other consumers; add --ack to take more"
            )));
        }
        Ok(limit)
    }

    fn format(&self, human: bool, json: bool) -> Format {
        match self.format {
            _ if json => Format::Ndjson,
            Some(format) => format,
            None if human => Format::Table,
            None => Format::Ndjson,
        }
    }
}

/// Runs the command. When `stop` is cancelled, what was printed is settled and the rest goes back.
///
/// # Errors
/// Where the arguments do not go together, the broker cannot be reached or is lost (with `--follow` it is connected to again), the queue
/// does not exist, or the output cannot be written. A closed pipe is no error.
pub async fn outcomes<O: Write, E: Write>(
    args: OutcomesArgs,
    broker: &Broker,
    names: &Names,
    console: &mut Console<O, E>,
    stop: &CancellationToken,
) -> Result<Exit, CommandError> {
    let follow = args.follow;
    let mut reading = Reading::try_new(args, broker, names, console, stop)?;
    reading.warn();
    if follow { reading.follow().await } else { reading.once().await }
}
