//! A steady load around a trouble that everybody meets: how soon the full rate is back.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::load::{Load, pictures};
use crate::scene::{PER_SECOND, Scene};
use crate::wait;

/// A fleet at work, before anything happens to it.
const WARM_UP: Duration = Duration::from_secs(5);
/// The window by which a rate is measured.
const WINDOW: Duration = Duration::from_secs(3);
/// For so long the rate must be full.
const STAYS: Duration = Duration::from_secs(6);
const STEP: Duration = Duration::from_millis(200);
/// Of the offered rate.
const FULL: f64 = 0.9;

/// Begins to offer jobs, and waits until the fleet is at work.
pub(super) async fn begin(scene: &Scene) -> Load {
    let load = scene.publisher.offer(&scene.ledger, pictures("j."), PER_SECOND);
    tokio::time::sleep(WARM_UP).await;
    load
}

/// One submission is answered as by an API that does not know the key, and its job ends with it.
pub(super) async fn refuse_one(scene: &Scene) {
    scene.flash("create_task", json!(super::KEY), 1).await;
    let is_refused = async || scene.simulator.stats().await.outage_calls == 1;
    assert!(wait::comes_true(WARM_UP, is_refused).await, "a submission meets it");
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

/// Waits a while, and returns how long after a moment the gap ended after which the rate stays
/// full; zero where there was none. A hiccup after that is not the trouble's price.
pub(super) async fn gap(scene: &Scene, from: Instant, watched: Duration) -> Option<Duration> {
    sleep_until(from + watched).await;
    let steps = |span: Duration| (span.as_millis() / STEP.as_millis()) as usize;
    let full: Vec<bool> =
        (0..=steps(watched - WINDOW)).map(|n| is_full(scene, from + STEP * n as u32)).collect();
    let stays = full.windows(steps(STAYS)).position(|windows| !windows.contains(&false))?;
    Some(if stays == 0 { Duration::ZERO } else { STEP * (stays as u32 - 1) + WINDOW })
}
