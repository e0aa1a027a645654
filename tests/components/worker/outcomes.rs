use std::time::Duration;

use captcha_worker::domain::class::Class;
use captcha_worker::domain::message::{Headers, Properties};
use captcha_worker::simulator::{SimulatorConfig, expected_solution};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::support::in_process::PANICKING_TYPE;
use crate::worker::scene::{Scene, image, within};

async fn one_job(body: String) -> (Scene, Value) {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    let id = serde_json::from_str::<Value>(&body).expect("JSON")["id"].clone();
    scene.publish(body, Properties::default()).await;
    let ends: Vec<String> =
        Class::finals().map(|class| scene.names.dead(class)).chain([scene.names.results()]).collect();
    let filled = || ends.iter().find(|queue| scene.broker.queue_len(queue) > 0).cloned();
    scene.wait_until(900, "the job ends", || filled().is_some()).await;
    let outcome = scene.bodies(&filled().expect("checked")).remove(0);
    assert_eq!(outcome["id"], id);
    assert_eq!(running.drain().await.unfinished, 0);
    (scene, outcome)
}

fn failure(outcome: &Value) -> String {
    let failure = &outcome["failure"];
    format!("{}/{}", failure["class"].as_str().unwrap_or("-"), failure["code"].as_str().unwrap_or("-"))
}

