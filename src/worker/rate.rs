//! This replica's share of the calls a second that the whole fleet may make.
//!
//! Time is cut into slots, which the replicas take in turns: so calls of the fleet come evenly too,
//! and not all replicas' at once. What a slot is is fixed to the wall clock; where clocks differ
//! the turns shift against each other, and the rate is the same.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::sleep;

use crate::clock::Clock;

const SECOND_NS: i128 = 1_000_000_000;
/// The clock's resolution, and the timer's: slots that are shorter are taken together.
const TICK_NS: i128 = 1_000_000;

/// How the rate is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// Replicas that share it.
    pub(super) replicas: usize,
    /// This one's place among them, from 0.
    pub(super) rank: usize,
}

/// Spaces calls evenly.
pub(super) struct Rate {
    /// Calls a second of the whole fleet; `None`: no limit.
    fleet: Option<NonZeroU32>,
    clock: Clock,
    /// The last slot taken, and of which share. Held by whoever waits for the next, so that turns
    /// go in order and one timer runs.
    taken: Mutex<Option<(Share, i128)>>,
}

impl Rate {
    pub(super) fn new(fleet: Option<NonZeroU32>, clock: Clock) -> Self {
        Self { fleet, clock, taken: Mutex::default() }
    }

    /// Whether there are turns to wait for.
    pub(super) fn is_limited(&self) -> bool {
        self.fleet.is_some()
    }

    /// Waits for this replica's next turn. `share` is asked when the turn has come.
    pub(super) async fn turn(&self, share: impl Fn() -> Share) {
        let Some(fleet) = self.fleet else { return };
        let mut taken = self.taken.lock().await;
        let share = share();
        let slots = Slots::of(fleet, share);
        let last = taken.filter(|(of, _)| *of == share).map(|(_, slot)| slot);
        let (slot, wait) = slots.next(last, i128::from(self.clock.now().as_millis()) * TICK_NS);
        if !wait.is_zero() {
            sleep(wait).await;
        }
        // Whoever gives up its wait leaves its slot to the next.
        *taken = Some((share, slot));
    }
}

/// A replica's slots, in nanoseconds since the epoch.
struct Slots {
    every: i128,
    offset: i128,
}

impl Slots {
    fn of(fleet: NonZeroU32, share: Share) -> Self {
        let number = |n: usize| i128::try_from(n).unwrap_or(i128::MAX / SECOND_NS);
        let fleet = i128::from(fleet.get());
        let replicas = number(share.replicas.max(1));
        Self {
            every: SECOND_NS * replicas / fleet,
            offset: SECOND_NS * (number(share.rank) % replicas) / fleet,
        }
    }

    /// The slot that a call takes at this moment, and how long to wait for it. `last`: the one
    /// taken before; without one, the next to begin.
    fn next(&self, last: Option<i128>, now: i128) -> (i128, Duration) {
        let current = (now - self.offset).div_euclid(self.every);
        let at_once = current - TICK_NS / self.every;
        let slot = match last {
            // Beyond the next one: the clock was set back.
            Some(last) if last <= current + 1 + TICK_NS / self.every => at_once.max(last + 1),
            Some(_) | None => current + 1,
        };
        let wait = (slot * self.every + self.offset - now).max(0);
        (slot, Duration::from_nanos(u64::try_from(wait).unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tokio::time::Instant;

    use super::*;
    use crate::domain::time::Timestamp;

    fn rate(fleet: u32) -> Rate {
        Rate::new(NonZeroU32::new(fleet), Clock::runtime(Timestamp::from_millis(1_790_000_000_123)))
    }

    async fn take(rate: &Rate, turns: u32, share: Share) -> Duration {
        rate.turn(|| share).await;
        let began = Instant::now();
        for _ in 0..turns {
            rate.turn(|| share).await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_come_evenly_at_the_replicas_share() {
        let took = take(&rate(40), 50, Share { replicas: 4, rank: 1 }).await.as_millis();
        assert!((4_990..=5_010).contains(&took), "{took} ms");
        let took = take(&rate(8_000), 8_000, Share { replicas: 2, rank: 0 }).await.as_millis();
        assert!((1_990..=2_010).contains(&took), "{took} ms, with slots of a quarter of a millisecond");
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_take_turns() {
        let mut moments = Vec::new();
        let began = Instant::now();
        for rank in 0..8 {
            let rate = rate(80);
            rate.turn(|| Share { replicas: 8, rank }).await;
            moments.push(began.elapsed().as_millis() % 100);
            // Back to the same place of the next round.
            sleep(Duration::from_millis(100 - u64::try_from(began.elapsed().as_millis() % 100).unwrap()))
                .await;
        }
        moments.sort_unstable();
        assert!(moments.windows(2).all(|pair| (11..=14).contains(&(pair[1] - pair[0]))), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_share_follows_the_size_of_the_fleet() {
        let (rate, replicas) = (rate(10), Cell::new(1));
        let share = || Share { replicas: replicas.get(), rank: 0 };
        rate.turn(share).await;
        replicas.set(10);
        rate.turn(share).await;
        let began = Instant::now();
        rate.turn(share).await;
        assert!(began.elapsed() >= Duration::from_millis(990), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_nobody_waits() {
        let began = Instant::now();
        Rate::new(None, Clock::System).turn(|| Share { replicas: 8, rank: 0 }).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_was_set_back_stops_nothing() {
        let slots = Slots { every: SECOND_NS, offset: 0 };
        let (_, wait) = slots.next(Some(1_000_000), 500 * SECOND_NS);
        assert!(wait <= Duration::from_secs(1));
    }
}
