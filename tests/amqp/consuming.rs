//! Deliveries, receipts, and the lease.

use std::time::Duration;

use captcha_worker::broker::{BrokerError, Consumer, Delivery, Lease, Session, Stale};
use tokio::time::{Instant, timeout};

use super::support::rabbit::{RabbitNode, SharedRabbit, fresh_namespace};
use super::{DEADLINE, Foreign, message, ready, spec, within};

/// Long enough for a delivery that should not come to have come.
const A_MOMENT: Duration = Duration::from_millis(300);

/// A quorum queue with `count` messages in it.
async fn filled(url: &str, session: &Session, count: usize) -> String {
    let queue = fresh_namespace();
    Foreign::connect(url).await.queue(&queue, &[("x-queue-type", super::text("quorum"))]).await;
    for n in 0..count {
        session.publish("", &queue, message(&n.to_string(), n.to_string())).await.unwrap();
    }
    queue
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(within("a delivery", consumer.recv()).await.expect("the consumer goes on"));
    }
    taken
}

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
    assert_eq!(bodies, [b"1", b"3"]);
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
    // Nothing was told by the broker; only the heartbeats stay away.
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
    node.kill();
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!consumer.lease().holds(Instant::now()));
    assert_eq!(held.receipt.ack(), Err(Stale));

    node.restart();
    let next = node.session().await;
    let mut again = next.link().consume(spec(&queue, 1)).await.unwrap();
    assert_eq!(take(&mut again, 1).await[0].message.body, b"0", "a confirmed message outlives a crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_can_be_got_without_a_consumer_and_settled() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 3).await;
    let first = session.link().get(&queue).await.unwrap().unwrap();
    let second = session.link().get(&queue).await.unwrap().unwrap();
    assert_eq!((first.message.body.as_slice(), second.message.body.as_slice()), (&b"0"[..], &b"1"[..]));
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
