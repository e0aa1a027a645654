//! `dead purge`: letters removed for good.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Write, stdin};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::export::created;
use super::letters::{HEAD, LetterCounts, counted, line};
use super::list::bar;
use super::scan::{Scan, ScanReport, Walker, ended, walk};
use super::select::{Chosen, Filters, ScanLimit};
use super::{CommandContext, DynConsole};
use crate::broker::{Delivery, Receipt};
use crate::cli::console::table;
use crate::cli::queue_reader::ACK_BATCH;
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::time::Timestamp;

/// Remove chosen letters. What the filters leave out stays.
#[derive(Debug, Args)]
#[command(after_help = "\
With --to each letter is written, and the file synced, before it is removed. So an interruption removes none that is not \
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
    scan_limit: ScanLimit,
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

pub(super) async fn run(args: &PurgeArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    if args.filters.is_everything() && !args.all {
        return Err(CommandError::Usage("dead purge: give a filter, or --all".to_owned()));
    }
    let can_ask = stdin().is_terminal() && context.console.err_is_terminal;
    if !args.dry_run && !args.yes && !can_ask {
        return Err(CommandError::Usage(
            "dead purge: add --yes, because there is no terminal to ask at".to_owned(),
        ));
    }
    let typed = || {
        let mut answer = String::new();
        stdin().lock().read_line(&mut answer).map(|_| answer)
    };
    count_and_remove(args, typed, context).await
}

/// `typed`: what the person at the terminal answers, if there is a question.
pub(super) async fn count_and_remove(
    args: &PurgeArgs,
    typed: impl FnOnce() -> io::Result<String> + Send + 'static,
    context: &mut CommandContext<'_>,
) -> Result<Exit, CommandError> {
    let now = Clock::System.now();
    let begin = |dry_run, most| Purge {
        args,
        dry_run,
        most,
        chosen: args.filters.at(now),
        file: None,
        doomed: Vec::new(),
        removed: LetterCounts::default(),
        scan_report: ScanReport::default(),
    };
    let mut purge = begin(args.dry_run || !args.yes, u64::MAX);
    let mut failure = walk(&mut purge, &args.filters, &args.scan_limit, context).await;
    let total = purge.removed.total();
    if !args.dry_run && !args.yes && failure.is_none() && !context.stop.is_cancelled() && total > 0 {
        let (rows, count) = (table(HEAD, purge.removed.rows(now)), counted(total));
        context.console.note(format_args!("{rows}\n\nremove {count} for good? Type 'yes' and Enter:"));
        if answer(typed, context.stop).await?.is_none_or(|answer| answer.trim() != "yes") {
            return Ok(Exit::Failed);
        }
        // What has come since then was not in the question.
        purge = begin(false, total);
        failure = walk(&mut purge, &args.filters, &args.scan_limit, context).await;
    }
    purge.scan_report.interrupted(context.stop);
    let printed = purge.print(now, &mut context.console);
    ended(failure, printed, purge.scan_report.is_whole())
}

/// What is typed; `None` where Ctrl-C comes first. It reads on a thread that nobody waits for: a
/// read of a terminal cannot be cancelled, and the runtime would not end before it.
async fn answer(
    line: impl FnOnce() -> io::Result<String> + Send + 'static,
    stop: &CancellationToken,
) -> io::Result<Option<String>> {
    let (typed, answer) = oneshot::channel();
    std::thread::Builder::new().name("answer".to_owned()).spawn(move || typed.send(line()))?;
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(None),
        answer = answer => answer.ok().transpose(),
    }
}

struct Purge<'a> {
    args: &'a PurgeArgs,
    dry_run: bool,
    /// No more letters than this are removed.
    most: u64,
    chosen: Chosen<'a>,
    file: Option<File>,
    /// Chosen, and written down where that is wanted.
    doomed: Vec<(Receipt, DeadLetter)>,
    /// Gone; in a dry run, to go.
    removed: LetterCounts,
    scan_report: ScanReport,
}

impl Walker for Purge<'_> {
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        let done = self.remove_chosen(scan, context).await;
        // What is left of them was not removed.
        self.doomed.drain(..).for_each(|(receipt, _)| scan.keep(receipt));
        done
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.scan_report
    }
}

impl Purge<'_> {
    async fn remove_chosen(
        &mut self,
        scan: &mut Scan,
        context: &mut CommandContext<'_>,
    ) -> Result<(), CommandError> {
        // Not before a queue has been reached: a broker that cannot be must leave no file behind.
        if let (None, false, Some(path)) = (&self.file, self.dry_run, &self.args.to) {
            self.file = Some(created(path)?);
        }
        let bar = bar(&context.console, scan);
        loop {
            if self.doomed.len() >= ACK_BATCH || scan.is_full() {
                self.remove(scan).await?;
            }
            let Some(delivery) = scan.next(context.stop).await? else { break };
            self.take(delivery, scan)?;
            let word = if self.dry_run { "chosen" } else { "removed" };
            bar.advance_to(scan.progress().0, || format!("{} {word}", self.removed.total()));
        }
        bar.clear();
        self.remove(scan).await
    }

    fn take(&mut self, delivery: Delivery, scan: &mut Scan) -> Result<(), CommandError> {
        let Delivery { message, receipt, .. } = delivery;
        let Some(letter) = scan.read(&message).filter(|letter| self.chosen.takes(letter)) else {
            scan.keep(receipt);
            return Ok(());
        };
        if self.dry_run {
            self.removed.add(&letter);
            scan.keep(receipt);
            return Ok(());
        }
        if self.removed.total() + self.doomed.len() as u64 >= self.most {
            scan.keep(receipt);
            return Ok(());
        }
        self.doomed.push((receipt, letter));
        match &mut self.file {
            Some(file) => {
                writeln!(file, "{}", line(scan.queue(), &message, true)).map_err(CommandError::Output)
            }
            None => Ok(()),
        }
    }

    async fn remove(&mut self, scan: &mut Scan) -> Result<(), CommandError> {
        if self.doomed.is_empty() {
            return Ok(());
        }
        if let Some(file) = &self.file {
            file.sync_data().map_err(CommandError::Output)?;
        }
        let (receipts, letters): (Vec<_>, Vec<_>) = self.doomed.drain(..).unzip();
        scan.remove(receipts).await?;
        letters.iter().for_each(|letter| self.removed.add(letter));
        Ok(())
    }

    fn print(&self, now: Timestamp, console: &mut DynConsole<'_>) -> Result<(), CommandError> {
        self.scan_report.print_notes(console);
        let (dry_run, total) = (self.dry_run, self.removed.total());
        if console.is_human() {
            let done = if dry_run { "would be removed" } else { "removed" };
            if !self.removed.is_empty() {
                writeln!(console.out, "{}\n", table(HEAD, self.removed.rows(now)))?;
            }
            writeln!(console.out, "{} {done}", counted(total))?;
        } else {
            let report = self.scan_report.add_to(json!({
                "dry_run": dry_run, "removed": if dry_run { 0 } else { total }, "chosen": total,
                "kinds": self.removed.json(now),
            }));
            console.value(&report)?;
        }
        Ok(console.out.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_interrupt_ends_the_question_though_nobody_types() {
        let stop = CancellationToken::new();
        assert_eq!(answer(|| Ok("yes\n".to_owned()), &stop).await.unwrap().as_deref(), Some("yes\n"));
        let (typed, line) = std::sync::mpsc::channel();
        let asked = answer(move || line.recv().map_err(io::Error::other), &stop);
        stop.cancel();
        assert_eq!(asked.await.unwrap(), None);
        drop(typed);
    }
}
