//! The jobs that failed last, and what else a replica reports for those who look at the fleet.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, VecDeque};

use super::super::limits::by_type::ByType;
use super::counters::Reading;
use crate::domain::class::Class;
use crate::domain::publishers::PublisherFigures;
use crate::domain::solve_time::SolveTimes;
use crate::domain::time::Timestamp;
use crate::fleet::{Detail, FailedJob, LearnedFigures, MAX_FAILURES, TypeFigures};

/// The last failures, and how many there were of each type. A solved job costs nothing here.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    last: Mutex<VecDeque<FailedJob>>,
    by_type: ByType<u64>,
}

impl Failures {
    fn lock(&self) -> MutexGuard<'_, VecDeque<FailedJob>> {
        // Whatever is in it has happened.
        self.last.lock()
    }

    /// The outcome of a job that failed is published. What was no job may have neither id nor type.
    pub(crate) fn note(
        &self,
        at: Timestamp,
        id: Option<&str>,
        task_type: Option<&str>,
        (class, code): (Class, &str),
        reason: Option<&str>,
    ) {
        let failure =
            FailedJob::new(at, id.unwrap_or_default(), class.name(), code, task_type).because(reason);
        if let Some(task_type) = task_type {
            self.by_type.with(task_type, |_| 0, |count| *count += 1);
        }
        let mut last = self.lock();
        last.truncate(MAX_FAILURES - 1);
        last.push_front(failure);
    }
}

/// What a replica reports beside its figures.
pub(crate) fn detail(
    counters: &Reading,
    failures: &Failures,
    limits: BTreeMap<String, (usize, usize)>,
    solve_times: &SolveTimes,
    publishers: Vec<PublisherFigures>,
) -> Detail {
    let mut types: BTreeMap<String, TypeFigures> = BTreeMap::new();
    for (name, (in_flight, window)) in limits {
        types.insert(name, TypeFigures { in_flight, window, ..TypeFigures::default() });
    }
    for (name, spent) in &counters.spent {
        types.entry(name.clone()).or_default().accepted = spent.accepted;
    }
    for (name, spans) in &counters.times.solving {
        types.entry(name.clone()).or_default().solved = spans.count;
    }
    for (name, failed) in failures.by_type.read(|count| *count) {
        types.entry(name).or_default().failed = failed;
    }
    for (name, figures) in &mut types {
        figures.learned = solve_times.polls(name).as_deref().map(LearnedFigures::from);
    }
    let failed = counters.failed_by_class.iter().map(|(class, count)| ((*class).to_owned(), *count));
    Detail {
        failed: failed.collect(),
        types: Detail::fold(types),
        failures: failures.lock().iter().cloned().collect(),
        publishers,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::solve_time::Reach;

    #[test]
    fn the_last_ten_failures_are_kept_the_latest_first() {
        let failures = Failures::default();
        for number in 0..14 {
            let id = format!("job-{number}");
            failures.note(
                Timestamp::from_millis(number),
                Some(&id),
                None,
                (Class::Malformed, "NOT_JSON"),
                None,
            );
        }
        let nothing = SolveTimes::new(Reach { quantile: 0.0, least_answers: 1 }, None);
        let kept = detail(&Reading::default(), &failures, BTreeMap::new(), &nothing, Vec::new()).failures;
        let ids: Vec<&str> = kept.iter().map(|failure| &*failure.id).collect();
        assert_eq!((ids.len(), ids[0], ids[9]), (MAX_FAILURES, "job-13", "job-4"));
    }
}
