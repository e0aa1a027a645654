//! One answer that blames the account, among good ones.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::bad_day;
use crate::environment::Environment;
use crate::row::Row;
use crate::scene::{Scene, Setup};

const FULL_RATE_WITHIN: Duration = Duration::from_secs(15);
/// Past the bound, and a window more.
const WATCHED: Duration = Duration::from_secs(22);
const FINISH_WITHIN: Duration = Duration::from_secs(420);

pub(super) async fn run(environment: &Environment, row: &mut Row, of: &str, code: &str) {
    let turn = environment.turn().await;
    let scene = Scene::open(environment, row.case(), Setup::default()).await;
    let load = bad_day::begin(&scene).await;
    let began = Instant::now();
    scene.flash(of, json!(code), 1).await;
    let back = bad_day::gap(&scene, began, WATCHED).await;
    load.stop().await;
    drop(turn);
    row.full_rate_after(back, FULL_RATE_WITHIN);
    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    row.jobs(&scene.ledger.entries("j."));
    row.dead_at_most(1);
    row.trips(&scene.watch.trips(began, Instant::now()), true);
    let stats = scene.simulator.stats().await;
    row.bound("the flash met no call, or several", stats.outage_calls == 1);
    row.at_most("bans", stats.bans, 0);
    scene.close(row).await;
}
