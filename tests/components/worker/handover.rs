use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use captcha_worker::broker::memory::{BrokerEvent, MessageFate, Observer};
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::SimulatorConfig;
use serde_json::json;

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
    for session in scene.broker.sessions().into_iter().skip(1) {
        scene.broker.drop_session(session);
    }
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
