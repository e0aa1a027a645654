//! Deliveries and what settles them.

use captcha_worker::broker::Broker;
use captcha_worker::broker::topology::Names;

use crate::conformance::fixtures::{
    consume, drain, get, name, next, next_bodies, nothing_comes, put, queue, ready, text, until_ready,
    with_queues, within,
};

pub(crate) async fn deliveries_come_in_the_order_of_publishing(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let numbers: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = numbers.iter().map(String::as_str).collect();
    // More than fits between broker and consumer before anybody reads.
    put(&session, &own, &bodies[..100]).await;
    let mut consumer = consume(&session, &own, 150).await;
    put(&session, &own, &bodies[100..]).await;
    for expected in bodies {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery.message), expected);
        assert!(!delivery.redelivered);
        delivery.receipt.ack().unwrap();
    }
}

pub(crate) async fn prefetch_bounds_unsettled_deliveries(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2", "3", "4", "5"]).await;
    let mut consumer = consume(&session, &own, 2).await;
    let mut held = next_bodies(&mut consumer, 2).await;
    nothing_comes(&mut consumer).await;
    assert_eq!(ready(&session, &own).await, 3);
    held.remove(0).1.receipt.ack().unwrap();
    let (body, third) = next_bodies(&mut consumer, 1).await.remove(0);
    assert_eq!(body, "3");
    nothing_comes(&mut consumer).await;
    third.receipt.ack().unwrap();
    drop(held);
}

pub(crate) async fn an_acked_message_is_gone(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["m"]).await;
    let mut consumer = consume(&session, &own, 5).await;
    next(&mut consumer).await.receipt.ack().unwrap();
    within("the close", consumer.close()).await;
    let mut again = consume(&session, &own, 5).await;
    nothing_comes(&mut again).await;
    assert_eq!(ready(&session, &own).await, 0);
}

pub(crate) async fn what_was_acked_before_a_flush_does_not_come_back(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2", "3"]).await;
    let working = broker.connect().await.unwrap();
    let mut consumer = consume(&working, &own, 5).await;
    let mut held = next_bodies(&mut consumer, 3).await;
    held.remove(1).1.receipt.ack().unwrap();
    held.remove(0).1.receipt.ack().unwrap();
    within("the flush", consumer.flush()).await.unwrap();
    // No close in order.
    drop((working, consumer));
    until_ready(&session, &own, 1).await;
    assert_eq!(text(&get(&session, &own).await.message), "3");
    drop(held);
}

pub(crate) async fn a_requeued_message_comes_again_as_redelivered_and_before_later_ones(
    broker: Broker,
    names: Names,
) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    let first = next(&mut consumer).await;
    assert!(!first.redelivered);
    first.receipt.requeue().unwrap();
    let again = next(&mut consumer).await;
    assert_eq!((text(&again.message).as_str(), again.redelivered), ("1", true));
    again.receipt.ack().unwrap();
    let second = next(&mut consumer).await;
    assert_eq!((text(&second.message).as_str(), second.redelivered), ("2", false));
    second.receipt.ack().unwrap();
}

pub(crate) async fn a_dropped_receipt_requeues(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["m"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    drop(next(&mut consumer).await);
    let again = next(&mut consumer).await;
    assert_eq!((text(&again.message).as_str(), again.redelivered), ("m", true));
    again.receipt.ack().unwrap();
}

pub(crate) async fn closing_carries_out_earlier_settlements_and_returns_the_rest(
    broker: Broker,
    names: Names,
) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2", "3", "4"]).await;
    let mut consumer = consume(&session, &own, 4).await;
    let mut held = next_bodies(&mut consumer, 3).await;
    held.remove(0).1.receipt.ack().unwrap();
    held.remove(1).1.receipt.ack().unwrap();
    within("the close", consumer.close()).await;
    let (_, second) = held.remove(0);
    assert!(!second.receipt.is_live());
    assert!(second.receipt.ack().is_err(), "the channel is gone");
    until_ready(&session, &own, 2).await;
    assert_eq!(drain(&session, &own).await, ["2", "4"]);
}

pub(crate) async fn cancelling_stops_deliveries_and_keeps_receipts_valid(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2"]).await;
    let mut consumer = consume(&session, &own, 10).await;
    let mut held = next_bodies(&mut consumer, 2).await;
    within("the cancel", consumer.cancel()).await;
    put(&session, &own, &["3"]).await;
    assert!(within("the stream's end", consumer.recv()).await.is_none());
    assert!(consumer.lease().holds(tokio::time::Instant::now()), "the channel is still there");
    held.remove(1).1.receipt.ack().unwrap();
    held.remove(0).1.receipt.requeue().unwrap();
    until_ready(&session, &own, 2).await;
    assert_eq!(drain(&session, &own).await, ["1", "3"]);
}

pub(crate) async fn a_dropped_consumer_gives_back_what_it_did_not_take(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    let bodies: Vec<&str> = numbers.iter().map(String::as_str).collect();
    put(&session, &own, &bodies).await;
    let mut consumer = consume(&session, &own, 90).await;
    let first = next(&mut consumer).await;
    drop(consumer);
    until_ready(&session, &own, 99).await;
    first.receipt.ack().expect("a receipt outlives its consumer");
    let mut left = drain(&session, &own).await;
    left.sort_by_key(|body| body.parse::<u32>().unwrap());
    assert_eq!(left, bodies[1..]);
}

pub(crate) async fn get_takes_one_message_and_can_put_it_back(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    assert!(within("get", session.link().get(&own)).await.unwrap().is_none());
    put(&session, &own, &["1", "2"]).await;
    let first = get(&session, &own).await;
    let second = get(&session, &own).await;
    assert_eq!((text(&first.message), text(&second.message)), ("1".to_owned(), "2".to_owned()));
    assert!(within("get", session.link().get(&own)).await.unwrap().is_none());
    second.receipt.ack().unwrap();
    first.receipt.requeue().unwrap();
    let again = get(&session, &own).await;
    assert_eq!((text(&again.message).as_str(), again.redelivered), ("1", true));
    again.receipt.ack().unwrap();
    until_ready(&session, &own, 0).await;
}

pub(crate) async fn depth_counts_what_is_ready_and_who_consumes(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2", "3"]).await;
    let before = within("a depth", session.link().depth(&own)).await.unwrap();
    assert_eq!((before.ready, before.consumers), (3, 0));
    let mut consumer = consume(&session, &own, 1).await;
    let held = next(&mut consumer).await;
    let during = within("a depth", session.link().depth(&own)).await.unwrap();
    assert_eq!((during.ready, during.consumers), (2, 1));
    held.receipt.ack().unwrap();
}
