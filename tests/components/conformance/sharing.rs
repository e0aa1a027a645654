//! Several consumers at once.

use captcha_worker::broker::topology::{ExchangeKind, Names};
use captcha_worker::broker::{Broker, PublishError};
use captcha_worker::domain::message::Value;

use crate::conformance::fixtures::{
    connect, consume, declare, exchange, message, name, next, next_bodies, nothing_comes, put, queue, text,
    topology, with_queues, within,
};

pub(crate) async fn two_consumers_share_a_queue(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let other = connect(&broker).await;
    let mut one = consume(&session, &own, 10).await;
    let mut two = consume(&other, &own, 10).await;
    put(&session, &own, &["1", "2", "3", "4", "5", "6"]).await;
    let mut seen = Vec::new();
    for consumer in [&mut one, &mut two] {
        for (body, delivery) in next_bodies(consumer, 3).await {
            assert!(!delivery.redelivered);
            delivery.receipt.ack().unwrap();
            seen.push(body);
        }
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "3", "4", "5", "6"]);
}

pub(crate) async fn a_second_consumer_of_a_single_active_queue_waits_for_the_first_to_go(
    broker: Broker,
    names: Names,
) {
    let own = name(&names, "q");
    let single = queue(&own, &[("x-single-active-consumer", Value::Bool(true))]);
    let session = with_queues(&broker, vec![single]).await;
    let other = connect(&broker).await;
    let mut first = consume(&session, &own, 1).await;
    let mut second = consume(&other, &own, 10).await;
    put(&session, &own, &["1", "2"]).await;
    let held = next(&mut first).await;
    // The first has no room for the next one, and still the second does not get it.
    nothing_comes(&mut second).await;
    drop(held);
    within("the close", first.close()).await;
    // The second may become active before what the first held is back, so that the order is open.
    let mut taken = next_bodies(&mut second, 2).await;
    taken.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!((taken[0].0.as_str(), taken[0].1.redelivered), ("1", true));
    assert_eq!(taken[1].0, "2");
    for (_, delivery) in taken {
        delivery.receipt.ack().unwrap();
    }
}

pub(crate) async fn subscribers_each_get_a_copy_of_what_is_published_from_then_on(
    broker: Broker,
    names: Names,
) {
    let news = name(&names, "news");
    let session = connect(&broker).await;
    declare(&session, &topology(vec![exchange(&news, ExchangeKind::Fanout, &[])], vec![], vec![])).await;
    let other = connect(&broker).await;
    let publish = async |body: &str| {
        let publish = session.publisher().publish(&news, "", false, message(body));
        within("a confirm", publish).await
    };
    publish("before").await.unwrap();
    let mut one = within("a subscription", session.link().subscribe(&news)).await.unwrap();
    let mut two = within("a subscription", other.link().subscribe(&news)).await.unwrap();
    publish("for both").await.unwrap();
    for subscriber in [&mut one, &mut two] {
        let delivery = next(subscriber).await;
        assert_eq!(text(&delivery.message), "for both");
        delivery.receipt.ack().unwrap();
    }
    within("the close", two.close()).await;
    // RabbitMQ 4.3 may refuse it, because the other queue is just being deleted; its copy arrives.
    assert!(matches!(publish("for one").await, Ok(()) | Err(PublishError::Rejected)));
    let delivery = next(&mut one).await;
    assert_eq!(text(&delivery.message), "for one");
    delivery.receipt.ack().unwrap();
    within("the close", one.close()).await;
    let none = within("a return", session.publish(&news, "", message("for nobody"))).await;
    assert!(none.is_err(), "a subscription's queue goes with its consumer");
}
