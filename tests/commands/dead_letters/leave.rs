use serde_json::json;

use crate::dead_letters::harness::{Namespace, TIMEOUT, printed};
use crate::support::either::{EitherBroker, on_both_brokers};
use crate::support::jobs;

const REPLAY: [&str; 4] = ["dead", "replay", "--class", "transient"];

async fn refused(namespace: &Namespace, arguments: &[&str], why: &str) {
    let output = namespace.run(arguments).await;
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    assert!(printed(&output).contains(why), "{why}: {}", printed(&output));
}

on_both_brokers!(
    nothing_is_published_where_nobody_leads_or_the_account_is_not_well,
    a_pause_stops_a_replay_that_is_under_way_and_the_rest_stays
);

async fn nothing_is_published_where_nobody_leads_or_the_account_is_not_well(broker: EitherBroker) {
    let namespace = Namespace::new(broker, "").await;
    for n in 0..5 {
        let id = format!("t{n}");
        namespace.dead("transient", &id, "CALL_TIMED_OUT", &jobs::image(&id, &json!({}))).await;
    }
    refused(&namespace, &REPLAY, "no worker answers").await;
    let mut replica = namespace.working().await;
    assert!(namespace.run(&["pause"]).await.status.success());
    refused(&namespace, &REPLAY, "the fleet is paused by").await;
    assert!(namespace.run(&["resume"]).await.status.success());
    let control = format!("{}/_sim/control", namespace.simulator.url);
    let body = json!({"balance": 0}).to_string();
    let changed = crate::support::fleet::client().post(control).body(body).send().await.expect("answered");
    assert!(changed.status().is_success(), "{:?}", changed.text().await);
    namespace.publish(&jobs::image("poor", &json!({})), Default::default()).await;
    let deadline = tokio::time::Instant::now() + TIMEOUT;
    while namespace.report(&["status", "--json"]).await["guard"]["state"] != "tripped" {
        assert!(tokio::time::Instant::now() < deadline, "it trips");
    }
    refused(&namespace, &REPLAY, "the guard is tripped (no_funds)").await;
    let dry = namespace.report(&["dead", "replay", "--class", "transient", "--dry-run"]).await;
    assert_eq!(dry["chosen"], 5, "a dry run asks nobody: {dry}");
    namespace.until("dead.transient", 5).await;
    replica.kill().await;
}

async fn a_pause_stops_a_replay_that_is_under_way_and_the_rest_stays(broker: EitherBroker) {
    let namespace = Namespace::new(broker, "").await;
    let _replica = namespace.working().await;
    for n in 0..200 {
        let id = format!("t{n}");
        namespace.dead("transient", &id, "CALL_TIMED_OUT", &jobs::image(&id, &json!({}))).await;
    }
    let mut slow = namespace.start(&["dead", "replay", "--class", "transient", "--rate", "5/s"]);
    namespace
        .simulator
        .wait_for("a few were published", TIMEOUT, |stats| stats["accepted_tasks"].as_u64() > Some(3))
        .await;
    assert!(namespace.run(&["pause"]).await.status.success());
    let ended = tokio::time::timeout(TIMEOUT, slow.wait()).await.expect("it stops").expect("its end");
    assert_eq!(ended.code(), Some(1));
    let report = namespace.report(&["dead", "list", "--class", "transient"]).await;
    let left = report["letters"].as_u64().expect("a count");
    assert!((100..200).contains(&left), "{left} letters are left");
    assert!(namespace.run(&["resume"]).await.status.success());
    let rest = namespace.report(&REPLAY).await;
    assert_eq!(rest["replayed"], left, "{rest}");
    namespace.until("results", 200).await;
}
