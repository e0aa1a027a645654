//! How fast jobs are published again.

use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

/// How far a clock that ticks in milliseconds may fall behind and catch up; anything more would be a burst.
const CATCH_UP: Duration = Duration::from_millis(20);
/// The quickest rate that is told apart from none.
const MOST_A_SECOND: f64 = 100_000.0;

/// The longest wait for a turn: two fit into the time that a letter may be held.
const LONGEST_GAP: Duration = Duration::from_secs(600);

/// A rate as it is typed: `50/s`, `50`, `10/m`, `100/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    gap: Duration,
}

impl FromStr for Rate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "not a rate such as 50/s, 10/m or 100/h";
        let (number, unit) = text.split_once('/').unwrap_or((text, "s"));
        let seconds = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            _ => return Err(wrong),
        };
        let number: f64 = number.parse().map_err(|_| wrong)?;
        if !(number.is_finite() && number > 0.0 && number / seconds <= MOST_A_SECOND) {
            return Err("must be above 0 and at most 100000/s");
        }
        let gap = Duration::try_from_secs_f64(seconds / number).ok().filter(|gap| *gap <= LONGEST_GAP);
        gap.map(|gap| Self { gap })
            .ok_or("must be at least 6/h: a letter cannot be held for much longer than 10 minutes")
    }
}

/// Turns, one after the other, evenly.
#[derive(Debug)]
pub(super) struct Pace {
    gap: Duration,
    due: Instant,
}

impl Pace {
    /// Without a rate each turn is due at once.
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self { gap: rate.map_or(Duration::ZERO, |rate| rate.gap), due: Instant::now() }
    }

    /// When the next turn is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// A turn is taken.
    pub(super) fn take(&mut self, now: Instant) {
        let behind = now.checked_sub(CATCH_UP.min(self.gap.saturating_mul(1_000))).unwrap_or(now);
        let begins = self.due.max(behind);
        self.due = begins.checked_add(self.gap).unwrap_or(begins);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_and_nonsense_is_refused() {
        let gap = |text: &str| text.parse::<Rate>().map(|rate| rate.gap);
        assert_eq!(gap("50/s"), Ok(Duration::from_millis(20)));
        assert_eq!(gap("50"), Ok(Duration::from_millis(20)));
        assert_eq!(gap("10/m"), Ok(Duration::from_secs(6)));
        assert_eq!(gap("100/h"), Ok(Duration::from_secs(36)));
        assert_eq!(gap("6/h"), Ok(LONGEST_GAP));
        for text in
            ["", "0", "-1/s", "x/s", "5/d", "inf", "NaN/s", "100001/s", "1e-300/h", "1e-19", "1/h", "5.9/h"]
        {
            assert!(gap(text).is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_come_evenly_and_a_pause_is_not_made_up_for() {
        let began = Instant::now();
        let mut pace = Pace::new("100/s".parse().ok());
        let mut at = Vec::new();
        for turn in 0..4 {
            tokio::time::sleep_until(pace.due()).await;
            if turn == 2 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            pace.take(Instant::now());
            at.push(began.elapsed().as_millis());
        }
        assert_eq!(at[..2], [0, 10]);
        assert!(pace.due() >= Instant::now() - CATCH_UP, "two turns at most are caught up with");
    }
}
