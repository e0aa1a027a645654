use std::sync::atomic::Ordering;
use std::time::Duration;

use captcha_worker::domain::guard::{Phase, Reason};
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::{BanRule, Control, SimulatorConfig, Storm};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Scene, image};

#[tokio::test(start_paused = true)]
async fn a_wrong_key_costs_one_call_and_no_job() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.key = "not-the-key";
    scene.publish_images(50, &json!({})).await;
    let running = scene.start();
    scene.wait_until(10, "the guard trips", || running.reason() == Some(Reason::KeyInvalid)).await;
    let stats = scene.simulator.stats();
    assert_eq!((stats.calls.get_balance, stats.calls.create_task, stats.bans), (1, 0, 0));
    assert_eq!(scene.broker.queue_len(&scene.names.jobs()), 50);
    assert_eq!(running.drain().await.unfinished, 0);
}

/// Calls that are under way together when the account is first refused are each an offence; how
/// many there are is a matter of `solver.max_calls_per_second`. Here it is what comes after them
/// that counts.
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
    scene.wait_until(30, "the guard trips", || running.reason() == Some(Reason::KeyInvalid)).await;
    assert_eq!(running.view.in_flight(), 40, "the tickets are kept");
    scene.simulator.set_key_valid(true);
    scene.wait_for(&scene.names.results(), 40).await;
    assert_eq!(scene.simulator.stats().late_calls, 0);
    assert_eq!(running.reason(), None, "the leader has looked by itself");
    assert_eq!(running.drain().await.unfinished, 0);
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_shows_nothing_is_followed_by_the_next_after_a_pause() {
    // An API that wants fewer calls, with and without saying for how long, and one that answers an
    // unknown code.
    let answers = [
        (json!({"http": 429, "retry_after": 20}), 3),
        (json!({"http": 429}), 62),
        (json!("ERROR_NEW_IN_THIS_VERSION"), 62),
    ];
    for (answer, at_most) in answers {
        let scene = Scene::new(SimulatorConfig::default()).await;
        let outage = json!([{"of": "create_task", "answer": answer, "for_ms": 60_000}]);
        let outages = serde_json::from_value(outage).expect("outages");
        scene.simulator.control(&Control { outages, ..Control::default() }).expect("applied");
        scene.publish_images(200, &json!({})).await;
        let running = scene.start();
        sleep_until(Instant::now() + Duration::from_secs(59)).await;
        let calls = scene.simulator.stats().calls.create_task;
        assert!((1..=at_most).contains(&calls), "{calls} calls within a minute of {answer}");
        scene.wait_for(&scene.names.results(), 200).await;
        running.drain().await;
        scene.assert_rules_kept(0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_funds_paid_tasks_are_finished_and_jobs_stay_queued_until_there_are_some() {
    let config = SimulatorConfig { balance: 0.010, ..without_bans() };
    let scene = Scene::new(config).await;
    scene.publish_images(30, &json!({"solve_ms": 5_000})).await;
    let running = scene.start();
    scene.wait_for(&scene.names.results(), 10).await;
    assert_eq!(running.reason(), Some(Reason::NoFunds));
    scene.wait_until(10, "the rest is back", || scene.broker.queue_len(&scene.names.jobs()) == 20).await;
    scene.simulator.set_balance(1.0).expect("an amount");
    scene.wait_for(&scene.names.results(), 30).await;
    running.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_banned_address_sends_nothing_more_until_the_ban_is_over() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(1, &json!({"create": ["ERROR_IP_BANNED", "ok"]})).await;
    let running = scene.start();
    scene.wait_until(10, "the guard trips", || running.reason() == Some(Reason::IpBanned)).await;
    let before = scene.simulator.stats().calls;
    let mut seen = running.view.watch();
    let waited = tokio::time::timeout(
        std::time::Duration::from_secs(599),
        seen.wait_for(|seen| seen.state.as_ref().is_some_and(|state| state.phase != Phase::Tripped)),
    );
    assert!(waited.await.is_err(), "nothing is tried within 10 minutes");
    assert_eq!(scene.simulator.stats().calls, before);
    scene.wait_for(&scene.names.results(), 1).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_ban_that_outlasts_the_first_look_is_looked_at_again_and_over_in_time() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(1, &json!({"create": ["ERROR_IP_BANNED", "ok"]})).await;
    let running = scene.start();
    scene.wait_until(10, "the guard trips", || running.reason() == Some(Reason::IpBanned)).await;
    let ban = Control { ban_seconds: Some(900), ..Control::default() };
    scene.simulator.control(&ban).expect("a sound order");
    // A look after 10.5 minutes, which the ban has outlasted, and the next one 21 minutes later.
    scene.wait_until(2_400, "its answer", || scene.broker.queue_len(&scene.names.results()) == 1).await;
    let calls = scene.simulator.stats().calls;
    assert_eq!(calls.get_balance, 3, "one at the start, and two looks");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn work_goes_on_while_the_balance_alone_is_not_reported() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish_images(1, &json!({})).await;
    scene.wait_for(&scene.names.results(), 1).await;
    scene.without_balance.store(true, Ordering::Relaxed);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((running.reason(), running.phase()), (None, Some(Phase::Active)));
    }
    scene.publish_images(20, &json!({})).await;
    scene.wait_for(&scene.names.results(), 21).await;
    assert_eq!(running.drain().await.unfinished, 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_open_fleet_notices_a_dead_api_with_its_first_jobs_and_loses_none_of_them() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish_images(1, &json!({})).await;
    scene.wait_for(&scene.names.results(), 1).await;
    let storm = Storm { status: 503, until_seconds: 1_200, retry_after: None };
    scene.simulator.control(&Control { storm: Some(storm), ..Control::default() }).expect("applied");
    // The balance is asked for meanwhile; that it is not reported raises no suspicion.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((running.reason(), running.phase()), (None, Some(Phase::Active)));
    for n in 0..40 {
        scene.publish(image(&format!("late-{n}"), &json!({})), Properties::default()).await;
    }
    scene.wait_until(60, "the guard trips", || running.reason() == Some(Reason::ProviderDown)).await;
    scene
        .wait_until(1_200, "every job is solved", || scene.broker.queue_len(&scene.names.results()) == 41)
        .await;
    assert_eq!(running.drain().await.unfinished, 0);
    scene.assert_rules_kept(0);
}
