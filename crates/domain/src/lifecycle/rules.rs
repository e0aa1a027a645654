//! What decisions depend on beside the job itself.

use std::time::Duration;

use super::super::api_code::Overrides;
use super::super::poll_schedule::PollSchedules;
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
    pub pacing: PollSchedules,
    /// Classes of single codes.
    pub overrides: Overrides,
    /// How long a job without a free slot waits in the retry queues.
    pub capacity_timeout: Duration,
    /// The same while the API cannot be reached or fails.
    pub transient_timeout: Duration,
    /// The same while createTask answers a code that this version does not know.
    pub unknown_timeout: Duration,
    /// Paid resubmissions of an unsolved job.
    pub max_resubmissions: u32,
    /// What to do with a submission that was not answered.
    pub ambiguous: Ambiguous,
}

/// The moment of a decision.
#[derive(Debug, Clone, Copy)]
pub struct DecisionInput<'a> {
    /// The rules in force.
    pub rules: &'a Rules,
    /// The wall clock: for what stands in messages, and for deadlines. It can step.
    pub now: Timestamp,
    /// A steady clock, from any moment of this process: for ages.
    pub uptime: Duration,
    /// A fresh random number in `[0, 1)`.
    pub jitter: f64,
}
