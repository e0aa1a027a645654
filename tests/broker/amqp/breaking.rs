//! What is left of deliveries, receipts and the lease when queue, connection or broker go.

use std::time::Duration;

use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::broker::{Lease, PublishError, Stale};
use tokio::time::Instant;

use super::{DEADLINE, Foreign, filled, message, ready, spec, take, within};
use crate::support::rabbit::{RabbitNode, SharedRabbit, fresh_namespace, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_whose_queue_is_deleted_ends_and_its_receipts_are_stale() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 2).await;
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();
    Foreign::connect(rabbit.url()).await.delete_queue(&queue).await;
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!consumer.lease().holds(Instant::now()));
    assert_eq!(held.receipt.ack(), Err(Stale));
    assert!(!session.is_closed(), "the session's other channels go on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_a_dead_connection_settles_nothing_on_the_next_one() {
    let node = RabbitNode::start().await;
    let session = node.session().await;
    let queue = filled(&node.url(), &session, 2).await;
    let mut consumer = session.link().consume(spec(&queue, 2)).await.unwrap();
    let held = take(&mut consumer, 2).await;
    node.ctl(&["close_all_connections", "the test says so"]);
    let reason = within("the session's end", session.closed()).await;
    assert!(reason.contains("the test says so"), "{reason}");
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!consumer.lease().holds(Instant::now()));

    // The same delivery tags again, on the next session's channel.
    let next = node.session().await;
    let mut again = next.link().consume(spec(&queue, 2)).await.unwrap();
    let redelivered = take(&mut again, 2).await;
    assert!(redelivered.iter().all(|delivery| delivery.redelivered));
    for delivery in held {
        assert_eq!(delivery.receipt.ack(), Err(Stale));
    }
    drop(redelivered);
    within("the close", again.close()).await;
    ready(&next, &queue, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_holds_while_the_broker_answers_and_runs_out_when_it_goes_silent() {
    let node = RabbitNode::start().await;
    let session = node.session().await;
    let queue = filled(&node.url(), &session, 1).await;
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();

    let well_past = Instant::now() + Lease::SPAN + Duration::from_secs(2);
    let mut look = tokio::time::interval(Duration::from_millis(50));
    while Instant::now() < well_past {
        assert!(consumer.lease().holds(Instant::now()), "it must be renewed in time");
        look.tick().await;
    }
    node.freeze();
    let frozen = Instant::now();
    within("the lease's end", async {
        while consumer.lease().holds(Instant::now()) {
            look.tick().await;
        }
    })
    .await;
    assert!(frozen.elapsed() <= Lease::SPAN + Duration::from_secs(1), "{:?}", frozen.elapsed());
    // The broker reported nothing; only the heartbeats stay away.
    let reason = within("the session's end", session.closed()).await;
    assert!(!reason.is_empty());
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!held.receipt.is_live());
    node.thaw();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_broker_revokes_the_lease_at_once() {
    let mut node = RabbitNode::start().await;
    let session = node.session().await;
    let queue = filled(&node.url(), &session, 1).await;
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();
    node.sync_registry();
    node.kill();
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!consumer.lease().holds(Instant::now()));
    assert_eq!(held.receipt.ack(), Err(Stale));

    node.restart();
    // A queue that has just come back may keep its first caller waiting, which a caller of ours
    // answers by a new session.
    let quick_to_give_up = AmqpOptions { call_timeout: Duration::from_secs(5), ..options(&node.url()) };
    let connector = Connector::new(quick_to_give_up).unwrap();
    let (_session, mut again) = within("the queue's return", async {
        loop {
            let next = connector.connect().await.unwrap();
            match next.link().consume(spec(&queue, 1)).await {
                Ok(consumer) => return (next, consumer),
                Err(error) => assert!(error.is_passing(), "{error:?}"),
            }
        }
    })
    .await;
    let survivor = take(&mut again, 1).await.pop().unwrap();
    assert_eq!(survivor.message.body, "0", "a confirmed message outlives a crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_blocks_publishers_holds_up_neither_them_nor_settlements() {
    let node = RabbitNode::start().await;
    let queue = fresh_namespace();
    Foreign::connect(&node.url()).await.queue(&queue, &[]).await;
    let connector = Connector::new(AmqpOptions {
        confirm_timeout: Duration::from_secs(2),
        call_timeout: Duration::from_secs(2),
        ..options(&node.url())
    });
    let session = connector.unwrap().connect().await.unwrap();
    session.publish("", &queue, message("before", "1")).await.unwrap();
    node.ctl(&["set_vm_memory_high_watermark", "0"]);

    let refused = within("a refusal", async {
        loop {
            // The broker blocks a connection at its first publish under alarm, which it may still
            // take.
            let began = Instant::now();
            let outcome = session.publish("", &queue, message("during", "2")).await;
            assert!(began.elapsed() < Duration::from_secs(10), "a blocked publish must not hang");
            if let Err(PublishError::NotSent(reason)) = outcome {
                return reason;
            }
        }
    })
    .await;
    assert!(refused.contains("alarm"), "{refused}");
    assert!(session.link().is_blocked());
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    within("a delivery", consumer.recv()).await.unwrap().receipt.ack().unwrap();
    within("the consumer's close", consumer.close()).await;

    node.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    within("the end of the blockade", async {
        while session.publish("", &queue, message("after", "3")).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!session.is_closed() && !session.link().is_blocked());
    tokio::time::timeout(DEADLINE, session.link().close()).await.unwrap();
}
