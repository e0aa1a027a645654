//! Watches how fast the fleet works, on the ops server's own thread: nothing is counted here while jobs are worked on.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::overview::{Overview, Paces, Sight};
use crate::worker::WorkerHandle;

/// As often as replicas tell their counters.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A worker with the pace of its fleet over the last two minutes.
#[derive(Clone)]
pub(super) struct Sampler {
    pub(super) view: WorkerHandle,
    paces: Arc<Mutex<Paces>>,
}

impl Sampler {
    pub(super) fn new(view: WorkerHandle) -> Self {
        Self { view, paces: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Paces> {
        // Whatever is in it was seen so.
        self.paces.lock()
    }

    /// Looks every now and then, until dropped.
    pub(super) async fn watch(self) {
        let began = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let heard = self.view.replicas();
            let heard = heard.iter().map(|(replica, ago)| (replica.as_ref(), *ago));
            self.lock().note(began.elapsed(), heard);
        }
    }

    /// The fleet, as this replica knows it now.
    pub(super) fn overview(&self) -> Overview {
        let (view, seen) = (&self.view, self.view.seen());
        let (heard, shut, queues) = (view.replicas(), view.shut_types(), view.depths());
        let replicas: Vec<_> = heard.iter().map(|(replica, _)| replica.as_ref()).collect();
        Overview::of(Sight {
            at: view.now(),
            namespace: view.namespace(),
            state: seen.state.as_deref(),
            // Its name outlives the session in which it was heard.
            leader: seen.leader.as_deref().filter(|_| seen.state.is_some()),
            leader_id: seen.leader_id.as_deref().filter(|_| seen.state.is_some()),
            expected: seen.replicas,
            replicas: &replicas,
            shut: &shut,
            queues: queues.as_ref(),
            paces: &self.lock(),
        })
    }
}
