//! The API's callbacks: they bring a poll forward, and change nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use captcha_worker::domain::callback::CallbackToken;
use captcha_worker::domain::message::Properties;
use captcha_worker::domain::poll_schedule::PollMode;
use captcha_worker::simulator::{Control, Distribution, SimulatorConfig};
use captcha_worker::worker::WorkerHandle;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Running, Scene, drain_all, image};

const URL: &str = "https://callbacks.test";

/// Replicas with callbacks, of which one after another is called; with `of`, that one alone.
async fn called(scene: &Scene, replicas: usize, of: Option<usize>) -> Vec<Running> {
    let fleet = scene.start_fleet(replicas).await;
    let views: Arc<Vec<WorkerHandle>> = Arc::new(fleet.iter().map(|one| one.view.clone()).collect());
    let turn = AtomicUsize::new(0);
    scene.simulator.on_callback(Box::new(move |callback| {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let asked = &views[of.unwrap_or(turn) % views.len()];
        let token = callback.url.rsplit('/').next().and_then(CallbackToken::parse);
        assert!(token.is_some() && callback.url.starts_with(URL), "{}", callback.url);
        asked.callbacks().receive(token);
        Box::pin(std::future::ready(true))
    }));
    fleet
}

async fn scene() -> Scene {
    let config = SimulatorConfig { latency_ms: Distribution::Fixed(5), ..SimulatorConfig::default() };
    let mut scene = Scene::new(config).await;
    scene.callbacks = Some(URL);
    // Tasks of one type take as long as a test wants.
    scene.rules.polling.mode = PollMode::Fixed;
    scene
}

/// The first job is the canary, which goes without a callback, and the windows on calls open with
/// the next ones.
async fn warm_up(scene: &Scene) {
    for n in 0..WARM {
        scene.publish(image(&format!("warm-{n}"), &json!({"solve_ms": 100})), Properties::default()).await;
    }
    scene.wait_for(&scene.names.results(), WARM).await;
}

const WARM: usize = 100;

/// How long answers were ready, in ms, when they were read.
fn waits(outcomes: &[Value], solve_ms: i64) -> Vec<i64> {
    let solving = |outcome: &Value| outcome["times"]["solving_ms"].as_i64().expect("it was solved");
    outcomes.iter().map(|outcome| solving(outcome) - solve_ms).collect()
}

