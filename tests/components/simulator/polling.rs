//! The rules for polling: when a task is ready, how often it may be asked for, how long it is
//! known.

use captcha_worker::simulator::{Distribution, SimulatorConfig};
use serde_json::json;
use tokio::time::Instant;

use crate::simulator::support::{accepted, exact, image, json_of, pass, poll, polled, simulator};

#[tokio::test(start_paused = true)]
async fn a_task_is_processing_until_its_solve_time_and_ready_from_then_on() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    pass(999).await;
    let answer = json_of(&poll(&simulator, &id).await);
    let processing =
        json!({"errorId": 0, "errorCode": null, "errorDescription": null, "status": "processing"});
    assert_eq!(answer, processing);
    pass(2_001).await;
    let answer = json_of(&poll(&simulator, &id).await);
    assert_eq!(answer["status"], "ready");
    assert_eq!(
        answer.as_object().map(|fields| fields.len()),
        Some(4),
        "errorId, status, solution, cost: {answer}"
    );
    let stats = simulator.stats();
    assert_eq!((stats.polls, stats.answered_ready, stats.tasks_open), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_poll_1_999_ms_after_the_last_one_is_early_and_2_000_ms_after_it_is_not() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    assert_eq!(polled(&simulator, &id).await, "processing");
    pass(1_999).await;
    assert_eq!(polled(&simulator, &id).await, "ERROR_TOO_MUCH_REQUESTS");
    pass(2_000).await;
    assert_eq!(polled(&simulator, &id).await, "ready", "counted from the early poll");
    let stats = simulator.stats();
    assert_eq!((stats.early_polls, stats.min_spacing_ms), (1, Some(1_999.0)));
}

#[tokio::test(start_paused = true)]
async fn polls_of_two_tasks_do_not_count_against_each_other() {
    let simulator = simulator(exact());
    let one = accepted(&simulator, &image(1, 100)).await;
    let other = accepted(&simulator, &image(2, 100)).await;
    polled(&simulator, &one).await;
    assert_eq!(polled(&simulator, &other).await, "processing");
    assert_eq!(simulator.stats().early_polls, 0);
    assert_eq!(simulator.stats().min_spacing_ms, None);
}

#[tokio::test(start_paused = true)]
async fn the_121st_poll_is_refused_and_is_an_offence() {
    let config = SimulatorConfig { spacing_ms: 1_000, ..exact() };
    let simulator = simulator(config);
    let id = accepted(&simulator, &image(1, 100)).await;
    for _ in 0..120 {
        assert_ne!(polled(&simulator, &id).await, "ERROR_TOO_MUCH_REQUESTS");
        pass(1_000).await;
    }
    assert_eq!((simulator.stats().polls_past_limit, simulator.stats().offences), (0, 0));
    assert_eq!(polled(&simulator, &id).await, "ERROR_TOO_MUCH_REQUESTS");
    let stats = simulator.stats();
    assert_eq!((stats.polls_past_limit, stats.offences, stats.early_polls), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_task_is_known_for_5_minutes_from_its_upload() {
    let simulator = simulator(exact());
    let id = accepted(&simulator, &image(1, 100)).await;
    pass(299_999).await;
    assert_eq!(polled(&simulator, &id).await, "ready");
    pass(1).await;
    assert_eq!(polled(&simulator, &id).await, "ERROR_NO_SUCH_CAPCHA_ID");
    let stats = simulator.stats();
    assert_eq!((stats.wrong_id_calls, stats.offences, stats.uncollected_tasks), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_paid_answer_that_nobody_fetched_is_counted_when_it_is_forgotten() {
    let simulator = simulator(exact());
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(simulator.stats().tasks_open, 1);
    pass(300_000).await;
    let stats = simulator.stats();
    assert_eq!((stats.tasks_open, stats.uncollected_tasks), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_id_never_given_out_is_unknown() {
    let simulator = simulator(exact());
    for id in [json!(1), json!(null), json!("7000001"), json!({"id": 1})] {
        assert_eq!(polled(&simulator, &id).await, "ERROR_NO_SUCH_CAPCHA_ID");
    }
    assert_eq!(simulator.stats().wrong_id_calls, 4);
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_the_simulated_latency() {
    let simulator = simulator(SimulatorConfig { latency_ms: Distribution::Fixed(250), ..exact() });
    let before = Instant::now();
    accepted(&simulator, &image(1, 100)).await;
    assert_eq!(before.elapsed().as_millis(), 250);
}

#[tokio::test(start_paused = true)]
async fn two_runs_with_one_seed_take_the_same_times() {
    let run = || async {
        let simulator = simulator(SimulatorConfig { seed: 42, ..SimulatorConfig::default() });
        let begun = Instant::now();
        let mut times = Vec::new();
        for number in 0..20 {
            let id = accepted(&simulator, &image(number, 100)).await;
            while polled(&simulator, &id).await != "ready" {
                pass(2_000).await;
            }
            times.push(begun.elapsed());
        }
        times
    };
    assert_eq!(run().await, run().await);
}
