//! The result of a batch: a table for people, one line of JSON for programs.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::output::Tally;
use crate::cli::CommandError;
use crate::cli::console::{Console, table};
use crate::cli::render::cut;
use crate::domain::money::Decimal;

/// Longest class that is shown; ours are shorter.
const WIDTH: usize = 20;

/// The sum of all runs.
#[derive(Debug, Serialize)]
pub(super) struct BatchReport<'a> {
    /// Whether every job has its row.
    complete: bool,
    jobs: u64,
    solved: u64,
    failed: u64,
    /// Jobs without a row.
    left: u64,
    /// The failed ones by class.
    classes: &'a BTreeMap<String, u64>,
    /// What this run's tasks have cost, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    spent: Option<Decimal>,
}

impl<'a> BatchReport<'a> {
    pub(super) fn new(jobs: u64, tally: &'a Tally, spent: Option<Decimal>) -> Self {
        let (solved, failed, left) = (tally.solved, tally.failed_lines.len(), jobs - tally.done());
        Self { complete: left == 0, jobs, solved, failed, left, classes: &tally.failed, spent }
    }

    /// Writes it to standard output.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn print<O: Write, E: Write>(&self, console: &mut Console<O, E>) -> Result<(), CommandError> {
        let written = if console.is_human() {
            writeln!(console.out, "{}", self.text()).and_then(|()| console.out.flush())
        } else {
            console.value(self)
        };
        written.map_err(CommandError::Output)
    }

    fn text(&self) -> String {
        let solved = [("solved".to_owned(), self.solved)];
        let failed = self.classes.iter().map(|(class, count)| (cut(class, WIDTH), *count));
        let left = (self.left > 0).then(|| ("(not done)".to_owned(), self.left));
        let rows = solved.into_iter().chain(failed).chain(left);
        let table = table(["class", "jobs"], rows.map(|(class, count)| [class, count.to_string()]));
        let spent = self.spent.map_or_else(String::new, |cost| format!("\nspent in this run: {cost}"));
        format!("{table}{spent}")
    }
}
