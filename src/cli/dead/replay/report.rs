//! What came of a replay.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value as Json, json};

use crate::cli::CommandError;
use crate::cli::console::Console;
use crate::cli::dead::scan_report::ScanReport;
use crate::cli::dead::tally::{HEAD, Tally};
use crate::cli::output::table;
use crate::domain::dead_letter::SkipReason;
use crate::domain::time::Timestamp;

/// Letters by what became of them.
#[derive(Default)]
pub(super) struct Report {
    /// Published, or to be published by a run that is not dry.
    pub(super) chosen: Tally,
    /// Left by the filters.
    pub(super) left_out: u64,
    pub(super) unreadable: u64,
    pub(super) looked: ScanReport,
    stays: BTreeMap<SkipReason, u64>,
}

impl Report {
    /// A chosen letter had better stay.
    pub(super) fn stays(&mut self, why: SkipReason) {
        *self.stays.entry(why).or_default() += 1;
    }

    /// For a bar.
    pub(super) fn short(&self) -> String {
        let staying: u64 = self.stays.values().sum();
        format!("{} chosen, {} left", self.chosen.total(), self.left_out + staying)
    }

    pub(super) fn tell<O: Write, E: Write>(
        &self,
        dry_run: bool,
        now: Timestamp,
        console: &mut Console<O, E>,
    ) -> Result<(), CommandError> {
        self.looked.tell(console);
        if console.is_human() {
            self.show(dry_run, now, &mut console.out)?;
        } else {
            console.json_line(&self.json(dry_run, now).to_string())?;
        }
        Ok(console.out.flush()?)
    }

    fn json(&self, dry_run: bool, now: Timestamp) -> Json {
        let stays: BTreeMap<&str, u64> = SkipReason::ALL
            .iter()
            .map(|why| (why.name(), self.stays.get(why).copied().unwrap_or(0)))
            .collect();
        self.looked.told_in(json!({
            "dry_run": dry_run, "replayed": if dry_run { 0 } else { self.chosen.total() }, "chosen": self.chosen.total(),
            "kinds": self.chosen.json(now), "stay": stays, "left_out": self.left_out, "unreadable": self.unreadable,
        }))
    }

    fn show(&self, dry_run: bool, now: Timestamp, out: &mut impl Write) -> Result<(), CommandError> {
        if !self.chosen.is_empty() {
            writeln!(out, "{}\n", table(HEAD, self.chosen.rows(now)))?;
        }
        let word = if dry_run { "would be published again" } else { "published again" };
        writeln!(out, "{} jobs {word}", self.chosen.total())?;
        for (why, count) in &self.stays {
            writeln!(out, "{count} stay: {why}")?;
        }
        for (count, what) in [(self.left_out, "not chosen"), (self.unreadable, "unreadable")] {
            if count > 0 {
                writeln!(out, "{count} {what}: they stay")?;
            }
        }
        Ok(())
    }
}
