//! Publishing and consuming.

use captcha_worker::domain::message::Headers;
use captcha_worker::domain::replay::REPLAY_ID;
use serde_json::{Value, json};

use crate::examples::by_every_client;
use crate::examples::client::{Address, Client, outcome, picture, printed, put, put_with, schema};
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::rabbit::{connect, fresh_namespace};

by_every_client!(
    jobs_are_solved_or_fail_and_every_outcome_fits_the_published_schema,
    an_outcome_that_breaks_the_schema_ends_the_consumer_loudly_and_stays_in_its_queue,
    an_outcome_that_comes_twice_is_printed_once,
    what_becomes_of_a_replayed_job_is_no_repeat,
    an_outcome_that_could_not_be_printed_ends_the_consumer_and_stays_in_its_queue,
    a_job_that_the_schema_refuses_is_not_published,
    a_job_that_no_queue_takes_is_reported,
    a_job_that_the_broker_refuses_is_still_its_publishers,
);

async fn jobs_are_solved_or_fail_and_every_outcome_fits_the_published_schema(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("[types.ImageToTextTask]\nsolve_ms = { fixed = 100 }\n").await;
    declare(&amqp, &namespace).await;
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &[] };
    let _worker = replica.start();
    let address = Address { amqp: &amqp, namespace: &namespace };

    let (job, outcomes) = (schema("job"), schema("outcome"));
    let good = picture(600);
    let mut sent = Vec::new();
    for image in [vec![], vec![good.path().to_str().expect("UTF-8")]] {
        let arguments = [vec!["--schema", &job], image].concat();
        sent.extend(printed(&client.program("publish", &address, &arguments).end().await));
    }
    let consumed = client.program("consume", &address, &["--schema", &outcomes, "--count", "2"]).end().await;
    let mut came: Vec<Value> =
        printed(&consumed).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    came.sort_by_key(|outcome| outcome["id"] != *sent[0]);
    assert_eq!(came.iter().map(|outcome| &outcome["id"]).collect::<Vec<_>>(), [&sent[0], &sent[1]]);
    assert!(came.iter().all(|outcome| outcome["status"] == "solved"), "{came:?}");
    assert_eq!(came[0]["metadata"], json!({"file": "noise.pgm"}));

    let small = picture(50);
    let sent =
        printed(&client.program("publish", &address, &[small.path().to_str().expect("UTF-8")]).end().await);
    let queue = format!("{namespace}.dead.invalid");
    let consumed =
        client.program("consume", &address, &[&queue, "--schema", &outcomes, "--count", "1"]).end().await;
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

    let address = Address { amqp: &amqp, namespace: &namespace };
    let ended = client.program("consume", &address, &["--schema", &schema("outcome")]).end().await;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("queued_ms"), "it says what is wrong: {stderr}");
    let shown: Value = serde_json::from_slice(&ended.stdout).expect("the one before it is printed");
    assert_eq!(shown["id"], "good");
    // Without the schema it is taken: that it is still there is what this shows.
    let taken = client.program("consume", &address, &["--count", "1"]).end().await;
    assert_eq!(serde_json::from_str::<Value>(&printed(&taken)[0]).expect("JSON")["id"], "wrong");
}

async fn an_outcome_that_comes_twice_is_printed_once(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.results"));
    for id in ["a", "a", "b"] {
        put(&session, &queue, id, &outcome(id)).await;
    }
    let address = Address { amqp: &amqp, namespace: &namespace };
    let consumed = client.program("consume", &address, &["--count", "2"]).end().await;
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

async fn what_becomes_of_a_replayed_job_is_no_repeat(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.dead.proxy"));
    for replay in [None, Some("r-1"), Some("r-1"), Some("r-2"), None] {
        let mut body = outcome("a");
        let mut headers = Headers::new();
        if let Some(replay) = replay {
            body["replay_id"] = json!(replay);
            headers.insert(REPLAY_ID.to_owned(), replay.into());
        }
        put_with(&session, &queue, "a", headers, &body).await;
    }
    put(&session, &queue, "b", &outcome("b")).await;
    let address = Address { amqp: &amqp, namespace: &namespace };
    let consumed = client.program("consume", &address, &[&queue, "--count", "4"]).end().await;
    let came: Vec<(Value, Value)> = printed(&consumed)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
        .map(|outcome| (outcome["id"].clone(), outcome["replay_id"].clone()))
        .collect();
    let each = [("a", Value::Null), ("a", json!("r-1")), ("a", json!("r-2")), ("b", Value::Null)];
    assert_eq!(came, each.map(|(id, replay)| (json!(id), replay)));
}

/// As under `| head -1`.
async fn an_outcome_that_could_not_be_printed_ends_the_consumer_and_stays_in_its_queue(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.results"));
    let address = Address { amqp: &amqp, namespace: &namespace };
    let mut consumer = client.program("consume", &address, &[]).start();
    put(&session, &queue, "read", &outcome("read")).await;
    assert_eq!(consumer.line().await["id"], "read");
    let ended = consumer.abandoned(async {
        put(&session, &queue, "unread", &outcome("unread")).await;
        put(&session, &queue, "later", &outcome("later")).await;
    });
    assert_eq!(ended.await, Some(1));
    let taken = client.program("consume", &address, &["--count", "2"]).end().await;
    let mut ids: Vec<Value> = printed(&taken)
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["id"].clone())
        .collect();
    ids.sort_by_key(|id| id == "later");
    assert_eq!(ids, ["unread", "later"]);
}

async fn a_job_that_the_schema_refuses_is_not_published(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (small, address) = (picture(50), Address { amqp: &amqp, namespace: &namespace });
    let arguments = ["--schema", &schema("job"), small.path().to_str().expect("UTF-8")];
    let ended = client.program("publish", &address, &arguments).end().await;
    assert_eq!(ended.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("body"), "it says what is wrong");
    let session = connect(&amqp).await;
    let depth = session.link().depth(&format!("{namespace}.jobs")).await.expect("the broker answers");
    assert_eq!(depth.ready, 0);
}

/// The exchange is there, and the queue behind it is not.
async fn a_job_that_no_queue_takes_is_reported(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    call(&amqp, "queue_delete", &json!({"queue": format!("{namespace}.jobs")}));
    let address = Address { amqp: &amqp, namespace: &namespace };
    let ended = client.program("publish", &address, &[]).end().await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("topology"));
}

/// Its queue is full.
async fn a_job_that_the_broker_refuses_is_still_its_publishers(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let jobs = format!("{namespace}.jobs");
    call(&amqp, "queue_delete", &json!({"queue": jobs}));
    let full = json!({"x-max-length": 1, "x-overflow": "reject-publish"});
    call(&amqp, "queue_declare", &json!({"queue": jobs, "durable": true, "arguments": full}));
    call(&amqp, "queue_bind", &json!({"queue": jobs, "exchange": jobs, "routing_key": jobs}));
    put(&connect(&amqp).await, &jobs, "first", &json!({})).await;
    let address = Address { amqp: &amqp, namespace: &namespace };
    let ended = client.program("publish", &address, &["--id", "second"]).end().await;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("second") && stderr.contains("still yours"), "{stderr}");
}

fn call(amqp: &str, method: &str, arguments: &Value) {
    let called = crate::support::foreign::command("call", &[amqp, method, &arguments.to_string()]).status();
    assert!(called.expect("python runs").success());
}