#[tokio::test(start_paused = true)]
async fn a_callback_brings_the_one_poll_whichever_replica_is_called() {
    for (replicas, of) in [(1, None), (3, None), (2, Some(0))] {
        let scene = scene().await;
        let fleet = called(&scene, replicas, of).await;
        warm_up(&scene).await;
        scene.publish_images(100, &json!({"solve_ms": 3_300})).await;
        let outcomes = scene.wait_for(&scene.names.results(), WARM + 100).await;
        let waits = waits(&outcomes[WARM..], 3_300);
        assert!(waits.iter().all(|wait| (0..=50).contains(wait)), "{replicas} replicas: {waits:?}");
        let stats = scene.simulator.stats();
        let woke: u64 = fleet.iter().map(|one| one.view.callbacks().counts().woke).sum();
        let all = WARM as u64 + 100;
        assert_eq!((stats.polls, stats.callbacks.asked, woke), (all, all - 1, all - 1));
        drain_all(fleet).await;
        scene.assert_rules_kept(0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_callback_that_comes_before_create_task_is_answered_is_not_lost() {
    let slow = Distribution::Fixed(400);
    let mut scene = Scene::new(SimulatorConfig { latency_ms: slow, ..SimulatorConfig::default() }).await;
    scene.callbacks = Some(URL);
    let fleet = called(&scene, 2, None).await;
    warm_up(&scene).await;
    scene.publish_images(20, &json!({"solve_ms": 100})).await;
    let outcomes = scene.wait_for(&scene.names.results(), WARM + 20).await;
    // createTask's answer, and that of the poll.
    let waits = waits(&outcomes[WARM..], 400 + 400);
    assert!(waits.iter().all(|wait| (0..=50).contains(wait)), "{waits:?}");
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_callback_at_any_moment_and_any_number_of_them_break_no_rule() {
    let scene = scene().await;
    let fleet = called(&scene, 2, None).await;
    let scripts = [
        json!({"solve_ms": 9_000, "callback": "wrong_task"}),
        json!({"solve_ms": 4_000, "callback": "twice"}),
        json!({"solve_ms": 6_000, "callback": {"late_ms": 3_000}}),
        // It comes, and the task is not ready yet.
        json!({"solve_ms": 2_000, "result": ["processing", "processing", "ok"]}),
        json!({"solve_ms": 2_500, "result": ["processing", {"http": 502}, "ERROR_TOO_MUCH_REQUESTS", "ok"]}),
        json!({"solve_ms": 2_500, "create": ["ok"], "result": ["ERROR_CAPTCHA_UNSOLVABLE"], "submissions": 1}),
    ];
    for n in 0..120 {
        scene.publish(image(&format!("job-{n}"), &scripts[n % 6]), Properties::default()).await;
    }
    scene.wait_for(&scene.names.results(), 120).await;
    drain_all(fleet).await;
    scene.assert_rules_kept(20);
}

fn off(running: &Running) -> Option<String> {
    running.view.callbacks().status(running.view.now()).expect("it has an address").reason
}

#[tokio::test(start_paused = true)]
async fn callbacks_that_do_not_come_are_left_off_for_ten_minutes() {
    let scene = scene().await;
    let fleet = called(&scene, 1, None).await;
    scene.publish_images(30, &json!({"solve_ms": 3_000, "callback": "never"})).await;
    scene.wait_for(&scene.names.results(), 30).await;
    assert!(off(&fleet[0]).expect("off").contains("without their callbacks"));
    let asked = scene.simulator.stats().callbacks.asked;
    for n in 0..10 {
        scene.publish(image(&format!("later-{n}"), &json!({"solve_ms": 1_500})), Properties::default()).await;
    }
    let outcomes = scene.wait_for(&scene.names.results(), 40).await;
    assert_eq!(scene.simulator.stats().callbacks.asked, asked, "the API is asked for none");
    // As without callbacks: polls 1 and 3 s after the acceptance.
    assert!(waits(&outcomes[30..], 1_500).iter().all(|wait| (1_400..=1_700).contains(wait)));
    sleep_until(Instant::now() + Duration::from_secs(600)).await;
    assert_eq!(off(&fleet[0]), None);
    // A few of them try whether callbacks come again.
    for n in 0..40 {
        scene.publish(image(&format!("again-{n}"), &json!({})), Properties::default()).await;
    }
    scene.wait_for(&scene.names.results(), 80).await;
    let tries = scene.simulator.stats().callbacks.asked - asked;
    assert!((1..=12).contains(&tries), "{tries} of 40 ask");
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn tasks_that_await_their_callback_when_callbacks_are_turned_off_are_polled_as_without() {
    let scene = scene().await;
    let fleet = called(&scene, 1, None).await;
    warm_up(&scene).await;
    // The first poll without a callback is made 5 s after the acceptance. Those of the first 20
    // tasks turn callbacks off, a second after the next 20 were accepted.
    let never = |solve_ms: u32| json!({"solve_ms": solve_ms, "callback": "never"});
    scene.publish_images(20, &never(3_000)).await;
    sleep_until(Instant::now() + Duration::from_secs(4)).await;
    for n in 0..20 {
        scene.publish(image(&format!("next-{n}"), &never(500)), Properties::default()).await;
    }
    scene.wait_until(3, "callbacks are off", || off(&fleet[0]).is_some()).await;
    let outcomes = scene.wait_for(&scene.names.results(), WARM + 40).await;
    let is_next = |outcome: &&Value| outcome["id"].as_str().is_some_and(|id| id.starts_with("next"));
    let next: Vec<Value> = outcomes.iter().filter(is_next).cloned().collect();
    // The second, and at most the spacing of polls, over which those that are overdue are spread.
    let waits = waits(&next, 500);
    assert!(waits.len() == 20 && waits.iter().all(|wait| (400..=2_700).contains(wait)), "{waits:?}");
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_refused_for_their_callback_are_submitted_without_and_lose_nothing() {
    let mut scene = scene().await;
    scene.rules.transient_timeout = Duration::ZERO;
    let refuse = |refuse| Control { refuse_callbacks: Some(refuse), ..Control::default() };
    let fleet = called(&scene, 1, None).await;
    scene.publish(image("first", &json!({})), Properties::default()).await;
    scene.wait_for(&scene.names.results(), 1).await;
    scene.simulator.control(&refuse(true)).expect("applied");
    scene.publish_images(50, &json!({"solve_ms": 500})).await;
    scene.wait_for(&scene.names.results(), 51).await;
    assert!(off(&fleet[0]).expect("off").contains("createTask refuses"));
    let reading = fleet[0].view.reading();
    assert_eq!((reading.failed, reading.retried), (0, 0));
    // Those that were in flight together.
    assert!(scene.simulator.stats().callbacks.refused <= 16, "{:?}", scene.simulator.stats());
    scene.simulator.control(&refuse(false)).expect("applied");
    sleep_until(Instant::now() + Duration::from_secs(600)).await;
    scene.publish(image("again", &json!({})), Properties::default()).await;
    scene.wait_for(&scene.names.results(), 52).await;
    assert_eq!(scene.simulator.stats().callbacks.asked, 1, "the last job; the first was the canary");
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn an_api_that_is_down_does_not_turn_callbacks_off_and_is_called_no_more_often_for_them() {
    let with = calls_in_an_outage(Some(URL)).await;
    let without = calls_in_an_outage(None).await;
    // Those that are under way when the first is refused are submitted again without a callback.
    // After that the guard lets few through.
    assert!(with <= without + 16, "{with} calls with callbacks, {without} without");
}

/// How often createTask is called until 40 jobs are accepted, after it has failed for 4 minutes.
async fn calls_in_an_outage(callbacks: Option<&'static str>) -> u64 {
    let mut scene = scene().await;
    scene.callbacks = callbacks;
    let fleet = called(&scene, 1, None).await;
    warm_up(&scene).await;
    let down = json!([{"of": "create_task", "answer": "ERROR_SERVICE_NOT_AVAILABLE", "for_ms": 240_000}]);
    let control = Control { outages: serde_json::from_value(down).expect("outages"), ..Control::default() };
    scene.simulator.control(&control).expect("applied");
    scene.publish_images(40, &json!({})).await;
    scene.wait_for(&scene.names.results(), WARM + 40).await;
    assert!(callbacks.is_none() || off(&fleet[0]).is_none());
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
    scene.simulator.stats().calls.create_task - u64::try_from(WARM).expect("a count")
}

#[tokio::test(start_paused = true)]
async fn replicas_with_and_without_callbacks_finish_each_others_tickets() {
    let mut scene = scene().await;
    for callbacks in [Some(URL), None, Some(URL)] {
        scene.callbacks = callbacks;
        let before = scene.simulator.stats().accepted_tasks;
        let running = scene.join().await;
        for n in 0..20 {
            let id = format!("job-{before}-{n}");
            scene.publish(image(&id, &json!({"solve_ms": 4_000})), Properties::default()).await;
        }
        let accepted = || scene.simulator.stats().accepted_tasks;
        scene.wait_until(30, "all are accepted", || accepted() == before + 20).await;
        assert_eq!(running.drain().await.unfinished, 0);
    }
    let last = scene.join().await;
    scene.wait_for(&scene.names.results(), 60).await;
    last.drain().await;
    scene.assert_rules_kept(0);
}

/// The mean wait of some hundred answers that come one after another, in ms.
async fn mean_wait(callbacks: Option<&'static str>, script: &Value) -> i64 {
    let mut scene = scene().await;
    scene.callbacks = callbacks;
    let fleet = called(&scene, 1, None).await;
    let mut pace = tokio::time::interval(Duration::from_millis(200));
    let jobs = 600;
    for n in 0..jobs {
        pace.tick().await;
        // Between 1 and 4.9 s, each as often as the others.
        let mut script = script.clone();
        script["solve_ms"] = json!(1_000 + n * 2_003 % 3_900);
        script["callback"] = if n % 2 == 0 { json!("once") } else { script["callback"].clone() };
        scene.publish(image(&format!("job-{n}"), &script), Properties::default()).await;
    }
    let outcomes = scene.wait_for(&scene.names.results(), jobs).await;
    let of = |outcome: &Value| {
        let n: usize = outcome["id"].as_str().expect("an id")[4..].parse().expect("a number");
        waits(std::slice::from_ref(outcome), (1_000 + n * 2_003 % 3_900) as i64)[0]
    };
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
    outcomes.iter().map(of).sum::<i64>() / outcomes.len() as i64
}

#[tokio::test(start_paused = true)]
async fn with_half_of_the_callbacks_lost_answers_wait_no_longer_than_without_callbacks() {
    let without = mean_wait(None, &json!({"callback": "never"})).await;
    let half_lost = mean_wait(Some(URL), &json!({"callback": "never"})).await;
    let all = mean_wait(Some(URL), &json!({"callback": "once"})).await;
    println!("mean wait in ms: without callbacks {without}, half of them lost {half_lost}, all {all}");
    assert!(half_lost <= without && all <= 50, "without {without}, half lost {half_lost}, all {all}");
}
