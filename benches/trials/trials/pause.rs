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
use crate::patience;
use crate::scene::{REPLICAS, Scene, Stage};
use crate::series::pass;
use crate::support::rabbit::RabbitNode;

const PER_SECOND: u32 = 40;
const OFFERED_SECONDS: u32 = 30;
const WARM_UP: Duration = Duration::from_secs(6);
/// Within which all must follow.
const FOLLOW: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(10);
const KNOWN_WITHIN: Duration = Duration::from_secs(45);
const LEAVE_WITHIN: Duration = Duration::from_secs(60);
const FINISH_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(stage: Arc<Stage>) {
    let mut node = RabbitNode::start().await;
    let mut scene = Scene::set_on(&node.url(), stage.folder().to_owned(), "").await;
    let images = jobs::images("job", (PER_SECOND * OFFERED_SECONDS) as usize);
    let ids = jobs::ids(&images);
    let mut fleet = scene.fleet(&[NO_LIMIT]);
    all_known(&stage, &scene, "before the pause").await;
    let offer = scene.lane.offer(images, PER_SECOND);
    scene.ready(&stage, &mut fleet).await;
    pass(&scene.simulator, Instant::now() + WARM_UP).await;

    pause(&stage, &scene).await;
    restart_fleet(&stage, &scene, &mut fleet).await;
    offer.finished().await;
    restart_broker(&stage, &mut scene, &mut node).await;
    resume(&stage, &scene).await;
    let ledger = Ledger::open(&scene.lane).await;
    all_solved(&stage, &ledger, &ids, FINISH_WITHIN).await;
    scene.close(&stage, &mut fleet).await;
}

/// Waits until the fleet knows all of its members.
async fn all_known(stage: &Stage, scene: &Scene, when: &str) {
    let mut names = Vec::new();
    patience::comes_true(KNOWN_WITHIN, async || {
        let replicas = scene.operator().status().await.unwrap_or_default().replicas;
        names = replicas.into_iter().map(|replica| replica.name).collect();
        names.len() == REPLICAS
    })
    .await;
    stage.check(
        format_args!("{when}: status lists {REPLICAS} replicas"),
        names.len(),
        names.len() == REPLICAS,
    );
}

async fn creates(scene: &Scene) -> u64 {
    scene.simulator.stats().await.calls.create_task
}

async fn pause(stage: &Stage, scene: &Scene) {
    let issued = Instant::now();
    let operator = scene.operator();
    let watch = async {
        pass(&scene.simulator, issued + FOLLOW).await;
        let after_a_second = creates(scene).await;
        pass(&scene.simulator, issued + FOLLOW * 6).await;
        creates(scene).await - after_a_second
    };
    let (answer, late) = tokio::join!(operator.pause("trial"), watch);
    stage.at_most("createTask later than 1 s after the pause was issued, in 5 s", late, 0);
    tells_all(stage, "pause", &answer);
    jobs_wait(stage, scene, "paused").await;
}

/// Without jobs that could be submitted, no submission would show nothing.
async fn jobs_wait(stage: &Stage, scene: &Scene, when: &str) {
    let queued = scene.lane.waiting().await.jobs;
    stage.check(format_args!("{when}: jobs wait"), queued, queued > 0);
}

fn tells_all(stage: &Stage, verb: &str, answer: &Answer) {
    stage.check(
        format_args!("{verb} tells {REPLICAS} of {REPLICAS} within 1 s"),
        answer.tell(),
        answer.tells_all(REPLICAS) && answer.took <= FOLLOW,
    );
}

/// No submission for a while, and the state is still told.
async fn still_paused(stage: &Stage, scene: &Scene, after: &str) {
    let before = creates(scene).await;
    pass(&scene.simulator, Instant::now() + QUIET).await;
    stage.at_most(format_args!("{after}: createTask in 10 s"), creates(scene).await - before, 0);
    jobs_wait(stage, scene, after).await;
    let paused = scene.operator().status().await.and_then(|status| status.guard.paused);
    let told = paused.as_ref().map_or_else(|| "not paused".to_owned(), ToString::to_string);
    stage.check(format_args!("{after}: status says paused"), told, paused.is_some());
}

async fn restart_fleet(stage: &Stage, scene: &Scene, fleet: &mut Fleet) {
    let stuck = fleet.leave(LEAVE_WITHIN).await;
    stage.check(
        "all leave on SIGTERM",
        if stuck.is_empty() { "all".to_owned() } else { stuck.join(", ") },
        stuck.is_empty(),
    );
    fleet.come_back();
    still_paused(stage, scene, "fleet restarted").await;
    all_known(stage, scene, "fleet restarted").await;
}

async fn restart_broker(stage: &Stage, scene: &mut Scene, node: &mut RabbitNode) {
    // Written to disk by and by only; see `RabbitNode::sync_registry`.
    block_in_place(|| {
        node.sync_registry();
        node.restart();
    });
    scene.lane = scene.lane.reopened().await;
    stage.say("the broker has been killed and started again");
    all_known(stage, scene, "broker restarted").await;
    still_paused(stage, scene, "broker restarted").await;
}

async fn resume(stage: &Stage, scene: &Scene) {
    let before = creates(scene).await;
    let issued = Instant::now();
    let operator = scene.operator();
    let first = patience::until(Duration::from_secs(30), async || {
        (creates(scene).await > before).then(|| issued.elapsed())
    });
    let (answer, first) = tokio::join!(operator.resume(), first);
    tells_all(stage, "resume", &answer);
    let told = first.map_or_else(|| "none in 30 s".to_owned(), patience::seconds);
    stage.note("first createTask after the resume was issued", told);
}
