//! A trip of 4 minutes with 500 paid tasks open, of a type with a time-out of 60 s.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::environment::Environment;
use crate::load::Offered;
use crate::row::Row;
use crate::scene::{Scene, Setup};
use crate::wait;

const TICKETS: u64 = 500;
/// Slow enough that nothing is fetched before the trip.
const SOLVE_MS: u32 = 20_000;
const OPEN_WITHIN: Duration = Duration::from_secs(20);
/// The ban ends before the fleet looks, so that the trip takes as long as the fleet is said to stay
/// away.
const BAN: Duration = Duration::from_secs(235);
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// Polls that fail after the trip.
const FAILING: u32 = 5;
const TRIP: Duration = Duration::from_secs(240);
/// The API keeps a task for 280 s by the worker's count; what is left of it is for the fetching.
const FINISH_WITHIN: Duration = Duration::from_secs(420);

pub(super) async fn run(environment: &Environment, row: &mut Row) {
    let turn = environment.turn().await;
    let settings = vec![("GUARD__BAN_PAUSE", format!("{}s", TRIP.as_secs()))];
    let scene = Scene::open(environment, row.case(), Setup { replicas: None, settings }).await;
    let script = json!({"solve_ms": SOLVE_MS});
    let jobs = (0..TICKETS).map(move |n| Offered::scripted(format!("j.{n}"), &script, false));
    scene.publisher.offer(&scene.ledger, jobs, 100).finished().await;
    let open = async || scene.simulator.stats().await.tasks_open == TICKETS;
    assert!(wait::comes_true(OPEN_WITHIN, open).await, "all jobs are submitted");
    scene.simulator.control(&json!({"ban_seconds": BAN.as_secs()})).await;
    let began = Instant::now();
    drop(turn);
    // Once the fleet is silent: the first polls after the trip meet one more failure, which must
    // not be the last word on what is paid.
    tokio::time::sleep(SILENT_AFTER).await;
    scene.flash("get_task_result", json!({"http": 500}), FAILING).await;

    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    let entries = scene.ledger.entries("j.");
    row.jobs(&entries);
    row.dead_at_most(0);
    let trips = scene.watch.trips(began, Instant::now());
    row.trips(&trips, true);
    row.bound("the guard did not trip", !trips.is_none());
    let stats = scene.simulator.stats().await;
    row.at_most("paid answers that were not fetched", stats.unfetched(), 0);
    row.at_most("paid twice", stats.repeated_submissions, 0);
    row.at_most("wrong-id calls", stats.wrong_id_calls, 0);
    let fetched = entries.iter().filter(|entry| entry.is_solved()).count();
    row.note(format_args!("{fetched} of {TICKETS} fetched"));
    scene.close(row).await;
}
