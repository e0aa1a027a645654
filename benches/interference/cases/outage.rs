//! Every call, or every createTask, fails in one way for a while.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::bad_day;
use crate::environment::Environment;
use crate::faults;
use crate::row::Row;
use crate::scene::{REQUEST_TIMEOUT, Scene, Setup};
use crate::series::STEP;

/// Failed calls after which a fleet knows.
const KNOWN_AFTER: u64 = 10;
/// Of the whole fleet, from then on.
const CALLS_PER_SECOND: f64 = 3.0;
const FULL_RATE_WITHIN: Duration = Duration::from_secs(15);
/// For how long the full rate is waited for.
const WATCHED: Duration = Duration::from_secs(40);
/// Jobs may be retried for 10 minutes.
const FINISH_WITHIN: Duration = Duration::from_secs(720);
const LONG: Duration = Duration::from_secs(300);

pub(super) async fn short(environment: &Environment, row: &mut Row, of: &str, fault: &str) {
    play(environment, row, (of, fault), environment.lengths.outage, Setup::default(), false).await;
}

/// The same for a fleet whose account has just been refused: it submits one job at a time.
pub(super) async fn after_trip(environment: &Environment, row: &mut Row, fault: &str) {
    let span = environment.lengths.outage;
    play(environment, row, ("create_task", fault), span, Setup::default(), true).await;
}

pub(super) async fn long(environment: &Environment, row: &mut Row, of: &str, fault: &str) {
    // The default budget of unknown codes is 2 minutes, and an outage that outlasts it ends jobs by
    // the operator's own word.
    let settings = [("RETRY__UNKNOWN_TIMEOUT", "10m".to_owned())].into();
    play(environment, row, (of, fault), LONG, Setup { settings, ..Setup::default() }, false).await;
}

async fn play(
    environment: &Environment,
    row: &mut Row,
    (of, fault): (&str, &str),
    span: Duration,
    setup: Setup,
    after_trip: bool,
) {
    let turn = environment.turn().await;
    let scene = Scene::open(environment, row.case(), setup).await;
    let load = bad_day::begin(&scene).await;
    let paid = scene.simulator.stats().await.tasks_open;
    if after_trip {
        bad_day::refuse_one(&scene).await;
    }
    scene.outage(of, faults::step(fault), span).await;
    let began = Instant::now();
    let over = began + span;
    sleep_until(over).await;
    let back = bad_day::back(&scene, over, WATCHED).await;
    load.stop().await;
    drop(turn);

    // A call that hangs has failed only once it is given up.
    let wait = if fault == "hang" { REQUEST_TIMEOUT } else { Duration::ZERO };
    let failed = |stats: &crate::simulator::Stats| stats.outage_calls;
    let known = scene.series.first(failed, KNOWN_AFTER).map(|at| at + wait);
    let end = over - STEP;
    let calls = known.filter(|known| *known < end).map_or(0.0, |known| {
        let calls = scene.series.at(end, failed) - scene.series.at(known, failed);
        calls as f64 / (end - known).as_secs_f64()
    });
    row.calls_down(calls);
    row.bound(format_args!("{calls:.1} calls/s while down > {CALLS_PER_SECOND}"), calls <= CALLS_PER_SECOND);
    row.full_rate_after(back, FULL_RATE_WITHIN);
    row.trips(&scene.watch.trips(began, Instant::now()), true);

    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    row.jobs(&scene.ledger.entries("j."));
    row.dead_at_most(usize::from(after_trip));
    let stats = scene.simulator.stats().await;
    row.at_most("bans", stats.bans, 0);
    // A task that was open when nothing could be fetched any more is forgotten by the API itself in
    // an outage of 5 minutes.
    let lawful = if of == "all" && span >= LONG { paid } else { 0 };
    row.at_most("paid answers that were not fetched", stats.unfetched(), lawful);
    if stats.repeated_submissions > 0 {
        row.note(format_args!("{} paid twice", stats.repeated_submissions));
    }
    scene.close(row).await;
}
