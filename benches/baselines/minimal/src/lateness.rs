//! How late polls are begun.

use std::cell::RefCell;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

#[derive(Default)]
pub(crate) struct Lateness {
    // A few bytes a poll, for some hundred thousand polls.
    microseconds: RefCell<Vec<u32>>,
}

impl Lateness {
    /// Sleeps, and notes by how much too long.
    pub(crate) async fn sleep(&self, span: Duration) {
        let due = Instant::now() + span;
        sleep_until(due).await;
        let late = u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.microseconds.borrow_mut().push(late);
    }

    /// One line of JSON, in milliseconds.
    pub(crate) fn report(&self) -> String {
        let mut late = self.microseconds.borrow_mut();
        late.sort_unstable();
        let at = |share: f64| {
            let place = (late.len().saturating_sub(1) as f64 * share).round() as usize;
            late.get(place).map_or(0.0, |&late| f64::from(late) / 1_000.0)
        };
        format!(
            r#"{{"polls":{},"late_ms":{{"p50":{},"p99":{},"max":{}}}}}"#,
            late.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        )
    }
}
