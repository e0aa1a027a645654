//! Waiting a moment, so that what comes one by one goes out together.
//!
//! A write to a socket, and each crossing from one thread to another, costs as much for one message
//! as for ten. So whatever can wait a moment (a publish, an ack, a due poll, a delivery that came
//! in) waits for the next of some moments that are the same for all.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Moments at an even distance, the same for all clones.
#[derive(Debug, Clone, Copy)]
pub struct Linger {
    base: Instant,
    span: Duration,
}

impl Linger {
    /// Moments this far apart, from now on. Zero: every moment is one of them, and nothing waits.
    #[must_use]
    pub fn every(span: Duration) -> Self {
        Self { base: Instant::now(), span }
    }

    /// Nothing waits.
    #[must_use]
    pub fn none() -> Self {
        Self::every(Duration::ZERO)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.span.is_zero()
    }

    /// How long something waits at most.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.span
    }

    /// The first of the moments that is not before `at`.
    #[must_use]
    pub fn at_or_after(&self, at: Instant) -> Instant {
        let (Ok(past), Ok(span)) = (nanos(at.saturating_duration_since(self.base)), nanos(self.span)) else {
            return at;
        };
        match past.checked_next_multiple_of(span) {
            Some(next) => self.base + Duration::from_nanos(next),
            None => at,
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
