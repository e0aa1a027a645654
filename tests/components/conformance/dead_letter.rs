//! The ways out of a queue that no consumer's ack is.

use captcha_worker::broker::topology::{ExchangeKind, Names, Queue};
use captcha_worker::broker::{Broker, Session};
use captcha_worker::domain::message::{Headers, Message, Properties, Value};
use tokio::time::{Duration, Instant};

use crate::conformance::fixtures::{
    binding, connect, consume, dead_letters_to, deaths, declare, exchange, get, message, name, next,
    nothing_comes, put, queue, ready, text, topology, until_ready, with_queues, within,
};

/// How long messages are retried here, in milliseconds.
const RETRIED: i64 = 400;

fn parking(own: &str, target: &str) -> Queue {
    let mut further = dead_letters_to(target);
    further.push(("x-message-ttl", Value::Int(RETRIED)));
    queue(own, &further)
}

fn limited(own: &str, target: &str, limit: i64) -> Queue {
    let mut further = dead_letters_to(target);
    further.push(("x-delivery-limit", Value::Int(limit)));
    queue(own, &further)
}

fn expiring(body: &str, millis: &str) -> Message {
    Message {
        properties: Properties { expiration: Some(millis.to_owned()), ..Properties::default() },
        ..message(body)
    }
}

async fn publish(session: &Session, exchange: &str, key: &str, message: Message) {
    within("a confirm", session.publish(exchange, key, message)).await.expect("confirmed");
}

fn assert_fields(table: &Headers, fields: &[(&str, Value)]) {
    for (field, value) in fields {
        assert_eq!(table.get(*field), Some(value), "{field} in {table:?}");
    }
}

pub(crate) async fn a_rejected_message_is_dead_lettered_with_its_history(broker: Broker, names: Names) {
    let [x, own, dead_queue] = ["x", "q", "dead"].map(|suffix| name(&names, suffix));
    let session = connect(&broker).await;
    let bound = topology(
        vec![exchange(&x, ExchangeKind::Topic, &[])],
        vec![queue(&dead_queue, &[]), queue(&own, &dead_letters_to(&dead_queue))],
        vec![binding(&x, &own, "jobs.#")],
    );
    declare(&session, &bound).await;
    let mut sent = expiring("m", "60000");
    sent.properties.message_id = Some("id".to_owned());
    sent.properties.headers.insert("own".to_owned(), Value::Int(1));
    publish(&session, &x, "jobs.image", sent).await;
    get(&session, &own).await.receipt.reject().unwrap();

    let dead = get(&session, &dead_queue).await;
    assert_eq!((text(&dead.message).as_str(), dead.routing_key.as_str()), ("m", dead_queue.as_str()));
    // RabbitMQ 4.0 marks what it dead-letters as redelivered, 3.10 does not; the mark only ever
    // means "perhaps".
    let properties = &dead.message.properties;
    assert_eq!((properties.message_id.as_deref(), &properties.expiration), (Some("id"), &None));
    let history = deaths(&dead.message);
    assert_eq!(history.len(), 1);
    assert!(matches!(history[0].get("time"), Some(Value::Timestamp(_))), "{history:?}");
    let expected = [
        ("count", Value::Int(1)),
        ("reason", "rejected".into()),
        ("queue", own.as_str().into()),
        ("exchange", x.as_str().into()),
        ("routing-keys", Value::Array(vec!["jobs.image".into()])),
        ("original-expiration", "60000".into()),
    ];
    assert_fields(&history[0], &expected);
    let first = [
        ("own", Value::Int(1)),
        ("x-first-death-reason", "rejected".into()),
        ("x-first-death-queue", own.as_str().into()),
        ("x-first-death-exchange", x.as_str().into()),
    ];
    assert_fields(&properties.headers, &first);
    dead.receipt.ack().unwrap();
}

pub(crate) async fn a_retried_message_goes_on_after_its_time(broker: Broker, names: Names) {
    let [delay, jobs] = ["delay", "jobs"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&jobs, &[]), parking(&delay, &jobs)]).await;
    let mut consumer = consume(&session, &jobs, 1).await;
    let retried_at = Instant::now();
    put(&session, &delay, &["m"]).await;
    let delivery = next(&mut consumer).await;
    // The broker's clock began before ours saw the confirm, and counts whole milliseconds.
    assert!(retried_at.elapsed() >= Duration::from_millis(RETRIED as u64 - 2), "{:?}", retried_at.elapsed());
    assert!(!delivery.redelivered);
    let history = deaths(&delivery.message);
    assert_eq!(history.len(), 1);
    let expected = [
        ("count", Value::Int(1)),
        ("reason", "expired".into()),
        ("queue", delay.as_str().into()),
        ("exchange", "".into()),
        ("routing-keys", Value::Array(vec![delay.as_str().into()])),
    ];
    assert_fields(&history[0], &expected);
    delivery.receipt.ack().unwrap();
    assert_eq!(ready(&session, &delay).await, 0);
}

