//! An unknown code that is the job's own fault.

use std::time::Duration;

use tokio::time::Instant;

use crate::environment::Environment;
use crate::faults::{self, Nature, UNKNOWN};
use crate::load::with_trouble;
use crate::row::Row;
use crate::scene::{PER_SECOND, Scene, Setup};
use crate::wait;

/// One job in so many is at fault.
const EACH: usize = 10;
/// For which a job with such a code is tried again, where the worker knows the setting.
const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// For one last call, and its outcome.
const SLACK: Duration = Duration::from_secs(5);
const FINISH_WITHIN: Duration = Duration::from_secs(240);
const DEFAULTS: &str = include_str!("../../../config/default.toml");

pub(super) async fn run(environment: &Environment, row: &mut Row) {
    let calm = environment.calm().await;
    let turn = environment.turn().await;
    let mut setup = Setup::default();
    if DEFAULTS.lines().any(|line| line.starts_with("unknown_timeout =")) {
        setup.settings.push(("RETRY__UNKNOWN_TIMEOUT", format!("{}s", UNKNOWN_TIMEOUT.as_secs())));
    }
    let scene = Scene::open(environment, row.case(), setup).await;
    let script = faults::script("create", UNKNOWN, Nature::Final, 1);
    let began = Instant::now();
    let load = scene.publisher.offer(&scene.ledger, with_trouble("j.", EACH, &script), PER_SECOND);
    tokio::time::sleep(environment.lengths.window).await;
    load.stop().await;
    drop(turn);
    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    let entries = scene.ledger.entries("j.");
    row.jobs(&entries);
    row.dead_at_most(0);
    let (good, hit): (Vec<_>, Vec<_>) = entries.iter().partition(|entry| !entry.hit);
    let p99 = crate::ledger::Latency::of(good).p99;
    row.near_calm(p99, calm.p99);
    let is_unknown =
        |entry: &&crate::ledger::Entry| entry.end.as_ref().is_some_and(|end| end.queue == "dead.unknown");
    let elsewhere = hit.len() - hit.iter().copied().filter(is_unknown).count();
    row.at_most("jobs at fault that are not in dead.unknown", elsewhere as u64, 0);
    let slowest = hit.iter().filter_map(|entry| entry.took()).max().unwrap_or_default();
    row.note(format_args!("the slowest at fault ended after {}", wait::seconds(slowest)));
    row.bound(
        format_args!("jobs at fault end after {}", wait::seconds(slowest)),
        slowest <= UNKNOWN_TIMEOUT + SLACK,
    );
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    scene.close(row).await;
}
