//! Awaiting an outcome by direct reply-to.

use std::time::Duration;

use captcha_worker::domain::message::{Message, Properties};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::examples::by_every_client;
use crate::examples::client::{Address, Client, TIMEOUT, outcome, picture, printed, schema};
use crate::support::fleet::{Replica, Simulator, amqp, declare};
use crate::support::rabbit::{connect, fresh_namespace};

by_every_client!(
    an_answer_comes_back_to_whoever_asked_and_the_durable_outcome_is_there_too,
    a_reply_is_known_by_its_correlation_and_refused_where_it_breaks_the_schema,
);

async fn an_answer_comes_back_to_whoever_asked_and_the_durable_outcome_is_there_too(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    let simulator = Simulator::start("[types.ImageToTextTask]\nsolve_ms = { fixed = 100 }\n").await;
    declare(&amqp, &namespace).await;
    let replica = Replica { amqp: &amqp, namespace: &namespace, simulator: &simulator, settings: &[] };
    let _worker = replica.start();
    let (address, outcomes) = (Address { amqp: &amqp, namespace: &namespace }, schema("outcome"));

    let solved = client.program("request", &address, &["--schema", &outcomes]).end().await;
    let solution: Value = serde_json::from_str(&printed(&solved)[0]).expect("JSON");
    let small = picture(50);
    let arguments = ["--schema", &outcomes, small.path().to_str().expect("UTF-8")];
    let failed = client.program("request", &address, &arguments).end().await;
    assert_eq!(failed.status.code(), Some(1), "{}", String::from_utf8_lossy(&failed.stderr));
    let failure: Value = serde_json::from_slice(&failed.stdout).expect("JSON");
    assert_eq!(failure["code"], json!("IMAGE_TOO_SMALL"));

    let durable = client.program("consume", &address, &["--count", "1", "--schema", &outcomes]).end().await;
    let durable: Value = serde_json::from_str(&printed(&durable)[0]).expect("JSON");
    assert_eq!(durable["solution"], solution);
}

async fn a_reply_is_known_by_its_correlation_and_refused_where_it_breaks_the_schema(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, jobs) = (connect(&amqp).await, format!("{namespace}.jobs"));
    let address = Address { amqp: &amqp, namespace: &namespace };
    let mut wrong = outcome("a");
    wrong["status"] = json!("ended");
    for (reply, code) in [(outcome("a"), 0), (wrong, 3)] {
        let outcomes = schema("outcome");
        let asking = tokio::spawn(client.program("request", &address, &["--schema", &outcomes]).end());
        // In a worker's place.
        let deadline = Instant::now() + TIMEOUT;
        let mut looks = interval(Duration::from_millis(50));
        let job = loop {
            looks.tick().await;
            if let Some(job) = session.link().get(&jobs).await.expect("the broker answers") {
                break job;
            }
            assert!(Instant::now() < deadline, "no job came");
        };
        let properties = &job.message.properties;
        let address = properties.reply_to.clone().expect("it asks for a reply");
        let mine = properties.correlation_id.clone();
        for (correlation_id, body) in
            [(Some("another".to_owned()), "{}".to_owned()), (mine, reply.to_string())]
        {
            let properties = Properties { correlation_id, ..Properties::default() };
            let message = Message { body: body.into(), properties, transient: true };
            // The broker knows of no queue behind such an address: not mandatory, as the worker has
            // it.
            session.publisher().publish("", &address, false, message).await.expect("replied");
        }
        job.receipt.ack().expect("acked");
        let ended = asking.await.expect("no panic");
        assert_eq!(ended.status.code(), Some(code), "{}", String::from_utf8_lossy(&ended.stderr));
    }
}
