//! Publishing and consuming.

use serde_json::{Value, json};

use crate::by_every_client;
use crate::client::{Client, Lane, outcome, picture, printed, put, schema};
use crate::fleet::{Replica, Simulator, amqp, declare, fresh_namespace};
use crate::support::rabbit::connect;

by_every_client!(
    jobs_are_solved_or_fail_and_every_outcome_fits_the_published_schema,
    an_outcome_that_breaks_the_schema_ends_the_consumer_loudly_and_stays_in_its_queue,
    an_outcome_that_comes_twice_is_printed_once,
    a_job_that_the_schema_refuses_is_not_published,
    a_job_that_no_queue_takes_is_told,
);

async fn jobs_are_solved_or_fail_and_every_outcome_fits_the_published_schema(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("[types.ImageToTextTask]\nsolve_ms = { fixed = 100 }\n").await;
    declare(&amqp, &namespace).await;
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &[] };
    let _worker = replica.start();
    let lane = Lane { amqp: &amqp, namespace: &namespace };

    let (job, outcomes) = (schema("job"), schema("outcome"));
    let good = picture(600);
    let mut sent = Vec::new();
    for image in [vec![], vec![good.path().to_str().expect("UTF-8")]] {
        let arguments = [vec!["--schema", &job], image].concat();
        sent.extend(printed(&client.program("publish", &lane, &arguments).end().await));
    }
    let consumed = client.program("consume", &lane, &["--schema", &outcomes, "--count", "2"]).end().await;
    let mut came: Vec<Value> =
        printed(&consumed).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    came.sort_by_key(|outcome| outcome["id"] != *sent[0]);
    assert_eq!(came.iter().map(|outcome| &outcome["id"]).collect::<Vec<_>>(), [&sent[0], &sent[1]]);
    assert!(came.iter().all(|outcome| outcome["status"] == "solved"), "{came:?}");
    assert_eq!(came[0]["metadata"], json!({"file": "noise.pgm"}));

    let small = picture(50);
    let sent =
        printed(&client.program("publish", &lane, &[small.path().to_str().expect("UTF-8")]).end().await);
    let queue = format!("{namespace}.dead.invalid");
    let consumed =
        client.program("consume", &lane, &[&queue, "--schema", &outcomes, "--count", "1"]).end().await;
    let failed: Value = serde_json::from_str(&printed(&consumed)[0]).expect("JSON");
    assert_eq!((&failed["id"], &failed["failure"]["code"]), (&json!(sent[0]), &json!("IMAGE_TOO_SMALL")));
}

async fn an_outcome_that_breaks_the_schema_ends_the_consumer_loudly_and_stays_in_its_queue(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.results"));
    let mut wrong = outcome("wrong");
    wrong["times"]["queued_ms"] = json!("soon");
    put(&session, &queue, "good", &outcome("good")).await;
    put(&session, &queue, "wrong", &wrong).await;

    let lane = Lane { amqp: &amqp, namespace: &namespace };
    let ended = client.program("consume", &lane, &["--schema", &schema("outcome")]).end().await;
    let told = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{told}");
    assert!(told.contains("queued_ms"), "it says what is wrong: {told}");
    let shown: Value = serde_json::from_slice(&ended.stdout).expect("the one before it is printed");
    assert_eq!(shown["id"], "good");
    // Without the schema it is taken: that it is still there is what this shows.
    let taken = client.program("consume", &lane, &["--count", "1"]).end().await;
    assert_eq!(serde_json::from_str::<Value>(&printed(&taken)[0]).expect("JSON")["id"], "wrong");
}

async fn an_outcome_that_comes_twice_is_printed_once(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.results"));
    for id in ["a", "a", "b"] {
        put(&session, &queue, id, &outcome(id)).await;
    }
    let lane = Lane { amqp: &amqp, namespace: &namespace };
    let consumed = client.program("consume", &lane, &["--count", "2"]).end().await;
    let ids: Vec<Value> = printed(&consumed)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone())
        .collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!(
        session.link().depth(&queue).await.expect("the broker answers").ready,
        0,
        "repeats are acked too"
    );
}

async fn a_job_that_the_schema_refuses_is_not_published(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (small, lane) = (picture(50), Lane { amqp: &amqp, namespace: &namespace });
    let arguments = ["--schema", &schema("job"), small.path().to_str().expect("UTF-8")];
    let ended = client.program("publish", &lane, &arguments).end().await;
    assert_eq!(ended.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("body"), "it says what is wrong");
    let session = connect(&amqp).await;
    let depth = session.link().depth(&format!("{namespace}.jobs")).await.expect("the broker answers");
    assert_eq!(depth.ready, 0);
}

/// The exchange is there, and the queue behind it is not.
async fn a_job_that_no_queue_takes_is_told(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let arguments = json!({"queue": format!("{namespace}.jobs")}).to_string();
    let deleted = crate::support::foreign::command("call", &[&amqp, "queue_delete", &arguments]).status();
    assert!(deleted.expect("python runs").success());
    let lane = Lane { amqp: &amqp, namespace: &namespace };
    let ended = client.program("publish", &lane, &[]).end().await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("topology"));
}
