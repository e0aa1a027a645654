//! How long what happens to jobs takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::super::limits::by_type::ByType;
use crate::histogram::{Distribution, Histogram, JOBS, MOMENTS, WAITS};

/// Histograms since the start.
#[derive(Debug)]
pub(crate) struct Histograms {
    /// By how much polls began after they were due.
    pub(crate) poll_lateness: Histogram,
    /// From reading the API's answer to the confirm of its outcome.
    pub(crate) delivery: Histogram,
    /// From a job's publication to its being taken.
    pub(crate) queue_wait: Histogram,
    /// From when a job was first seen to its acceptance.
    pub(crate) submission_wait: Histogram,
    solving: ByType<Histogram>,
}

/// A reading of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Durations {
    /// By how much polls began after they were due.
    pub poll_lateness: Distribution,
    /// From reading the API's answer to the broker's confirm of its outcome.
    pub ready_to_delivered: Distribution,
    /// From a job's AMQP `timestamp` to its being taken; only for jobs whose publishers set one.
    pub queue_wait: Distribution,
    /// From when a job was first seen by a replica to its acceptance by the API.
    pub submission_wait: Distribution,
    /// From acceptance to reading the answer, by task type.
    pub solving: BTreeMap<String, Distribution>,
}

impl Default for Histograms {
    fn default() -> Self {
        Self {
            poll_lateness: Histogram::new(MOMENTS),
            delivery: Histogram::new(MOMENTS),
            queue_wait: Histogram::new(WAITS),
            submission_wait: Histogram::new(WAITS),
            solving: ByType::default(),
        }
    }
}

impl Histograms {
    /// An answer has come, this long after its task was accepted.
    pub(crate) fn solved(&self, task_type: &str, after: Duration) {
        self.solving.with(task_type, |_| Histogram::new(JOBS), |histogram| histogram.note(after));
    }

    pub(crate) fn read(&self) -> Durations {
        Durations {
            poll_lateness: self.poll_lateness.read(),
            ready_to_delivered: self.delivery.read(),
            queue_wait: self.queue_wait.read(),
            submission_wait: self.submission_wait.read(),
            solving: self.solving.read(Histogram::read),
        }
    }
}