pub(crate) async fn a_message_retried_twice_round_is_not_dropped(broker: Broker, names: Names) {
    let [delay, jobs] = ["delay", "jobs"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&jobs, &[]), parking(&delay, &jobs)]).await;
    let mut consumer = consume(&session, &jobs, 1).await;
    put(&session, &jobs, &["m"]).await;
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery.message), "m");
        // As it came, with the history in its headers, which is what brokers look for cycles in.
        publish(&session, "", &delay, delivery.message).await;
        delivery.receipt.ack().unwrap();
    }
    let last = next(&mut consumer).await;
    assert_eq!(text(&last.message), "m");
    last.receipt.ack().unwrap();
}

pub(crate) async fn a_message_expires_only_at_the_head_of_its_queue(broker: Broker, names: Names) {
    let [own, dead_queue] = ["q", "dead"].map(|suffix| name(&names, suffix));
    let session =
        with_queues(&broker, vec![queue(&dead_queue, &[]), queue(&own, &dead_letters_to(&dead_queue))]).await;
    let mut consumer = consume(&session, &dead_queue, 10).await;
    publish(&session, "", &own, expiring("long", "1500")).await;
    publish(&session, "", &own, expiring("short", "100")).await;
    nothing_comes(&mut consumer).await;
    assert_eq!(ready(&session, &own).await, 2);
    for expected in ["long", "short"] {
        let delivery = next(&mut consumer).await;
        assert_eq!(text(&delivery.message), expected);
        delivery.receipt.ack().unwrap();
    }
}

pub(crate) async fn the_shorter_of_the_queues_time_and_the_messages_own_counts(broker: Broker, names: Names) {
    let [delay, jobs] = ["delay", "jobs"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&jobs, &[]), parking(&delay, &jobs)]).await;
    let mut consumer = consume(&session, &jobs, 10).await;
    for (own, at_least, at_most) in [("3600000", RETRIED - 2, 15_000), ("50", 48, RETRIED - 1)] {
        let begun = Instant::now();
        publish(&session, "", &delay, expiring("m", own)).await;
        next(&mut consumer).await.receipt.ack().unwrap();
        let took = i64::try_from(begun.elapsed().as_millis()).expect("fits");
        assert!((at_least..at_most).contains(&took), "{own} ms of its own, and {took} ms passed");
    }
}

pub(crate) async fn a_message_that_comes_back_too_often_is_dead_lettered(broker: Broker, names: Names) {
    let [own, dead_queue] = ["q", "dead"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&dead_queue, &[]), limited(&own, &dead_queue, 2)]).await;
    put(&session, &own, &["m"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    for seen_before in 0..3 {
        let delivery = next(&mut consumer).await;
        assert_eq!(delivery.redelivered, seen_before > 0);
        if seen_before > 0 {
            let count = delivery.message.properties.headers.get("x-delivery-count");
            assert_eq!(count, Some(&Value::Int(seen_before)));
        }
        delivery.receipt.requeue().unwrap();
    }
    let dead = get(&session, &dead_queue).await;
    assert_fields(
        &deaths(&dead.message)[0],
        &[("reason", "delivery_limit".into()), ("queue", own.as_str().into())],
    );
    dead.receipt.ack().unwrap();
    nothing_comes(&mut consumer).await;
}

pub(crate) async fn a_rejected_message_whose_target_is_missing_is_not_delivered_again(
    broker: Broker,
    names: Names,
) {
    let [own, dead_queue] = ["q", "dead"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&own, &dead_letters_to(&dead_queue))]).await;
    put(&session, &own, &["m"]).await;
    let mut consumer = consume(&session, &own, 1).await;
    next(&mut consumer).await.receipt.reject().unwrap();
    nothing_comes(&mut consumer).await;
    assert_eq!(ready(&session, &own).await, 0);
}

pub(crate) async fn deliveries_lost_with_their_channel_count_toward_the_limit(broker: Broker, names: Names) {
    let [own, dead_queue] = ["q", "dead"].map(|suffix| name(&names, suffix));
    let session = with_queues(&broker, vec![queue(&dead_queue, &[]), limited(&own, &dead_queue, 1)]).await;
    put(&session, &own, &["held", "neighbour"]).await;
    for _ in 0..2 {
        let lost = connect(&broker).await;
        let mut consumer = consume(&lost, &own, 2).await;
        let held = [next(&mut consumer).await, next(&mut consumer).await];
        within("the close", lost.link().close()).await;
        drop(held);
    }
    until_ready(&session, &dead_queue, 2).await;
    assert_eq!(ready(&session, &own).await, 0);
}
