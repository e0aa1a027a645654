//! A fleet has just begun, and does not know yet how many replicas spend from one budget: what it
//! costs the jobs that each of them takes only a small part of what is left.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::environment::Environment;
use crate::ledger::Latency;
use crate::load::pictures;
use crate::row::Row;
use crate::scene::{PER_SECOND, Scene, Setup};
use crate::wait;

const PRICE: &str = "0.001";
/// As many jobs as come in 20 s: the share of each replica is less than it needs.
const BUDGET: &str = "1";
const FINISH_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(environment: &Environment, row: &mut Row) {
    let calm = environment.calm().await.p99;
    let turn = environment.turn().await;
    let settings = [("PRICES__ImageToTextTask", PRICE), ("BUDGETS__PER_DAY", BUDGET)]
        .map(|(key, value)| (key, value.to_owned()));
    let setup = Setup { settings: settings.into(), ..Setup::default() };
    let scene = Scene::open(environment, row.case(), setup).await;
    let began = Instant::now();
    let load = scene.publisher.offer(&scene.ledger, pictures("j."), PER_SECOND);
    sleep(environment.lengths.window).await;
    load.stop().await;
    scene.ledger.finish("j.", true, FINISH_WITHIN).await;
    drop(turn);
    let entries = scene.ledger.entries("j.");
    let p99 = Latency::of(&entries).p99;
    row.jobs(&entries);
    row.dead_at_most(0);
    row.near_calm(p99, calm);
    row.note(format_args!("calm p99 {}", wait::seconds(calm)));
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    scene.close(row).await;
}
