//! What decisions depend on beside the job itself.

use std::time::Duration;

use super::super::code::Overrides;
use super::super::pacing::PacingTable;
use super::super::time::Timestamp;

/// What to do with a submission that was sent and not answered readably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Submit again, once: it may be paid twice.
    Retry,
    /// Never submit again: the job ends in `dead.transient`.
    DeadLetter,
}

/// The operator's settings, as far as they decide about jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// When to poll.
    pub pacing: PacingTable,
    /// Classes of single codes.
    pub overrides: Overrides,
    /// How long a job without a free slot is tried, from when it was first seen.
    pub capacity_timeout: Duration,
    /// How long a job is tried while the API cannot be reached, from when it was first seen.
    pub transient_timeout: Duration,
    /// Paid resubmissions of an unsolved job.
    pub max_resubmissions: u32,
    /// What to do with a submission that was not answered.
    pub ambiguous: Ambiguous,
}

/// The moment of a decision.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The rules in force.
    pub rules: &'a Rules,
    /// The clock.
    pub now: Timestamp,
    /// A fresh random number in `[0, 1)`.
    pub luck: f64,
}
