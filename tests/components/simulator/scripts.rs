//! Scripts in tasks and in rules.

use captcha_worker::simulator::{Reply, Rule, SimulatorConfig, Step, When};
use serde_json::{Value, json};

use crate::simulator::support::{
    accepted, code_of, exact, image, json_of, pass, poll, polled, refused, simulator, submit,
};

fn scripted(script: Value) -> Value {
    let mut task = image(1, 100);
    task["_sim"] = script;
    task
}

#[tokio::test(start_paused = true)]
async fn the_nth_submission_takes_the_nth_step_of_create() {
    let simulator = simulator(exact());
    let task =
        scripted(json!({"create": ["ERROR_NO_SLOT_AVAILABLE", {"http": 503, "retry_after": 3}, "ok"]}));
    assert_eq!(refused(&simulator, &task).await, "ERROR_NO_SLOT_AVAILABLE");
    let reply = submit(&simulator, &task).await;
    assert!(matches!(reply, Reply::Answer { status: 503, retry_after: Some(3), .. }), "{reply:?}");
    accepted(&simulator, &task).await;
    accepted(&simulator, &task).await;
    let stats = simulator.stats();
    assert_eq!((stats.accepted_tasks, stats.repeated_submissions, stats.paid), (2, 1, 0.002));
}

#[tokio::test(start_paused = true)]
async fn the_last_step_repeats() {
    let simulator = simulator(exact());
    let id =
        accepted(&simulator, &scripted(json!({"result": ["processing", "ERROR_CAPTCHA_UNSOLVABLE"]}))).await;
    pass(10_000).await;
    assert_eq!(polled(&simulator, &id).await, "processing", "although it is solved");
    for _ in 0..2 {
        pass(2_000).await;
        assert_eq!(polled(&simulator, &id).await, "ERROR_CAPTCHA_UNSOLVABLE");
    }
    let stats = simulator.stats();
    assert_eq!((stats.refused["ERROR_CAPTCHA_UNSOLVABLE"], stats.tasks_open), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_poll_refused_for_haste_takes_no_step() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &scripted(json!({"result": ["no_status", "html", "ok"]}))).await;
    poll(&simulator, &id).await;
    assert_eq!(polled(&simulator, &id).await, "ERROR_TOO_MUCH_REQUESTS");
    pass(2_000).await;
    let reply = poll(&simulator, &id).await;
    let Reply::Answer { content_type, body, .. } = reply else { panic!("{reply:?}") };
    assert!(content_type.starts_with("text/html") && body.starts_with(b"<!DOCTYPE html>"));
}

#[tokio::test(start_paused = true)]
async fn a_scripted_solve_time_replaces_the_draw() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &scripted(json!({"solve_ms": 50}))).await;
    pass(50).await;
    assert_eq!(polled(&simulator, &id).await, "ready");
}

#[tokio::test(start_paused = true)]
async fn accepted_then_cut_and_accepted_then_hang_are_paid() {
    let simulator = simulator(exact());
    let task = scripted(json!({"create": ["accepted_then_cut", "accepted_then_hang", "cut", "hang", "ok"]}));
    assert_eq!(submit(&simulator, &task).await, Reply::Cut);
    assert_eq!(submit(&simulator, &task).await, Reply::Hang);
    assert_eq!(simulator.stats().accepted_tasks, 2);
    assert_eq!(submit(&simulator, &task).await, Reply::Cut);
    assert_eq!(submit(&simulator, &task).await, Reply::Hang);
    accepted(&simulator, &task).await;
    let stats = simulator.stats();
    assert_eq!((stats.accepted_tasks, stats.repeated_submissions), (3, 2));
    assert_eq!(stats.faults["accepted_then_cut"] + stats.faults["cut"] + stats.faults["hang"], 3);
}

