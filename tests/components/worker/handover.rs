use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use captcha_worker::broker::memory::{BrokerEvent, MessageFate, Observer};
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::SimulatorConfig;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::worker::scene::{Scene, image, within};

#[tokio::test(start_paused = true)]
async fn a_drained_workers_tickets_are_finished_by_the_next_with_the_ids_already_paid() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let first = scene.start();
    scene.publish_images(100, &json!({"solve_ms": 20_000})).await;
    scene.wait_until(30, "all are accepted", || scene.simulator.stats().accepted_tasks == 100).await;
    assert_eq!(first.drain().await.unfinished, 0);
    assert_eq!(scene.broker.queue_len(&scene.names.tickets()), 100);
    let second = scene.start();
    scene.wait_for(&scene.names.results(), 100).await;
    second.drain().await;
    scene.assert_rules_kept(0);
}

/// Tasks whose answers become ready one after the other.
async fn publish_spread(scene: &Scene, count: u64) {
    for n in 0..count {
        let solve_ms = 3_000 + 61 * n;
        let body = image(&format!("slow-{n}-{solve_ms}"), &json!({"solve_ms": solve_ms}));
        scene.publish(body, Properties::default()).await;
    }
}

/// How long each answer of the result queue waited from when it was ready, for tasks that name
/// their solve time in their id.
async fn waits(scene: &Scene, wanted: usize) -> Vec<Duration> {
    let wait = |outcome: &Value| {
        let solve_ms = outcome["id"].as_str().and_then(|id| id.rsplit('-').next()?.parse().ok());
        let took = outcome["times"]["solving_ms"].as_u64().expect("a number");
        Duration::from_millis(took.saturating_sub(solve_ms.expect("a solve time")))
    };
    scene.wait_for(&scene.names.results(), wanted).await.iter().map(wait).collect()
}

#[tokio::test(start_paused = true)]
async fn a_ready_answer_waits_for_a_polite_hand_over_no_longer_than_for_the_spacing() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = scene.start_fleet(3).await;
    publish_spread(&scene, 200).await;
    let polled = || scene.simulator.stats().polls >= 400;
    scene.wait_until(30, "all are polled", polled).await;
    // One after the other, and each before all tickets of the one before it have new owners' polls.
    for _ in 0..2 {
        assert_eq!(fleet.remove(0).drain().await.unfinished, 0);
    }
    let waits = waits(&scene, 200).await;
    let longest = waits.iter().max().expect("some");
    assert!(*longest <= Duration::from_millis(2_500), "{longest:?}");
    fleet.remove(0).drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_dies_while_it_hands_over_costs_the_old_wait_and_no_early_poll() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = scene.start_fleet(2).await;
    publish_spread(&scene, 200).await;
    let polled = || scene.simulator.stats().polls >= 400;
    scene.wait_until(30, "all are polled", polled).await;
    let dying = fleet.remove(0);
    let held = dying.view.in_flight();
    dying.leave();
    scene.wait_until(30, "some are handed over", || (1..held).contains(&dying.view.in_flight())).await;
    dying.crash(&scene);
    let longest = waits(&scene, 200).await.into_iter().max().expect("some");
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&longest), "{longest:?}");
    fleet.remove(0).drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_session_comes_back_two_seconds_after_the_broker_whatever_has_happened_before() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.join().await;
    let back_within_2s = async |scene: &Scene| {
        let since = Instant::now();
        scene.wait_until(30, "it is connected again", || running.view.is_connected()).await;
        assert!(since.elapsed() <= Duration::from_secs(2), "{:?}", since.elapsed());
    };
    // Away for long, and two short sessions in a row after that.
    scene.broker.set_reachable(false);
    drop_replica(&scene);
    tokio::time::advance(Duration::from_secs(120)).await;
    scene.broker.set_reachable(true);
    back_within_2s(&scene).await;
    for _ in 0..2 {
        drop_replica(&scene);
        scene.wait_until(1, "it is lost", || !running.view.is_connected()).await;
        back_within_2s(&scene).await;
    }
    scene.publish_images(5, &json!({})).await;
    scene.wait_for(&scene.names.results(), 5).await;
    running.drain().await;
}

