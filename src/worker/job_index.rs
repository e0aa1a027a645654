//! Where jobs are, by their ids: those that this replica holds, and what it did with the last ones.
//!
//! Publishers write the ids, so only their hashes are kept: small, and with nothing to escape.

use std::collections::hash_map::{Entry, RandomState};
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::domain::class::Class;
use crate::domain::lifecycle::Origin;
use crate::domain::time::Timestamp;
use crate::fleet::Sighting;

/// Jobs that are remembered after they have left this replica.
const REMEMBERED: usize = 10_000;
/// Sightings of one id that are reported: publishers may repeat an id.
const MAX_SIGHTINGS: usize = 4;

/// What a replica did with a job that it holds no more.
#[derive(Debug)]
pub(super) enum Left {
    Solved,
    Failed(Class),
    /// In this queue.
    Retried(Box<str>),
}

#[derive(Debug, Default)]
pub(super) struct JobIndex {
    hashes: RandomState,
    held: Mutex<HashMap<u64, Holding>>,
    left: Mutex<VecDeque<(u64, Timestamp, Left)>>,
}

#[derive(Debug)]
struct Holding {
    deliveries: u32,
    paid: bool,
    since: Timestamp,
}

/// A delivery that is held, until dropped.
#[derive(Debug)]
pub(super) struct HeldJob(Arc<JobIndex>, u64);

impl Drop for HeldJob {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.0.held.lock().entry(self.1) {
            held.get_mut().deliveries -= 1;
            if held.get().deliveries == 0 {
                held.remove();
            }
        }
    }
}

impl JobIndex {
    /// A delivery of this job is held.
    pub(super) fn hold(self: &Arc<Self>, id: &str, origin: Origin, since: Timestamp) -> HeldJob {
        let (hash, paid) = (self.hashes.hash_one(id), origin == Origin::Ticket);
        let mut all = self.held.lock();
        let held = all.entry(hash).or_insert(Holding { deliveries: 0, paid, since });
        held.deliveries += 1;
        held.paid |= paid;
        drop(all);
        HeldJob(Arc::clone(self), hash)
    }

    /// A delivery of this job has left.
    pub(super) fn note(&self, id: &str, at: Timestamp, left: Left) {
        let mut all = self.left.lock();
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back((self.hashes.hash_one(id), at, left));
    }

    /// What is known of this job, the latest first.
    pub(super) fn find(&self, id: &str) -> Vec<Sighting> {
        let hash = self.hashes.hash_one(id);
        let held = self.held.lock();
        let held = held.get(&hash).map(|held| Sighting::InFlight { paid: held.paid, since: held.since });
        let left = self.left.lock();
        let left = left.iter().rev().filter(|(known, ..)| *known == hash).map(|(_, at, left)| match left {
            Left::Solved => Sighting::Solved { at: *at },
            Left::Failed(class) => Sighting::Failed { at: *at, class: class.name().to_owned() },
            Left::Retried(queue) => Sighting::Waits { since: *at, queue: queue.to_string() },
        });
        held.into_iter().chain(left).take(MAX_SIGHTINGS).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    #[test]
    fn a_job_is_in_flight_while_one_delivery_of_it_is_held() {
        let jobs = Arc::new(JobIndex::default());
        let first = jobs.hold("a", Origin::Job, AT);
        let second = jobs.hold("a", Origin::Ticket, AT);
        drop(first);
        assert_eq!(jobs.find("a"), [Sighting::InFlight { paid: true, since: AT }]);
        assert_eq!(jobs.find("b"), []);
        drop(second);
        assert_eq!(jobs.find("a"), []);
        assert!(jobs.held.lock().is_empty());
    }

    #[test]
    fn the_last_ten_thousand_that_left_are_remembered_the_latest_first() {
        let jobs = JobIndex::default();
        jobs.note("a", AT, Left::Retried("captcha.retry.5s".into()));
        jobs.note("a", AT, Left::Failed(Class::Unsolved));
        let failed = Sighting::Failed { at: AT, class: "unsolved".to_owned() };
        let waits = Sighting::Waits { since: AT, queue: "captcha.retry.5s".to_owned() };
        assert_eq!(jobs.find("a"), [failed.clone(), waits]);
        for n in 0..REMEMBERED - 1 {
            jobs.note(&n.to_string(), AT, Left::Solved);
        }
        assert_eq!((jobs.find("a"), jobs.find("0")), (vec![failed], vec![Sighting::Solved { at: AT }]));
        for _ in 0..2 * REMEMBERED {
            jobs.note("x", AT, Left::Solved);
        }
        assert_eq!((jobs.find("0"), jobs.left.lock().len()), (vec![], REMEMBERED));
        assert_eq!(jobs.find("x").len(), MAX_SIGHTINGS);
    }
}
