//! What came of a replay.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value as Json, json};

use crate::cli::CommandError;
use crate::cli::console::Console;
use crate::cli::dead::list::queue_json;
use crate::cli::dead::scan::Seen;
use crate::cli::dead::tally::{HEAD, Tally};
use crate::cli::output::table;
use crate::domain::letter::Stays;
use crate::domain::time::Timestamp;

/// Letters by what became of them.
#[derive(Default)]
pub(super) struct Report {
    /// Published, or to be published by a run that is not dry.
    pub(super) chosen: Tally,
    /// Left by the filters.
    pub(super) left_out: u64,
    pub(super) unreadable: u64,
    pub(super) queues: Vec<Seen>,
    stays: BTreeMap<Stays, u64>,
}

impl Report {
    /// A chosen letter had better stay.
    pub(super) fn stays(&mut self, why: Stays) {
        *self.stays.entry(why).or_default() += 1;
    }

    pub(super) fn took_too_long(&self) -> bool {
        self.queues.iter().any(|seen| seen.took_too_long)
    }

    /// For a bar.
    pub(super) fn short(&self) -> String {
        let staying: u64 = self.stays.values().sum();
        format!("{} chosen, {} left", self.chosen.total(), self.left_out + staying)
    }

    fn not_scanned(&self) -> u64 {
        self.queues.iter().map(Seen::not_scanned).sum()
    }

    pub(super) fn tell<O: Write, E: Write>(
        &self,
        dry_run: bool,
        stopped: Option<&str>,
        now: Timestamp,
        console: &mut Console<O, E>,
    ) -> Result<(), CommandError> {
        if console.is_human() {
            self.show(dry_run, now, console)?;
        } else {
            self.print(dry_run, stopped, now, console)?;
        }
        if let Some(why) = stopped {
            console.note(format_args!("stopped: {why}; what was not published stays, run it again then"));
        }
        if self.took_too_long() {
            console.note("stopped after 20 minutes at one queue: the broker takes back what is held for 30; run it again");
        }
        Ok(())
    }

    fn print<O: Write, E: Write>(
        &self,
        dry_run: bool,
        stopped: Option<&str>,
        now: Timestamp,
        console: &mut Console<O, E>,
    ) -> Result<(), CommandError> {
        let stays: BTreeMap<&str, u64> =
            Stays::ALL.iter().map(|why| (why.name(), self.stays.get(why).copied().unwrap_or(0))).collect();
        let report = json!({
            "dry_run": dry_run, "replayed": if dry_run { 0 } else { self.chosen.total() }, "chosen": self.chosen.total(),
            "kinds": self.chosen.json(now), "stay": stays, "left_out": self.left_out, "unreadable": self.unreadable,
            "not_scanned": self.not_scanned(), "stopped": stopped,
            "queues": self.queues.iter().map(queue_json).collect::<Json>(),
        });
        writeln!(console.out, "{report}")?;
        Ok(())
    }

    fn show<O: Write, E: Write>(
        &self,
        dry_run: bool,
        now: Timestamp,
        console: &mut Console<O, E>,
    ) -> Result<(), CommandError> {
        let out = &mut console.out;
        if !self.chosen.is_empty() {
            writeln!(out, "{}\n", table(HEAD, self.chosen.rows(now)))?;
        }
        let word = if dry_run { "would be published again" } else { "published again" };
        writeln!(out, "{} jobs {word}", self.chosen.total())?;
        for (why, count) in &self.stays {
            writeln!(out, "{count} stay: {why}")?;
        }
        let (left_out, unreadable, not_scanned) = (self.left_out, self.unreadable, self.not_scanned());
        for (count, what) in
            [(left_out, "not chosen"), (unreadable, "unreadable"), (not_scanned, "not scanned")]
        {
            if count > 0 {
                writeln!(out, "{count} {what}: they stay")?;
            }
        }
        Ok(())
    }
}
