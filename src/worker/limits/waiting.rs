//! What waits for its turn to call the API, so that it can be seen when something waits for too
//! long.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

type Due = (Instant, u64);

/// Submissions and polls that wait for a permit. A poll that gets its permit at once, as most do,
/// is never in here.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    submissions: AtomicUsize,
    polls: Mutex<BTreeSet<Due>>,
    next: AtomicU64,
}

/// A submission that waits, until dropped.
pub(crate) struct WaitingSubmission<'a>(&'a Waiting);

/// A poll that is due and waits, until dropped.
pub(crate) struct WaitingPoll<'a> {
    waiting: &'a Waiting,
    due: Due,
}

impl Waiting {
    fn polls(&self) -> MutexGuard<'_, BTreeSet<Due>> {
        // A set is whole at every moment.
        self.polls.lock()
    }

    pub(crate) fn submission(&self) -> WaitingSubmission<'_> {
        self.submissions.fetch_add(1, Ordering::Relaxed);
        WaitingSubmission(self)
    }

    pub(crate) fn poll(&self, due: Instant) -> WaitingPoll<'_> {
        let due = (due, self.next.fetch_add(1, Ordering::Relaxed));
        self.polls().insert(due);
        WaitingPoll { waiting: self, due }
    }

    pub(crate) fn submissions(&self) -> usize {
        self.submissions.load(Ordering::Relaxed)
    }

    /// Polls that were due before this moment.
    pub(crate) fn polls_due_before(&self, moment: Instant) -> usize {
        self.polls().range(..(moment, 0)).count()
    }
}

impl Drop for WaitingSubmission<'_> {
    fn drop(&mut self) {
        self.0.submissions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for WaitingPoll<'_> {
    fn drop(&mut self) {
        self.waiting.polls().remove(&self.due);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_waits_is_counted_until_it_is_dropped() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        let second = Duration::from_secs(1);
        let (early, late) = (waiting.poll(now), waiting.poll(now + second));
        let same = waiting.poll(now);
        let _submission = waiting.submission();
        assert_eq!(waiting.polls_due_before(now + second), 2);
        drop((early, same));
        assert_eq!(waiting.polls_due_before(now + 2 * second), 1);
        drop(late);
        assert_eq!((waiting.polls_due_before(now + 2 * second), waiting.submissions()), (0, 1));
    }
}