#[tokio::test(start_paused = true)]
async fn a_solved_job_brings_its_own_answer() {
    let body = image("a", &json!({}));
    let (scene, outcome) = one_job(body.clone()).await;
    let task: Value = serde_json::from_str(&body).unwrap();
    let expected = expected_solution(task["task"].to_string().as_bytes());
    assert_eq!(Some(&outcome["solution"]), expected.as_ref());
    assert_eq!(outcome["worker"], "replica-0");
    assert_eq!(outcome["attempts"][0]["ended"], "ready");
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_job_without_a_free_slot_waits_its_turn_unpaid() {
    let slots = json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ERROR_NO_SLOT_AVAILABLE", "ok"]});
    let (scene, outcome) = one_job(image("a", &slots)).await;
    assert_eq!(outcome["status"], "solved");
    assert_eq!(scene.simulator.stats().accepted_tasks, 1);
    let never = json!({"create": ["ERROR_NO_SLOT_AVAILABLE"]});
    let (scene, outcome) = one_job(image("a", &never)).await;
    assert_eq!(failure(&outcome), "capacity/NO_SLOT_EXPECTED", "after some refusals it is not even tried");
    assert_eq!(scene.simulator.stats().accepted_tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn a_submission_whose_answer_is_lost_is_repeated_once_at_most() {
    let (scene, outcome) = one_job(image("a", &json!({"create": ["accepted_then_cut", "ok"]}))).await;
    assert_eq!(outcome["status"], "solved");
    assert_eq!(outcome["attempts"][0]["ended"], "ambiguous");
    scene.assert_rules_kept(1);
    let (scene, outcome) = one_job(image("a", &json!({"create": ["accepted_then_cut"]}))).await;
    assert_eq!(failure(&outcome), "transient/CONNECTION_CUT");
    scene.assert_rules_kept(1);
}

#[tokio::test(start_paused = true)]
async fn unanswered_polls_cost_nothing_and_are_repeated_by_the_rules() {
    let script =
        json!({"result": ["cut", {"http": 503}, "html", "empty", "truncated", "no_status", "hang", "ok"]});
    let (scene, outcome) = one_job(image("a", &script)).await;
    assert_eq!(outcome["status"], "solved");
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn an_unsolved_job_is_paid_for_once_more_and_then_set_aside() {
    let (scene, outcome) = one_job(image("a", &json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"]}))).await;
    assert_eq!(failure(&outcome), "unsolved/ERROR_CAPTCHA_UNSOLVABLE");
    assert_eq!(outcome["attempts"].as_array().map(Vec::len), Some(2));
    scene.assert_rules_kept(1);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_makes_its_handling_panic_is_set_aside_and_the_next_is_solved() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    let body = json!({"id": "bad", "task": {"type": PANICKING_TYPE}}).to_string();
    scene.publish(body, Properties::default()).await;
    scene.publish(image("good", &json!({})), Properties::default()).await;
    let poisoned = scene.wait_for(&scene.names.dead(Class::Poison), 1).await;
    assert_eq!((&poisoned[0]["id"], &poisoned[0]["job"]["id"]), (&json!("bad"), &json!("bad")));
    scene.wait_for(&scene.names.results(), 1).await;
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_header_that_only_the_worker_sets_is_refused_by_its_name() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    for name in ["x-captcha-history", "x-captcha-ticket"] {
        let headers = Headers::from([(name.to_owned(), "{}".into())]);
        scene.publish(image("forged", &json!({})), Properties { headers, ..Properties::default() }).await;
    }
    let dead = scene.wait_for(&scene.names.dead(Class::Malformed), 2).await;
    for outcome in dead {
        assert_eq!(failure(&outcome), "malformed/FORGED_HEADER");
    }
    assert_eq!(scene.simulator.stats().calls.create_task, 0);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_outcome_goes_to_an_allowed_reply_to_and_nowhere_else() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.declare_queue("replies.shop").await;
    let to = |name: &str| Properties {
        reply_to: Some(name.to_owned()),
        correlation_id: Some("c-1".to_owned()),
        ..Properties::default()
    };
    scene.publish(image("a", &json!({})), to("replies.shop")).await;
    scene.publish(image("b", &json!({})), to("captcha.jobs")).await;
    let copies = scene.wait_for("replies.shop", 1).await;
    let durable = scene.wait_for(&scene.names.results(), 2).await;
    assert!(durable.contains(&copies[0]), "the copy is the outcome");
    let copy = &scene.broker.snapshot("replies.shop")[0];
    assert!(copy.transient && copy.properties.correlation_id.as_deref() == Some("c-1"));
    scene.wait_until(5, "the refused one is counted", || running.view.reading().reply_failures == 1).await;
    assert_eq!(
        scene.broker.queue_len(&scene.names.jobs()),
        0,
        "a publisher cannot have outcomes sent just anywhere"
    );
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_paid_answer_outlives_a_full_result_queue_and_a_restart() {
    let scene = Scene::with_room_for_results(SimulatorConfig::default(), 1).await;
    let first = scene.start();
    scene.publish_images(4, &json!({})).await;
    // A quorum queue takes one more than its length before it refuses.
    scene.wait_for(&scene.names.results(), 2).await;
    let answered = || {
        let tickets = scene.broker.snapshot(&scene.names.tickets());
        tickets.iter().filter(|ticket| ticket.properties.headers.contains_key("x-captcha-answer")).count()
    };
    scene
        .wait_until(300, "two are kept and taken up again", || first.view.reading().tickets_taken >= 6)
        .await;
    first.drain().await;
    assert_eq!(answered(), 2, "kept as answered tickets");
    let polls = scene.simulator.stats().polls;

    let second = scene.start();
    let mut results = within(5, scene.consume(&scene.names.results())).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let delivery = within(300, results.recv()).await.expect("a result");
        ids.push(delivery.message.properties.message_id.clone());
        delivery.receipt.ack().expect("live");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "each once");
    assert_eq!(scene.simulator.stats().polls, polls, "nothing was asked for again");
    second.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_while_tickets_are_refused_pays_nothing_twice() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    scene.publish_images(20, &json!({})).await;
    scene.wait_for(&scene.names.results(), 20).await;
    let sessions = scene.broker.sessions();
    let replica = sessions.into_iter().nth(1).expect("the replica's");
    scene.broker.set_full(&scene.names.tickets(), true);
    for n in 0..8 {
        scene.publish(image(&format!("kept-{n}"), &json!({})), Properties::default()).await;
    }
    let accepted = || scene.simulator.stats().accepted_tasks;
    scene.wait_until(5, "all are accepted", || accepted() == 28).await;
    // By now the wait between two tries is several seconds, so that the jobs come again before the
    // next one.
    sleep_until(Instant::now() + Duration::from_secs(20)).await;
    scene.broker.drop_session(replica);
    sleep_until(Instant::now() + Duration::from_secs(10)).await;
    assert_eq!(accepted(), 28, "their tickets are not safe yet, and nothing is submitted again");
    scene.broker.set_full(&scene.names.tickets(), false);
    scene.wait_for(&scene.names.results(), 28).await;
    scene.wait_until(60, "nothing is in hand", || running.view.in_flight() == 0).await;
    assert_eq!((accepted(), running.view.reading().recognised), (28, 8));
    running.drain().await;
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn a_job_whose_deadline_passes_while_it_waits_for_its_turn_is_never_paid() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    // Until a first task is accepted submissions go one by one, and this one takes the whole
    // time-out of a call.
    scene.publish(image("slow", &json!({"create": ["hang"]})), Properties::default()).await;
    let deadline = "2026-09-21T14:13:30Z";
    let hurried = image("hurried", &json!({})).replacen('{', &format!(r#"{{"deadline":"{deadline}","#), 1);
    scene.publish(hurried, Properties::default()).await;
    let expired = scene.wait_for(&scene.names.dead(Class::Expired), 1).await;
    assert_eq!(
        (&expired[0]["id"], failure(&expired[0])),
        (&json!("hurried"), "expired/DEADLINE_PASSED".to_owned())
    );
    assert_eq!(scene.simulator.stats().accepted_tasks, 0);
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_forged_ticket_buys_nothing_that_the_policy_forbids() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let running = scene.start();
    let history = json!({"v": 1, "first_seen": "2026-09-21T14:13:00.000Z", "retries": 0, "attempts": []});
    let ticket = json!({"job_id": "forged", "task_type": "TurnstileTask", "own_proxy": false, "task_id": 1,
        "accepted_at": "2026-09-21T14:13:00.000Z", "history": history});
    let headers = Headers::from([("x-captcha-ticket".to_owned(), ticket.to_string().into())]);
    let body = r#"{"id":"forged","task":{"type":"TurnstileTask","websiteURL":"https://elsewhere.test/","websiteKey":"k"}}"#;
    scene.publish_to(&scene.names.tickets(), body, Properties { headers, ..Properties::default() }).await;
    let dead = scene.wait_for(&scene.names.dead(Class::Forbidden), 1).await;
    assert_eq!(failure(&dead[0]), "forbidden/POLICY_SITE_NOT_ALLOWED");
    assert_eq!(scene.simulator.stats().calls.create_task, 0);
    running.drain().await;
}
