use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use captcha_worker::broker::topology::RETRY_DELAYS;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::lane::{Lane, LaneRules};
use captcha_worker::domain::message::Properties;
use captcha_worker::simulator::SimulatorConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Scene, drain_all, image};

fn lane(name: &str) -> Lane {
    name.parse().expect("a lane's name")
}

fn lane_of(outcome: &Value) -> &str {
    outcome["lane"].as_str().unwrap_or("default")
}

async fn fill(scene: &Scene, name: &str, jobs: usize) {
    for n in 0..jobs {
        let job = image(&format!("{name}-{n}"), &json!({}));
        if name == "default" {
            scene.publish(job, Properties::default()).await;
        } else {
            scene.publish_in(name, job, Properties::default()).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_is_retried_and_submitted_again_stays_in_its_lane_and_keeps_its_priority() {
    let scene = Scene::with_lanes(SimulatorConfig::default(), &[("urgent", 8)]).await;
    let running = scene.start();
    let script = json!({
        "create": ["ERROR_NO_SLOT_AVAILABLE", "ok"],
        "result": ["ERROR_CAPTCHA_UNSOLVABLE"],
    });
    let properties = Properties { priority: Some(7), ..Properties::default() };
    scene.publish_in("urgent", image("a", &script), properties).await;
    let retry = scene.names.retry_of(RETRY_DELAYS[0], &lane("urgent"));
    scene.wait_until(10, "it is retried in its lane", || scene.broker.queue_len(&retry) == 1).await;
    assert_eq!(scene.broker.snapshot(&retry)[0].properties.priority, Some(7));
    let outcome = scene.wait_for(&scene.names.dead(Class::Unsolved), 1).await.remove(0);
    assert_eq!((lane_of(&outcome), outcome["attempts"].as_array().map(Vec::len)), ("urgent", Some(2)));
    let figures = running.view.lanes()[&lane("urgent")];
    assert_eq!((figures.taken, figures.failed, figures.in_flight), (2, 1, 0));
    assert_eq!(running.drain().await.unfinished, 0);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_job_does_not_wait_behind_a_backlog_of_another_lane() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &[("urgent", 8)]).await;
    scene.limits.max_calls_per_second = NonZeroU32::new(10);
    fill(&scene, "default", 500).await;
    let fleet = scene.start_fleet(2).await;
    scene.wait_for(&scene.names.results(), 10).await;
    let began = Instant::now();
    scene.publish_in("urgent", image("now", &json!({})), Properties::default()).await;
    let is_there = || scene.bodies(&scene.names.results()).iter().any(|outcome| lane_of(outcome) == "urgent");
    scene.wait_until(600, "the urgent one", is_there).await;
    // The API takes about two seconds itself.
    assert!(began.elapsed() < Duration::from_secs(8), "it took {:?}", began.elapsed());
    assert!(scene.broker.queue_len(&scene.names.jobs()) > 300, "the backlog is still there");
    drain_all(fleet).await;
}

/// Of so many outcomes, those of each lane.
fn shares(outcomes: &[Value]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for outcome in outcomes {
        *shares.entry(lane_of(outcome)).or_default() += 1;
    }
    shares
}

fn assert_shares(outcomes: &[Value], weights: &[(&str, u32)]) {
    let (total, shares) = (weights.iter().map(|(_, weight)| weight).sum::<u32>(), shares(outcomes));
    for (name, weight) in weights {
        let expected = outcomes.len() as f64 * f64::from(*weight) / f64::from(total);
        let share = shares.get(name).copied().unwrap_or(0) as f64;
        assert!((share - expected).abs() <= 0.05 * expected, "{name}: {share} of {expected}; {shares:?}");
    }
}

const WEIGHTS: [(&str, u32); 3] = [("urgent", 6), ("team", 3), ("default", 1)];

async fn assert_backlogs_are_shared(scene: &Scene) {
    for (name, _) in WEIGHTS {
        fill(scene, name, 1_200).await;
    }
    let fleet = scene.start_fleet(2).await;
    assert_shares(&scene.wait_for(&scene.names.results(), 1_500).await[..1_500], &WEIGHTS);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn backlogged_lanes_share_the_calls_by_their_weights() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &WEIGHTS).await;
    scene.limits.max_calls_per_second = NonZeroU32::new(40);
    assert_backlogs_are_shared(&scene).await;
}

#[tokio::test(start_paused = true)]
async fn backlogged_lanes_share_the_places_in_flight_by_their_weights() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &WEIGHTS).await;
    scene.max_in_flight = 40;
    assert_backlogs_are_shared(&scene).await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_with_limits_of_its_own_keeps_to_them_and_the_others_flow() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &[("few", 8), ("slow", 8)]).await;
    let rules = |name: &str| LaneRules { weight: 8, ..scene.lanes[&lane(name)] };
    let few = LaneRules { max_in_flight: Some(3), ..rules("few") };
    let slow = LaneRules { max_calls_per_second: NonZeroU32::new(2), ..rules("slow") };
    scene.lanes.extend([(lane("few"), few), (lane("slow"), slow)]);
    for name in ["few", "slow", "default"] {
        fill(&scene, name, 100).await;
    }
    let running = scene.start();
    let began = Instant::now();
    let most = || running.view.lanes()[&lane("few")].in_flight;
    for step in 1..=20 {
        sleep_until(began + Duration::from_millis(500 * step)).await;
        // A submission under way counts, and so does the ticket that it has just become.
        assert!(most() <= 6, "{} in flight", most());
    }
    let results = scene.bodies(&scene.names.results());
    let shares = shares(&results);
    assert_eq!(shares["default"], 100, "the default lane is done: {shares:?}");
    // Two calls a second in ten seconds, of which each job needs two or more.
    assert!(shares["slow"] <= 10 && shares["few"] < 60, "{shares:?}");
    scene.wait_for(&scene.names.results(), 300).await;
    assert_eq!(running.drain().await.unfinished, 0);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_behind_a_lanes_own_rate_delays_neither_its_polls_nor_other_lanes() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &[("slow", 8)]).await;
    let slow = LaneRules { max_calls_per_second: NonZeroU32::new(2), ..scene.lanes[&lane("slow")] };
    scene.lanes.insert(lane("slow"), slow);
    scene.max_in_flight = 200;
    fill(&scene, "slow", 1_000).await;
    let running = scene.start();
    sleep_until(Instant::now() + Duration::from_secs(400)).await;
    let in_flight = running.view.lanes()[&lane("slow")].in_flight;
    assert!(in_flight <= 40, "{in_flight} of 200 places");
    fill(&scene, "default", 20).await;
    let of_default = || {
        let results = scene.bodies(&scene.names.results());
        results.iter().filter(|outcome| lane_of(outcome) == "default").count()
    };
    scene.wait_until(10, "the other lane flows", || of_default() == 20).await;
    let stats = scene.simulator.stats();
    assert_eq!(stats.repeated_submissions, 0, "each task is polled while the API keeps it");
    assert!(scene.bodies(&scene.names.results()).len() > 200, "the rate is used");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_taken_out_of_the_settings_is_still_served_and_said_to_be_removed() {
    let mut scene = Scene::with_lanes(SimulatorConfig::default(), &[("old", 8)]).await;
    let fleet = scene.start_fleet(2).await;
    let is_written = || {
        let seen = fleet[0].view.seen();
        seen.state.is_some_and(|state| state.lanes.contains(&lane("old")))
    };
    scene.wait_until(20, "the record names the lane", is_written).await;
    drain_all(fleet).await;

    scene.lanes.clear();
    fill(&scene, "old", 20).await;
    let fleet = scene.start_fleet(2).await;
    let results = scene.wait_for(&scene.names.results(), 20).await;
    assert!(results.iter().all(|outcome| lane_of(outcome) == "old"));
    let figures = fleet[0].view.lanes()[&lane("old")];
    assert_eq!((figures.weight, figures.is_removed), (1, true));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn the_canary_comes_by_any_lane_and_all_lanes_flow_after_it() {
    let scene = Scene::with_lanes(SimulatorConfig::default(), &[("urgent", 8), ("idle", 1)]).await;
    scene.simulator.set_key_valid(false);
    fill(&scene, "urgent", 30).await;
    let fleet = scene.start_fleet(3).await;
    let began = Instant::now();
    sleep_until(began + Duration::from_secs(30)).await;
    assert_eq!(scene.simulator.stats().calls.create_task, 0);
    scene.simulator.set_key_valid(true);
    scene.wait_for(&scene.names.results(), 30).await;
    fill(&scene, "default", 5).await;
    scene.wait_for(&scene.names.results(), 35).await;
    drain_all(fleet).await;
}
