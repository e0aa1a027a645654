//! A key that is revoked with tickets in flight on every replica.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::{FLEET_LIMIT, all_end, fix_key, no_ban};
use crate::ends::Ledger;
use crate::jobs::{self, SITE};
use crate::scene::{Harness, REPLICAS, Scene};
use crate::series::pass;
use crate::wait;

const EACH: usize = 200;
const IN_FLIGHT: u64 = (REPLICAS * EACH) as u64;
/// Jobs of a quick type behind the others, so that there are submissions under way too when the key
/// goes.
const QUICK: usize = 200;
/// Polls that must have come before: then every replica has begun to poll.
const POLLS: u64 = 60;
const MINUTE: Duration = Duration::from_secs(60);
const FILL_WITHIN: Duration = Duration::from_secs(120);
const FINISH_WITHIN: Duration = Duration::from_secs(300);
const SCENARIO: &str = "\
[types.ImageToTextTask]
solve_ms = { fixed = 60000 }
[types.FunCaptchaTask]
solve_ms = { fixed = 1000 }
";
/// The first polls come when all submissions have been made at the fleet's limit (53 s) and the
/// answers are there (60 s), so that the limit is enough for 1,600 tickets.
const SETTINGS: [(&str, &str); 7] = [
    FLEET_LIMIT,
    ("WORKER__MAX_IN_FLIGHT", "200"),
    ("POLLING__MODE", "fixed"),
    ("POLLING__ImageToTextTask__FIRST_DELAY", "75s"),
    ("POLLING__ImageToTextTask__INTERVAL", "10s"),
    ("POLLING__ImageToTextTask__TIMEOUT", "270s"),
    ("POLICY__ALLOWED_DOMAINS", SITE),
];

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, SCENARIO).await;
    let (slow, quick) = (jobs::images("slow", IN_FLIGHT as usize), jobs::site_bound("quick", QUICK));
    let ids = jobs::ids(&slow).into_iter().chain(jobs::ids(&quick)).collect();
    scene.namespace.publish(slow).await;
    let mut fleet = scene.fleet(&SETTINGS);
    let ledger = Ledger::open(&scene.namespace).await;
    scene.ready(&harness, &mut fleet).await;

    fill(&harness, &scene).await;
    scene.namespace.publish(quick).await;
    let polled =
        wait::comes_true(FILL_WITHIN, async || scene.simulator.stats().await.calls.get_task_result >= POLLS);
    assert!(polled.await, "no polls within {FILL_WITHIN:?}");
    let before = scene.simulator.stats().await;
    scene.simulator.control(&json!({"key_valid": false})).await;
    harness.check(
        format_args!("tickets in flight when the key is revoked >= {}", IN_FLIGHT * 9 / 10),
        before.tasks_open,
        before.tasks_open >= IN_FLIGHT * 9 / 10,
    );
    pass(&scene.simulator, Instant::now() + MINUTE).await;
    let after = scene.simulator.stats().await;
    harness.at_most("late calls in the minute after", after.late_calls - before.late_calls, 2);
    harness.note("calls of any kind in that minute", after.calls.all() - before.calls.all());

    fix_key(&harness, &scene).await;
    let ends = all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    harness.note("ids in dead-letter queues", ends.dead());
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut fleet).await;
}

/// Waits until nearly every replica holds as many tickets as it may.
async fn fill(harness: &Harness, scene: &Scene) {
    let full = wait::comes_true(FILL_WITHIN, async || {
        scene.simulator.stats().await.tasks_open >= IN_FLIGHT * 95 / 100
    });
    let filled = full.await;
    let open = scene.simulator.stats().await.tasks_open;
    harness.say(format_args!("{open} tickets in flight{}", if filled { "" } else { ", too few" }));
}
