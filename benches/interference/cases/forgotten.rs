//! Every id is unknown all of a sudden, with 2,000 tickets open.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::environment::Environment;
use crate::load::Offered;
use crate::row::Row;
use crate::scene::{Scene, Setup};
use crate::simulator::Stats;
use crate::wait;

const TICKETS: u64 = 2_000;
const REPLICAS: usize = 4;
/// Until all are submitted.
const OPEN_WITHIN: Duration = Duration::from_secs(60);
/// A fleet that has stopped makes no poll for so long; tickets come due some 200 times a second.
const SILENCE: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(30);
/// Until the first call with an unknown id, which may wait for a fleet that has met a refused
/// connection before.
const MET_WITHIN: Duration = Duration::from_secs(180);
/// Calls with an unknown id before the fleet stops, where there was a silence before them.
const CALLS: u64 = 4;
/// The same where the API forgets among good answers: polls that are due together go out together,
/// so that each replica has some under way when the first one is answered.
const CALLS_WITHOUT_SILENCE: u64 = 12;
/// The API keeps no task longer than 5 minutes; then every job is submitted again.
const FINISH_WITHIN: Duration = Duration::from_secs(900);

pub(super) async fn run(environment: &Environment, row: &mut Row, by_restart: bool) {
    let turn = environment.turn().await;
    let settings = [
        ("POLLING__MODE", "fixed"),
        ("POLLING__ImageToTextTask__FIRST_DELAY", "10s"),
        ("POLLING__ImageToTextTask__INTERVAL", "10s"),
        ("POLLING__ImageToTextTask__TIMEOUT", "180s"),
    ];
    let settings = settings.map(|(key, value)| (key, value.to_owned())).into();
    let mut scene = Scene::open(environment, row.case(), Setup { replicas: Some(REPLICAS), settings }).await;
    let script = json!({"solve_ms": 100_000, "submissions": 1});
    let jobs = (0..TICKETS).map(move |n| Offered::scripted(format!("j.{n}"), &script, false));
    scene.publisher.offer(&scene.ledger, jobs, 200).finished().await;
    let open = async || scene.simulator.stats().await.tasks_open == TICKETS;
    assert!(wait::comes_true(OPEN_WITHIN, open).await, "all jobs are submitted");
    // Polls are under way, as on any day.
    tokio::time::sleep(Duration::from_secs(5)).await;

    let began = Instant::now();
    let before = if by_restart {
        scene.simulator.restart().await;
        0
    } else {
        let wrong = scene.simulator.stats().await.wrong_id_calls;
        scene.simulator.control(&json!({"forget_tasks": true})).await;
        wrong
    };
    let polls: fn(&Stats) -> u64 = |stats| stats.calls.get_task_result;
    let wrong: fn(&Stats) -> u64 = |stats| stats.wrong_id_calls;
    let met = wait::until(MET_WITHIN, async || scene.series.first(wrong, before + 1)).await;
    // A fleet that resubmits what is too old to be asked for need not meet any.
    if let Some(met) = met {
        tokio::time::sleep(WATCHED).await;
        let silent = scene.series.stands_still(met, SILENCE, polls);
        let until = silent.unwrap_or_else(Instant::now);
        let most = if by_restart { CALLS } else { CALLS_WITHOUT_SILENCE };
        row.at_most("wrong-id calls before the fleet stops", scene.series.at(until, wrong) - before, most);
        row.bound("the fleet did not stop within 30 s", silent.is_some());
    }
    drop(turn);

    let all = scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    row.note(format_args!(
        "{} after {}",
        if all { "all ended" } else { "not all ended" },
        wait::seconds(began.elapsed())
    ));
    row.jobs(&scene.ledger.entries("j."));
    row.dead_at_most(0);
    row.trips(&scene.watch.trips(began, Instant::now()), true);
    let stats = scene.simulator.stats().await;
    row.at_most("bans", stats.bans, 0);
    row.note(format_args!("{} wrong-id calls in all", stats.wrong_id_calls - before));
    scene.close(row).await;
}
