//! What only this broker can do: faults on request, and snapshots of its state.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, timeout};

use super::MemoryBroker;
use crate::broker::topology::{Names, Queue, RETRY_DELAYS, Topology};
use crate::broker::{BrokerError, ConsumeSpec, Consumer, PublishError, Session};
use crate::domain::message::{Headers, Message, Properties, Value};

fn names() -> Names {
    Names::new("c")
}

async fn declared(broker: &MemoryBroker) -> Session {
    let session = broker.connect().await.unwrap();
    session.link().declare(&Topology::new(&names())).await.unwrap();
    session
}

fn message(body: &str) -> Message {
    Message { body: body.to_owned().into(), ..Message::default() }
}

fn bodies(broker: &MemoryBroker, queue: &str) -> Vec<String> {
    let messages = broker.snapshot(queue);
    messages.into_iter().map(|message| String::from_utf8(message.body.to_vec()).unwrap()).collect()
}

async fn consume(session: &Session, queue: &str, prefetch: u16) -> Consumer {
    let spec = ConsumeSpec { queue: queue.to_owned(), prefetch, tag: "test".to_owned() };
    session.link().consume(spec).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_confirm_is_lost_is_stored_and_its_fate_unknown_after_the_time_out() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    broker.fail_next_confirms(1);
    let fate = session.publish("", &names().tickets(), message("1")).await;
    assert!(matches!(fate, Err(PublishError::Unknown(_))), "{fate:?}");
    assert_eq!(session.publish("", &names().tickets(), message("2")).await, Ok(()));
    assert_eq!(bodies(&broker, &names().tickets()), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_confirm_becomes_unknown_at_once_when_the_session_ends() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    broker.fail_next_confirms(1);
    let begun = Instant::now();
    let tickets = names().tickets();
    let publish = session.publish("", &tickets, message("1"));
    let cut = async {
        while broker.queue_len(&tickets) == 0 {
            tokio::task::yield_now().await;
        }
        broker.drop_all_sessions();
    };
    let (fate, ()) = tokio::join!(publish, cut);
    assert!(matches!(fate, Err(PublishError::Unknown(_))), "{fate:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn only_the_session_that_is_cut_ends() {
    let broker = MemoryBroker::new();
    let (cut, other) = (declared(&broker).await, declared(&broker).await);
    cut.publish("", &names().jobs(), message("m")).await.unwrap();
    let mut consumer = consume(&cut, &names().jobs(), 1).await;
    let held = consumer.recv().await.unwrap();
    broker.drop_session(broker.sessions()[0]);
    assert_eq!(cut.closed().await, "connection cut");
    assert!(held.receipt.ack().is_err());
    assert!(!consumer.lease().holds(Instant::now()));
    assert!(!other.is_closed());
    assert_eq!(bodies(&broker, &names().jobs()), ["m"]);
    assert_eq!(broker.sessions().len(), 1);
    assert_eq!(other.link().depth(&names().jobs()).await.unwrap().consumers, 0);
}

#[tokio::test(start_paused = true)]
async fn publishes_that_wait_when_the_session_is_cut_are_not_sent() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let jobs = names().jobs();
    let publishes = join_all((0..50).map(|_| session.publish("", &jobs, message("m"))));
    let cut = async { broker.drop_all_sessions() };
    let (fates, ()) = tokio::join!(publishes, cut);
    let stored = broker.queue_len(&jobs);
    let confirmed = fates.iter().filter(|fate| fate.is_ok()).count();
    let not_sent = fates.iter().filter(|fate| matches!(fate, Err(PublishError::NotSent(_)))).count();
    assert_eq!((confirmed, confirmed + not_sent), (stored, 50), "{fates:?}");
    assert!(not_sent > 0);
}

#[tokio::test(start_paused = true)]
async fn a_broker_out_of_reach_makes_no_sessions_until_it_is_back() {
    let broker = MemoryBroker::new();
    broker.set_reachable(false);
    let refused = broker.connect().await.err();
    assert!(matches!(&refused, Some(BrokerError::Unreachable { .. })), "{refused:?}");
    broker.set_reachable(true);
    assert!(broker.connect().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn every_retried_message_comes_back_after_exactly_its_delay() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let mut consumer = consume(&session, &names().jobs(), 10).await;
    let begun = Instant::now();
    for delay in RETRY_DELAYS.iter().rev() {
        session.publish("", &names().retry(*delay), message(delay.label)).await.unwrap();
    }
    for delay in RETRY_DELAYS {
        let delivery = timeout(Duration::from_secs(3_600), consumer.recv()).await.unwrap().unwrap();
        assert_eq!(delivery.message.body, delay.label.as_bytes());
        assert_eq!(begun.elapsed(), Duration::from_millis(delay.millis));
        delivery.receipt.ack().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_has_nowhere_to_go_waits_for_its_queue_to_appear() {
    let broker = MemoryBroker::new();
    let session = broker.connect().await.unwrap();
    let whole = Topology::new(&names());
    let mut without_grave = whole.clone();
    without_grave.queues.retain(|queue| queue.name != names().dead_raw());
    without_grave.bindings.clear();
    session.link().declare(&without_grave).await.unwrap();
    session.publish("", &names().jobs(), message("m")).await.unwrap();
    let taken = session.link().get(&names().jobs()).await.unwrap().unwrap();
    taken.receipt.reject().unwrap();
    session.link().declare(&whole).await.unwrap();
    let mut grave = consume(&session, &names().dead_raw(), 1).await;
    let delivery = timeout(Duration::from_secs(600), grave.recv()).await.unwrap().unwrap();
    assert_eq!(delivery.message.body, "m");
    delivery.receipt.ack().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cycle_of_expiries_that_nobody_rejects_is_cut() {
    let broker = MemoryBroker::new();
    let session = broker.connect().await.unwrap();
    let round = |own: &str, target: &str| {
        let arguments = [
            ("x-queue-type", "quorum".into()),
            ("x-message-ttl", Value::Int(10)),
            ("x-dead-letter-exchange", "".into()),
            ("x-dead-letter-routing-key", target.into()),
        ];
        Queue {
            name: own.to_owned(),
            arguments: arguments.map(|(name, value)| (name.to_owned(), value)).into(),
        }
    };
    let topology =
        Topology { exchanges: vec![], queues: vec![round("a", "b"), round("b", "a")], bindings: vec![] };
    session.link().declare(&topology).await.unwrap();
    session.publish("", "a", message("m")).await.unwrap();
    tokio::time::advance(Duration::from_millis(100)).await;
    let left = timeout(Duration::from_secs(1), async {
        while broker.queue_len("a") + broker.queue_len("b") > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(left.await.is_ok(), "it goes round for ever");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_consumer_charges_each_message_that_it_had_once() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let jobs = names().jobs();
    for _ in 0..100 {
        session.publish("", &jobs, message("m")).await.unwrap();
    }
    let mut consumer = consume(&session, &jobs, 100).await;
    consumer.recv().await.unwrap().receipt.ack().unwrap();
    drop(consumer);
    let mut next = consume(&session, &jobs, 100).await;
    for _ in 0..99 {
        let delivery = timeout(Duration::from_secs(1), next.recv()).await.unwrap().unwrap();
        let count = delivery.message.properties.headers.get("x-delivery-count");
        assert_eq!(count, Some(&Value::Int(1)));
        delivery.receipt.ack().unwrap();
    }
}

#[tokio::test]
async fn a_thousand_jobs_go_through_publish_delivery_and_ack() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let jobs = names().jobs();
    let mut consumer = consume(&session, &jobs, 500).await;
    let bulk = "x".repeat(6_000);
    let publishes = async { join_all((0..1_000).map(|_| session.publish("", &jobs, message(&bulk)))).await };
    let settle = async {
        for _ in 0..1_000 {
            consumer.recv().await.unwrap().receipt.ack().unwrap();
        }
    };
    let (fates, ()) =
        timeout(Duration::from_secs(30), async { tokio::join!(publishes, settle) }).await.unwrap();
    assert!(fates.iter().all(Result::is_ok));
    consumer.close().await;
    assert_eq!(broker.queue_len(&jobs), 0);
}

#[tokio::test(start_paused = true)]
async fn a_user_id_that_is_not_the_sessions_ends_the_session() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let forged = Message {
        properties: Properties { user_id: Some("somebody".to_owned()), ..Properties::default() },
        ..message("m")
    };
    assert!(session.publish("", &names().jobs(), forged).await.is_err());
    assert!(session.closed().await.contains("user_id"));
    assert_eq!(broker.queue_len(&names().jobs()), 0);
}

#[tokio::test(start_paused = true)]
async fn carbon_copies_are_routed_and_blind_ones_leave_no_trace() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let copy_to = |queue: String| Value::Array(vec![queue.into()]);
    let headers = Headers::from([
        ("CC".to_owned(), copy_to(names().results())),
        ("BCC".to_owned(), copy_to(names().unrouted())),
    ]);
    let copied = Message { properties: Properties { headers, ..Properties::default() }, ..message("m") };
    session.publish("", &names().jobs(), copied).await.unwrap();
    for queue in [names().jobs(), names().results(), names().unrouted()] {
        let stored = broker.snapshot(&queue);
        assert_eq!(stored.len(), 1, "{queue}");
        assert!(!stored[0].properties.headers.contains_key("BCC"));
    }
}

#[tokio::test]
async fn tasks_end_with_their_session_and_with_the_broker() {
    let broker = MemoryBroker::new();
    let session = declared(&broker).await;
    let mut consumer = consume(&session, &names().jobs(), 1).await;
    let inner = std::sync::Arc::downgrade(&broker.inner);
    drop((broker, session));
    let ended = async {
        assert!(consumer.recv().await.is_none());
        while inner.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), ended).await.expect("somebody still holds the broker");
}
