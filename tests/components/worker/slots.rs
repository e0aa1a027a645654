use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use captcha_worker::domain::class::Class;
use captcha_worker::domain::message::Properties;
use captcha_worker::domain::poll_schedule::PollSchedule;
use captcha_worker::simulator::{Control, SimulatorConfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Scene, drain_all, image};

fn slots(scene: &Scene, limit: Option<u32>) {
    let slots = [("FunCaptchaTask".to_owned(), limit)].into();
    scene.simulator.control(&Control { slots, ..Control::default() }).expect("applied");
}

fn fun_captcha(id: &str) -> String {
    let url = format!("https://example.com/{id}");
    json!({"id": id, "task": {"type": "FunCaptchaTask", "websiteURL": url, "websitePublicKey": "k"}})
        .to_string()
}

#[tokio::test(start_paused = true)]
async fn a_type_without_slots_waits_without_calls_and_the_others_flow() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    slots(&scene, Some(0));
    let fleet = scene.start_fleet(4).await;
    for n in 0..100 {
        scene.publish(fun_captcha(&format!("fun-{n}")), Properties::default()).await;
        scene.publish(image(&format!("image-{n}"), &json!({})), Properties::default()).await;
    }
    let began = Instant::now();
    scene.wait_for(&scene.names.results(), 100).await;
    assert!(began.elapsed() < Duration::from_secs(5), "images took {:?}", began.elapsed());
    scene.wait_until(5, "all know", || fleet.iter().all(|r| r.view.shut_types() == ["FunCaptchaTask"])).await;
    let refused = || scene.simulator.stats().refused["ERROR_NO_SLOT_AVAILABLE"];
    let (before, minute) = (refused(), Instant::now() + Duration::from_secs(60));
    sleep_until(minute).await;
    let trickle = refused() - before;
    assert!((1..=12).contains(&trickle), "{trickle} calls in a minute, of the whole fleet");

    slots(&scene, None);
    scene.wait_for(&scene.names.results(), 200).await;
    assert!(fleet.iter().all(|running| running.view.shut_types().is_empty()));
    drain_all(fleet).await;
    assert_eq!(scene.simulator.stats().accepted_tasks, 200);
}

fn complex(class: &str, n: usize, script: &Value) -> String {
    let task = json!({"type": "ComplexImageTask", "class": class, "imageUrls": [format!("https://a.test/{class}/{n}")],
                      "metadata": {"Task": "cars"}, "_sim": script});
    json!({"id": format!("{class}-{n}"), "task": task}).to_string()
}

