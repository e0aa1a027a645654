//! The whole path of a job, each part of it as the user that it is for.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value, json};

use crate::security::broker::{Broker, NAMESPACE};
use crate::support::fleet::{Process, Replica, Simulator};
use crate::support::jobs;
use crate::within;

const OPERATOR: &str = "lane.a-operator";

fn replica(broker: &Broker, simulator: &Simulator, operators: &str) -> Process {
    let settings = [
        ("BROKER__DECLARE_TOPOLOGY", "false"),
        ("GUARD__OPERATORS", operators),
        ("OPS__LISTEN", ""),
        ("LOG__LEVEL", "info"),
    ];
    Replica { amqp: &broker.url("worker"), namespace: NAMESPACE, simulator, settings: &settings }.start()
}

/// Publishes as the publisher, and waits for the copy of the outcome that direct reply-to brings.
async fn asked(broker: &Broker, job: &str) -> Value {
    let connection =
        Connection::connect(&broker.url("publisher"), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let reply_to = "amq.rabbitmq.reply-to";
    let mut replies =
        channel.basic_consume(reply_to.into(), "test".into(), options, FieldTable::default()).await.unwrap();
    let properties =
        BasicProperties::default().with_reply_to(reply_to.into()).with_correlation_id("c".into());
    let exchange = format!("{NAMESPACE}.jobs");
    let publishing = channel.basic_publish(
        exchange.into(),
        "".into(),
        BasicPublishOptions::default(),
        job.as_bytes(),
        properties,
    );
    publishing.await.unwrap().await.unwrap();
    let reply = within("the reply", replies.next()).await.unwrap().unwrap();
    serde_json::from_slice(&reply.data).unwrap()
}

/// What an operator's rights are enough for, and nobody else's but a worker's.
fn finds_and_replays(broker: &Broker) {
    for user in ["publisher", "consumer"] {
        for command in [&["dead", "list"][..], &["dead", "replay", "--all"]] {
            let refusal = broker.denied(user, command);
            assert!(refusal.contains("ACCESS_REFUSED"), "{user} {command:?}: {refusal}");
        }
    }
    let malformed = ["--class", "malformed", "--code", "NOT_JSON"];
    let report = |arguments: &[&str]| -> Value {
        serde_json::from_str(&broker.done("operator", &[arguments, &malformed].concat())).unwrap()
    };
    assert_eq!(report(&["dead", "list"])["letters"], 1);
    assert_eq!(report(&["dead", "replay", "--dry-run"])["chosen"], 1);
    assert_eq!(report(&["dead", "replay", "--rate", "10/s"])["replayed"], 1);
    let again =
        ["outcomes", "--dead", "malformed", "--ack", "--follow", "--limit", "1", "--format", "ndjson"];
    let again: Value = serde_json::from_str(&broker.done("operator", &again)).unwrap();
    assert_eq!((&again["replays"], &again["failure"]["code"]), (&json!(1), &json!("NOT_JSON")), "{again}");
    assert_eq!(report(&["dead", "purge", "--yes"])["removed"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_fleet_works_with_the_least_rights_and_only_an_operator_pauses_it() {
    let broker = Broker::with_users().await;
    let simulator = Simulator::start("balance = 1000.0\n").await;
    let mut fleet = [replica(&broker, &simulator, OPERATOR), replica(&broker, &simulator, OPERATOR)];

    let outcome = asked(&broker, &jobs::image("asked", &json!({}))).await;
    assert_eq!((&outcome["id"], &outcome["status"]), (&json!("asked"), &json!("solved")), "{outcome}");
    let job = broker.passwords().join("job.json");
    let capacity = json!({"create": ["ERROR_NO_SLOT_AVAILABLE", "ok"]});
    std::fs::write(&job, jobs::image("published", &capacity)).unwrap();
    broker.done("publisher", &["publish", job.to_str().unwrap()]);
    let taken = ["outcomes", "--ack", "--follow", "--limit", "2", "--format", "ndjson"];
    let taken = broker.done("consumer", &taken);
    let mut ids: Vec<Value> =
        taken.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].take()).collect();
    ids.sort_by_key(ToString::to_string);
    assert_eq!(ids, [json!("asked"), json!("published")]);
    let task: Value = serde_json::from_str(&jobs::image("solved", &json!({}))).unwrap();
    std::fs::write(&job, task["task"].to_string()).unwrap();
    let solved = broker.done("publisher", &["solve", "--task", job.to_str().unwrap(), "--json"]);
    assert!(solved.contains("\"status\":\"solved\""), "{solved}");

    let malformed = asked(&broker, "no job at all").await;
    assert_eq!(malformed["failure"]["class"], "malformed", "{malformed}");
    let dead = ["outcomes", "--dead", "malformed", "--ack", "--follow", "--limit", "1", "--format", "ndjson"];
    let refusal = broker.denied("consumer", &dead);
    assert!(refusal.contains("ACCESS_REFUSED") && refusal.contains("lane.a.dead.malformed"), "{refusal}");
    finds_and_replays(&broker);
    let malformed = asked(&broker, "no job at all").await;
    assert_eq!(malformed["failure"]["class"], "malformed", "{malformed}");
    assert!(broker.done("operator", &dead).contains("malformed"));

    for (user, queue) in [("publisher", "lane.a.results"), ("operator", "lane.a.results")] {
        let refusal = broker.denied(user, &["outcomes", "--ack", "--follow", "--limit", "1"]);
        assert!(refusal.contains("ACCESS_REFUSED") && refusal.contains(queue), "{user}: {refusal}");
    }
    for user in ["publisher", "consumer"] {
        for command in
            [&["pause"][..], &["resume"], &["status"], &["find", "published"], &["topology", "declare"]]
        {
            let refusal = broker.denied(user, command);
            assert!(refusal.contains("ACCESS_REFUSED"), "{user} {command:?}: {refusal}");
        }
    }
    let paused: Value =
        serde_json::from_str(&broker.done("operator", &["pause", "--reason", "a trial", "--json"])).unwrap();
    assert_eq!((&paused["following"], &paused["replicas"]), (&json!(2), &json!(2)), "{paused}");
    let status: Value = serde_json::from_str(&broker.done("operator", &["status", "--json"])).unwrap();
    let top: Value = serde_json::from_str(&broker.done("operator", &["top", "--json"])).unwrap();
    assert_eq!(
        (&top["broker"], &top["fleet"]["guard"]["paused"]["by"]),
        (&Value::Null, &OPERATOR.into()),
        "{top}"
    );
    assert_eq!(status["guard"]["paused"]["reason"], "a trial", "{status}");
    let found: Value = serde_json::from_str(&broker.done("operator", &["find", "published"])).unwrap();
    assert_eq!(
        (&found["answered"], &found["sightings"][0]["place"]),
        (&json!(2), &json!("solved")),
        "{found}"
    );
    broker.done("operator", &["resume"]);
    assert!(broker.done("operator", &["reroute", "--json"]).contains("\"left\":0"));
    for replica in &mut fleet {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_user_that_the_workers_do_not_call_an_operator_pauses_nobody() {
    let broker = Broker::with_users().await;
    let simulator = Simulator::start("balance = 1000.0\n").await;
    let mut replica = replica(&broker, &simulator, "");
    let outcome = asked(&broker, &jobs::image("before", &json!({}))).await;
    assert_eq!(outcome["status"], "solved", "{outcome}");
    let refusal = broker.denied("operator", &["pause"]);
    assert!(refusal.contains("guard.operators") && !refusal.contains("paused:"), "{refusal}");
    let outcome = asked(&broker, &jobs::image("after", &json!({}))).await;
    assert_eq!(outcome["status"], "solved", "{outcome}");
    assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
}
