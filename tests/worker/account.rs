use captcha_worker::domain::class::Class;
use captcha_worker::domain::guard::{Guard, Reason};
use captcha_worker::simulator::{BanRule, SimulatorConfig};
use serde_json::json;

use crate::scene::{Running, Scene};

fn reason(running: &Running) -> Option<Reason> {
    match running.view.guard() {
        Guard::Tripped { reason, .. } => Some(reason),
        Guard::Open => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_key_costs_one_call_and_one_job_and_the_rest_stays_queued() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.key = "not-the-key";
    scene.publish_images(50, &json!({})).await;
    let running = scene.start();
    scene.wait_for(&scene.names.dead(Class::Account), 1).await;
    scene.wait_until(10, "the rest is back", || scene.broker.queue_len(&scene.names.jobs()) == 49).await;
    assert_eq!(reason(&running), Some(Reason::KeyInvalid));
    let stats = scene.simulator.stats();
    assert_eq!((stats.bad_key_calls, stats.bans), (1, 0));
    assert_eq!(running.drain().await.unfinished, 0);
}

/// Calls that are under way together when the account is first refused are each an offence; how many there may be is a matter of the
/// fleet's guard. Here it is what comes after them that counts.
fn without_bans() -> SimulatorConfig {
    let ban = BanRule { offences: 0, ..BanRule::default() };
    SimulatorConfig { ban, ..SimulatorConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn a_key_revoked_in_mid_run_loses_nothing_that_is_paid() {
    let scene = Scene::new(without_bans()).await;
    scene.publish_images(40, &json!({"solve_ms": 8_000})).await;
    let running = scene.start();
    scene.wait_until(30, "all are accepted", || scene.simulator.stats().accepted_tasks == 40).await;
    scene.simulator.set_key_valid(false);
    scene.wait_until(30, "the guard trips", || reason(&running) == Some(Reason::KeyInvalid)).await;
    scene
        .wait_until(30, "the tickets are back", || scene.broker.queue_len(&scene.names.tickets()) == 40)
        .await;
    assert_eq!(scene.simulator.stats().late_calls, 0);
    assert_eq!(running.drain().await.unfinished, 0);

    scene.simulator.set_key_valid(true);
    let restarted = scene.start();
    scene.wait_for(&scene.names.results(), 40).await;
    restarted.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn without_funds_paid_tasks_are_finished_and_jobs_stay_queued() {
    let config = SimulatorConfig { balance: 0.010, ..without_bans() };
    let scene = Scene::new(config).await;
    scene.publish_images(30, &json!({"solve_ms": 5_000})).await;
    let running = scene.start();
    scene.wait_for(&scene.names.results(), 10).await;
    assert_eq!(reason(&running), Some(Reason::NoFunds));
    scene.wait_until(10, "the rest is back", || scene.broker.queue_len(&scene.names.jobs()) == 20).await;
    running.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_banned_address_sends_nothing_more() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(20, &json!({"create": ["ERROR_IP_BANNED"]})).await;
    let running = scene.start();
    scene.wait_until(10, "the guard trips", || reason(&running) == Some(Reason::IpBanned)).await;
    scene.wait_until(10, "all are back", || scene.broker.queue_len(&scene.names.jobs()) == 20).await;
    assert_eq!(scene.simulator.stats().calls.create_task, 1);
    running.drain().await;
}
