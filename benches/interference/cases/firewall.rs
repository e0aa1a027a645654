//! A middle-box that dislikes the payload of few jobs, and says so by a page.

use std::time::Duration;

use tokio::time::Instant;

use super::bad_day;
use crate::environment::Environment;
use crate::faults::{self, Nature};
use crate::load::Offered;
use crate::row::Row;
use crate::scene::{Scene, Setup};
use crate::wait;

/// Anybody else's longest way.
const LONGEST: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(20);
/// Long enough for some further tries of the disliked jobs, and for their end in this run.
const TRANSIENT_TIMEOUT: &str = "60s";
const FINISH_WITHIN: Duration = Duration::from_secs(480);

pub(super) async fn run(environment: &Environment, row: &mut Row, status: &str, jobs: usize) {
    let turn = environment.turn().await;
    let settings = vec![("RETRY__TRANSIENT_TIMEOUT", TRANSIENT_TIMEOUT.to_owned())];
    let scene = Scene::open(environment, row.case(), Setup { replicas: None, settings }).await;
    let load = bad_day::begin(&scene).await;
    let began = Instant::now();
    let script = faults::script("create", &format!("{status} HTML"), Nature::Final, 1);
    let disliked = (0..jobs).map(move |n| Offered::scripted(format!("j.disliked-{n}"), &script, true));
    let disliked = scene.publisher.offer(&scene.ledger, disliked, 1);
    tokio::time::sleep(WATCHED).await;
    disliked.finished().await;
    load.stop().await;
    drop(turn);
    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    let entries = scene.ledger.entries("j.");
    row.jobs(&entries);
    row.dead_at_most(0);
    let longest = crate::ledger::Latency::of(entries.iter().filter(|entry| !entry.hit)).max;
    row.bound(format_args!("somebody else waited {} > 3 s", wait::seconds(longest)), longest <= LONGEST);
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    let blamed = entries
        .iter()
        .filter(|entry| entry.hit && entry.end.as_ref().is_some_and(|end| end.queue == "dead.account"));
    row.at_most("jobs in dead.account for a page", blamed.count() as u64, 0);
    row.at_most("bans", scene.simulator.stats().await.bans, 0);
    scene.close(row).await;
}
