//! Deliveries, receipts, and the lease.

use std::time::Duration;

use captcha_worker::broker::topology::{Names, RETRY_DELAYS, Topology};
use captcha_worker::broker::{BrokerError, Stale};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, interval, timeout};

use super::{DEADLINE, filled, message, ready, spec, take, within};
use crate::support::rabbit::{RabbitNode, SharedRabbit, fresh_namespace};

/// Long enough for a delivery that should not come to have come.
const A_MOMENT: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_the_prefetch_is_unsettled_at_once() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 8).await;
    let mut consumer = session.link().consume(spec(&queue, 3)).await.unwrap();
    let mut held = take(&mut consumer, 3).await;
    assert!(timeout(A_MOMENT, consumer.recv()).await.is_err(), "a fourth came");
    assert_eq!(session.link().depth(&queue).await.unwrap().ready, 5);
    held.pop().unwrap().receipt.ack().unwrap();
    take(&mut consumer, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ack_requeue_and_reject_do_what_they_say() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 4).await;
    let mut consumer = session.link().consume(spec(&queue, 4)).await.unwrap();
    let mut held = take(&mut consumer, 4).await.into_iter();
    held.next().unwrap().receipt.ack().unwrap();
    held.next().unwrap().receipt.requeue().unwrap();
    held.next().unwrap().receipt.reject().unwrap();
    drop(held.next());
    let again = take(&mut consumer, 2).await;
    assert!(again.iter().all(|delivery| delivery.redelivered));
    let mut bodies: Vec<_> = again.iter().map(|delivery| delivery.message.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, ["1", "3"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_settled_before_a_close_is_carried_out_and_the_rest_returns() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 600).await;
    let mut consumer = session.link().consume(spec(&queue, 1_000)).await.unwrap();
    let mut held = take(&mut consumer, 600).await;
    let kept = held.split_off(590);
    for delivery in held {
        delivery.receipt.ack().unwrap();
    }
    within("the close", consumer.close()).await;
    ready(&session, &queue, 10).await;
    for delivery in kept {
        assert_eq!(delivery.receipt.ack(), Err(Stale));
    }
    ready(&session, &queue, 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_the_session_carries_out_what_was_settled_before() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 200).await;
    let mut consumer = session.link().consume(spec(&queue, 1_000)).await.unwrap();
    for delivery in take(&mut consumer, 200).await {
        delivery.receipt.ack().unwrap();
    }
    within("the close", session.link().close()).await;
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    let other = rabbit.session().await;
    ready(&other, &queue, 0).await;
    let mut left = other.link().consume(spec(&queue, 10)).await.unwrap();
    assert!(timeout(A_MOMENT, left.recv()).await.is_err(), "one came back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_cancel_nothing_new_comes_and_what_came_can_be_settled() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 2).await;
    let mut consumer = session.link().consume(spec(&queue, 10)).await.unwrap();
    let mut held = take(&mut consumer, 2).await;
    within("the cancel", consumer.cancel()).await;
    session.publish("", &queue, message("late", "late")).await.unwrap();
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    drop(consumer);
    held.pop().unwrap().receipt.ack().unwrap();
    drop(held);
    ready(&session, &queue, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_consumer_gives_back_what_it_did_not_hand_out_and_its_receipts_live_on() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 300).await;
    let mut consumer = session.link().consume(spec(&queue, 300)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();
    drop(consumer);
    ready(&session, &queue, 299).await;
    assert!(held.receipt.is_live());
    held.receipt.ack().unwrap();
    within("the end of the channel", async {
        while session.link().depth(&queue).await.unwrap().consumers > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    ready(&session, &queue, 299).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_settlements_after_a_cancel_is_carried_out_before_the_close() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 300).await;
    let mut consumer = session.link().consume(spec(&queue, 300)).await.unwrap();
    let held = take(&mut consumer, 300).await;
    within("the cancel", consumer.cancel()).await;
    for delivery in held {
        delivery.receipt.ack().unwrap();
    }
    within("the close", consumer.close()).await;
    ready(&session, &queue, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_settlements_of_got_messages_is_carried_out_before_the_close() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 100).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        held.push(session.link().get(&queue).await.unwrap().unwrap());
    }
    for delivery in held {
        delivery.receipt.ack().unwrap();
    }
    within("the close", session.link().close()).await;
    ready(&rabbit.session().await, &queue, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_can_be_got_without_a_consumer_and_settled() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 3).await;
    let first = session.link().get(&queue).await.unwrap().unwrap();
    let second = session.link().get(&queue).await.unwrap().unwrap();
    assert_eq!((&*first.message.body, &*second.message.body), (&b"0"[..], &b"1"[..]));
    first.receipt.ack().unwrap();
    second.receipt.requeue().unwrap();
    ready(&session, &queue, 2).await;
    let empty = filled(rabbit.url(), &session, 0).await;
    assert!(session.link().get(&empty).await.unwrap().is_none());
    let error = session.link().get("no-such-queue").await.unwrap_err();
    assert!(matches!(error, BrokerError::Missing { kind: "queue", .. }), "{error}");

    let last = session.link().get(&queue).await.unwrap().unwrap();
    assert!(last.receipt.is_live(), "another queue's absence costs this one nothing");
    timeout(DEADLINE, session.link().close()).await.unwrap();
    assert_eq!(last.receipt.ack(), Err(Stale));
    ready(&rabbit.session().await, &queue, 2).await;
}

/// From 4.3 on the queue cancels the consumer, whose channel stays open and would go on renewing
/// the lease. Before, the broker closes the channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_a_full_buffer_knows_when_the_broker_has_taken_its_deliveries_back() {
    let node = RabbitNode::start().await;
    node.shorten_consumer_timeout(Duration::from_secs(2), Duration::from_secs(1));
    let session = node.session().await;
    let queue = filled(&node.url(), &session, 100).await;
    let mut consumer = session.link().consume(spec(&queue, 100)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();
    let lease = consumer.lease().clone();
    within("the consumer's time-out", async {
        let mut look = interval(Duration::from_millis(50));
        while session.link().depth(&queue).await.unwrap().ready == 0 {
            look.tick().await;
        }
    })
    .await;
    let taken_back = Instant::now();
    within("the lease's end", async {
        let mut look = interval(Duration::from_millis(10));
        while lease.holds(Instant::now()) {
            look.tick().await;
        }
    })
    .await;
    assert!(taken_back.elapsed() < Duration::from_secs(1), "{:?}", taken_back.elapsed());
    assert_eq!(held.receipt.ack(), Err(Stale));
    while within("the consumer's end", consumer.recv()).await.is_some() {}
    ready(&session, &queue, 100).await;
}

/// The broker's version, as it greets a client.
async fn version(url: &str) -> (u32, u32) {
    let address = url.rsplit('@').next().and_then(|rest| rest.split('/').next()).unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
    let mut greeting = Vec::new();
    within("the greeting", async {
        loop {
            stream.read_buf(&mut greeting).await.unwrap();
            // A table's entry: its name, `S`, the length in 4 bytes, and the text.
            let name = greeting.windows(8).position(|part| part == b"\x07version");
            if let Some(text) = name.and_then(|at| greeting.get(at + 13..at + 23)) {
                let text = String::from_utf8_lossy(text).into_owned();
                let mut numbers = text.split('.').map_while(|number| number.parse().ok());
                return (numbers.next().unwrap(), numbers.next().unwrap());
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_of_a_lane_come_by_priority_from_rabbitmq_4_3_on_and_keep_it_in_a_retry_queue() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let (names, lane) = (Names::new(&fresh_namespace()), "urgent".parse().unwrap());
    session.link().declare(&Topology::with_lanes(&names, [&lane])).await.unwrap();
    let priorities = [0, 9, 31, 4, 9, 0, 31, 1];
    for (n, priority) in priorities.into_iter().enumerate() {
        let mut job = message(&n.to_string(), "{}");
        job.properties.priority = Some(priority);
        // The last one comes back out of a retry queue.
        let queue = if n == 7 { names.retry_of(RETRY_DELAYS[0], &lane) } else { names.jobs_of(&lane) };
        session.publish("", &queue, job).await.unwrap();
    }
    ready(&session, &names.jobs_of(&lane), 8).await;
    let mut consumer = session.link().consume(spec(&names.jobs_of(&lane), 1)).await.unwrap();
    let mut came = Vec::new();
    for _ in priorities {
        let delivery = take(&mut consumer, 1).await.pop().unwrap();
        let properties = &delivery.message.properties;
        came.push((properties.message_id.clone().unwrap(), properties.priority.unwrap()));
        delivery.receipt.ack().unwrap();
    }
    let mut expected: Vec<_> = (0..8).map(|n| (n.to_string(), priorities[n])).collect();
    match version(rabbit.url()).await {
        version if version >= (4, 3) => expected.sort_by_key(|(_, priority)| std::cmp::Reverse(*priority)),
        // Two levels, of which the upper one gets two of three deliveries while both have messages.
        version if version >= (4, 0) => {
            came.sort();
        }
        _ => {}
    }
    assert_eq!(came, expected);
}
