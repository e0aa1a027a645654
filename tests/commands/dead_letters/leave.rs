use serde_json::json;

use crate::dead_letters::harness::{Lane, PATIENCE, printed};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::jobs;

const REPLAY: [&str; 4] = ["dead", "replay", "--class", "transient"];

async fn refused(lane: &Lane, arguments: &[&str], why: &str) {
    let output = lane.run(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains(why), "{why}: {}", printed(&output));
}

on_both_brokers!(
    nothing_is_published_where_nobody_leads_or_the_account_is_not_well,
    a_pause_stops_a_replay_that_is_under_way_and_the_rest_stays
);

async fn nothing_is_published_where_nobody_leads_or_the_account_is_not_well(broker: EitherBroker) {
    let lane = Lane::new(broker, "").await;
    for n in 0..5 {
        let id = format!("t{n}");
        lane.dead("transient", &id, "CALL_TIMED_OUT", &jobs::image(&id, &json!({}))).await;
    }
    refused(&lane, &REPLAY, "no worker answers").await;
    let mut replica = lane.working().await;
    assert!(lane.run(&["pause"]).await.status.success());
    refused(&lane, &REPLAY, "the fleet is paused by").await;
    assert!(lane.run(&["resume"]).await.status.success());
    let control = format!("{}/_sim/control", lane.simulator.url);
    let body = json!({"balance": 0}).to_string();
    let changed = crate::support::fleet::client().post(control).body(body).send().await.expect("answered");
    assert!(changed.status().is_success(), "{:?}", changed.text().await);
    lane.publish(&jobs::image("poor", &json!({})), Default::default()).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while lane.report(&["status", "--json"]).await["guard"]["state"] != "tripped" {
        assert!(tokio::time::Instant::now() < deadline, "it trips");
    }
    refused(&lane, &REPLAY, "the guard is tripped (no_funds)").await;
    let dry = lane.report(&["dead", "replay", "--class", "transient", "--dry-run"]).await;
    assert_eq!(dry["chosen"], 5, "a dry run asks nobody: {dry}");
    lane.until("dead.transient", 5).await;
    replica.kill().await;
}

async fn a_pause_stops_a_replay_that_is_under_way_and_the_rest_stays(broker: EitherBroker) {
    let lane = Lane::new(broker, "").await;
    let _replica = lane.working().await;
    for n in 0..200 {
        let id = format!("t{n}");
        lane.dead("transient", &id, "CALL_TIMED_OUT", &jobs::image(&id, &json!({}))).await;
    }
    let mut slow = lane.start(&["dead", "replay", "--class", "transient", "--rate", "5/s"]);
    lane.simulator
        .wait_for("a few were published", PATIENCE, |stats| stats["accepted_tasks"].as_u64() > Some(3))
        .await;
    assert!(lane.run(&["pause"]).await.status.success());
    let ended = tokio::time::timeout(PATIENCE, slow.wait()).await.expect("it stops").expect("its end");
    assert_eq!(ended.code(), Some(1));
    let report = lane.report(&["dead", "list", "--class", "transient"]).await;
    let left = report["letters"].as_u64().expect("a count");
    assert!((100..200).contains(&left), "{left} letters are left");
    assert!(lane.run(&["resume"]).await.status.success());
    let rest = lane.report(&REPLAY).await;
    assert_eq!(rest["replayed"], left, "{rest}");
    lane.until("results", 200).await;
}
