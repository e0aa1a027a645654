//! What the trials of account faults judge alike.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::ends::{Ends, Ledger};
use crate::scene::{Harness, Scene};
use crate::series::pass;
use crate::wait;

/// Submissions and polls of the whole fleet a second, in trials that must not earn a ban: the calls
/// that are under way while the news of a refusal travels are a share of this.
pub(crate) const FLEET_LIMIT: (&str, &str) = ("SOLVER__MAX_CALLS_PER_SECOND", "30");
/// Where the guard is tried and not the limit.
pub(crate) const NO_LIMIT: (&str, &str) = ("SOLVER__MAX_CALLS_PER_SECOND", "0");

/// Of an image, by the simulator's default.
const IMAGE_COST: f64 = 0.001;
const MINUTE: Duration = Duration::from_secs(60);

/// Watches calls of any kind: 2 in the first minute, 1 in each after it.
pub(crate) async fn call_budget(harness: &Harness, scene: &Scene, began: Instant, minutes: u32) {
    let mut before = 0;
    for minute in 1..=minutes {
        pass(&scene.simulator, began + MINUTE * minute).await;
        let calls = scene.simulator.stats().await.calls.all();
        let most = if minute == 1 { 2 } else { 1 };
        harness.at_most(
            format_args!("wrong key: calls of any kind in minute {minute}"),
            calls - before,
            most,
        );
        before = calls;
    }
}

/// Fixes the key and has the fleet look at once.
pub(crate) async fn fix_key(harness: &Harness, scene: &Scene) {
    scene.simulator.control(&json!({"key_valid": true})).await;
    let answer = scene.operator().resume_at_last().await;
    harness.note("the key is fixed: resume", answer.summary());
}

/// Waits until the money is gone, be it that the API says so or that the fleet has seen it coming;
/// whether it is.
pub(crate) async fn ran_out(scene: &Scene, within: Duration) -> bool {
    let gone = async || {
        let stats = scene.simulator.stats().await;
        stats.balance < IMAGE_COST || stats.refused("ERROR_ZERO_BALANCE") > 0
    };
    wait::comes_true(within, gone).await
}

/// Waits for the end of every job, and judges that each came to one.
pub(crate) async fn all_end(
    harness: &Harness,
    ledger: &Ledger,
    wanted: &BTreeSet<String>,
    within: Duration,
) -> Ends {
    let ends = ledger.finish(harness, wanted, within).await;
    harness.check(format_args!("all {} jobs end", wanted.len()), ends.summary(), ends.are_all());
    ends
}

/// The same, where nothing but results will do.
pub(crate) async fn all_solved(
    harness: &Harness,
    ledger: &Ledger,
    wanted: &BTreeSet<String>,
    within: Duration,
) {
    let ends = all_end(harness, ledger, wanted, within).await;
    harness.at_most("jobs in dead-letter queues", ends.dead() as u64, 0);
}

/// Judges that the fleet's own calls earned no ban.
pub(crate) async fn no_ban(harness: &Harness, scene: &Scene) {
    let stats = scene.simulator.stats().await;
    harness.at_most("bans", stats.bans, 0);
    harness.note("offences; late calls", format!("{}; {}", stats.offences, stats.late_calls));
}
