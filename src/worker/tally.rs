//! What a replica has done so far, in plain counters.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::class::Class;
use crate::domain::lifecycle::Window;

/// Counters since the start. Each only grows.
#[derive(Debug, Default)]
pub struct Tally {
    jobs_taken: AtomicU64,
    tickets_taken: AtomicU64,
    accepted: AtomicU64,
    polls: AtomicU64,
    solved: AtomicU64,
    parked: AtomicU64,
    failed: [AtomicU64; Class::ALL.len()],
    ambiguous: AtomicU64,
    resubmitted: AtomicU64,
    stale: AtomicU64,
    reply_failures: AtomicU64,
}

/// A reading of the counters.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reading {
    /// Deliveries off the job queue.
    pub jobs_taken: u64,
    /// Deliveries off the ticket queue.
    pub tickets_taken: u64,
    /// Submissions that the API accepted, and so was paid for.
    pub accepted: u64,
    /// Calls of getTaskResult.
    pub polls: u64,
    /// Outcomes published with a solution.
    pub solved: u64,
    /// Outcomes published without one.
    pub failed: u64,
    /// Jobs parked in a retry queue.
    pub parked: u64,
    /// Submissions repeated after no readable answer (window a).
    pub ambiguous: u64,
    /// Submissions repeated by rule (window g).
    pub resubmitted: u64,
    /// Deliveries whose channel was gone when they were to be settled: the broker delivers them again (windows c, d and e).
    pub stale: u64,
    /// Copies of outcomes that could not be sent to `reply_to`.
    pub reply_failures: u64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Tally {
    pub(super) fn job_taken(&self) {
        add(&self.jobs_taken);
    }

    pub(super) fn ticket_taken(&self) {
        add(&self.tickets_taken);
    }

    pub(super) fn accepted(&self) {
        add(&self.accepted);
    }

    pub(super) fn polled(&self) {
        add(&self.polls);
    }

    pub(super) fn solved(&self) {
        add(&self.solved);
    }

    pub(super) fn parked(&self) {
        add(&self.parked);
    }

    pub(super) fn failed(&self, class: Class) {
        add(&self.failed[class as usize]);
    }

    pub(super) fn window(&self, window: Window) {
        add(match window {
            Window::AmbiguousSubmission => &self.ambiguous,
            Window::Resubmission => &self.resubmitted,
        });
    }

    pub(super) fn stale(&self) {
        add(&self.stale);
    }

    pub(super) fn reply_failed(&self) {
        add(&self.reply_failures);
    }

    /// Outcomes without a solution, of one class.
    #[must_use]
    pub fn failed_in(&self, class: Class) -> u64 {
        read(&self.failed[class as usize])
    }

    /// All counters now.
    #[must_use]
    pub fn read(&self) -> Reading {
        Reading {
            jobs_taken: read(&self.jobs_taken),
            tickets_taken: read(&self.tickets_taken),
            accepted: read(&self.accepted),
            polls: read(&self.polls),
            solved: read(&self.solved),
            failed: self.failed.iter().map(read).sum(),
            parked: read(&self.parked),
            ambiguous: read(&self.ambiguous),
            resubmitted: read(&self.resubmitted),
            stale: read(&self.stale),
            reply_failures: read(&self.reply_failures),
        }
    }
}
