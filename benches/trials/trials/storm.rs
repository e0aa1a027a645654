//! A minute of 503 on a steady load.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::{NO_LIMIT, all_end, no_ban};
use crate::ends::Ledger;
use crate::jobs;
use crate::scene::{Harness, Scene};
use crate::series::{STEP, Series};
use crate::simulator::Calls;

const PER_SECOND: u32 = 40;
const WARM_UP: Duration = Duration::from_secs(10);
const NORMAL: Duration = Duration::from_secs(15);
const STORM: Duration = Duration::from_secs(60);
/// After which the fleet must have gone quiet, and after whose end it must be back.
const QUIET_AFTER: Duration = Duration::from_secs(5);
const BACK_AFTER: Duration = Duration::from_secs(10);
/// The windows by which the return is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// From the start of the load to the end of the last window, and a little more.
const OFFERED_SECONDS: u32 = 10 + 15 + 60 + 10 + 5 + 3;
/// Unpaid jobs may be retried for 2 minutes.
const FINISH_WITHIN: Duration = Duration::from_secs(200);

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, "").await;
    let images = jobs::images("job", (PER_SECOND * OFFERED_SECONDS) as usize);
    let ids = jobs::ids(&images);
    let mut fleet = scene.fleet(&[NO_LIMIT]);
    let ledger = Ledger::open(&scene.namespace).await;
    let offer = scene.namespace.offer(images, PER_SECOND);
    scene.ready(&harness, &mut fleet).await;

    let mut series = Series::default();
    series.watch(&scene.simulator, Instant::now() + WARM_UP + NORMAL).await;
    let storm = json!({"storm": {"status": 503, "until_seconds": STORM.as_secs()}});
    scene.simulator.control(&storm).await;
    let begun = Instant::now();
    harness.say(format_args!("a storm of 503 for {STORM:?}"));
    series.watch(&scene.simulator, begun + STORM + BACK_AFTER + WINDOW).await;
    judge(&harness, &series, begun);
    offer.finished().await;
    let ends = all_end(&harness, &ledger, &ids, FINISH_WITHIN).await;
    harness.note("ids in dead-letter queues", ends.dead());
    harness.note("calls met by the storm", scene.simulator.stats().await.storm_calls);
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut fleet).await;
}

fn judge(harness: &Harness, series: &Series, begun: Instant) {
    let over = begun + STORM;
    let normal = series.rate(begun - NORMAL, begun, Calls::work);
    // A sample before the end, so that the return does not count as part of the storm.
    let during = series.rate(begun + QUIET_AFTER, over - STEP, Calls::all);
    let back = series.best((over, over + BACK_AFTER), WINDOW, Calls::work);
    harness.check(
        "calls of any kind in seconds 5 to 60 of the storm < 5 % of before",
        format!("{during:.2}/s of {normal:.1}/s: {:.1} %", during / normal * 100.0),
        normal > 0.0 && during < normal * 0.05,
    );
    harness.check(
        "createTask + getTaskResult in a window of 5 s that begins at most 10 s after the storm >= 80 % of before",
        format!("{back:.1}/s of {normal:.1}/s: {:.0} %", back / normal * 100.0),
        normal > 0.0 && back >= normal * 0.8,
    );
}
