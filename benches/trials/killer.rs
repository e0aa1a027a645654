//! Random kills: every few seconds a replica dies by SIGKILL, and the one before it is started
//! again.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::command::Operator;
use crate::fleet::{self, Fleet};
use crate::scene::REPLICAS;

/// Milliseconds between two kills.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 2_000..=4_500;
/// Every so many kills the leader is meant, where it is known.
const LEADERS_TURN: u32 = 3;

/// How many died.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KillCount {
    pub(crate) kills: u32,
    pub(crate) of_leader: u32,
}

/// Kills under way.
pub(crate) struct Killer {
    stop: CancellationToken,
    task: AbortOnDropHandle<KillCount>,
}

impl Killer {
    /// Begins to kill. The seed fixes pauses and victims, save for the leader, whom the fleet
    /// chooses.
    pub(crate) fn begin(fleet: Arc<Mutex<Fleet>>, operator: Operator, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(kill(fleet, operator, StdRng::seed_from_u64(seed), stop.clone()));
        Self { stop, task: AbortOnDropHandle::new(task) }
    }

    /// Starts the last victim again, and returns the count.
    pub(crate) async fn end(self) -> KillCount {
        self.stop.cancel();
        self.task.await.expect("the kills end in order")
    }
}

async fn kill(
    fleet: Arc<Mutex<Fleet>>,
    operator: Operator,
    mut rng: StdRng,
    stop: CancellationToken,
) -> KillCount {
    let mut count = KillCount::default();
    let mut down: Option<usize> = None;
    loop {
        let pause = Duration::from_millis(rng.random_range(PAUSE_MS));
        let chance = rng.random_range(0..REPLICAS);
        let stopped = timeout(pause, stop.cancelled()).await.is_ok();
        if let Some(place) = down.take() {
            fleet.lock().await.start_again(place);
        }
        if stopped {
            return count;
        }
        let leader = leader(&operator).await;
        let victim = leader.filter(|_| count.kills % LEADERS_TURN == 0).unwrap_or(chance);
        fleet.lock().await.kill(victim).await;
        count.kills += 1;
        count.of_leader += u32::from(leader == Some(victim));
        down = Some(victim);
    }
}

/// The place of the replica that leads.
async fn leader(operator: &Operator) -> Option<usize> {
    let name = operator.status().await?.leader?;
    (0..REPLICAS).find(|place| fleet::name(*place) == name)
}
