//! Waiting for a condition: looks on an interval, under a deadline.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// Between two looks. Short against everything that is judged, long against what a look costs.
const LOOK: Duration = Duration::from_millis(200);

/// What a look has found, or `None` where the time is over.
pub(crate) async fn until<T>(within: Duration, look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    until_each(LOOK, within, look).await
}

/// The same with a span between two looks that suits what is measured by them.
pub(crate) async fn until_each<T>(
    span: Duration,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let deadline = Instant::now() + within;
    let mut looks = interval(span);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = look().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
    }
}

/// Whether a condition came true in time.
pub(crate) async fn comes_true(within: Duration, mut look: impl AsyncFnMut() -> bool) -> bool {
    until(within, async || look().await.then_some(())).await.is_some()
}

/// A duration for people.
pub(crate) fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}
