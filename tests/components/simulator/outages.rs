//! Outages and flashes.

use captcha_worker::simulator::{Control, Reply, Simulator, SimulatorConfig};
use serde_json::{Value, json};

use crate::simulator::support::{
    accepted, balance, code_of, exact, image, json_of, key_balance, pass, polled, refused, simulator, submit,
};

fn change(simulator: &Simulator, change: Value) -> Result<(), String> {
    let control: Control = serde_json::from_value(change).map_err(|error| error.to_string())?;
    simulator.control(&control).map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn an_outage_answers_every_call_of_its_kind_until_it_is_over() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    let outage = json!({"of": "create_task", "answer": "ERROR_OF_NEXT_YEAR", "for_ms": 20_000});
    change(&simulator, json!({"outages": [outage]})).expect("an outage");
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_OF_NEXT_YEAR");
    pass(19_999).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_OF_NEXT_YEAR");
    assert_eq!(polled(&simulator, &id).await, "ready", "polls are not concerned");
    pass(1).await;
    accepted(&simulator, &image(2, 100)).await;
    let stats = simulator.stats();
    assert_eq!((stats.outage_calls, stats.refused["ERROR_OF_NEXT_YEAR"]), (2, 2));
    assert_eq!((stats.accepted_tasks, stats.repeated_submissions), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_all_calls_comes_before_the_key_and_commits_no_offence() {
    let simulator = simulator(exact());
    let page = json!({"http": 403, "body": "<html>", "content_type": "text/html"});
    change(&simulator, json!({"outages": [{"answer": page, "for_ms": 1_000}]})).expect("an outage");
    let reply = submit(&simulator, &image(1, 100)).await;
    let Reply::Answer { status, content_type, body, .. } = reply else { panic!("{reply:?}") };
    assert_eq!((status, &*content_type, &*body), (403, "text/html", &b"<html>"[..]));
    assert!(matches!(balance(&simulator).await, Reply::Answer { status: 403, .. }));
    change(&simulator, json!({"outages": [{"answer": "ERROR_SERVICE_NOT_AVAILABLE", "for_ms": 1_000}]}))
        .expect("an outage");
    assert_eq!(key_balance(&simulator, json!("wrong")).await["errorCode"], "ERROR_SERVICE_NOT_AVAILABLE");
    let stats = simulator.stats();
    assert_eq!((stats.offences, stats.outage_calls, stats.faults["http"]), (0, 3, 2));
}

#[tokio::test(start_paused = true)]
async fn polls_in_an_outage_still_count_for_haste() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    change(&simulator, json!({"outages": [{"answer": "ERROR_OF_NEXT_YEAR", "for_ms": 100}]}))
        .expect("an outage");
    assert_eq!(polled(&simulator, &id).await, "ERROR_OF_NEXT_YEAR");
    pass(100).await;
    assert_eq!(polled(&simulator, &id).await, "ERROR_TOO_MUCH_REQUESTS");
}

#[tokio::test(start_paused = true)]
async fn calls_can_hang_or_be_cut_in_an_outage() {
    let simulator = simulator(exact());
    for (answer, expected) in [("hang", Reply::Hang), ("cut", Reply::Cut)] {
        change(&simulator, json!({"outages": [{"answer": answer, "for_ms": 100}]})).expect("an outage");
        assert_eq!(submit(&simulator, &image(1, 100)).await, expected);
    }
    assert_eq!(simulator.stats().accepted_tasks, 0);
}

#[tokio::test(start_paused = true)]
async fn outages_can_be_planned_and_an_empty_list_ends_them() {
    let simulator = simulator(exact());
    let plan = json!({"outages": [
        {"answer": "ERROR_SERVICE_NOT_AVAILABLE", "after_ms": 1_000, "for_ms": 1_000},
        {"of": "create_task", "answer": "ERROR_NO_SLOT_AVAILABLE", "for_ms": 9_000},
    ]});
    change(&simulator, plan).expect("outages");
    assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_NO_SLOT_AVAILABLE");
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
    pass(1_000).await;
    assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_SERVICE_NOT_AVAILABLE");
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_SERVICE_NOT_AVAILABLE");
    change(&simulator, json!({"outages": []})).expect("none");
    accepted(&simulator, &image(1, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_scenario_counts_its_outages_from_the_start() {
    let text = "[[outage]]\nof = \"create_task\"\nanswer = { http = 502 }\nafter_ms = 500\nfor_ms = 500\n";
    let scenario = SimulatorConfig::from_toml(text).expect("a scenario");
    let simulator = simulator(SimulatorConfig { outages: scenario.outages, ..exact() });
    accepted(&simulator, &image(1, 100)).await;
    pass(500).await;
    assert!(matches!(submit(&simulator, &image(2, 100)).await, Reply::Answer { status: 502, .. }));
    pass(500).await;
    accepted(&simulator, &image(3, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_flash_answers_the_next_calls_of_its_kind_and_no_more() {
    let simulator = simulator(exact());
    let flash = json!({"of": "create_task", "answer": "ERROR_KEY_DOES_NOT_EXIST", "calls": 2});
    change(&simulator, json!({"flash": flash})).expect("a flash");
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0, "not of its kind");
    for _ in 0..2 {
        assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_KEY_DOES_NOT_EXIST");
    }
    accepted(&simulator, &image(1, 100)).await;
    let stats = simulator.stats();
    assert_eq!((stats.outage_calls, stats.offences, stats.late_calls), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_needs_a_task_is_none_for_an_outage() {
    let simulator = simulator(exact());
    for answer in ["ok", "processing", "forget", "accepted_then_cut", "accepted_then_hang", "no_status"] {
        for change_of in [
            json!({"outages": [{"answer": answer, "for_ms": 1}]}),
            json!({"flash": {"answer": answer, "calls": 1}}),
        ] {
            let fault = change(&simulator, change_of).expect_err("refused");
            assert!(fault.contains("answer"), "{answer}: {fault}");
        }
    }
    change(&simulator, json!({"flash": {"of": "get_task_result", "answer": "no_status", "calls": 1}}))
        .expect("a poll can be answered without a status");
    assert!(change(&simulator, json!({"flash": {"answer": {"http": 99}, "calls": 1}})).is_err());
    assert!(change(&simulator, json!({"outages": [{"answer": "cut", "for_ms": 1, "of": "polls"}]})).is_err());
    let many = vec![json!({"answer": "cut", "for_ms": 1}); 101];
    assert!(change(&simulator, json!({"outages": many})).expect_err("refused").contains("100"));
}

#[test]
fn faulty_outages_of_a_scenario_are_named() {
    let text = "[[outage]]\nanswer = \"cut\"\nfor_ms = 1\n[[outage]]\nanswer = \"ok\"\nfor_ms = 1\n\
        [ban]\nwrong_id_share = 1.5\n";
    let error = SimulatorConfig::from_toml(text).expect_err("faults").to_string();
    assert!(error.contains("outage 2") && error.contains("ban.wrong_id_share"), "{error}");
}
