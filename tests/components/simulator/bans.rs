//! Bans, and callers who do not listen.

use captcha_worker::simulator::{Control, SimulatorConfig};
use serde_json::json;

use crate::simulator::support::{
    accepted, balance, code_of, exact, image, json_of, key_balance, lenient, pass, poll, polled, refused,
    simulator,
};

#[tokio::test(start_paused = true)]
async fn five_offences_in_a_minute_ban_the_account_for_ten_minutes() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    for _ in 0..5 {
        assert_eq!(polled(&simulator, &json!(1)).await, "ERROR_NO_SUCH_CAPCHA_ID");
    }
    assert!(simulator.stats().banned);
    assert_eq!(polled(&simulator, &id).await, "ERROR_IP_BANNED");
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(599_999).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_IP_BANNED");
    pass(1).await;
    accepted(&simulator, &image(2, 100)).await;
    let stats = simulator.stats();
    assert_eq!((stats.offences, stats.bans, stats.calls_while_banned), (5, 1, 3));
}

#[tokio::test(start_paused = true)]
async fn offences_older_than_a_minute_are_forgiven() {
    let simulator = simulator(exact());
    for _ in 0..4 {
        polled(&simulator, &json!(1)).await;
    }
    pass(60_000).await;
    polled(&simulator, &json!(1)).await;
    assert_eq!((simulator.stats().offences, simulator.stats().bans), (5, 0));
}

#[tokio::test(start_paused = true)]
async fn an_offence_while_banned_makes_the_ban_last_longer_and_a_good_call_does_not() {
    let simulator = simulator(exact());
    for _ in 0..5 {
        polled(&simulator, &json!(1)).await;
    }
    pass(300_000).await;
    key_balance(&simulator, json!("wrong")).await;
    pass(599_999).await;
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(1).await;
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
    assert_eq!((simulator.stats().offences, simulator.stats().bans), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn creating_tasks_without_funds_is_an_offence() {
    let simulator = simulator(SimulatorConfig { balance: 0.0, ..exact() });
    for _ in 0..5 {
        assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_ZERO_BALANCE");
    }
    assert_eq!(refused(&simulator, &image(1, 100)).await, "ERROR_IP_BANNED");
}

#[tokio::test(start_paused = true)]
async fn using_a_proxy_again_that_was_called_banned_is_an_offence() {
    let simulator = simulator(exact());
    let task = |number: u32, script: serde_json::Value| {
        json!({"type": "HCaptchaTask", "websiteURL": "https://shop.example/", "websiteKey": number.to_string(),
            "proxyAddress": "192.0.2.7", "proxyPort": 8080, "_sim": script})
    };
    let id = accepted(&simulator, &task(1, json!({"result": ["ERROR_PROXY_BANNED"]}))).await;
    assert_eq!(polled(&simulator, &id).await, "ERROR_PROXY_BANNED");
    assert_eq!(simulator.stats().offences, 0, "to learn of it is none");
    assert_eq!(refused(&simulator, &task(2, json!({}))).await, "ERROR_PROXY_BANNED");
    assert_eq!(simulator.stats().offences, 1);
    let mut other_port = task(3, json!({}));
    other_port["proxyPort"] = json!(8081);
    accepted(&simulator, &other_port).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_begin_a_second_after_the_caller_was_refused_are_late() {
    let simulator = simulator(lenient());
    simulator.set_key_valid(false);
    balance(&simulator).await;
    pass(1_000).await;
    balance(&simulator).await;
    assert_eq!(simulator.stats().late_calls, 0, "on their way when the answer came");
    pass(1).await;
    balance(&simulator).await;
    let stats = simulator.stats();
    assert_eq!((stats.late_calls, stats.late_by_reason.key), (1, 1));
    simulator.set_key_valid(true);
    simulator.set_key_valid(false);
    balance(&simulator).await;
    assert_eq!(simulator.stats().late_calls, 1, "a new spell begins with a new first refusal");
}

#[tokio::test(start_paused = true)]
async fn without_funds_only_create_task_can_be_late() {
    let simulator = simulator(SimulatorConfig { balance: 0.001, ..lenient() });
    let id = accepted(&simulator, &image(1, 100)).await;
    refused(&simulator, &image(2, 100)).await;
    pass(5_000).await;
    poll(&simulator, &id).await;
    balance(&simulator).await;
    assert_eq!(simulator.stats().late_calls, 0);
    refused(&simulator, &image(2, 100)).await;
    assert_eq!(simulator.stats().late_by_reason.balance, 1);
}

#[tokio::test(start_paused = true)]
async fn a_ban_by_hand_begins_and_ends_when_asked() {
    let simulator = simulator(exact());
    let ban = |seconds| Control { ban_seconds: Some(seconds), ..Control::default() };
    simulator.control(&ban(30)).expect("a ban");
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(2_000).await;
    balance(&simulator).await;
    assert_eq!(simulator.stats().late_by_reason.ban, 1);
    simulator.control(&ban(0)).expect("a pardon");
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
}
