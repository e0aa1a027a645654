//! The three account faults again, smaller, while replicas and the leader are killed every few
//! seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account::{FLEET_LIMIT, all_end, call_budget, fix_key, no_ban, ran_out};
use crate::ends::Ledger;
use crate::jobs::{self, SITE};
use crate::killer::Killer;
use crate::scene::{Harness, Scene};
use crate::series::pass;
use crate::wait;

const WRONG_KEY_JOBS: usize = 200;
const IN_FLIGHT_JOBS: usize = 300;
/// Tickets in flight, at least, when the key is revoked.
const IN_FLIGHT: u64 = 150;
const FUNDS_JOBS: usize = 200;
/// Half of them.
const BALANCE: f64 = 0.1;
const SILENCE: Duration = Duration::from_secs(30);
const FAULT_WITHIN: Duration = Duration::from_secs(60);
const FINISH_WITHIN: Duration = Duration::from_secs(150);
const SCENARIO: &str = "\
[types.ImageToTextTask]
solve_ms = { fixed = 500 }
[types.FunCaptchaTask]
solve_ms = { fixed = 12000 }
";
const SETTINGS: [(&str, &str); 5] = [
    FLEET_LIMIT,
    ("POLICY__ALLOWED_DOMAINS", SITE),
    ("POLLING__MODE", "fixed"),
    ("POLLING__FunCaptchaTask__FIRST_DELAY", "12s"),
    ("POLLING__FunCaptchaTask__INTERVAL", "5s"),
];

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, SCENARIO).await;
    let first = jobs::images("wrong-key", WRONG_KEY_JOBS);
    let mut ids = jobs::ids(&first);
    scene.namespace.publish(first).await;
    scene.simulator.control(&json!({"key_valid": false})).await;
    let began = Instant::now();
    let fleet = Arc::new(Mutex::new(scene.fleet(&SETTINGS)));
    let killer = Killer::begin(Arc::clone(&fleet), scene.operator(), harness.seed());
    let ledger = Ledger::open(&scene.namespace).await;

    call_budget(&harness, &scene, began, 2).await;
    fix_key(&harness, &scene).await;
    all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    ids.extend(revoke(&harness, &scene).await);
    all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    ids.extend(run_out(&harness, &scene).await);
    let count = killer.end().await;
    harness.check(
        "replicas were killed, the leader among them",
        format!("{} kills, {} of them the leader", count.kills, count.of_leader),
        count.of_leader > 0,
    );
    let ends = all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    harness.note("ids in dead-letter queues", ends.dead());
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut *fleet.lock().await).await;
}

/// The key is revoked with tickets in flight, and fixed after a while.
async fn revoke(harness: &Harness, scene: &Scene) -> BTreeSet<String> {
    let slow = jobs::site_bound("revoked", IN_FLIGHT_JOBS);
    let ids = jobs::ids(&slow);
    scene.namespace.publish(slow).await;
    let filled =
        wait::comes_true(FAULT_WITHIN, async || scene.simulator.stats().await.tasks_open >= IN_FLIGHT);
    let filled = filled.await;
    let before = scene.simulator.stats().await;
    harness.check("key revoked: tickets in flight >= 150", before.tasks_open, filled);
    scene.simulator.control(&json!({"key_valid": false})).await;
    pass(&scene.simulator, Instant::now() + SILENCE).await;
    let calls = scene.simulator.stats().await.calls.all() - before.calls.all();
    harness.note(format_args!("key revoked: calls of any kind in {SILENCE:?}"), calls);
    fix_key(harness, scene).await;
    ids
}

/// The balance runs out, and is topped up after a while.
async fn run_out(harness: &Harness, scene: &Scene) -> BTreeSet<String> {
    scene.simulator.control(&json!({"balance": BALANCE})).await;
    let images = jobs::images("funds", FUNDS_JOBS);
    let ids = jobs::ids(&images);
    scene.namespace.publish(images).await;
    let empty = ran_out(scene, FAULT_WITHIN).await;
    harness.check("no funds: the balance runs out", empty, empty);
    pass(&scene.simulator, Instant::now() + SILENCE).await;
    let refused = scene.simulator.stats().await.refused("ERROR_ZERO_BALANCE");
    harness.note(format_args!("no funds: createTask refused in {SILENCE:?}"), refused);
    scene.simulator.control(&json!({"add_credits": 10})).await;
    let answer = scene.operator().resume_at_last().await;
    harness.say(format_args!("topped up; resume: {}", answer.summary()));
    pass(&scene.simulator, Instant::now() + SILENCE / 2).await;
    ids
}
