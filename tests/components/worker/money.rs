use captcha_worker::domain::class::Class;
use captcha_worker::domain::guard::Reason;
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::{Control, SimulatorConfig};
use serde_json::{Value, json};

use crate::worker::scene::{Scene, drain_all, image};

fn code(outcome: &Value) -> &str {
    outcome["failure"]["code"].as_str().unwrap_or("-")
}

/// A job that names a proxy of its publisher's.
fn through_proxy(id: &str, port: u16, script: &Value) -> String {
    json!({"id": id, "task": {
        "type": "HCaptchaTask", "websiteURL": format!("https://example.com/{id}"), "websiteKey": "k",
        "proxyType": "http", "proxyAddress": "Proxy.example", "proxyPort": port, "_sim": script,
    }})
    .to_string()
}

#[tokio::test(start_paused = true)]
async fn a_banned_proxy_is_left_alone_by_the_whole_fleet_for_ten_minutes() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = scene.start_fleet(3).await;
    let banned = json!({"create": ["ERROR_PROXY_BANNED"]});
    scene.publish(through_proxy("first", 8080, &banned), Properties::default()).await;
    let dead = scene.names.dead(Class::Proxy);
    scene.wait_for(&dead, 1).await;
    scene
        .wait_until(5, "all know", || {
            fleet
                .iter()
                .all(|running| running.view.seen().state.is_some_and(|state| state.quarantine.len() == 1))
        })
        .await;
    let calls = scene.simulator.stats().calls.create_task;
    for n in 0..6 {
        scene.publish(through_proxy(&format!("same-{n}"), 8080, &json!({})), Properties::default()).await;
    }
    scene.publish(through_proxy("another", 8081, &json!({})), Properties::default()).await;
    let outcomes = scene.wait_for(&dead, 7).await;
    assert!(outcomes[1..].iter().all(|outcome| code(outcome) == "PROXY_QUARANTINED"), "{outcomes:?}");
    scene.wait_for(&scene.names.results(), 1).await;
    assert_eq!(scene.simulator.stats().calls.create_task, calls + 1, "the other proxy's job alone");
    assert_eq!(scene.simulator.stats().offences, 0);
    let marks = format!("{:?}", fleet[0].view.seen());
    assert!(!marks.to_lowercase().contains("proxy.example"), "it is shown by its mark alone: {marks}");

    let later = tokio::time::Instant::now() + std::time::Duration::from_secs(601);
    tokio::time::sleep_until(later).await;
    // The simulator keeps a banned proxy banned until it is pardoned.
    scene.simulator.control(&Control { ban_seconds: Some(0), ..Control::default() }).expect("applied");
    scene.publish(through_proxy("later", 8080, &json!({})), Properties::default()).await;
    scene.wait_for(&scene.names.results(), 2).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_no_answer_has_ever_met_is_refused_unpaid() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    let hurried = |id: &str, now: &captcha_worker::domain::time::Timestamp| {
        let deadline = now.plus(std::time::Duration::from_secs(3));
        image(id, &json!({"solve_ms": 5_000})).replacen('{', &format!(r#"{{"deadline":"{deadline}","#), 1)
    };
    scene.publish(hurried("before", &scene.now()), Properties::default()).await;
    scene.wait_for(&scene.names.dead(Class::Expired), 1).await;
    assert_eq!(scene.simulator.stats().accepted_tasks, 1, "nothing is learned yet: it was tried");

    scene.publish_images(60, &json!({"solve_ms": 5_000})).await;
    scene.wait_for(&scene.names.results(), 60).await;
    scene.publish(hurried("after", &scene.now()), Properties::default()).await;
    let expired = scene.wait_for(&scene.names.dead(Class::Expired), 2).await;
    assert_eq!(code(&expired[1]), "DEADLINE_UNREACHABLE");
    assert_eq!(scene.simulator.stats().accepted_tasks, 61, "unpaid");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_guard_trips_before_the_api_says_no() {
    let mut scene = Scene::new(SimulatorConfig { balance: 0.5, ..SimulatorConfig::default() }).await;
    scene.guard.min_balance = captcha_worker::domain::money::Decimal::new(1, 1);
    scene.limits.max_calls_per_second = std::num::NonZeroU32::new(20);
    scene.publish_images(1_000, &json!({})).await;
    let running = scene.start();
    scene.wait_until(600, "it trips", || running.reason() == Some(Reason::NoFunds)).await;
    let stats = scene.simulator.stats();
    assert_eq!((stats.offences, stats.refused.get("ERROR_ZERO_BALANCE")), (0, None), "{stats:?}");
    scene.simulator.set_balance(5.0).expect("an amount");
    scene.wait_for(&scene.names.results(), 1_000).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn three_forgotten_ids_within_a_minute_stop_the_polls_before_they_earn_a_ban() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish_images(1, &json!({})).await;
    scene.wait_for(&scene.names.results(), 1).await;
    for n in 0..3 {
        let script = json!({"result": ["ERROR_NO_SUCH_CAPCHA_ID", "ok"]});
        scene.publish(image(&format!("forgotten-{n}"), &script), Properties::default()).await;
    }
    scene.wait_until(10, "it trips", || running.reason() == Some(Reason::WrongIds)).await;
    let polls = scene.simulator.stats().calls.get_task_result;
    scene.publish_images(10, &json!({})).await;
    let later = tokio::time::Instant::now() + std::time::Duration::from_secs(55);
    tokio::time::sleep_until(later).await;
    assert_eq!(scene.simulator.stats().calls.get_task_result, polls);
    scene.wait_for(&scene.names.results(), 11).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn payments_waste_and_second_payments_are_counted() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish(image("good", &json!({})), Properties::default()).await;
    scene
        .publish(image("unsolved", &json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"]})), Properties::default())
        .await;
    scene.publish(image("cut", &json!({"create": ["accepted_then_cut", "ok"]})), Properties::default()).await;
    scene.publish(image("stale", &json!({"result": ["ERROR_TOKEN_EXPIRED"]})), Properties::default()).await;
    scene.wait_for(&scene.names.results(), 2).await;
    scene.wait_for(&scene.names.dead(Class::Unsolved), 1).await;
    scene.wait_for(&scene.names.dead(Class::Expired), 1).await;
    let reading = running.view.reading();
    assert_eq!((reading.accepted, reading.spent["ImageToTextTask"].accepted), (5, 5));
    assert_eq!((reading.wasted.get("unsolved"), reading.wasted.get("expired")), (Some(&2), Some(&1)));
    assert_eq!((reading.paid_twice_possible["a"], reading.paid_twice_possible["g"]), (1, 1));
    let cost = reading.spent["ImageToTextTask"].cost().to_string();
    assert_eq!(cost, "0.002", "two answers, as the API reports their price");
    running.drain().await;
}
