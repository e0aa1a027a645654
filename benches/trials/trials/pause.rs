//! An operator's pause, on a broker of the trial's own that is restarted in it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::block_in_place;
use tokio::time::Instant;

use super::account::{NO_LIMIT, all_solved};
use crate::command::Answer;
use crate::ends::Ledger;
use crate::fleet::Fleet;
use crate::jobs;
use crate::scene::{Harness, REPLICAS, Scene};
use crate::series::pass;
use crate::support::rabbit::RabbitNode;
use crate::wait;

const PER_SECOND: u32 = 40;
const OFFERED_SECONDS: u32 = 30;
const WARM_UP: Duration = Duration::from_secs(6);
/// Within which all must follow.
const FOLLOW: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(10);
const KNOWN_WITHIN: Duration = Duration::from_secs(45);
const LEAVE_WITHIN: Duration = Duration::from_secs(60);
const FINISH_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(harness: Arc<Harness>) {
    let mut node = RabbitNode::start().await;
    let mut scene = Scene::set_on(&node.url(), harness.folder().to_owned(), "").await;
    let images = jobs::images("job", (PER_SECOND * OFFERED_SECONDS) as usize);
    let ids = jobs::ids(&images);
    let mut fleet = scene.fleet(&[NO_LIMIT]);
    all_known(&harness, &scene, "before the pause").await;
    let offer = scene.namespace.offer(images, PER_SECOND);
    scene.ready(&harness, &mut fleet).await;
    pass(&scene.simulator, Instant::now() + WARM_UP).await;

    pause(&harness, &scene).await;
    restart_fleet(&harness, &scene, &mut fleet).await;
    offer.finished().await;
    restart_broker(&harness, &mut scene, &mut node).await;
    resume(&harness, &scene).await;
    let ledger = Ledger::open(&scene.namespace).await;
    all_solved(&harness, &ledger, &ids, FINISH_WITHIN).await;
    scene.close(&harness, &mut fleet).await;
}

/// Waits until the fleet knows all of its members.
async fn all_known(harness: &Harness, scene: &Scene, when: &str) {
    let mut names = Vec::new();
    wait::comes_true(KNOWN_WITHIN, async || {
        let replicas = scene.operator().status().await.unwrap_or_default().replicas;
        names = replicas.into_iter().map(|replica| replica.name).collect();
        names.len() == REPLICAS
    })
    .await;
    harness.check(
        format_args!("{when}: status lists {REPLICAS} replicas"),
        names.len(),
        names.len() == REPLICAS,
    );
}

async fn creates(scene: &Scene) -> u64 {
    scene.simulator.stats().await.calls.create_task
}

async fn pause(harness: &Harness, scene: &Scene) {
    let issued = Instant::now();
    let operator = scene.operator();
    let watch = async {
        pass(&scene.simulator, issued + FOLLOW).await;
        let after_a_second = creates(scene).await;
        pass(&scene.simulator, issued + FOLLOW * 6).await;
        creates(scene).await - after_a_second
    };
    let (answer, late) = tokio::join!(operator.pause("trial"), watch);
    harness.at_most("createTask later than 1 s after the pause was issued, in 5 s", late, 0);
    check_all_follow(harness, "pause", &answer);
    jobs_wait(harness, scene, "paused").await;
}

/// Without jobs that could be submitted, no submission would show nothing.
async fn jobs_wait(harness: &Harness, scene: &Scene, when: &str) {
    let queued = scene.namespace.waiting().await.jobs;
    harness.check(format_args!("{when}: jobs wait"), queued, queued > 0);
}

fn check_all_follow(harness: &Harness, verb: &str, answer: &Answer) {
    harness.check(
        format_args!("{verb} tells {REPLICAS} of {REPLICAS} within 1 s"),
        answer.summary(),
        answer.all_follow(REPLICAS) && answer.took <= FOLLOW,
    );
}

/// No submission for a while, and the state is still reported.
async fn still_paused(harness: &Harness, scene: &Scene, after: &str) {
    let before = creates(scene).await;
    pass(&scene.simulator, Instant::now() + QUIET).await;
    harness.at_most(format_args!("{after}: createTask in 10 s"), creates(scene).await - before, 0);
    jobs_wait(harness, scene, after).await;
    let paused = scene.operator().status().await.and_then(|status| status.guard.paused);
    let measured = paused.as_ref().map_or_else(|| "not paused".to_owned(), ToString::to_string);
    harness.check(format_args!("{after}: status says paused"), measured, paused.is_some());
}

async fn restart_fleet(harness: &Harness, scene: &Scene, fleet: &mut Fleet) {
    let stuck = fleet.leave(LEAVE_WITHIN).await;
    harness.check(
        "all leave on SIGTERM",
        if stuck.is_empty() { "all".to_owned() } else { stuck.join(", ") },
        stuck.is_empty(),
    );
    fleet.come_back();
    still_paused(harness, scene, "fleet restarted").await;
    all_known(harness, scene, "fleet restarted").await;
}

async fn restart_broker(harness: &Harness, scene: &mut Scene, node: &mut RabbitNode) {
    // Written to disk by and by only; see `RabbitNode::sync_registry`.
    block_in_place(|| {
        node.sync_registry();
        node.restart();
    });
    scene.namespace = scene.namespace.reopened().await;
    harness.say("the broker has been killed and started again");
    all_known(harness, scene, "broker restarted").await;
    still_paused(harness, scene, "broker restarted").await;
}

async fn resume(harness: &Harness, scene: &Scene) {
    let before = creates(scene).await;
    let issued = Instant::now();
    let operator = scene.operator();
    let first = wait::until(Duration::from_secs(30), async || {
        (creates(scene).await > before).then(|| issued.elapsed())
    });
    let (answer, first) = tokio::join!(operator.resume(), first);
    check_all_follow(harness, "resume", &answer);
    let measured = first.map_or_else(|| "none in 30 s".to_owned(), wait::seconds);
    harness.note("first createTask after the resume was issued", measured);
}
