//! `dead purge`: letters removed for good.

use std::fs::File;
use std::io::{BufRead, IsTerminal, Write, stdin};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::Stage;
use super::export::created;
use super::letter::line;
use super::list::{bar, queue_json};
use super::scan::{Scan, WINDOW};
use super::select::{Chosen, Filters, Reach};
use super::tally::{HEAD, Tally};
use crate::broker::Receipt;
use crate::cli::output::table;
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;

/// Remove chosen letters. What the filters leave out stays.
#[derive(Debug, Args)]
#[command(after_help = "\
With --to each letter is written, and the file synced to the disk, before it is removed: an end in between removes none that is not \
in the file. Scanning costs what `dead --help` says.

Examples:
  captcha-worker dead purge --class expired --until 7d --dry-run
  captcha-worker dead purge --class expired --until 7d --to expired.ndjson
  captcha-worker dead purge --class raw --code expired --yes

Exit codes: 0 all that was chosen and scanned is gone, 1 it failed, was stopped or was not agreed to, 2 wrong usage.")]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    filters: Filters,
    /// Every letter, where no filter is given
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    reach: Reach,
    /// Write each letter to this new file before it is removed, credentials included
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask; needed where nobody can be asked
    #[arg(long)]
    yes: bool,
}

pub(super) async fn run<O: Write, E: Write>(
    args: &PurgeArgs,
    stage: &mut Stage<'_, O, E>,
) -> Result<Exit, CommandError> {
    if args.filters.is_everything() && !args.all {
        return Err(CommandError::Usage("dead purge: say which letters, or --all".to_owned()));
    }
    if !args.dry_run && !args.yes && !agreed(stage)? {
        return Ok(Exit::Failed);
    }
    let now = Clock::System.now();
    let chosen = args.filters.at(now);
    let mut file = match &args.to {
        Some(path) if !args.dry_run => Some(created(path)?),
        _ => None,
    };
    let (mut tally, mut queues) = (Tally::default(), Vec::new());
    for queue in args.filters.queues() {
        let mut scan = Scan::begin(stage.broker, stage.names, queue, args.reach.scan).await?;
        let done = purge(args, &chosen, &mut scan, &mut file, &mut tally, stage).await;
        queues.push(scan.end().await);
        done?;
    }
    if stage.console.is_human() {
        let word = if args.dry_run { "would be removed" } else { "removed" };
        let out = &mut stage.console.out;
        if !tally.is_empty() {
            writeln!(out, "{}\n", table(HEAD, tally.rows(now)))?;
        }
        writeln!(out, "{} letters {word}", tally.total())?;
    } else {
        let report = json!({
            "dry_run": args.dry_run, "removed": if args.dry_run { 0 } else { tally.total() }, "chosen": tally.total(),
            "kinds": tally.json(now), "queues": queues.iter().map(queue_json).collect::<Vec<_>>(),
        });
        writeln!(stage.console.out, "{report}")?;
    }
    Ok(Exit::when(!stage.stop.is_cancelled()))
}

/// Asks whoever sits at the terminal.
fn agreed<O: Write, E: Write>(stage: &mut Stage<'_, O, E>) -> Result<bool, CommandError> {
    if !(stdin().is_terminal() && stage.console.err_is_terminal) {
        return Err(CommandError::Usage("dead purge: add --yes, since nobody can be asked here".to_owned()));
    }
    stage.console.note("remove the chosen letters for good? Type 'yes' and Enter:");
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim() == "yes")
}

async fn purge<O: Write, E: Write>(
    args: &PurgeArgs,
    chosen: &Chosen<'_>,
    scan: &mut Scan,
    file: &mut Option<File>,
    tally: &mut Tally,
    stage: &mut Stage<'_, O, E>,
) -> Result<(), CommandError> {
    let bar = bar(stage.console, scan);
    let mut doomed: Vec<Receipt> = Vec::new();
    loop {
        if doomed.len() >= WINDOW || scan.is_full() {
            remove(&mut doomed, scan, file).await?;
        }
        let Some(delivery) = scan.next(stage.stop).await? else { break };
        let letter = scan.read(&delivery.message).filter(|letter| chosen.takes(letter));
        if let (Some(_), Some(file)) = (&letter, &mut *file)
            && let Err(error) = writeln!(file, "{}", line(scan.queue(), &delivery.message, true))
        {
            doomed.push(delivery.receipt);
            doomed.into_iter().for_each(|receipt| scan.keep(receipt));
            return Err(CommandError::Output(error));
        }
        match letter {
            Some(letter) => {
                tally.add(&letter);
                if args.dry_run { scan.keep(delivery.receipt) } else { doomed.push(delivery.receipt) }
            }
            None => scan.keep(delivery.receipt),
        }
        bar.looked(scan.progress().0, || format!("{} chosen", tally.total()));
    }
    remove(&mut doomed, scan, file).await?;
    bar.clear();
    Ok(())
}

async fn remove(doomed: &mut Vec<Receipt>, scan: &mut Scan, file: &Option<File>) -> Result<(), CommandError> {
    if let Some(file) = file.as_ref().filter(|_| !doomed.is_empty())
        && let Err(error) = file.sync_data()
    {
        doomed.drain(..).for_each(|receipt| scan.keep(receipt));
        return Err(CommandError::Output(error));
    }
    scan.remove(std::mem::take(doomed)).await
}
