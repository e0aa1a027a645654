//! A steady load around a trouble that everybody meets: how soon the full rate is back.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::load::{Load, pictures};
use crate::scene::{PER_SECOND, Scene};

/// A fleet at work, before anything happens to it.
const WARM_UP: Duration = Duration::from_secs(5);
/// The window by which a rate is measured.
const WINDOW: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(200);
/// Of the offered rate.
const FULL: f64 = 0.9;

/// Begins to offer jobs, and waits until the fleet is at work.
pub(super) async fn begin(scene: &Scene) -> Load {
    let load = scene.publisher.offer(&scene.ledger, pictures("j."), PER_SECOND);
    tokio::time::sleep(WARM_UP).await;
    load
}

/// Whether as many jobs are solved in the window from here as jobs are offered.
fn is_full(scene: &Scene, from: Instant) -> bool {
    let least = FULL * f64::from(PER_SECOND) * WINDOW.as_secs_f64();
    scene.ledger.solved(from, from + WINDOW) as f64 >= least
}

/// Waits for the first window of the full rate; how long after a moment it begins.
pub(super) async fn back(scene: &Scene, from: Instant, within: Duration) -> Option<Duration> {
    let mut begins = from;
    while begins <= from + within {
        sleep_until(begins + WINDOW).await;
        if is_full(scene, begins) {
            return Some(begins - from);
        }
        begins += STEP;
    }
    None
}

/// Waits a while, and returns how long after a moment the last window below the full rate ended;
/// zero where there was none.
pub(super) async fn last_gap(scene: &Scene, from: Instant, watched: Duration) -> Option<Duration> {
    sleep_until(from + watched).await;
    let windows = (watched - WINDOW).as_millis() / STEP.as_millis();
    let begins = (0..=windows).map(|n| from + STEP * n as u32);
    let Some(last) = begins.filter(|begin| !is_full(scene, *begin)).last() else {
        return Some(Duration::ZERO);
    };
    // One that ends with the watch says nothing of what comes after it.
    let ended = last + WINDOW - from;
    (ended + STEP <= watched).then_some(ended)
}
