//! A publisher that goes wild, one that does not, and where their jobs are.

use std::num::NonZeroU32;
use std::time::Duration;

use captcha_worker::domain::lane::LaneRules;
use captcha_worker::domain::message::Properties;
use captcha_worker::fleet::Sighting;
use captcha_worker::simulator::SimulatorConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Running, Scene, drain_all, image, within};

const LIMIT: usize = 30;

async fn publish(scene: &Scene, app: &str, number: usize) {
    let properties = Properties { app_id: Some(app.to_owned()), ..Properties::default() };
    scene.publish(image(&format!("{app}-{number}"), &json!({"solve_ms": 500})), properties).await;
}

fn of(outcomes: &[Value], app: &str) -> usize {
    outcomes.iter().filter(|outcome| outcome["id"].as_str().is_some_and(|id| id.starts_with(app))).count()
}

#[tokio::test(start_paused = true)]
async fn a_flood_waits_and_is_not_lost_and_a_publisher_below_the_limit_does_not_notice_it() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.per_publisher_per_minute = NonZeroU32::new(LIMIT as u32);
    let fleet = scene.start_fleet(3).await;
    let began = Instant::now();
    for number in 0..150 {
        publish(&scene, "wild", number).await;
        if number % 6 == 0 {
            publish(&scene, "calm", number).await;
        }
    }
    let results = scene.names.results();
    let calm = || of(&scene.bodies(&results), "calm") == 25;
    scene.wait_until(15, "the calm publisher's outcomes", calm).await;
    sleep_until(began + Duration::from_secs(50)).await;
    // Each of the other replicas lets pass what it takes until it hears of the others' jobs.
    let passed = of(&scene.bodies(&results), "wild");
    assert!((LIMIT..=3 * LIMIT).contains(&passed), "{passed}");
    let publishers = fleet[0].view.vitals().detail.expect("reported").publishers;
    assert!(
        publishers.iter().any(|figures| figures.name == "app wild" && figures.delayed > 0),
        "{publishers:?}"
    );

    let outcomes = scene.wait_for(&results, 175).await;
    assert!(outcomes.iter().all(|outcome| outcome["attempts"].as_array().is_some_and(|all| all.len() == 1)));
    let took = began.elapsed();
    assert!(took > Duration::from_secs(120) && took < Duration::from_secs(900), "{took:?}");
    assert_eq!(scene.simulator.stats().calls.create_task, 175, "who waits makes no call");
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_job_is_found_in_flight_solved_waiting_and_failed_and_an_unknown_one_is_not() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.per_publisher_per_minute = NonZeroU32::new(1);
    let fleet = scene.start_fleet(2).await;
    scene.publish(image("slow", &json!({"solve_ms": 20_000})), Properties::default()).await;
    scene.wait_until(10, "it is paid", || fleet.iter().any(|one| one.view.tickets_open() > 0)).await;
    let has_heard = |one: &Running| {
        let details =
            one.view.replicas().into_iter().filter_map(|(replica, _)| replica.vitals.detail.clone());
        details.flat_map(|detail| detail.publishers).any(|figures| figures.minute == 1)
    };
    scene.wait_until(10, "both replicas know of it", || fleet.iter().all(has_heard)).await;
    scene.publish(image("second", &json!({})), Properties::default()).await;
    scene
        .publish("no job", Properties { message_id: Some("\u{1b}bad".to_owned()), ..Properties::default() })
        .await;
    let mut client = scene.client().await;
    within(10, client.survey(Duration::from_secs(2))).await.expect("a session");
    let mut find = async |id: &str| {
        let found = within(2, client.find(id, 2, Duration::from_secs(1))).await.expect("a session");
        assert_eq!(found.len(), 2, "every replica answers");
        found.into_iter().flat_map(|(_, sightings)| sightings).collect::<Vec<_>>()
    };
    assert!(matches!(find("slow").await[..], [Sighting::InFlight { paid: true, .. }]));
    scene.wait_for(&scene.names.retry(captcha_worker::domain::retry_delay::RETRY_DELAYS[2]), 1).await;
    let waits = find("second").await;
    assert!(
        matches!(&waits[..], [Sighting::Waits { queue, .. }] if queue == "captcha.retry.2m"),
        "{waits:?}"
    );
    let failed = find("\u{1b}bad").await;
    assert!(matches!(&failed[..], [Sighting::Failed { class, .. }] if class == "malformed"), "{failed:?}");
    assert_eq!(find("nobody").await, []);
    scene.wait_for(&scene.names.results(), 1).await;
    assert!(matches!(find("slow").await[..], [Sighting::Solved { .. }]));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_lane_has_no_retry_queue_any_more_is_found_in_the_one_that_it_went_to() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.lanes.insert("old".parse().expect("a name"), LaneRules::default());
    scene.declare_queue("captcha.jobs.old").await;
    let running = scene.join().await;
    let script = json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]});
    scene.publish_to("captcha.jobs.old", image("moved", &script), Properties::default()).await;
    scene.wait_until(10, "it is retried", || scene.broker.queue_len("captcha.retry.5s") == 1).await;
    let mut client = scene.client().await;
    let found = within(5, client.find("moved", 1, Duration::from_secs(1))).await.expect("a session");
    let queues: Vec<_> = found.iter().flat_map(|(_, sightings)| sightings).collect();
    assert!(
        matches!(&queues[..], [Sighting::Waits { queue, .. }] if queue == "captcha.retry.5s"),
        "{queues:?}"
    );
    assert_eq!(running.drain().await.unfinished, 0);
}
