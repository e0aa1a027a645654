//! Keys, money, slots, bans, and callers who do not listen.

use captcha_worker::simulator::{BanRule, Control, Simulator, SimulatorConfig, Storm};
use serde_json::json;

use crate::support::{
    KEY, accepted, balance, call, code_of, exact, image, json_of, pass, poll, polled, refused, simulator,
    submit,
};

/// Bans out of the way, for tests of something else.
fn lenient() -> SimulatorConfig {
    SimulatorConfig {
        ban: BanRule {
            offences: 0,
            ..BanRule::default()
        },
        ..exact()
    }
}

async fn balance_with(simulator: &Simulator, key: serde_json::Value) -> serde_json::Value {
    json_of(&call(simulator, "getBalance", &json!({"clientKey": key})).await)
}

#[tokio::test(start_paused = true)]
async fn a_key_may_carry_suffixes_after_two_underscores() {
    let simulator = simulator(lenient());
    for key in ["simulator-key", "simulator-key__nocache", "simulator-key__a__b"] {
        assert_eq!(balance_with(&simulator, json!(key)).await["errorId"], 0, "{key}");
    }
    assert_eq!(simulator.stats().bad_key_calls, 0);
}

#[tokio::test(start_paused = true)]
async fn any_other_key_does_not_exist() {
    let simulator = simulator(lenient());
    for key in [
        json!("simulator-key_nocache"),
        json!("simulator-ke"),
        json!(""),
        json!(null),
        json!(5),
    ] {
        assert_eq!(
            balance_with(&simulator, key).await["errorCode"],
            "ERROR_KEY_DOES_NOT_EXIST"
        );
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
    assert_eq!(
        refused(&simulator, &image(2, 100)).await,
        "ERROR_KEY_DOES_NOT_EXIST"
    );
    assert_eq!(polled(&simulator, &id).await, "ERROR_KEY_DOES_NOT_EXIST");
    simulator.set_key_valid(true);
    assert_eq!(polled(&simulator, &id).await, "processing");
}

#[tokio::test(start_paused = true)]
async fn the_balance_runs_down_by_the_price_of_each_type_to_zero() {
    let simulator = simulator(SimulatorConfig {
        balance: 0.003,
        ..lenient()
    });
    let site = json!({"type": "TurnstileTask", "websiteURL": "https://shop.example/", "websiteKey": "k"});
    accepted(&simulator, &site).await;
    assert_eq!(
        json_of(&balance(&simulator).await),
        json!({"errorId": 0, "balance": 0.001})
    );
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(refused(&simulator, &image(2, 100)).await, "ERROR_ZERO_BALANCE");
    assert_eq!(json_of(&balance(&simulator).await)["balance"].as_f64(), Some(0.0));
    simulator.set_balance(1.0).expect("an amount");
    accepted(&simulator, &image(2, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn without_funds_polls_are_still_answered() {
    let simulator = simulator(SimulatorConfig {
        balance: 0.001,
        ..exact()
    });
    let id = accepted(&simulator, &image(1, 100)).await;
    assert_eq!(polled(&simulator, &id).await, "processing");
}

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
    balance_with(&simulator, json!("wrong")).await;
    pass(599_999).await;
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(1).await;
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
    assert_eq!((simulator.stats().offences, simulator.stats().bans), (6, 1));
}

#[tokio::test(start_paused = true)]
async fn creating_tasks_without_funds_is_an_offence() {
    let simulator = simulator(SimulatorConfig {
        balance: 0.0,
        ..exact()
    });
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
    assert_eq!(
        refused(&simulator, &task(2, json!({}))).await,
        "ERROR_PROXY_BANNED"
    );
    assert_eq!(simulator.stats().offences, 1);
    let mut other_port = task(3, json!({}));
    other_port["proxyPort"] = json!(8081);
    accepted(&simulator, &other_port).await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_begin_a_second_after_the_caller_was_told_are_late() {
    let simulator = simulator(lenient());
    simulator.set_key_valid(false);
    balance(&simulator).await;
    pass(1_000).await;
    balance(&simulator).await;
    assert_eq!(
        simulator.stats().late_calls,
        0,
        "on their way when the answer came"
    );
    pass(1).await;
    balance(&simulator).await;
    let stats = simulator.stats();
    assert_eq!((stats.late_calls, stats.late_by_reason.key), (1, 1));
    simulator.set_key_valid(true);
    simulator.set_key_valid(false);
    balance(&simulator).await;
    assert_eq!(
        simulator.stats().late_calls,
        1,
        "a new spell begins with a new first refusal"
    );
}

#[tokio::test(start_paused = true)]
async fn without_funds_only_create_task_can_be_late() {
    let simulator = simulator(SimulatorConfig {
        balance: 0.001,
        ..lenient()
    });
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
async fn a_ban_by_hand_begins_and_ends_when_told() {
    let simulator = simulator(exact());
    let ban = |seconds| Control {
        ban_seconds: Some(seconds),
        ..Control::default()
    };
    simulator.control(&ban(30)).expect("a ban");
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(2_000).await;
    balance(&simulator).await;
    assert_eq!(simulator.stats().late_by_reason.ban, 1);
    simulator.control(&ban(0)).expect("a pardon");
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
}

#[tokio::test(start_paused = true)]
async fn slots_are_taken_until_a_task_is_solved() {
    let simulator = simulator(exact());
    let slots = |limit| Control {
        slots: [("ImageToTextTask".to_owned(), limit)].into(),
        ..Control::default()
    };
    simulator.control(&slots(Some(1))).expect("a limit");
    accepted(&simulator, &image(1, 100)).await;
    pass(2_999).await;
    assert_eq!(
        refused(&simulator, &image(2, 100)).await,
        "ERROR_NO_SLOT_AVAILABLE"
    );
    pass(1).await;
    accepted(&simulator, &image(2, 100)).await;
    simulator.control(&slots(Some(0))).expect("a limit");
    pass(10_000).await;
    assert_eq!(
        refused(&simulator, &image(3, 100)).await,
        "ERROR_NO_SLOT_AVAILABLE"
    );
    simulator.control(&slots(None)).expect("no limit");
    accepted(&simulator, &image(3, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_full_memory_answers_that_there_is_no_slot() {
    let simulator = simulator(SimulatorConfig {
        max_tasks: 1,
        ..exact()
    });
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(
        refused(&simulator, &image(2, 100)).await,
        "ERROR_NO_SLOT_AVAILABLE"
    );
    pass(300_000).await;
    accepted(&simulator, &image(2, 100)).await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_answers_every_call_but_early_polls_still_count() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    let storm = Storm {
        status: 503,
        until_seconds: 10,
        retry_after: Some(3),
    };
    simulator
        .control(&Control {
            storm: Some(storm),
            ..Control::default()
        })
        .expect("a storm");
    for reply in [
        submit(&simulator, &image(2, 100)).await,
        poll(&simulator, &id).await,
        poll(&simulator, &id).await,
    ] {
        assert!(
            matches!(
                reply,
                captcha_worker::simulator::Reply::Answer {
                    status: 503,
                    retry_after: Some(3),
                    ..
                }
            ),
            "{reply:?}"
        );
    }
    pass(10_000).await;
    assert_eq!(polled(&simulator, &id).await, "ready");
    let stats = simulator.stats();
    assert_eq!(
        (stats.storm_calls, stats.early_polls, stats.accepted_tasks),
        (3, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_change_that_cannot_be_made_changes_nothing() {
    let simulator = simulator(exact());
    let slots = [("NoSuchTask".to_owned(), Some(0))].into();
    let control = Control {
        balance: Some(1.0),
        slots,
        ..Control::default()
    };
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
