//! Which publishers may be delayed: not those that stay below the limit.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use tokio::time::Instant;

use super::plan::Plan;

/// Over which the limit counts, and how old the last report of a replica can be that is gone.
const SPAN: Duration = Duration::from_secs(70);

/// When the jobs of each publisher were delivered, copies and repetitions included.
#[derive(Debug)]
pub(crate) struct Deliveries {
    limit: Option<NonZeroU32>,
    by_publisher: BTreeMap<&'static str, VecDeque<Instant>>,
}

impl Deliveries {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self { limit: plan.per_publisher_per_minute, by_publisher: BTreeMap::new() }
    }

    pub(crate) fn delivered(&mut self, publisher: &'static str, now: Instant) {
        let deliveries = self.by_publisher.entry(publisher).or_default();
        deliveries.push_back(now);
        while deliveries.front().is_some_and(|at| now.duration_since(*at) > SPAN) {
            deliveries.pop_front();
        }
    }

    /// A job of it is delayed, which is among the deliveries; what is wrong with that, if anything.
    pub(crate) fn delayed(&mut self, publisher: &'static str, now: Instant) -> Option<String> {
        let deliveries = self.by_publisher.get(publisher).into_iter().flatten();
        let lately = deliveries.filter(|at| now.duration_since(**at) <= SPAN).count();
        let limit = self.limit.map_or(usize::MAX, |limit| limit.get() as usize);
        (lately <= limit).then(|| {
            format!("a job of publisher {publisher} was delayed, of which {lately} came within {SPAN:?}, allowed are {limit}")
        })
    }
}
