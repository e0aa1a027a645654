//! A balance that runs out in mid-run.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::{FLEET_LIMIT, all_solved, no_ban, ran_out};
use crate::ends::Ledger;
use crate::jobs;
use crate::scene::{Harness, Scene};
use crate::series::pass;
use crate::wait;

const JOBS: usize = 400;
/// Half of the jobs, at 0.001 each.
const SCENARIO: &str = "balance = 0.2\n";
const EMPTY_WITHIN: Duration = Duration::from_secs(90);
const TOP_UP_AFTER: Duration = Duration::from_secs(90);
/// The balance is asked for every minute at first, and less often as time goes on.
const FOUND_WITHIN: Duration = Duration::from_secs(200);
const FINISH_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, SCENARIO).await;
    let images = jobs::images("job", JOBS);
    let ids = jobs::ids(&images);
    scene.namespace.publish(images).await;
    let mut fleet = scene.fleet(&[FLEET_LIMIT]);
    let ledger = Ledger::open(&scene.namespace).await;
    scene.ready(&harness, &mut fleet).await;

    let empty = ran_out(&scene, EMPTY_WITHIN).await;
    let accepted = scene.simulator.stats().await.accepted_tasks;
    harness
        .say(format_args!("the balance is{} empty after {accepted} tasks", if empty { "" } else { " not" }));
    pass(&scene.simulator, Instant::now() + TOP_UP_AFTER).await;
    let quiet = scene.simulator.stats().await;
    harness.note("refused for the balance in 90 s", quiet.refused("ERROR_ZERO_BALANCE"));

    scene.simulator.control(&json!({"add_credits": 10})).await;
    let topped_up = Instant::now();
    let found = wait::comes_true(FOUND_WITHIN, async || {
        scene.simulator.stats().await.accepted_tasks > quiet.accepted_tasks
    });
    let found = found.await;
    let took = wait::seconds(topped_up.elapsed());
    harness.check(
        format_args!("submissions go on within {FOUND_WITHIN:?} of the top-up"),
        if found { took } else { "not".to_owned() },
        found,
    );
    all_solved(&harness, &ledger, &ids, FINISH_WITHIN).await;
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut fleet).await;
}
