//! One job in ten meets a fault.
//!
//! Fault follows fault in one fleet, as long as their bounds hold: what the jobs that were hit
//! still cost then is a part of the load of the next one, which makes its bounds no easier. A fleet
//! whose bounds are broken is left, so that one fault is not found twice.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::Case;
use crate::environment::Environment;
use crate::faults::{self, Nature};
use crate::load::with_trouble;
use crate::row::Row;
use crate::scene::{PER_SECOND, Scene, Setup};

/// One job in so many is hit.
const EACH: usize = 10;
/// Good jobs that take longer are broken bounds anyway.
const GOOD_END_WITHIN: Duration = Duration::from_secs(20);

type Queue = Arc<Mutex<VecDeque<(usize, Case)>>>;

pub(super) async fn run(environment: Arc<Environment>, cases: Vec<Case>) -> Vec<Row> {
    environment.calm().await;
    let queue = Queue::new(Mutex::new(cases.into_iter().enumerate().collect()));
    let lanes = (0..environment.lanes).map(|lane| work(&environment, &queue, lane));
    let mut rows: Vec<(usize, Row)> = join_all(lanes).await.into_iter().flatten().collect();
    rows.sort_by_key(|(place, _)| *place);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Takes faults off the queue, with a new fleet after each that has broken its bounds. Fleets that
/// are left go on with their jobs meanwhile.
async fn work(environment: &Environment, queue: &Queue, lane: usize) -> Vec<(usize, Row)> {
    let mut ends = Vec::new();
    for life in 0.. {
        let Some(first) = next(queue) else { break };
        let (scene, rows) = fleet(environment, queue, first, format!("tenth {lane} {life}")).await;
        ends.push(finish(environment, scene, rows));
    }
    join_all(ends).await.into_iter().flatten().collect()
}

fn next(queue: &Queue) -> Option<(usize, Case)> {
    queue.lock().pop_front()
}

/// Faults with the ids of their jobs and what was found at once.
type Open = Vec<(usize, String, Row)>;

/// One fleet, until a bound is broken or there are no more faults.
async fn fleet(
    environment: &Environment,
    queue: &Queue,
    first: (usize, Case),
    name: String,
) -> (Scene, Open) {
    let scene = Scene::open(environment, &name, Setup::default()).await;
    let mut rows = Open::new();
    let mut case = Some(first);
    while let Some((place, Case::Tenth { list, fault, nature })) = case {
        let prefix = format!("w{place}.");
        let row = window(environment, &scene, &prefix, (list, fault, nature)).await;
        let broken = row.is_broken();
        rows.push((place, prefix, row));
        case = if broken { None } else { next(queue) };
    }
    (scene, rows)
}

async fn window(
    environment: &Environment,
    scene: &Scene,
    prefix: &str,
    (list, fault, nature): (&'static str, &'static str, Nature),
) -> Row {
    let mut row = Row::new("tenth", Case::Tenth { list, fault, nature }.name());
    let script = faults::script(list, fault, nature, environment.lengths.calls);
    let began = Instant::now();
    let load = scene.publisher.offer(&scene.ledger, with_trouble(prefix, EACH, &script), PER_SECOND);
    tokio::time::sleep(environment.lengths.window).await;
    load.stop().await;
    scene.ledger.finish(prefix, false, GOOD_END_WITHIN).await;
    let entries = scene.ledger.entries(prefix);
    let good: Vec<_> = entries.iter().filter(|entry| !entry.hit).collect();
    let unsolved = good.iter().filter(|entry| !entry.is_solved()).count();
    row.at_most("good jobs not solved in time", unsolved as u64, 0);
    let (calm, p99) = (environment.calm().await.p99, crate::ledger::Latency::of(good).p99);
    row.near_calm(p99, calm);
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    row.note_load();
    environment.say(row.case(), if row.is_broken() { "broken" } else { "holds" });
    row
}

/// The jobs that were hit have their time to end; then the account of all is closed.
async fn finish(environment: &Environment, scene: Scene, rows: Open) -> Vec<(usize, Row)> {
    scene.ledger.finish("w", true, environment.lengths.hit_end).await;
    let bans = scene.simulator.stats().await.bans;
    let mut closed: Vec<(usize, Row)> = Vec::new();
    for (place, prefix, mut row) in rows {
        row.jobs(&scene.ledger.entries(&prefix));
        closed.push((place, row));
    }
    // What the fleet as a whole has broken is laid at its last fault's door.
    if let Some((_, last)) = closed.last_mut() {
        last.at_most("bans", bans, 0);
        scene.close(last).await;
    }
    closed.iter().for_each(|(_, row)| environment.say(row.case(), row.summary()));
    closed
}
