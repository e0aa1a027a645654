//! Waiting a moment, so that what comes one by one goes out together.
//!
//! A write to a socket, and each crossing from one thread to another, costs as much for one message
//! as for ten. So whatever can wait a moment (a publish, an ack, a due poll, a delivery that came
//! in) waits for the next of some moments that are the same for all.
//!
//! Where very much comes, it goes together by itself, and waiting would only make each job take
//! longer. Then nothing waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Publishes and acks a second that are very many: those of 750 jobs.
const HEAVY_PER_SECOND: u128 = 3_000;

/// Moments at an even distance, the same for all clones.
#[derive(Debug, Clone)]
pub struct Linger {
    base: Instant,
    span: Duration,
    load: Arc<Load>,
}

/// What has come between two moments.
#[derive(Debug, Default)]
struct Load {
    /// The number of the last moment.
    moment: AtomicU64,
    /// What has come since then.
    came: AtomicU64,
    /// Whether very much came between it and the one before.
    is_heavy: AtomicBool,
}

impl Linger {
    /// Moments this far apart, from now on. Zero: nothing waits.
    #[must_use]
    pub fn every(span: Duration) -> Self {
        Self { base: Instant::now(), span, load: Arc::default() }
    }

    /// Nothing waits.
    #[must_use]
    pub fn none() -> Self {
        Self::every(Duration::ZERO)
    }

    /// How long something waits at most.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.span
    }

    /// Whether nothing waits at present.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.span.is_zero() || self.load.is_heavy.load(Ordering::Relaxed)
    }

    /// The first of the moments that is not before `at`.
    #[must_use]
    pub fn at_or_after(&self, at: Instant) -> Instant {
        if self.is_none() {
            return at;
        }
        let (Ok(past), Ok(span)) = (nanos(at.saturating_duration_since(self.base)), nanos(self.span)) else {
            return at;
        };
        match past.checked_next_multiple_of(span) {
            Some(next) => self.base + Duration::from_nanos(next),
            None => at,
        }
    }

    /// So many publishes or acks have come.
    fn count(&self, came: usize) {
        let (Ok(past), Ok(span)) = (nanos(self.base.elapsed()), nanos(self.span)) else { return };
        let Some(moment) = past.checked_div(span) else { return };
        let (load, came) = (&self.load, u64::try_from(came).unwrap_or(u64::MAX));
        let last = load.moment.swap(moment, Ordering::Relaxed);
        if last == moment {
            load.came.fetch_add(came, Ordering::Relaxed);
        } else {
            let before = u128::from(load.came.swap(came, Ordering::Relaxed));
            let many = before * 1_000_000_000 >= HEAVY_PER_SECOND * self.span.as_nanos();
            load.is_heavy.store(many && last + 1 == moment, Ordering::Relaxed);
        }
    }
}

/// Things that wait to go out together.
#[derive(Debug)]
pub struct Batch<T> {
    linger: Linger,
    things: Vec<T>,
    due: Option<Instant>,
    went_at: Option<Instant>,
}

impl<T> Batch<T> {
    /// Nothing yet.
    #[must_use]
    pub fn new(linger: Linger) -> Self {
        Self { linger, things: Vec::new(), due: None, went_at: None }
    }

    /// Where to put more; to be followed by [`Batch::note`].
    pub fn room(&mut self) -> &mut Vec<T> {
        &mut self.things
    }

    /// So many have come. They go at once where one of them must not wait, and where little is
    /// going on, so that none may come to go with them.
    pub fn note(&mut self, came: usize, may_linger: impl Fn(&T) -> bool) {
        let Some(new) = self.things.len().checked_sub(came).and_then(|from| self.things.get(from..)) else {
            return;
        };
        self.linger.count(came);
        let now = Instant::now();
        let is_calm = self.went_at.is_none_or(|at| now - at > self.linger.span * 2);
        if self.linger.is_none() || is_calm || !new.iter().all(may_linger) {
            self.due = Some(now);
        } else if self.due.is_none() && !new.is_empty() {
            self.due = Some(self.linger.at_or_after(now));
        }
    }

    /// When they go, if there are any.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// All of them, once it is time.
    pub fn take_due(&mut self) -> Option<Vec<T>> {
        let due = self.due?;
        let now = Instant::now();
        if due > now {
            return None;
        }
        self.went_at = Some(now);
        Some(self.take())
    }

    /// All of them, now.
    pub fn take(&mut self) -> Vec<T> {
        self.due = None;
        std::mem::take(&mut self.things)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.things.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }
}

/// Waits for a moment; without one, for ever.
pub async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn nanos(span: Duration) -> Result<u64, std::num::TryFromIntError> {
    u64::try_from(span.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_that_waits_waits_for_the_same_moments() {
        let linger = Linger::every(Duration::from_millis(10));
        let base = Instant::now();
        let after = |micros: u64| linger.at_or_after(base + Duration::from_micros(micros)) - base;
        assert_eq!(after(0), Duration::ZERO);
        assert_eq!(after(1), Duration::from_millis(10));
        assert_eq!(after(10_000), Duration::from_millis(10));
        assert_eq!(after(7_777_777), Duration::from_millis(7_780));
    }

    #[tokio::test(start_paused = true)]
    async fn where_very_much_comes_nothing_waits_until_less_comes() {
        let mut batch = Batch::new(Linger::every(Duration::from_millis(20)));
        let mut waits = Vec::new();
        for (came, pause) in [(59, 20), (59, 20), (60, 20), (60, 20), (10, 20), (60, 40), (10, 20), (10, 20)]
        {
            let next = Instant::now() + Duration::from_millis(pause);
            tokio::time::advance(Duration::from_millis(1)).await;
            batch.room().extend(vec![(); came]);
            batch.note(came, |()| true);
            waits.push(batch.due().map(|due| (due - Instant::now()).as_millis()));
            until(batch.due()).await;
            assert!(batch.take_due().is_some());
            sleep_until(next).await;
        }
        assert_eq!(waits, [Some(0), Some(19), Some(19), Some(0), Some(0), Some(19), Some(19), Some(19)]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_span_nothing_waits() {
        let at = Instant::now() + Duration::from_micros(1_234);
        assert_eq!(Linger::none().at_or_after(at), at);
        let mut gathered = Batch::new(Linger::none());
        for n in 0..3 {
            gathered.room().push(n);
            gathered.note(1, |_| true);
            assert_eq!(gathered.take_due(), Some(vec![n]));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_there_is_much_goes_together_and_what_must_not_wait_takes_the_rest_along() {
        let mut gathered = Batch::new(Linger::every(Duration::from_millis(10)));
        let mut come = |things: &[u8]| {
            gathered.room().extend(things);
            gathered.note(things.len(), |thing| *thing < 100);
            gathered.take_due()
        };
        assert_eq!(come(&[1]), Some(vec![1]), "nothing went before it");
        tokio::time::advance(Duration::from_millis(3)).await;
        assert_eq!((come(&[2]), come(&[3, 4])), (None, None));
        assert_eq!(come(&[5, 100]), Some(vec![2, 3, 4, 5, 100]));
        assert_eq!(come(&[6]), None);
        assert_eq!(gathered.due().map(|due| due - Instant::now()), Some(Duration::from_millis(7)));
        until(gathered.due()).await;
        assert_eq!(gathered.take_due(), Some(vec![6]));
        tokio::time::advance(Duration::from_millis(25)).await;
        gathered.room().push(7);
        gathered.note(1, |_| true);
        assert_eq!(gathered.take_due(), Some(vec![7]), "little is going on");
        assert!(gathered.is_empty() && gathered.due().is_none());
    }
}
