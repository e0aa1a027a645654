//! A publisher floods: what that costs one that stays below the limit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::environment::Environment;
use crate::ledger::Latency;
use crate::load::{Offered, pictures};
use crate::row::Row;
use crate::scene::{REPLICAS, Scene, Setup};
use crate::wait;

const STEADY_PER_SECOND: u32 = 10;
const WILD_PER_SECOND: u32 = 150;
/// A tenth above what the steady publisher brings.
const LIMIT: u32 = STEADY_PER_SECOND * 60 * 11 / 10;
/// Replicas hear of each other's jobs so often, and a little later.
const HEARD_AFTER: u32 = 3;
const STEADY_ENDS_WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(environment: &Environment, row: &mut Row) {
    let calm = environment.calm().await.p99;
    let turn = environment.turn().await;
    let settings = vec![("LIMITS__PER_PUBLISHER_PER_MINUTE", LIMIT.to_string())];
    let scene = Scene::open(environment, row.case(), Setup { settings, ..Setup::default() }).await;
    let began = Instant::now();
    let wild = pictures("wild.").map(|job| Offered { hit: true, ..job });
    let flood = scene.publisher.named("wild").offer(&scene.ledger, wild, WILD_PER_SECOND);
    let steady = scene.publisher.named("steady").offer(&scene.ledger, pictures("steady."), STEADY_PER_SECOND);
    sleep(environment.lengths.window).await;
    flood.stop().await;
    steady.stop().await;
    scene.ledger.finish("steady.", true, STEADY_ENDS_WITHIN).await;
    drop(turn);
    let passed = scene.ledger.entries("wild.").iter().filter(|entry| entry.is_solved()).count() as u64;
    let others = u64::try_from(REPLICAS - 1).expect("few");
    let most = u64::from(LIMIT) + others * u64::from(WILD_PER_SECOND * HEARD_AFTER);
    row.at_most("jobs of the flood solved within the first minute", passed, most);
    // What waits is not lost, and comes back.
    scene.ledger.finish("wild.", true, environment.lengths.hit_end).await;
    let mut entries = scene.ledger.entries("steady.");
    let p99 = Latency::of(&entries).p99;
    row.near_calm(p99, calm);
    row.note(format_args!(
        "calm p99 {}; {passed} of the flood solved when the steady publisher's jobs had ended",
        wait::seconds(calm)
    ));
    entries.extend(scene.ledger.entries("wild."));
    row.jobs(&entries);
    row.dead_at_most(0);
    row.trips(&scene.watch.trips(began, Instant::now()), false);
    scene.close(row).await;
}
