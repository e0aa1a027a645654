//! `dead list`: what there is.

use std::io::Write;

use clap::Args;
use serde_json::{Value as Json, json};

use super::Stage;
use super::scan::{Scan, Seen};
use super::select::{Filters, Reach};
use super::tally::{HEAD, Tally};
use crate::cli::console::Console;
use crate::cli::output::table;
use crate::cli::progress::{Progress, Total};
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::time::Timestamp;

/// Count dead letters by class, code, type and age.
#[derive(Debug, Args)]
#[command(after_help = "\
A look: every letter is put back, with one more of its 1,000 deliveries counted, and is hidden from others while it lasts. \
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
    reach: Reach,
}

/// What was found.
#[derive(Default)]
struct Found {
    tally: Tally,
    queues: Vec<Seen>,
    unreadable: u64,
    left_out: u64,
}

pub(super) async fn run<O: Write, E: Write>(
    args: &ListArgs,
    stage: &mut Stage<'_, O, E>,
) -> Result<Exit, CommandError> {
    let now = Clock::System.now();
    let chosen = args.filters.at(now);
    let mut found = Found::default();
    for queue in args.filters.queues() {
        let mut scan = Scan::begin(stage.broker, stage.names, queue, args.reach.scan).await?;
        let bar = bar(stage.console, &scan);
        while let Some(delivery) = scan.next(stage.stop).await? {
            match scan.read(&delivery.message) {
                Some(letter) if chosen.takes(&letter) => found.tally.add(&letter),
                Some(_) => found.left_out += 1,
                None => found.unreadable += 1,
            }
            scan.keep(delivery.receipt);
            bar.looked(scan.progress().0, || queue.name().to_owned());
        }
        bar.clear();
        found.queues.push(scan.end().await);
    }
    if stage.console.is_human() {
        show(&found, now, stage.console)?;
    } else {
        writeln!(stage.console.out, "{}", found.json(now))?;
    }
    Ok(Exit::when(!stage.stop.is_cancelled()))
}

/// A bar for a look at one queue.
pub(super) fn bar<O: Write, E: Write>(console: &Console<O, E>, scan: &Scan) -> Progress {
    let visible = console.err_is_terminal && !console.json;
    Progress::new(Total::Jobs(scan.progress().1), visible)
}

impl Found {
    fn not_scanned(&self) -> u64 {
        self.queues.iter().map(Seen::not_scanned).sum()
    }

    fn scanned(&self) -> u64 {
        self.queues.iter().map(|seen| seen.looked_at).sum()
    }

    fn json(&self, now: Timestamp) -> Json {
        json!({
            "letters": self.tally.total(), "classes": self.tally.by_class(), "kinds": self.tally.json(now),
            "scanned": self.scanned(), "not_scanned": self.not_scanned(),
            "left_out": self.left_out, "unreadable": self.unreadable,
            "queues": self.queues.iter().map(queue_json).collect::<Json>(),
        })
    }
}

/// What of a queue was seen.
pub(super) fn queue_json(seen: &Seen) -> Json {
    json!({
        "queue": seen.queue.name(), "there": seen.there, "scanned": seen.looked_at, "not_scanned": seen.not_scanned(),
    })
}

fn show<O: Write, E: Write>(
    found: &Found,
    now: Timestamp,
    console: &mut Console<O, E>,
) -> Result<(), CommandError> {
    let out = &mut console.out;
    if !found.tally.is_empty() {
        writeln!(out, "{}\n", table(HEAD, found.tally.rows(now)))?;
        let classes = found.tally.by_class().into_iter().map(|(class, count)| format!("{class} {count}"));
        writeln!(out, "by class: {}", classes.collect::<Vec<_>>().join(" · "))?;
    }
    let (letters, scanned) = (found.tally.total(), found.scanned());
    writeln!(out, "{letters} letters, of {scanned} scanned")?;
    if found.unreadable > 0 {
        let unreadable = found.unreadable;
        writeln!(
            out,
            "{unreadable} messages are no letters: nobody but workers should write to these queues"
        )?;
    }
    for seen in found.queues.iter().filter(|seen| seen.not_scanned() > 0) {
        writeln!(out, "{} of {} not scanned: raise --scan", seen.not_scanned(), seen.queue.name())?;
    }
    Ok(())
}
