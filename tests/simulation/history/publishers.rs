//! Which publishers may be delayed: not those that stay below the limit.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use captcha_worker::broker::memory::DeliveryId;
use tokio::time::Instant;

use super::plan::Plan;

/// Over which the limit counts, and how old the last report of a replica can be that is gone.
const SPAN: Duration = Duration::from_secs(70);

/// The jobs that each publisher has brought, copies and repetitions included, and since when they
/// are settled. A replica counts a job at some moment between its delivery and that.
#[derive(Debug)]
pub(crate) struct Deliveries {
    limit: Option<NonZeroU32>,
    by_publisher: BTreeMap<&'static str, BTreeMap<DeliveryId, Option<Instant>>>,
}

impl Deliveries {
    pub(crate) fn of(plan: &Plan) -> Self {
        Self { limit: plan.per_publisher_per_minute, by_publisher: BTreeMap::new() }
    }

    pub(crate) fn delivered(&mut self, publisher: &'static str, delivery: DeliveryId, now: Instant) {
        let deliveries = self.by_publisher.entry(publisher).or_default();
        deliveries.retain(|_, settled| settled.is_none_or(|at| now.duration_since(at) <= SPAN));
        deliveries.insert(delivery, None);
    }

    pub(crate) fn settled(&mut self, publisher: &'static str, delivery: DeliveryId, now: Instant) {
        self.by_publisher.entry(publisher).or_default().insert(delivery, Some(now));
    }

    /// A job of it is delayed, which is among the deliveries; what is wrong with that, if anything.
    pub(crate) fn delayed(&mut self, publisher: &'static str, now: Instant) -> Option<String> {
        let deliveries = self.by_publisher.get(publisher).into_iter().flat_map(BTreeMap::values);
        let lately = deliveries.filter(|settled| settled.is_none_or(|at| now.duration_since(at) <= SPAN));
        let lately = lately.count();
        let limit = self.limit.map_or(usize::MAX, |limit| limit.get() as usize);
        (lately <= limit).then(|| {
            format!("a job of publisher {publisher} was delayed, of which {lately} came within {SPAN:?}, allowed are {limit}")
        })
    }
}