#[tokio::test(start_paused = true)]
async fn every_answer_that_cannot_be_read_is_what_its_name_says() {
    let simulator = simulator(exact());
    let id =
        accepted(&simulator, &scripted(json!({"result": ["empty", "truncated", "oversize", "no_status"]})))
            .await;
    let mut bodies = Vec::new();
    for _ in 0..4 {
        let Reply::Answer { status: 200, body, .. } = poll(&simulator, &id).await else {
            panic!("no answer")
        };
        bodies.push(body);
        pass(2_000).await;
    }
    assert!(bodies[0].is_empty());
    assert!(serde_json::from_slice::<Value>(&bodies[1]).is_err() && bodies[1].starts_with(b"{"));
    assert!(bodies[2].len() > 1024 * 1024);
    let no_status: Value = serde_json::from_slice(&bodies[3]).expect("JSON");
    assert!(no_status["errorId"] == 0 && no_status.get("status").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_script_that_cannot_be_understood_is_said_so() {
    let simulator = simulator(exact());
    for script in [
        json!({"create": ["oops"]}),
        json!({"creates": []}),
        json!({"create": ["no_status"]}),
        json!({"result": ["accepted_then_cut"]}),
        json!({"result": [{"http": 99}]}),
        json!({"result": [{"http": 200, "content_type": "a\nb"}]}),
        json!({"result": vec!["ok"; 257]}),
        json!("ok"),
    ] {
        let reply = submit(&simulator, &scripted(script.clone())).await;
        assert_eq!(code_of(&reply), "SIMULATOR_SCRIPT_INVALID", "{script}");
        assert!(json_of(&reply)["errorDescription"].as_str().is_some_and(|text| text.starts_with("_sim: ")));
    }
    assert_eq!(simulator.stats().accepted_tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn scripts_in_tasks_can_be_switched_off() {
    let simulator = simulator(SimulatorConfig { script_in_task: false, ..exact() });
    accepted(&simulator, &scripted(json!({"create": ["ERROR_DOMAIN_NOT_ALLOWED"]}))).await;
}

fn rule(kind: Option<&str>, share: Option<f64>, step: &str) -> Rule {
    Rule {
        when: When { kind: kind.map(str::to_owned), share },
        create: vec![Step::Code(step.to_owned())],
        ..Rule::default()
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_rule_that_fits_wins_and_a_script_in_the_task_beats_it() {
    let rules = vec![
        rule(Some("TurnstileTask"), None, "ERROR_DOMAIN_NOT_ALLOWED"),
        rule(Some("ImageToTextTask"), None, "ERROR_IP_NOT_ALLOWED"),
        rule(None, None, "ERROR_RECAPTCHA_INVALID_SITEKEY"),
    ];
    let simulator = simulator(SimulatorConfig { rules, ..exact() });
    assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_IP_NOT_ALLOWED");
    let gee = json!({"type": "GeeTestTask", "websiteURL": "https://shop.example/", "gt": "g"});
    assert_eq!(refused(&simulator, &gee).await, "ERROR_RECAPTCHA_INVALID_SITEKEY");
    accepted(&simulator, &scripted(json!({"create": ["ok"]}))).await;
}

#[tokio::test(start_paused = true)]
async fn a_share_takes_about_so_many_tasks_and_always_the_same_ones() {
    let rules = vec![rule(None, Some(0.2), "ERROR_NO_SLOT_AVAILABLE")];
    let simulator = simulator(SimulatorConfig { rules, ..exact() });
    let mut taken = 0;
    for number in 0..1_000 {
        let first = json_of(&submit(&simulator, &image(number, 100)).await)["errorId"] == 1;
        let again = json_of(&submit(&simulator, &image(number, 100)).await)["errorId"] == 1;
        assert_eq!(first, again, "task {number}");
        taken += u32::from(first);
    }
    assert!((160..=240).contains(&taken), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn the_map_of_refused_codes_is_bounded() {
    let simulator = simulator(exact());
    for number in 0..300 {
        let mut task = image(number, 100);
        task["_sim"] = json!({"create": [format!("CODE_{number}")]});
        refused(&simulator, &task).await;
    }
    let refused = simulator.stats().refused;
    assert_eq!((refused.len(), refused["(other)"]), (257, 44));
}
