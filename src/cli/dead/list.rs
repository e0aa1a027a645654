//! `dead list`: what there is.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::letters::{HEAD, LetterCounts, counted};
use super::scan::{Scan, ScanReport, Walker, ended, walk};
use super::select::{Chosen, Filters, ScanLimit};
use super::{CommandContext, DynConsole};
use crate::cli::console::{Progress, Total, table};
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::time::Timestamp;

/// Count dead letters by class, code, type and age.
#[derive(Debug, Args)]
#[command(after_help = "\
Every letter is put back. That counts as one of its 1,000 deliveries, and hides it from other consumers meanwhile. \
Letters that the filters leave out have been scanned, and are not counted in the table.

Examples:
  captcha-worker dead list
  captcha-worker dead list --class unsolved --since 2h
  captcha-worker dead list --json | jq '.classes'

Exit codes: 0 fine, 1 failed, 2 wrong usage.")]
pub(super) struct ListArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    scan_limit: ScanLimit,
}

/// What was found.
#[derive(Default)]
struct Found {
    counts: LetterCounts,
    scan_report: ScanReport,
    unreadable: u64,
    left_out: u64,
}

pub(super) async fn run(args: &ListArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    let now = Clock::System.now();
    let mut list = List { chosen: args.filters.at(now), found: Found::default() };
    let failure = walk(&mut list, &args.filters, &args.scan_limit, context).await;
    let mut found = list.found;
    found.scan_report.interrupted(context.stop);
    let printed = found.print(now, &mut context.console);
    ended(failure, printed, !context.stop.is_cancelled())
}

/// A bar for the scan of one queue.
pub(super) fn bar(console: &DynConsole<'_>, scan: &Scan) -> Progress {
    let visible = console.err_is_terminal && !console.is_forced_json();
    Progress::new(Total::Jobs(scan.progress().1), visible)
}

struct List<'a> {
    chosen: Chosen<'a>,
    found: Found,
}

impl Walker for List<'_> {
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        let bar = bar(&context.console, scan);
        while let Some(delivery) = scan.next(context.stop).await? {
            match scan.read(&delivery.message) {
                Some(letter) if self.chosen.takes(&letter) => self.found.counts.add(&letter),
                Some(_) => self.found.left_out += 1,
                None => self.found.unreadable += 1,
            }
            scan.keep(delivery.receipt);
            bar.advance_to(scan.progress().0, || scan.queue().to_owned());
        }
        bar.clear();
        Ok(())
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.found.scan_report
    }
}

impl Found {
    fn print(&self, now: Timestamp, console: &mut DynConsole<'_>) -> Result<(), CommandError> {
        self.scan_report.print_notes(console);
        if console.is_human() {
            self.show(now, &mut console.out)?;
        } else {
            let report = self.scan_report.add_to(json!({
                "letters": self.counts.total(), "classes": self.counts.by_class(), "kinds": self.counts.json(now),
                "left_out": self.left_out, "unreadable": self.unreadable,
            }));
            console.value(&report)?;
        }
        Ok(console.out.flush()?)
    }

    fn show(&self, now: Timestamp, out: &mut impl Write) -> Result<(), CommandError> {
        if !self.counts.is_empty() {
            writeln!(out, "{}\n", table(HEAD, self.counts.rows(now)))?;
            let classes = self.counts.by_class().into_iter().map(|(class, count)| format!("{class} {count}"));
            writeln!(out, "by class: {}", classes.collect::<Vec<_>>().join(" · "))?;
        }
        let (letters, scanned) = (self.counts.total(), self.scan_report.scanned());
        writeln!(out, "{}, of {scanned} scanned", counted(letters))?;
        if self.unreadable > 0 {
            let unreadable = self.unreadable;
            writeln!(
                out,
                "{unreadable} messages are not dead letters: only workers should write to these queues"
            )?;
        }
        Ok(())
    }
}
