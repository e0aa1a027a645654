use captcha_worker::simulator::SimulatorConfig;
use serde_json::json;

use crate::scene::Scene;

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
