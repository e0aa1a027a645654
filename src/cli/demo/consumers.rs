//! The demo's consumers: one on every queue that a job can end in.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::jobs::Goal;
use crate::broker::topology::Names;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Session};
use crate::domain::class::Class;
use crate::domain::time::Timestamp;
use crate::worker::Clock;

const PREFETCH: u16 = 200;

/// What has arrived so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrivals {
    /// Outcomes by the queue they came from.
    pub(super) by_goal: BTreeMap<Goal, usize>,
    /// From the answer's reading to its delivery, for each solved job.
    pub(super) delivery: Vec<Duration>,
}

impl Arrivals {
    pub(super) fn total(&self) -> usize {
        self.by_goal.values().sum()
    }

    pub(super) fn solved(&self) -> usize {
        self.by_goal.get(&Goal::Solved).copied().unwrap_or(0)
    }
}

/// The consumers, and what they have seen.
#[derive(Default)]
pub(super) struct Audience {
    seen: Mutex<Arrivals>,
    arrived: Notify,
    consumers: TaskTracker,
}

/// The part of an outcome that the demo reads.
#[derive(Deserialize)]
struct Outcome {
    times: Times,
}

#[derive(Deserialize)]
struct Times {
    solved_at: Option<Timestamp>,
}

impl Audience {
    /// Consumes from every queue that a job can end in.
    pub(super) async fn gather(session: &Session, names: &Names) -> Result<Arc<Self>, BrokerError> {
        let audience = Arc::new(Self::default());
        let dead = Class::finals().map(|class| (names.dead(class), Goal::Dead(class)));
        for (queue, goal) in dead.chain([(names.results(), Goal::Solved), (names.dead_raw(), Goal::Raw)]) {
            let tag = format!("demo {queue}");
            let consumer = session.link().consume(ConsumeSpec { queue, prefetch: PREFETCH, tag }).await?;
            let listener = Arc::clone(&audience);
            audience.consumers.spawn(async move { listener.listen(consumer, goal).await });
        }
        Ok(audience)
    }

    async fn listen(&self, mut consumer: Consumer, goal: Goal) {
        while let Some(delivery) = consumer.recv().await {
            let now = Clock::System.now();
            let outcome = serde_json::from_slice::<Outcome>(&delivery.message.body).ok();
            let solved_at = outcome.and_then(|outcome| outcome.times.solved_at);
            self.note(goal, solved_at.map(|at| now.since(at)));
            // A lost session would bring it again, and the count would show it.
            let _ = delivery.receipt.ack();
        }
    }

    fn note(&self, goal: Goal, delivery: Option<Duration>) {
        let mut seen = self.seen.lock();
        *seen.by_goal.entry(goal).or_default() += 1;
        seen.delivery.extend(delivery);
        drop(seen);
        self.arrived.notify_one();
    }

    pub(super) fn arrivals(&self) -> Arrivals {
        self.seen.lock().clone()
    }

    /// Waits until so many have arrived, or the time is over; calls `each` on every arrival.
    pub(super) async fn wait_for(&self, total: usize, deadline: Instant, mut each: impl FnMut(&Arrivals)) {
        loop {
            let seen = self.arrivals();
            each(&seen);
            if seen.total() >= total || timeout_at(deadline, self.arrived.notified()).await.is_err() {
                return;
            }
        }
    }
}
