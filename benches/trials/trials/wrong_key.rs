//! A key that is wrong from the start.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::{NO_LIMIT, all_end, call_budget, fix_key, no_ban};
use crate::ends::Ledger;
use crate::jobs;
use crate::scene::{Harness, Scene};
use crate::wait;

const JOBS: usize = 20_000;
const MINUTES: u32 = 3;
/// At well under a hundred jobs a second.
const FINISH_WITHIN: Duration = Duration::from_secs(300);
/// A quick type, so that the backlog is soon worked off.
const SCENARIO: &str = "[types.ImageToTextTask]\nsolve_ms = { fixed = 100 }\n";

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, SCENARIO).await;
    let images = jobs::images("job", JOBS);
    let ids = jobs::ids(&images);
    scene.namespace.publish(images).await;
    scene.simulator.control(&json!({"key_valid": false})).await;
    harness.say(format_args!("{JOBS} jobs queued; the key is wrong; the replicas start"));
    let began = Instant::now();
    let mut fleet = scene.fleet(&[NO_LIMIT]);

    call_budget(&harness, &scene, began, MINUTES).await;
    nothing_ended(&harness, &scene).await;
    if let Some(status) = scene.operator().status().await {
        harness.note("status", format!("{}: {}", status.guard.state, status.guard.reasons.join(", ")));
    }
    fix_key(&harness, &scene).await;
    let ledger = Ledger::open(&scene.namespace).await;
    let ends = all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    let (dead, account) = (ends.dead(), ends.in_queue("dead.account"));
    harness.check(
        "at most 1 in dead.account, no other dead letter",
        format!("{account}, {}", dead - account),
        account <= 1 && dead == account,
    );
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut fleet).await;
}

/// Jobs that were in flight when the guard tripped are on their way back for a moment.
async fn nothing_ended(harness: &Harness, scene: &Scene) {
    wait::comes_true(Duration::from_secs(10), async || {
        let waiting = scene.namespace.waiting().await;
        waiting.unpaid() + waiting.dead_account == JOBS as u64
    })
    .await;
    let waiting = scene.namespace.waiting().await;
    harness.check(
        "at most 1 in dead.account, the rest queued",
        format!(
            "dead.account {}, jobs {}, retry {}, tickets {}",
            waiting.dead_account, waiting.jobs, waiting.retry, waiting.tickets
        ),
        waiting.dead_account <= 1 && waiting.unpaid() + waiting.dead_account == JOBS as u64,
    );
}
