//! A type without slots beside one that has them. Both runs go on at the same time, so that the
//! machine treats them alike.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::account::NO_LIMIT;
use crate::ends::Ledger;
use crate::fleet::Fleet;
use crate::jobs::{self, Job, SITE};
use crate::scene::{Harness, Scene};
use crate::series::pass;

const PER_SECOND: u32 = 20;
const WINDOW: Duration = Duration::from_secs(120);
const IMAGES: usize = 2_400;
/// One refusal a second for the whole fleet; a fleet that asks with every job has hundreds of times
/// as many.
const TRICKLE: u64 = 120;
/// Shows that every replica is at work before the window begins.
const WARM_UP: usize = 80;
const FINISH_WITHIN: Duration = Duration::from_secs(60);
const SETTINGS: [(&str, &str); 2] = [NO_LIMIT, ("POLICY__ALLOWED_DOMAINS", SITE)];

/// One of the two runs.
struct Run {
    scene: Scene,
    fleet: Fleet,
    ledger: Ledger,
    solved_before: u64,
}

pub(crate) async fn run(harness: Arc<Harness>) {
    let mut mixed = begin(&harness, "mixed").await;
    let mut plain = begin(&harness, "plain").await;
    mixed.scene.simulator.control(&json!({"slots": {"FunCaptchaTask": 0}})).await;
    mixed.warmed_up(&harness).await;
    plain.warmed_up(&harness).await;

    let images = jobs::images("image", IMAGES);
    let ids = jobs::ids(&images);
    let both = jobs::mixed(images.clone(), jobs::site_bound("bound", IMAGES));
    harness.say(format_args!(
        "{PER_SECOND} images a second for {WINDOW:?} to both fleets, and as many FunCaptchaTask to one"
    ));
    let over = Instant::now() + WINDOW;
    let offers =
        [mixed.scene.namespace.offer(both, 2 * PER_SECOND), plain.scene.namespace.offer(images, PER_SECOND)];
    tokio::join!(pass(&mixed.scene.simulator, over), pass(&plain.scene.simulator, over));
    compare(&harness, &mixed, &plain).await;
    for offer in offers {
        offer.finished().await;
    }
    settle(&harness, &mixed, &ids).await;
    mixed.scene.close(&harness, &mut mixed.fleet).await;
}

async fn begin(harness: &Harness, name: &str) -> Run {
    let scene = Scene::set_on(harness.amqp(), harness.folder().join(name), "").await;
    let fleet = scene.fleet(&SETTINGS);
    let ledger = Ledger::open(&scene.namespace).await;
    Run { scene, fleet, ledger, solved_before: 0 }
}

impl Run {
    async fn warmed_up(&mut self, harness: &Harness) {
        let images: Vec<Job> = jobs::images("warm-up", WARM_UP);
        let ids = jobs::ids(&images);
        self.scene.namespace.publish(images).await;
        self.scene.ready(harness, &mut self.fleet).await;
        let ends = self.ledger.finish(harness, &ids, FINISH_WITHIN).await;
        harness.say(format_args!("warm-up: {}", ends.summary()));
        self.solved_before = self.solved().await;
    }

    /// Answers handed out; no site-bound task is ever accepted, so these are images.
    async fn solved(&self) -> u64 {
        self.scene.simulator.stats().await.answered_ready
    }
}

async fn compare(harness: &Harness, mixed: &Run, plain: &Run) {
    let beside = mixed.solved().await - mixed.solved_before;
    let alone = plain.solved().await - plain.solved_before;
    let share = beside as f64 / alone.max(1) as f64;
    harness.check(
        "images solved beside a type without slots >= 90 % of images alone",
        format!("{beside} to {alone}: {:.1} %", share * 100.0),
        alone > 0 && share >= 0.9,
    );
    let refused = mixed.scene.simulator.stats().await.refused("ERROR_NO_SLOT_AVAILABLE");
    let what = format_args!("createTask refused for want of slots, of {IMAGES} jobs in {WINDOW:?}");
    harness.at_most(what, refused, TRICKLE);
}

/// The images end; what has no slot waits unpaid, for 10 minutes by default.
async fn settle(harness: &Harness, mixed: &Run, images: &BTreeSet<String>) {
    let warm_up = jobs::ids(&jobs::images("warm-up", WARM_UP));
    let wanted: BTreeSet<String> = images.union(&warm_up).cloned().collect();
    let ends = mixed.ledger.finish(harness, &wanted, FINISH_WITHIN).await;
    harness.check(
        "all images end as results, and no other job ends",
        ends.summary(),
        ends.are_all() && ends.dead() == 0,
    );
    let waiting = mixed.scene.namespace.waiting().await;
    harness.note(format_args!("of {IMAGES} jobs without slots, waiting unpaid"), waiting.unpaid());
}
