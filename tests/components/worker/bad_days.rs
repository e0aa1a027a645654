//! Trouble costs the jobs that it hits, and no others.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::domain::class::Class;
use captcha_worker::domain::guard::{Phase, Reason};
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::{Control, SimulatorConfig};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::worker::scene::{Running, Scene, drain_all, image};

/// An answer of a firewall before the API.
fn page(status: u16) -> Value {
    json!({"http": status, "body": "<html>denied</html>", "content_type": "text/html"})
}

fn control(scene: &Scene, changes: &Value) {
    let control: Control = serde_json::from_value(changes.clone()).expect("a control");
    scene.simulator.control(&control).expect("applied");
}

fn outage(scene: &Scene, of: &str, answer: &Value, seconds: u64) {
    control(scene, &json!({"outages": [{"of": of, "answer": answer, "for_ms": seconds * 1_000}]}));
}

/// Publishes so many images, so many a second; each with the script that its number gets.
async fn offer(scene: &Scene, jobs: usize, per_second: u32, script: impl Fn(usize) -> Value) {
    let mut turns = interval(Duration::from_secs(1) / per_second);
    turns.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for number in 0..jobs {
        turns.tick().await;
        scene.publish(image(&format!("job-{number}"), &script(number)), Properties::default()).await;
    }
}

fn dead(scene: &Scene) -> BTreeMap<&'static str, usize> {
    let lens = Class::finals().map(|class| (class.name(), scene.broker.queue_len(&scene.names.dead(class))));
    lens.filter(|(_, len)| *len > 0).collect()
}

fn solved(scene: &Scene) -> usize {
    scene.broker.queue_len(&scene.names.results())
}

/// The state keeps the memory of a trip that is over.
fn never_tripped(fleet: &[Running]) -> bool {
    fleet.iter().all(|running| running.view.seen().state.is_some_and(|state| state.trip.is_none()))
}

async fn until(at: Instant) {
    sleep_until(at).await;
}

/// Replicas that know that the account may be used.
async fn fleet(scene: &Scene, replicas: usize) -> Vec<Running> {
    let fleet = scene.start_fleet(replicas).await;
    scene.publish(image("warm-up", &json!({})), Properties::default()).await;
    scene.wait_for(&scene.names.results(), 1).await;
    let open = |running: &Running| running.phase() == Some(Phase::Active);
    scene.wait_until(10, "all may work", || fleet.iter().all(open)).await;
    fleet
}

#[tokio::test(start_paused = true)]
async fn a_service_that_loses_a_tenth_of_its_tasks_costs_one_call_and_one_resubmission_for_each_and_stops_nobody()
 {
    for one_in in [200, 50, 10] {
        let scene = Scene::new(SimulatorConfig::default()).await;
        let fleet = fleet(&scene, 2).await;
        let began = Instant::now();
        let lost = |number| match number % one_in {
            0 => json!({"result": ["forget"], "submissions": 1}),
            _ => json!({}),
        };
        offer(&scene, 1_000, 100, lost).await;
        scene.wait_for(&scene.names.results(), 1_001).await;
        assert!(began.elapsed() < Duration::from_secs(20), "one in {one_in}: {:?}", began.elapsed());
        let stats = scene.simulator.stats();
        let expected = 1_000 / one_in as u64;
        assert_eq!((stats.forgotten_tasks, stats.wrong_id_calls), (expected, expected), "{stats:?}");
        assert_eq!((stats.repeated_submissions, stats.bans), (expected, 0), "{stats:?}");
        assert!(never_tripped(&fleet), "one in {one_in}");
        assert_eq!(dead(&scene), BTreeMap::new());
        drain_all(fleet).await;
    }
}

