//! Consumers outlive their broker, and their queue.

use crate::examples::by_every_client;
use crate::examples::client::{Address, Client, Running, outcome, put};
use crate::support::fleet::{amqp, declare};
use crate::support::foreign::command;
use crate::support::rabbit::{RabbitNode, connect, fresh_namespace};

by_every_client!(a_consumer_whose_queue_is_deleted_is_there_again_when_the_queue_is);

async fn a_consumer_whose_queue_is_deleted_is_there_again_when_the_queue_is(client: Client) {
    let (amqp, namespace) = (amqp(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let (session, queue) = (connect(&amqp).await, format!("{namespace}.results"));
    let address = Address { amqp: &amqp, namespace: &namespace };
    let mut consumer = client.program("consume", &address, &[]).start();
    put(&session, &queue, "before", &outcome("before")).await;
    assert_eq!(consumer.line().await["id"], "before");

    let arguments = serde_json::json!({"queue": queue}).to_string();
    assert!(command("call", &[&amqp, "queue_delete", &arguments]).status().expect("python runs").success());
    declare(&amqp, &namespace).await;
    put(&session, &queue, "after", &outcome("after")).await;
    assert_eq!(consumer.line().await["id"], "after");
    assert_eq!(consumer.terminate().await, Some(0));
}

#[tokio::test]
async fn consumers_go_on_after_a_crash_of_the_broker_and_leave_in_order_when_asked_to() {
    let mut node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let address = Address { amqp: &amqp, namespace: &namespace };
    let mut consumers: Vec<(String, Running)> =
        [(Client::Pika, "results"), (Client::AioPika, "dead.proxy"), (Client::Amqplib, "dead.invalid")]
            .map(|(client, queue)| {
                let queue = format!("{namespace}.{queue}");
                let program = client.program("consume", &address, &[&queue]);
                (queue, program.start())
            })
            .into();
    for round in ["before", "after"] {
        let session = connect(&amqp).await;
        for (queue, consumer) in &mut consumers {
            put(&session, queue, round, &outcome(round)).await;
            assert_eq!(consumer.line().await["id"], round, "{queue}");
        }
        if round == "before" {
            node.sync_registry();
            node.restart();
        }
    }
    for (queue, consumer) in &mut consumers {
        assert_eq!(consumer.terminate().await, Some(0), "{queue}");
    }
}