/// Ends the sessions of all but the scene itself.
fn drop_replica(scene: &Scene) {
    for session in scene.broker.sessions().into_iter().skip(1) {
        scene.broker.drop_session(session);
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_under_load_loses_nothing_and_pays_nothing_twice() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(300, &json!({})).await;
    for _ in 0..4 {
        let running = scene.start();
        let before = scene.simulator.stats().accepted_tasks;
        scene
            .wait_until(30, "some are accepted", || scene.simulator.stats().accepted_tasks >= before + 40)
            .await;
        assert_eq!(running.drain().await.unfinished, 0);
    }
    let last = scene.start();
    scene.wait_for(&scene.names.results(), 300).await;
    last.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_cut_connection_in_mid_flight_loses_nothing_and_keeps_the_spacing() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish_images(100, &json!({"solve_ms": 15_000})).await;
    scene.wait_until(30, "all are accepted", || scene.simulator.stats().accepted_tasks == 100).await;
    let open = |scene: &Scene| scene.simulator.stats().polls >= 100;
    scene.wait_until(30, "polls are under way", || open(&scene)).await;
    drop_replica(&scene);
    scene.wait_for(&scene.names.results(), 100).await;
    running.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(5, &json!({})).await;
    scene.broker.set_reachable(false);
    let running = scene.start();
    scene.wait_until(60, "nothing is connected", || !running.view.is_connected()).await;
    scene.broker.set_reachable(true);
    scene.wait_for(&scene.names.results(), 5).await;
    running.drain().await;
}

/// Keeps the confirms of the next tickets back, as a connection does that is about to end.
struct TicketsUnheard(AtomicUsize);

impl Observer for TicketsUnheard {
    fn saw(&self, event: &BrokerEvent<'_>) -> MessageFate {
        let is_ticket =
            matches!(event, BrokerEvent::Published { routing_key, .. } if routing_key.ends_with(".tickets"));
        let left = self.0.load(Ordering::Relaxed);
        if !is_ticket || left == 0 {
            return MessageFate::Usual;
        }
        self.0.store(left - 1, Ordering::Relaxed);
        MessageFate::Unconfirmed
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_costs_a_lone_replica_no_second_payment_and_no_second_outcome() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.join().await;
    scene.publish_images(5, &json!({})).await;
    scene.wait_for(&scene.names.results(), 5).await;
    // The tickets of these are stored, but nobody learns of it; then the connection ends, and the
    // broker returns the jobs.
    for n in 0..8 {
        scene
            .publish(image(&format!("unheard-{n}"), &json!({"solve_ms": 9_000})), Properties::default())
            .await;
    }
    let session = scene.broker.sessions().into_iter().nth(1).expect("the replica's");
    scene.broker.set_observer(Arc::new(TicketsUnheard(AtomicUsize::new(8))));
    let tickets = scene.names.tickets();
    scene.wait_until(5, "all have tickets", || scene.broker.queue_total(&tickets) == 8).await;
    scene.broker.drop_session(session);
    scene.wait_for(&scene.names.results(), 13).await;
    scene.wait_until(60, "nothing is in hand", || running.view.in_flight() == 0).await;
    assert_eq!(scene.broker.queue_len(&scene.names.results()), 13, "each has one outcome");
    // Each job once, and the second of two tickets of each task.
    assert_eq!(running.view.reading().recognised, 16);
    running.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_paid_answer_that_nobody_takes_is_kept_before_a_replica_leaves() {
    let scene = Scene::with_room_for_results(SimulatorConfig::default(), 1).await;
    scene.publish_images(5, &json!({})).await;
    let running = scene.start();
    scene.wait_until(30, "all are answered", || scene.simulator.stats().answered_ready == 5).await;
    let polls = scene.simulator.stats().polls;
    assert_eq!(running.drain().await.unfinished, 0);
    assert!(scene.broker.queue_len(&scene.names.tickets()) >= 3, "kept on the ticket queue");
    let mut results = scene.consume(&scene.names.results()).await;
    let next = scene.start();
    for _ in 0..5 {
        within(60, results.recv()).await.expect("an outcome").receipt.ack().expect("live");
    }
    next.drain().await;
    assert_eq!(scene.simulator.stats().polls, polls, "nothing is asked for again");
}
