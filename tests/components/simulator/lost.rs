//! Tasks that the API loses, and what calls with their ids cost.

use captcha_worker::simulator::{BanRule, Control, Simulator, SimulatorConfig, TaskIds};
use serde_json::{Value, json};

use crate::simulator::support::{
    accepted, balance, code_of, exact, image, json_of, lenient, pass, polled, simulator,
};

fn forgetful(number: u32, script: Value) -> Value {
    let mut task = image(number, 100);
    task["_sim"] = script;
    task
}

/// Polls so many tasks of its own, each once.
async fn good_answers(simulator: &Simulator, from: u32, count: u32) {
    for number in from..from + count {
        let id = accepted(simulator, &image(number, 100)).await;
        assert_eq!(polled(simulator, &id).await, "processing");
    }
}

/// Polls so many tasks that are lost, each once.
async fn lost_answers(simulator: &Simulator, from: u32, count: u32) {
    for number in from..from + count {
        let id = accepted(simulator, &forgetful(number, json!({"result": ["forget"]}))).await;
        assert_eq!(polled(simulator, &id).await, "ERROR_NO_SUCH_CAPCHA_ID");
    }
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_task_is_unknown_from_that_call_on() {
    let simulator = simulator(lenient());
    let script = json!({"result": ["processing", "forget", "ok"]});
    let id = accepted(&simulator, &forgetful(1, script)).await;
    assert_eq!(polled(&simulator, &id).await, "processing");
    for _ in 0..2 {
        pass(2_000).await;
        assert_eq!(polled(&simulator, &id).await, "ERROR_NO_SUCH_CAPCHA_ID");
    }
    let stats = simulator.stats();
    assert_eq!((stats.wrong_id_calls, stats.repeated_wrong_ids, stats.offences), (2, 1, 2));
    assert_eq!((stats.forgotten_tasks, stats.uncollected_tasks, stats.tasks_open), (1, 1, 0));
    assert_eq!(stats.faults["forget"], 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_may_be_lost_at_its_first_submission_only() {
    let simulator = simulator(exact());
    let task = forgetful(1, json!({"result": ["forget"], "submissions": 1}));
    let first = accepted(&simulator, &task).await;
    let again = accepted(&simulator, &task).await;
    pass(3_000).await;
    assert_eq!(polled(&simulator, &first).await, "ERROR_NO_SUCH_CAPCHA_ID");
    assert_eq!(polled(&simulator, &again).await, "ready");
}

#[tokio::test(start_paused = true)]
async fn lost_tasks_that_are_few_among_the_answers_ban_nobody() {
    let simulator = simulator(exact());
    good_answers(&simulator, 0, 20).await;
    lost_answers(&simulator, 100, 20).await;
    assert_eq!(simulator.stats().bans, 0, "half is not more than half");
    lost_answers(&simulator, 200, 1).await;
    assert!(simulator.stats().banned, "21 of 41");
}

#[tokio::test(start_paused = true)]
async fn four_lost_tasks_ban_nobody_though_they_are_all_that_is_asked_for() {
    let simulator = simulator(exact());
    lost_answers(&simulator, 0, 4).await;
    assert_eq!(simulator.stats().bans, 0);
    lost_answers(&simulator, 4, 1).await;
    assert_eq!((simulator.stats().bans, simulator.stats().repeated_wrong_ids), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_repeats_a_lost_id_is_an_offence_whatever_its_share() {
    let simulator = simulator(exact());
    good_answers(&simulator, 0, 100).await;
    let id = accepted(&simulator, &forgetful(200, json!({"result": ["forget"]}))).await;
    for _ in 0..6 {
        assert_eq!(simulator.stats().bans, 0);
        polled(&simulator, &id).await;
    }
    assert_eq!((simulator.stats().bans, simulator.stats().repeated_wrong_ids), (1, 5));
}

#[tokio::test(start_paused = true)]
async fn an_id_that_is_none_is_an_offence_at_once() {
    let simulator = simulator(exact());
    good_answers(&simulator, 0, 100).await;
    for number in 0..5 {
        assert_eq!(simulator.stats().bans, 0);
        polled(&simulator, &json!(format!("task {number}"))).await;
    }
    assert_eq!(simulator.stats().bans, 1);
}

#[tokio::test(start_paused = true)]
async fn the_share_is_that_of_the_window() {
    let simulator = simulator(exact());
    good_answers(&simulator, 0, 100).await;
    lost_answers(&simulator, 200, 4).await;
    pass(60_000).await;
    lost_answers(&simulator, 300, 4).await;
    assert_eq!(simulator.stats().bans, 0, "the four before are forgiven");
    lost_answers(&simulator, 400, 1).await;
    assert_eq!(simulator.stats().bans, 1, "and the hundred good answers are forgotten");
}

#[tokio::test(start_paused = true)]
async fn the_share_that_bans_can_be_set() {
    let ban = BanRule { wrong_id_share: 0.1, ..BanRule::default() };
    let simulator = simulator(SimulatorConfig { ban, ..exact() });
    good_answers(&simulator, 0, 44).await;
    lost_answers(&simulator, 100, 4).await;
    assert_eq!(simulator.stats().bans, 0);
    lost_answers(&simulator, 200, 1).await;
    assert_eq!(simulator.stats().bans, 1, "5 of 49");
}

#[tokio::test(start_paused = true)]
async fn calls_that_an_outage_answers_are_no_answers_of_the_api() {
    let simulator = simulator(exact());
    let outage =
        json!({"outages": [{"of": "get_task_result", "answer": "ERROR_OF_NEXT_YEAR", "for_ms": 1000}]});
    simulator.control(&serde_json::from_value(outage).expect("a control")).expect("an outage");
    for _ in 0..20 {
        assert_eq!(polled(&simulator, &json!("none")).await, "ERROR_OF_NEXT_YEAR");
    }
    pass(1_000).await;
    lost_answers(&simulator, 0, 4).await;
    assert_eq!((simulator.stats().offences, simulator.stats().bans), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn all_tasks_can_be_forgotten_at_once() {
    let simulator = simulator(SimulatorConfig { task_ids: TaskIds::Uuid, ..exact() });
    let ended = accepted(&simulator, &image(0, 100)).await;
    let open = accepted(&simulator, &image(1, 100)).await;
    pass(3_000).await;
    assert_eq!(polled(&simulator, &ended).await, "ready");
    simulator.control(&Control { forget_tasks: true, ..Control::default() }).expect("forgotten");
    for id in [&ended, &open] {
        assert_eq!(polled(&simulator, id).await, "ERROR_NO_SUCH_CAPCHA_ID");
    }
    let stats = simulator.stats();
    assert_eq!((stats.forgotten_tasks, stats.uncollected_tasks, stats.tasks_open), (2, 1, 0));
    accepted(&simulator, &image(2, 100)).await;
    pass(300_000).await;
    assert_eq!(simulator.stats().uncollected_tasks, 2, "what was forgotten is not counted again");
}

#[tokio::test(start_paused = true)]
async fn a_lost_id_asked_for_while_banned_makes_the_ban_last_longer() {
    let simulator = simulator(exact());
    lost_answers(&simulator, 0, 5).await;
    pass(300_000).await;
    assert_eq!(polled(&simulator, &json!(1)).await, "ERROR_IP_BANNED");
    pass(599_999).await;
    assert_eq!(code_of(&balance(&simulator).await), "ERROR_IP_BANNED");
    pass(1).await;
    assert_eq!(json_of(&balance(&simulator).await)["errorId"], 0);
}
