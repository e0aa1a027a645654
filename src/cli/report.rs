//! What became of a run of publishes, line by line where something went wrong.

use std::fmt;
use std::io::Write;

use serde::Serialize;

use super::console::Console;
use super::input::{BadEntry, Origin};
use super::{CommandError, Exit};
use crate::broker::PublishError;

/// Faults that are kept one by one; the rest are only counted, so that a bad input of any size fits
/// in memory.
const MOST_FAULTS: usize = 1_000;

/// What a fault means for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// It could not be read, or is not JSON: not sent.
    Invalid,
    /// The broker does not have it.
    NotPublished,
    /// The broker may or may not have it.
    Unknown,
}

/// One fault, or a run of the same fault in neighbouring lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PublishFault {
    /// Where it is, or begins.
    pub first: Origin,
    /// Where it ends.
    pub last: Origin,
    /// Jobs it is about.
    pub jobs: u64,
    /// In a line: the byte, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<usize>,
    /// What it means.
    pub kind: FaultKind,
    /// What happened.
    pub reason: String,
}

impl fmt::Display for PublishFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.first, &self.last) {
            (Origin::Line(first), Origin::Line(last)) if first != last => {
                write!(f, "lines {first} to {last}")?;
            }
            (first, _) => write!(f, "{first}")?,
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        match self.kind {
            FaultKind::Invalid => write!(f, ": {}", self.reason),
            FaultKind::NotPublished => write!(f, ": not published: {}", self.reason),
            FaultKind::Unknown => write!(f, ": may or may not have been published: {}", self.reason),
        }
    }
}

/// The sum of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PublishReport {
    /// Confirmed by the broker, and in a queue.
    pub published: u64,
    /// Certainly not published: bad entries, and what the broker refused.
    pub failed: u64,
    /// May or may not have been published.
    pub unknown: u64,
    /// Whether it was stopped before the end of the input.
    pub interrupted: bool,
    /// The last job that was handed to the broker; nothing after it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<Origin>,
    /// What went wrong, in the order in which it was met.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<PublishFault>,
    /// Further faults that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub faults_not_listed: u64,
    #[serde(skip)]
    run_is_open: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl PublishReport {
    /// Whether all of the input is with the broker.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0 && !self.interrupted
    }

    /// An entry that cannot be sent.
    pub fn bad_entry(&mut self, bad: BadEntry) {
        self.failed += 1;
        self.list(bad.origin, bad.column, FaultKind::Invalid, bad.reason);
    }

    /// The broker's answer for one job.
    pub fn settled(&mut self, origin: Origin, end: Result<(), PublishError>) {
        let error = match end {
            Ok(()) => {
                self.published += 1;
                self.run_is_open = false;
                return;
            }
            Err(error) => error,
        };
        let kind = match error {
            PublishError::Unknown(_) => FaultKind::Unknown,
            PublishError::NotSent(_) | PublishError::Rejected | PublishError::Unroutable(_) => {
                FaultKind::NotPublished
            }
        };
        match kind {
            FaultKind::Unknown => self.unknown += 1,
            FaultKind::Invalid | FaultKind::NotPublished => self.failed += 1,
        }
        self.list(origin, None, kind, reason(error));
    }

    /// Faults to standard error, the sum to standard output: a sentence for people, JSON for
    /// programs.
    ///
    /// # Errors
    /// Where the output cannot be written.
    pub fn print<O: Write, E: Write>(&self, console: &mut Console<O, E>) -> Result<Exit, CommandError> {
        for fault in &self.faults {
            console.note(fault);
        }
        if self.faults_not_listed > 0 {
            console.note(format_args!("and {} more faults", self.faults_not_listed));
        }
        let written = if console.is_human() {
            writeln!(console.out, "{self}").and_then(|()| console.out.flush())
        } else {
            console.value(self)
        };
        written.map_err(CommandError::Output)?;
        Ok(if self.is_complete() { Exit::Fine } else { Exit::Failed })
    }

    fn list(&mut self, origin: Origin, column: Option<usize>, kind: FaultKind, reason: String) {
        if let Some(run) = self.faults.last_mut().filter(|_| self.run_is_open)
            && matches!(origin, Origin::Line(_))
            && (run.kind, run.column, &run.reason) == (kind, column, &reason)
        {
            run.last = origin;
            run.jobs += 1;
            return;
        }
        if self.faults.len() == MOST_FAULTS {
            self.faults_not_listed += 1;
            // What follows is not next to the last one listed.
            self.run_is_open = false;
            return;
        }
        self.run_is_open = true;
        self.faults.push(PublishFault { first: origin.clone(), last: origin, jobs: 1, column, kind, reason });
    }
}

/// The error's text without what the kind of fault says already, and with what to do.
fn reason(error: PublishError) -> String {
    match error {
        PublishError::Unknown(reason) if reason.contains("NOT_FOUND") => {
            format!("{reason}; run `captcha-worker topology declare`")
        }
        PublishError::Unknown(reason) | PublishError::NotSent(reason) => reason,
        PublishError::Unroutable(reason) => {
            format!("no queue took it ({reason}); run `captcha-worker topology declare`")
        }
        PublishError::Rejected => PublishError::Rejected.to_string(),
    }
}

impl fmt::Display for PublishReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = if self.published == 1 { "job" } else { "jobs" };
        write!(f, "{} {jobs} published", self.published)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.unknown > 0 {
            write!(f, ", {} may or may not have been published", self.unknown)?;
        }
        if self.interrupted {
            match &self.last_sent {
                Some(last) => write!(f, "; stopped: nothing after {last} was sent")?,
                None => write!(f, "; stopped before anything was sent")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Origin {
        Origin::Line(number)
    }

    fn unknown() -> Result<(), PublishError> {
        Err(PublishError::Unknown("no confirm in time".to_owned()))
    }

    #[test]
    fn neighbouring_lines_of_one_fault_are_listed_as_one() {
        let mut report = PublishReport::default();
        report.settled(line(1), Ok(()));
        for number in 2..=4 {
            report.settled(line(number), unknown());
        }
        report.settled(line(5), Ok(()));
        report.settled(line(6), unknown());
        report.settled(line(7), Err(PublishError::Rejected));
        let lines: Vec<_> = report.faults.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "lines 2 to 4: may or may not have been published: no confirm in time",
                "line 6: may or may not have been published: no confirm in time",
                "line 7: not published: the broker refused the message (queue full or unavailable)",
            ]
        );
        assert_eq!((report.published, report.failed, report.unknown), (2, 1, 4));
        assert!(!report.is_complete());
    }

    #[test]
    fn faults_past_the_bound_are_counted_only() {
        let mut report = PublishReport::default();
        for number in 0..1_500_usize {
            report.bad_entry(BadEntry {
                origin: line(number as u64 + 1),
                column: Some(number + 1),
                reason: "not JSON".to_owned(),
            });
        }
        assert_eq!((report.faults.len(), report.faults_not_listed), (1_000, 500));
        assert_eq!(report.failed, 1_500);
    }

    #[test]
    fn a_clean_report_is_short_in_json() {
        let mut report = PublishReport::default();
        report.settled(line(1), Ok(()));
        report.last_sent = Some(line(1));
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"published":1,"failed":0,"unknown":0,"interrupted":false,"last_sent":{"line":1}}"#
        );
        assert_eq!(report.to_string(), "1 job published");
    }
}
