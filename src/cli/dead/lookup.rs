//! The letters of one job, for those who ask where it is.

use serde_json::{Value as Json, json};

use super::CommandContext;
use super::scan::{Scan, ScanReport, Walker, walk};
use super::select::{Chosen, Filters, ScanLimit};
use crate::cli::CommandError;
use crate::cli::outcomes::DeadLetters;
use crate::clock::Clock;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::time::Timestamp;

/// Letters that are reported.
const MAX_FOUND: usize = 16;

/// A job's letter.
pub(in crate::cli) struct FoundLetter {
    pub(in crate::cli) queue: String,
    pub(in crate::cli) class: &'static str,
    pub(in crate::cli) code: String,
    pub(in crate::cli) ended: Option<Timestamp>,
}

impl FoundLetter {
    pub(in crate::cli) fn json(&self) -> Json {
        json!({"queue": self.queue, "class": self.class, "code": self.code, "ended": self.ended})
    }
}

/// Looks for the letters of a job in these classes' queues, in all where none is named. Also how
/// many letters were not scanned.
pub(in crate::cli) async fn look_up(
    id: &str,
    classes: &[DeadLetters],
    limit: &ScanLimit,
    context: &mut CommandContext<'_>,
) -> Result<(Vec<FoundLetter>, u64), CommandError> {
    let filters = Filters::of_job(id, classes);
    let chosen = filters.at(Clock::System.now());
    let mut lookup = Lookup { chosen, found: Vec::new(), scan_report: ScanReport::default() };
    if let Some(failure) = walk(&mut lookup, &filters, limit, context).await {
        return Err(failure);
    }
    Ok((lookup.found, lookup.scan_report.not_scanned()))
}

struct Lookup<'a> {
    chosen: Chosen<'a>,
    found: Vec<FoundLetter>,
    scan_report: ScanReport,
}

impl Walker for Lookup<'_> {
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        while let Some(delivery) = scan.next(context.stop).await? {
            let letter = scan.read(&delivery.message).filter(|letter| self.chosen.takes(letter));
            scan.keep(delivery.receipt);
            if let Some(letter) = letter.filter(|_| self.found.len() < MAX_FOUND) {
                let (queue, class) = (scan.queue().to_owned(), letter.class_name());
                let DeadLetter { code, ended, .. } = letter;
                self.found.push(FoundLetter { queue, class, code, ended });
            }
        }
        Ok(())
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.scan_report
    }
}
