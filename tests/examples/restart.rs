//! Consumers outlive their broker.

use crate::client::{Client, Lane, Running, outcome, put};
use crate::fleet::{declare, fresh_namespace};
use crate::support::rabbit::{RabbitNode, connect};

#[tokio::test]
async fn consumers_go_on_after_a_crash_of_the_broker_and_leave_in_order_when_told_to() {
    let mut node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), fresh_namespace());
    declare(&amqp, &namespace).await;
    let lane = Lane { amqp: &amqp, namespace: &namespace };
    let mut consumers: Vec<(String, Running)> =
        [(Client::Pika, "results"), (Client::AioPika, "dead.proxy"), (Client::Amqplib, "dead.invalid")]
            .map(|(client, queue)| {
                let queue = format!("{namespace}.{queue}");
                let program = client.program("consume", &lane, &[&queue]);
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
