//! Keys, money, slots, storms.

use captcha_worker::simulator::{Control, Reply, SimulatorConfig, Storm};
use serde_json::json;

use crate::simulator::support::{
    KEY, accepted, balance, code_of, exact, image, json_of, key_balance, lenient, pass, poll, polled,
    refused, simulator, submit,
};

#[tokio::test(start_paused = true)]
async fn a_key_may_carry_suffixes_after_two_underscores() {
    let simulator = simulator(lenient());
    for key in ["simulator-key", "simulator-key__nocache", "simulator-key__a__b"] {
        assert_eq!(key_balance(&simulator, json!(key)).await["errorId"], 0, "{key}");
    }
    assert_eq!(simulator.stats().bad_key_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn any_other_key_does_not_exist() {
    let simulator = simulator(lenient());
    for key in [json!("simulator-key_nocache"), json!("simulator-ke"), json!(""), json!(null), json!(5)] {
        assert_eq!(key_balance(&simulator, key).await["errorCode"], "ERROR_KEY_DOES_NOT_EXIST");
    }
    let unreadable = simulator.call("getBalance", b"not json").await;
    assert_eq!(code_of(&unreadable), "ERROR_KEY_DOES_NOT_EXIST");
    assert_eq!(simulator.stats().bad_key_calls, 6);
}

#[tokio::test(start_paused = true)]
async fn a_withdrawn_key_is_refused_everywhere_until_it_is_let_in_again() {
    let simulator = simulator(lenient());
    let id = accepted(&simulator, &image(1, 100)).await;
    simulator.set_key_valid(false);
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_KEY_DOES_NOT_EXIST");
    assert_eq!(polled(&simulator, &id).await, "ERROR_KEY_DOES_NOT_EXIST");
    simulator.set_key_valid(true);
    assert_eq!(polled(&simulator, &id).await, "processing");
}

#[tokio::test(start_paused = true)]
async fn the_balance_runs_down_by_the_price_of_each_type_to_zero() {
    let simulator = simulator(SimulatorConfig { balance: 0.003, ..lenient() });
    let site = json!({"type": "TurnstileTask", "websiteURL": "https://shop.example/", "websiteKey": "k"});
    accepted(&simulator, &site).await;
    assert_eq!(json_of(&balance(&simulator).await), json!({"errorId": 0, "balance": 0.001}));
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_ZERO_BALANCE");
    assert_eq!(json_of(&balance(&simulator).await)["balance"].as_f64(), Some(0.0));
    simulator.set_balance(1.0).expect("an amount");
    accepted(&simulator, &image(2, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn without_funds_polls_are_still_answered() {
    let simulator = simulator(SimulatorConfig { balance: 0.001, ..exact() });
    let id = accepted(&simulator, &image(1, 100)).await;
    assert_eq!(polled(&simulator, &id).await, "processing");
}

#[tokio::test(start_paused = true)]
async fn slots_are_taken_until_a_task_is_solved() {
    let simulator = simulator(exact());
    let slots =
        |limit| Control { slots: [("ImageToTextTask".to_owned(), limit)].into(), ..Control::default() };
    simulator.control(&slots(Some(1))).expect("a limit");
    accepted(&simulator, &image(1, 100)).await;
    pass(2_999).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_NO_SLOT_AVAILABLE");
    pass(1).await;
    accepted(&simulator, &image(2, 100)).await;
    simulator.control(&slots(Some(0))).expect("a limit");
    pass(10_000).await;
    assert_eq!(refused(&simulator, &image(3, 100)).await, "ERROR_NO_SLOT_AVAILABLE");
    simulator.control(&slots(None)).expect("no limit");
    accepted(&simulator, &image(3, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_answers_that_there_is_no_slot() {
    let simulator = simulator(SimulatorConfig { max_tasks: 1, ..exact() });
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_NO_SLOT_AVAILABLE");
    pass(300_000).await;
    accepted(&simulator, &image(2, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_answers_every_call_but_early_polls_still_count() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    let storm = Storm { status: 503, until_seconds: 10, retry_after: Some(3) };
    simulator.control(&Control { storm: Some(storm), ..Control::default() }).expect("a storm");
    for reply in
        [submit(&simulator, &image(2, 100)).await, poll(&simulator, &id).await, poll(&simulator, &id).await]
    {
        assert!(matches!(reply, Reply::Answer { status: 503, retry_after: Some(3), .. }), "{reply:?}");
    }
    pass(10_000).await;
    assert_eq!(polled(&simulator, &id).await, "ready");
    let stats = simulator.stats();
    assert_eq!((stats.storm_calls, stats.early_polls, stats.accepted_tasks), (3, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_made_changes_nothing() {
    let simulator = simulator(exact());
    let slots = [("NoSuchTask".to_owned(), Some(0))].into();
    let control = Control { balance: Some(1.0), slots, ..Control::default() };
    let error = simulator.control(&control).expect_err("no such type");
    assert_eq!(error.to_string(), "slots: no such task type: NoSuchTask");
    assert!(simulator.set_balance(-1.0).is_err() && simulator.set_balance(f64::NAN).is_err());
    assert_eq!(simulator.stats().balance, 1_000.0);
}

#[tokio::test(start_paused = true)]
async fn the_key_stands_in_no_debug_output() {
    let config = exact();
    assert!(!format!("{config:?} {:?}", simulator(config.clone())).contains(KEY));
}