/// The API forgets every task in an outage, while so many jobs a second go on being published, if
/// any.
async fn forgotten(per_second: Option<u32>) {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = fleet(&scene, 4).await;
    // Their answers take longer than the outage, so that all are open when it ends.
    offer(&scene, 400, 100, |_| json!({"solve_ms": 40_000, "submissions": 1})).await;
    scene.wait_until(10, "all are open", || scene.simulator.stats().tasks_open >= 400).await;
    outage(&scene, "all", &json!({"http": 503}), 5);
    let load = async {
        let Some(per_second) = per_second else { return 0 };
        let mut turns = interval(Duration::from_secs(1) / per_second);
        for number in 0..600 {
            turns.tick().await;
            scene.publish(image(&format!("new-{number}"), &json!({})), Properties::default()).await;
        }
        600
    };
    let judged = async {
        // What it answers in the outage is not its own word, and the end of it is when it has
        // forgotten them.
        until(Instant::now() + Duration::from_millis(4_990)).await;
        control(&scene, &json!({"forget_tasks": true}));
        scene.wait_until(60, "it trips", || fleet[0].reason() == Some(Reason::WrongIds)).await;
        scene.simulator.stats().wrong_id_calls
    };
    let (published, wrong_ids) = tokio::join!(load, judged);
    assert!((3..=4).contains(&wrong_ids), "{wrong_ids} calls with ids that it has forgotten");
    scene.wait_for(&scene.names.results(), 401 + published).await;
    let stats = scene.simulator.stats();
    assert_eq!((stats.bans, stats.repeated_wrong_ids), (0, 0), "{stats:?}");
    assert!(stats.wrong_id_calls <= 10, "{} calls with ids that it has forgotten", stats.wrong_id_calls);
    assert_eq!(dead(&scene), BTreeMap::new());
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_has_forgotten_everything_is_asked_four_times_and_every_job_ends() {
    forgotten(None).await;
    forgotten(Some(20)).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_forgets_everything_among_good_answers_is_asked_four_times_before_the_fleet_stops() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = fleet(&scene, 4).await;
    offer(&scene, 400, 100, |_| json!({"solve_ms": 50_000, "submissions": 1})).await;
    scene.wait_until(10, "all are open", || scene.simulator.stats().tasks_open >= 400).await;
    // Thousands of good answers within the minute before.
    until(Instant::now() + Duration::from_secs(30)).await;
    control(&scene, &json!({"forget_tasks": true}));
    scene.wait_until(10, "one is asked for", || scene.simulator.stats().wrong_id_calls > 0).await;
    // After the fourth in a row a replica waits for 2 s.
    until(Instant::now() + Duration::from_millis(1_900)).await;
    let asked = scene.simulator.stats().wrong_id_calls;
    assert!(asked <= 4, "{asked} calls with ids that it has forgotten");
    scene.wait_until(20, "it trips", || fleet[0].reason() == Some(Reason::WrongIds)).await;
    scene.wait_for(&scene.names.results(), 401).await;
    let stats = scene.simulator.stats();
    assert_eq!((stats.bans, stats.repeated_wrong_ids), (0, 0), "{stats:?}");
    assert!(stats.wrong_id_calls <= 24, "{} calls with ids that it has forgotten", stats.wrong_id_calls);
    assert_eq!(dead(&scene), BTreeMap::new());
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_tries_a_type_that_createtask_fails_for_as_soon_as_the_one_before_would_have() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = fleet(&scene, 4).await;
    outage(&scene, "create_task", &json!("ERROR_OF_NEXT_YEAR"), 10);
    offer(&scene, 100, 20, |_| json!({})).await;
    scene
        .wait_until(5, "the type is shut", || fleet.iter().all(|one| !one.view.shut_types().is_empty()))
        .await;
    let leader = fleet.iter().position(Running::leads).expect("somebody leads");
    fleet.remove(leader).crash(&scene);
    control(&scene, &json!({"outages": []}));
    let began = Instant::now();
    scene.wait_for(&scene.names.results(), 101).await;
    assert!(began.elapsed() < Duration::from_secs(45), "{:?}", began.elapsed());
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_type_that_comes_back_without_slots_ends_its_jobs_by_the_budget_of_slots() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.rules.capacity_timeout = Duration::from_secs(60);
    let fleet = fleet(&scene, 2).await;
    outage(&scene, "create_task", &json!("ERROR_SERVICE_NOT_AVAILABLE"), 15);
    offer(&scene, 60, 20, |_| json!({})).await;
    until(Instant::now() + Duration::from_secs(10)).await;
    control(&scene, &json!({"slots": {"ImageToTextTask": 0}}));
    scene.wait_for(&scene.names.dead(Class::Capacity), 60).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_lone_job_outlasts_an_outage_of_20_s() {
    for answer in [json!({"http": 502}), json!("cut"), json!("ERROR_OF_NEXT_YEAR")] {
        let scene = Scene::new(SimulatorConfig::default()).await;
        let fleet = fleet(&scene, 1).await;
        outage(&scene, "all", &answer, 20);
        scene.publish(image("lone", &json!({})), Properties::default()).await;
        scene.wait_for(&scene.names.results(), 2).await;
        assert_eq!(dead(&scene), BTreeMap::new(), "{answer}");
        drain_all(fleet).await;
    }
}

/// Every call of a kind fails in one way for 20 s, under 20 jobs a second.
async fn outage_of_20_s(of: &str, answer: Value) {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = fleet(&scene, 2).await;
    let what = format!("{of} answers {answer}");
    outage(&scene, of, &answer, 20);
    let began = Instant::now();
    let calls_at_10_s = async {
        until(began + Duration::from_secs(2)).await;
        let before = scene.simulator.stats().outage_calls;
        until(began + Duration::from_secs(20)).await;
        scene.simulator.stats().outage_calls - before
    };
    // As many solved within a second as are offered.
    let at_full_rate = async {
        until(began + Duration::from_secs(20)).await;
        for second in 1.. {
            let before = solved(&scene);
            until(began + Duration::from_secs(20 + second)).await;
            if solved(&scene) >= before + 9 {
                return second;
            }
            assert!(second < 60, "{what}: never at full rate again");
        }
        unreachable!("it returns or fails")
    };
    let (calls, seconds, ()) =
        tokio::join!(calls_at_10_s, at_full_rate, offer(&scene, 400, 10, |_| json!({})));
    scene.wait_for(&scene.names.results(), 401).await;
    assert_eq!(dead(&scene), BTreeMap::new(), "{what}");
    assert!(calls <= 3 * 18, "{what}: {calls} calls in 18 s of outage");
    assert!(seconds <= 15, "{what}: full rate after {seconds} s");
    assert_eq!(scene.simulator.stats().bans, 0);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_create_task_that_fails_for_20_s_loses_no_job_and_is_called_seldom() {
    for answer in [
        json!("ERROR_OF_NEXT_YEAR"),
        json!("ERROR_SERVICE_NOT_AVAILABLE"),
        json!("ERROR_NO_SLOT_AVAILABLE"),
        json!("ERROR_TOO_MUCH_REQUESTS"),
        json!({"http": 502}),
        json!({"http": 404, "body": "not found"}),
        page(403),
        json!("html"),
        json!("cut"),
        json!("hang"),
    ] {
        outage_of_20_s("create_task", answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_fails_for_20_s_loses_no_job_and_is_called_seldom() {
    for answer in [
        json!("ERROR_OF_NEXT_YEAR"),
        json!("ERROR_SERVICE_NOT_AVAILABLE"),
        json!("ERROR_TOO_MUCH_REQUESTS"),
        json!({"http": 500}),
        json!({"http": 502}),
        json!({"http": 404, "body": "not found"}),
        page(401),
        page(402),
        page(403),
        json!("html"),
        json!("cut"),
        json!("hang"),
    ] {
        outage_of_20_s("all", answer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_five_minutes_buries_nothing_that_its_budget_allows_more() {
    for (of, answer) in [
        ("create_task", json!("ERROR_OF_NEXT_YEAR")),
        ("create_task", json!("ERROR_SERVICE_NOT_AVAILABLE")),
        ("create_task", json!({"http": 502})),
        ("all", json!("ERROR_OF_NEXT_YEAR")),
        ("all", json!({"http": 502})),
    ] {
        let mut scene = Scene::new(SimulatorConfig::default()).await;
        scene.rules.unknown_timeout = Duration::from_secs(600);
        let fleet = fleet(&scene, 2).await;
        outage(&scene, of, &answer, 300);
        offer(&scene, 500, 2, |_| json!({})).await;
        scene.wait_until(300, "all are solved", || solved(&scene) == 501).await;
        assert_eq!(dead(&scene), BTreeMap::new(), "{of}");
        drain_all(fleet).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_code_that_is_the_jobs_own_fault_ends_it_within_its_budget_and_no_other() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = fleet(&scene, 2).await;
    let own = |number| if number % 10 == 0 { json!({"create": ["ERROR_OF_NEXT_YEAR"]}) } else { json!({}) };
    let began = Instant::now();
    offer(&scene, 500, 50, own).await;
    scene.wait_for(&scene.names.results(), 451).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    scene.wait_for(&scene.names.dead(Class::Unknown), 50).await;
    assert!(began.elapsed() < Duration::from_secs(10 + 120), "{:?}", began.elapsed());
    assert_eq!(dead(&scene), [("unknown", 50)].into());
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_trip_of_four_minutes_costs_no_paid_answer_that_the_api_still_keeps() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = fleet(&scene, 2).await;
    // A type with a time-out of 60 s; after the trip the API fails once for each.
    offer(&scene, 500, 100, |_| json!({"solve_ms": 20_000, "result": ["ok", {"http": 500}, "ok"]})).await;
    scene.wait_until(10, "all are open", || scene.simulator.stats().tasks_open >= 500).await;
    let tripped = Instant::now();
    control(&scene, &json!({"key_valid": false}));
    scene.wait_until(10, "it trips", || fleet[0].reason() == Some(Reason::KeyInvalid)).await;
    until(tripped + Duration::from_secs(238)).await;
    control(&scene, &json!({"key_valid": true}));
    let mut operator = scene.client().await;
    operator.order(captcha_worker::fleet::Order::Resume, Duration::from_secs(10)).await.expect("heard");
    scene.wait_for(&scene.names.results(), 501).await;
    assert!(tripped.elapsed() < Duration::from_secs(275), "{:?}", tripped.elapsed());
    assert_eq!(scene.simulator.stats().repeated_submissions, 0);
    assert_eq!(dead(&scene), BTreeMap::new());
    operator.close().await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn one_wrong_word_about_the_account_among_good_answers_is_over_within_15_s() {
    for code in ["ERROR_KEY_DOES_NOT_EXIST", "ERROR_IP_NOT_ALLOWED"] {
        let scene = Scene::new(SimulatorConfig::default()).await;
        let fleet = fleet(&scene, 2).await;
        let flash = async {
            until(Instant::now() + Duration::from_secs(2)).await;
            control(&scene, &json!({"flash": {"of": "create_task", "answer": code, "calls": 1}}));
            let at = Instant::now();
            scene.wait_until(5, "it trips", || fleet[0].reason().is_some()).await;
            scene
                .wait_until(15, "it is open", || fleet.iter().all(|one| one.phase() == Some(Phase::Active)))
                .await;
            at.elapsed()
        };
        let (took, ()) = tokio::join!(flash, offer(&scene, 600, 20, |_| json!({})));
        assert!(took < Duration::from_secs(12), "{code}: open after {took:?}");
        let met = usize::from(code == "ERROR_KEY_DOES_NOT_EXIST");
        scene.wait_for(&scene.names.results(), 601 - met).await;
        assert_eq!(dead(&scene).values().sum::<usize>(), met, "{code}");
        drain_all(fleet).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_firewall_that_dislikes_one_payload_stops_no_other_job() {
    for status in [401, 402, 403] {
        let scene = Scene::new(SimulatorConfig::default()).await;
        let fleet = fleet(&scene, 2).await;
        let disliked = |number| if number == 5 { json!({"create": [page(status)]}) } else { json!({}) };
        let began = Instant::now();
        offer(&scene, 200, 20, disliked).await;
        scene.wait_for(&scene.names.results(), 200).await;
        assert!(began.elapsed() < Duration::from_secs(13), "{:?}", began.elapsed());
        assert!(never_tripped(&fleet), "{status}");
        assert!(scene.simulator.stats().calls.get_balance >= 2, "the leader looks");
        assert_eq!(dead(&scene), BTreeMap::new());
        drain_all(fleet).await;
    }
}