#[tokio::test(start_paused = true)]
async fn one_class_of_a_type_without_slots_does_not_shut_the_others() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = scene.start_fleet(2).await;
    for n in 0..50 {
        let never = json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]});
        scene.publish(complex("full", n, &never), Properties::default()).await;
        scene.publish(complex("free", n, &json!({})), Properties::default()).await;
    }
    let began = Instant::now();
    let results = scene.wait_for(&scene.names.results(), 50).await;
    assert!(began.elapsed() < Duration::from_secs(5), "the other class took {:?}", began.elapsed());
    assert!(results.iter().all(|result| result["task_type"] == "ComplexImageTask"), "the contract's word");
    let shut = ["ComplexImageTask/full"];
    scene.wait_until(5, "all know", || fleet.iter().all(|r| r.view.shut_types() == shut)).await;
    let spent = fleet.iter().flat_map(|r| r.view.reading().spent);
    let accepted = spent.fold(BTreeMap::<_, u64>::new(), |mut accepted, (name, spent)| {
        *accepted.entry(name).or_default() += spent.accepted;
        accepted
    });
    assert_eq!(accepted, BTreeMap::from([("ComplexImageTask/free".to_owned(), 50)]));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_type_with_a_class_of_its_own_for_each_job_is_shut_as_one() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.join().await;
    for n in 0..60 {
        let never = json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]});
        scene.publish(complex(&format!("order-{n}"), n, &never), Properties::default()).await;
    }
    scene.publish_images(50, &json!({})).await;
    scene.wait_for(&scene.names.results(), 50).await;
    scene.wait_until(60, "it is shut", || running.view.shut_types() == ["ComplexImageTask"]).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_classes_without_a_cap_of_their_own_share_that_of_their_type() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.caps = [("ComplexImageTask".to_owned(), 6), ("ComplexImageTask/own".to_owned(), 9)].into();
    let running = scene.start();
    let slow = json!({"solve_ms": 20_000});
    for n in 0..10 {
        for class in ["own", "one", "other"] {
            scene.publish(complex(class, n, &slow), Properties::default()).await;
        }
    }
    scene.publish_images(30, &slow).await;
    let accepted = |name: &str| running.view.reading().spent.get(name).map_or(0, |spent| spent.accepted);
    scene.wait_until(10, "the images are open", || accepted("ImageToTextTask") == 30).await;
    let shared = accepted("ComplexImageTask/one") + accepted("ComplexImageTask/other");
    assert!((1..=6).contains(&shared), "{shared}");
    let own = accepted("ComplexImageTask/own");
    assert!((1..=9).contains(&own), "{own}");
    scene.wait_for(&scene.names.results(), 60).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_class_keeps_its_pace_and_its_name_in_the_figures_across_a_hand_over() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    let second = Duration::from_secs;
    let slow = PollSchedule::try_new(second(30), second(2), second(60)).expect("within the limits");
    scene.rules.polling.by_type.insert("ComplexImageTask/late".to_owned(), slow);
    let first = scene.join().await;
    scene.publish(complex("late", 0, &json!({"solve_ms": 1_000})), Properties::default()).await;
    let accepted = || scene.simulator.stats().accepted_tasks == 1;
    scene.wait_until(5, "the task is open", || accepted() && first.view.tickets_open() == 1).await;
    let second_replica = scene.join().await;
    first.drain().await;
    let began = Instant::now();
    scene.wait_for(&scene.names.results(), 1).await;
    let took = began.elapsed();
    assert!((second(25)..second(35)).contains(&took), "asked for at the pace of its class: {took:?}");
    let solving = second_replica.view.reading().times.solving;
    assert_eq!(solving.keys().collect::<Vec<_>>(), ["ComplexImageTask/late"]);
    second_replica.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_few_refusals_between_acceptances_shut_nothing() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    for n in 0..200 {
        let script =
            if n % 10 == 0 { json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"]}) } else { json!({}) };
        scene.publish(image(&format!("job-{n}"), &script), Properties::default()).await;
    }
    scene.wait_for(&scene.names.results(), 200).await;
    assert!(running.view.shut_types().is_empty());
    assert_eq!(running.view.reading().retried, 20, "those that were refused, once each");
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn submissions_begin_with_one_and_grow_while_answers_are_good() {
    let config = SimulatorConfig {
        latency_ms: captcha_worker::simulator::Distribution::Fixed(100),
        ..SimulatorConfig::default()
    };
    let scene = Scene::new(config).await;
    scene.publish_images(200, &json!({"solve_ms": 60_000})).await;
    let running = scene.start();
    scene.wait_until(10, "the canary is through", || scene.simulator.stats().accepted_tasks == 1).await;
    let began = Instant::now();
    let mut accepted = Vec::new();
    for round_trip in 1..=4 {
        sleep_until(began + Duration::from_millis(100 * round_trip + 60)).await;
        accepted.push(scene.simulator.stats().accepted_tasks);
    }
    let steps: Vec<u64> = accepted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(accepted[0] <= 4 && steps[0] >= 2 && steps[2] > steps[0] && steps[2] <= 16, "{accepted:?}");
    scene.wait_until(2, "all calls may be under way", || running.view.vitals().window > 16).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn the_fleets_rate_is_shared_by_the_replicas_that_are_there() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.max_calls_per_second = NonZeroU32::new(20);
    scene.publish_images(2_000, &json!({"solve_ms": 600_000})).await;
    let calls = || scene.simulator.stats().calls.create_task + scene.simulator.stats().calls.get_task_result;
    let mut fleet = scene.start_fleet(1).await;
    for replicas in [1, 4] {
        while fleet.len() < replicas {
            fleet.push(scene.join().await);
        }
        scene
            .wait_until(30, "all are known", || fleet.iter().all(|r| r.view.seen().replicas == replicas))
            .await;
        let (began, before) = (Instant::now(), calls());
        sleep_until(began + Duration::from_secs(20)).await;
        let rate = (calls() - before) as f64 / 20.0;
        assert!((16.0..=20.5).contains(&rate), "{replicas} replicas: {rate} calls a second");
    }
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_cap_bounds_what_a_replica_holds_of_a_type_and_nothing_else() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.caps.insert("FunCaptchaTask".to_owned(), 5);
    let running = scene.start();
    for n in 0..30 {
        scene.publish(fun_captcha(&format!("fun-{n}")), Properties::default()).await;
    }
    scene.publish_images(30, &json!({"solve_ms": 20_000})).await;
    scene
        .wait_until(10, "the images are open", || {
            running.view.reading().spent.get("ImageToTextTask").is_some_and(|s| s.accepted == 30)
        })
        .await;
    let open = running.view.reading().spent["FunCaptchaTask"].accepted;
    assert!((1..=5).contains(&open), "{open}");
    scene.wait_for(&scene.names.results(), 60).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn tasks_with_one_deadline_hold_up_nobody_once_it_has_passed() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.limits.max_calls_per_second = NonZeroU32::new(20);
    let second = Duration::from_secs;
    let slow = PollSchedule::try_new(second(55), second(2), second(60)).expect("within the limits");
    scene.rules.polling.by_type.insert("ComplexImageTask/late".to_owned(), slow);
    let running = scene.start();
    let deadline = scene.now().plus(second(40));
    for n in 0..300 {
        let job = complex("late", n, &json!({"solve_ms": 20_000}));
        let mut job: Value = serde_json::from_str(&job).expect("JSON");
        job["deadline"] = json!(deadline.to_string());
        scene.publish(job.to_string(), Properties::default()).await;
    }
    let accepted = || scene.simulator.stats().accepted_tasks == 300;
    scene.wait_until(30, "all are open", accepted).await;
    // Each of them is due in the last second, and 20 can be polled in it.
    sleep_until(Instant::now() + deadline.since(scene.now())).await;
    let began = Instant::now();
    scene.publish_images(10, &json!({})).await;
    let is_image = |outcome: &Value| outcome["task_type"] == "ImageToTextTask";
    let images = || scene.bodies(&scene.names.results()).iter().filter(|&outcome| is_image(outcome)).count();
    scene.wait_until(10, "the images are solved", || images() == 10).await;
    let took = began.elapsed();
    assert!(took < second(3), "{took:?}");
    let expired = || scene.broker.queue_len(&scene.names.dead(Class::Expired));
    let solved = || scene.broker.queue_len(&scene.names.results()) - 10;
    scene.wait_until(1, "all have ended", || expired() + solved() == 300).await;
    assert!((10..=25).contains(&solved()), "{} solved", solved());
    running.drain().await;
    scene.assert_rules_kept(0);
}
