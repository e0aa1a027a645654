//! A ban of the fleet's address in mid-run.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::{NO_LIMIT, all_solved};
use crate::ends::Ledger;
use crate::jobs;
use crate::scene::{Harness, Scene};
use crate::series::pass;
use crate::wait;

const PER_SECOND: u32 = 40;
const OFFERED_SECONDS: u32 = 25;
const WARM_UP: Duration = Duration::from_secs(8);
const BAN: Duration = Duration::from_secs(60);
/// From the first refusal's answer on; the simulator allows as much.
const GRACE: Duration = Duration::from_secs(1);
const FINISH_WITHIN: Duration = Duration::from_secs(120);
/// The ban of this trial is shorter than the API's, and so is the pause that a ban demands.
const SETTINGS: [(&str, &str); 2] = [NO_LIMIT, ("GUARD__BAN_PAUSE", "65s")];

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, "").await;
    let images = jobs::images("job", (PER_SECOND * OFFERED_SECONDS) as usize);
    let ids = jobs::ids(&images);
    let mut fleet = scene.fleet(&SETTINGS);
    let ledger = Ledger::open(&scene.namespace).await;
    let offer = scene.namespace.offer(images, PER_SECOND);
    scene.ready(&harness, &mut fleet).await;
    pass(&scene.simulator, Instant::now() + WARM_UP).await;

    scene.simulator.control(&json!({"ban_seconds": BAN.as_secs()})).await;
    let over = Instant::now() + BAN;
    harness.say(format_args!("banned for {BAN:?}"));
    let met = wait::comes_true(Duration::from_secs(10), async || {
        scene.simulator.stats().await.calls_while_banned > 0
    });
    assert!(met.await, "nobody called: there is nothing to see");
    pass(&scene.simulator, Instant::now() + GRACE).await;
    let after_grace = scene.simulator.stats().await;
    pass(&scene.simulator, over).await;
    let end = scene.simulator.stats().await;

    harness.at_most("late calls for the ban", end.late_by_reason.ban, 0);
    let calls = end.calls.all() - after_grace.calls.all();
    harness.at_most("calls of any kind from 1 s after the first refusal to the ban's end", calls, 0);
    harness.note("calls while banned, until the fleet was silent", end.calls_while_banned);
    prolonged(&harness, &scene, over).await;
    offer.finished().await;
    all_solved(&harness, &ledger, &ids, FINISH_WITHIN).await;
    harness.check("bans: the one set by hand", end.bans, scene.simulator.stats().await.bans == 1);
    scene.close(&harness, &mut fleet).await;
}

/// A ban that offences have prolonged lasts 10 minutes more.
async fn prolonged(harness: &Harness, scene: &Scene, over: Instant) {
    pass(&scene.simulator, over + Duration::from_millis(500)).await;
    let banned = scene.simulator.stats().await.banned;
    harness.check("the ban is not prolonged", if banned { "prolonged" } else { "over after 60 s" }, !banned);
}
