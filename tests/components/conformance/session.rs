//! A session's end, and what ends with it.

use captcha_worker::broker::topology::Names;
use captcha_worker::broker::{Broker, BrokerError, Lease, PublishError, Stale};
use tokio::time::{Duration, Instant, sleep};

use crate::conformance::fixtures::{
    connect, consume, get, message, name, next, put, queue, ready, text, with_queues, within,
};

pub(crate) async fn receipts_are_stale_once_their_session_has_ended(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["1", "2"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    let consumed = next(&mut consumer).await;
    let got = get(&session, &own).await;
    assert!(consumed.receipt.is_live() && got.receipt.is_live());
    within("the close", session.link().close()).await;
    for delivery in [consumed, got] {
        assert!(!delivery.receipt.is_live());
        assert_eq!(delivery.receipt.ack(), Err(Stale));
    }
    let next_owner = connect(&broker).await;
    // Two channels have ended, and which of them the broker sees to first is its own affair.
    let mut returned = Vec::new();
    for _ in 0..2 {
        let delivery = get(&next_owner, &own).await;
        assert!(delivery.redelivered);
        returned.push(text(&delivery.message));
        delivery.receipt.ack().unwrap();
    }
    returned.sort();
    assert_eq!(returned, ["1", "2"]);
}

pub(crate) async fn an_ended_session_says_so_and_does_nothing_more(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let mut consumer = consume(&session, &own, 1).await;
    assert!(!session.is_closed());
    within("the close", session.link().close()).await;
    let reason = within("the session's end", session.closed()).await;
    assert!(!reason.is_empty());
    assert!(session.is_closed());
    assert!(within("the stream's end", consumer.recv()).await.is_none());
    let fate = within("a fate", session.publish("", &own, message("m"))).await;
    assert!(matches!(fate, Err(PublishError::NotSent(_) | PublishError::Unknown(_))), "{fate:?}");
    let depth = within("a refusal", session.link().depth(&own)).await;
    assert!(matches!(depth, Err(BrokerError::Lost(_))), "{depth:?}");
    let next_owner = connect(&broker).await;
    assert_eq!(ready(&next_owner, &own).await, 0);
}

pub(crate) async fn closing_a_session_returns_what_it_held(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["acked", "held"]).await;
    let mut consumer = consume(&session, &own, 2).await;
    let acked = next(&mut consumer).await;
    let held = next(&mut consumer).await;
    acked.receipt.ack().unwrap();
    within("the close", session.link().close()).await;
    let next_owner = connect(&broker).await;
    let mut consumer = consume(&next_owner, &own, 10).await;
    let delivery = next(&mut consumer).await;
    assert_eq!((text(&delivery.message).as_str(), delivery.redelivered), ("held", true));
    delivery.receipt.ack().unwrap();
    within("the close", consumer.close()).await;
    assert_eq!(ready(&next_owner, &own).await, 0, "the ack before the close stands");
    drop(held);
}

pub(crate) async fn dropping_a_session_returns_what_it_held(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    put(&session, &own, &["held"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    let held = next(&mut consumer).await;
    drop(session);
    assert!(within("the stream's end", consumer.recv()).await.is_none());
    let next_owner = connect(&broker).await;
    let delivery = get(&next_owner, &own).await;
    assert_eq!((text(&delivery.message).as_str(), delivery.redelivered), ("held", true));
    delivery.receipt.ack().unwrap();
    drop(held);
}

pub(crate) async fn a_lease_holds_while_the_channel_lives_and_not_after(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let closed = consume(&session, &own, 1).await;
    let ended = consume(&session, &own, 1).await;
    // Past one round trip's span: only a renewal can make it hold then.
    sleep(Lease::SPAN + Duration::from_secs(2)).await;
    let leases = [closed.lease().clone(), ended.lease().clone()];
    assert!(leases.iter().all(|lease| lease.holds(Instant::now())));
    within("the close", closed.close()).await;
    assert!(!leases[0].holds(Instant::now()) && leases[1].holds(Instant::now()));
    within("the close", session.link().close()).await;
    assert!(!leases[1].holds(Instant::now()));
}

pub(crate) async fn further_publishers_publish_on_their_own(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let further = within("a publisher", session.link().open_publisher()).await.unwrap();
    for publisher in [session.publisher(), &further] {
        let publish = publisher.publish("", &own, true, message("m"));
        assert_eq!(within("a confirm", publish).await, Ok(()));
    }
    assert_eq!(ready(&session, &own).await, 2);
    within("the close", session.link().close()).await;
    let fate = within("a fate", further.publish("", &own, true, message("late"))).await;
    assert!(matches!(fate, Err(PublishError::NotSent(_) | PublishError::Unknown(_))), "{fate:?}");
}
