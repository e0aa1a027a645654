//! The clock and the random numbers, which are read nowhere else, and the waits between tries.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use crate::domain::time::Timestamp;

/// The machine's steady clock is counted from here.
static FIRST_READ: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Where time comes from: the wall clock, which can step, and a steady one.
#[derive(Debug, Clone)]
pub enum Clock {
    /// The machine's.
    System,
    /// Tokio's, counted from a fixed moment: it stands still and jumps with a paused runtime.
    Runtime {
        /// The absolute time at `start`.
        epoch: Timestamp,
        /// The runtime's time then.
        start: Instant,
        /// By how many milliseconds the wall clock has been set forward or back since. Clones share
        /// it.
        stepped: Arc<AtomicI64>,
    },
}

impl Clock {
    /// A clock that follows the runtime's own, from now on.
    #[must_use]
    pub fn runtime(epoch: Timestamp) -> Self {
        Self::runtime_since(epoch, Instant::now())
    }

    /// The same, where it was `epoch` at an earlier moment.
    #[must_use]
    pub fn runtime_since(epoch: Timestamp, start: Instant) -> Self {
        Self::Runtime { epoch, start, stepped: Arc::default() }
    }

    /// Sets the wall clock forward or back, in milliseconds. The machine's is not ours to set.
    pub fn step(&self, millis: i64) {
        if let Clock::Runtime { stepped, .. } = self {
            stepped.fetch_add(millis, Ordering::Relaxed);
        }
    }

    /// The wall clock's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => {
                let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
            }
            Clock::Runtime { epoch, start, stepped } => {
                let steady = epoch.plus(start.elapsed()).as_millis();
                Timestamp::from_millis(steady.saturating_add(stepped.load(Ordering::Relaxed)))
            }
        }
    }

    /// The steady clock, from some moment of this process.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        match self {
            Clock::System => FIRST_READ.elapsed(),
            Clock::Runtime { start, .. } => start.elapsed(),
        }
    }
}

/// Where randomness comes from.
#[derive(Debug, Clone)]
pub enum Rng {
    /// The thread's generator.
    Thread,
    /// One generator from a seed, so that a run can be repeated.
    Seeded(Arc<Mutex<StdRng>>),
}

impl Rng {
    /// Numbers that follow from the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A number in `[0, 1)`.
    #[must_use]
    pub fn jitter(&self) -> f64 {
        match self {
            Rng::Thread => rand::random(),
            Rng::Seeded(rng) => rng.lock().random(),
        }
    }

    /// 128 bits that nobody can guess, where they are the thread's: its generator is a
    /// cryptographic one, and its seed the system's.
    #[must_use]
    pub fn bits(&self) -> u128 {
        match self {
            Rng::Thread => rand::random(),
            Rng::Seeded(rng) => rng.lock().random(),
        }
    }

    /// An id for a job that has none.
    #[must_use]
    pub fn fresh_id(&self) -> String {
        uuid::Builder::from_random_bytes(self.bits().to_be_bytes()).into_uuid().to_string()
    }
}

/// Waits between tries: each is twice as long as the one before it, up to a longest.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// From the first wait to the longest.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// How long to wait now.
    #[must_use]
    pub fn wait(&mut self) -> Duration {
        let wait = self.next;
        self.next = (self.next * 2).min(self.longest);
        wait
    }

    /// The same, half as long to half as long again, by a number in `[0, 1)`: several that begin
    /// together do not try together.
    #[must_use]
    pub fn jittered(&mut self, jitter: f64) -> Duration {
        self.wait().mul_f64(0.5 + jitter)
    }

    /// It has succeeded: the next wait is the first one again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Waits between tries to reach a broker that is gone. Paid tasks wait for it, so that tries follow
/// each other closely for some minutes. After that a second more or less does not matter.
#[derive(Debug)]
pub struct Reconnect {
    backoff: Backoff,
    since: Option<Instant>,
}

/// For how long tries follow each other closely. The API keeps a result no longer.
const CLOSELY_FOR: Duration = Duration::from_secs(300);
/// The wait then. Jitter adds or takes away up to half, here and later.
const CLOSELY: Duration = Duration::from_millis(250);
/// The longest wait later.
const SELDOM: Duration = Duration::from_secs(15);

impl Default for Reconnect {
    fn default() -> Self {
        Self { backoff: Backoff::new(CLOSELY, CLOSELY), since: None }
    }
}

impl Reconnect {
    /// How long to wait now, by a number in `[0, 1)`.
    #[must_use]
    pub fn wait(&mut self, jitter: f64) -> Duration {
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= CLOSELY_FOR {
            self.backoff.longest = SELDOM;
        }
        self.backoff.jittered(jitter)
    }

    /// The broker is there, and has been for long enough.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_broker_is_tried_within_half_a_second_for_five_minutes_and_seldom_after_that() {
        let mut reconnect = Reconnect::default();
        let began = Instant::now();
        while began.elapsed() < CLOSELY_FOR {
            let wait = reconnect.wait(0.999);
            assert!(wait < Duration::from_millis(500), "{wait:?}");
            tokio::time::sleep(wait).await;
        }
        let later: Vec<f64> = (0..7).map(|_| reconnect.wait(0.5).as_secs_f64()).collect();
        assert_eq!(later, [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0]);
        reconnect.reset();
        assert_eq!(reconnect.wait(0.5), Duration::from_millis(250));
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(3));
        let waits: Vec<u64> = (0..4).map(|_| backoff.wait().as_secs()).collect();
        assert_eq!(waits, [1, 2, 3, 3]);
        backoff.reset();
        assert_eq!(backoff.jittered(0.5), Duration::from_secs(1));
    }
}
