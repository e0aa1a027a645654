//! Confirms, refusals and returns: each publish gets the word that is true of it.

use std::collections::HashSet;

use captcha_worker::broker::PublishError;
use captcha_worker::domain::message::{Headers, Message, Properties, Value};
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use tokio::task::JoinSet;

use super::{Foreign, message, ready, spec, text, within};
use crate::support::rabbit::{SharedRabbit, fresh_namespace};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_arrives_as_it_was_published() {
    let rabbit = SharedRabbit::get().await;
    let queue = fresh_namespace();
    Foreign::connect(rabbit.url()).await.queue(&queue, &[]).await;
    let session = rabbit.session().await;
    let sent = Message {
        // Several AMQP frames.
        body: (0..400_000_u32).map(|n| n.to_le_bytes()[0]).collect(),
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            headers: Headers::from([
                ("count".to_owned(), Value::Int(-7)),
                ("raw".to_owned(), Value::Bytes(vec![0xff, 0])),
                ("nested".to_owned(), Value::Array(vec![Value::Null, Value::Bool(true), "text".into()])),
            ]),
            priority: Some(3),
            correlation_id: Some("order".to_owned()),
            reply_to: Some("answers".to_owned()),
            message_id: Some("id".to_owned()),
            timestamp: Some(1_700_000_000),
            kind: Some("captcha.job.v1".to_owned()),
            app_id: Some("shop".to_owned()),
            ..Properties::default()
        },
        transient: false,
    };
    session.publish("", &queue, sent.clone()).await.unwrap();
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let delivery = within("the delivery", consumer.recv()).await.unwrap();
    assert_eq!(delivery.message, sent);
    assert_eq!(delivery.routing_key, queue);
    assert!(!delivery.redelivered);
    delivery.receipt.ack().unwrap();
    consumer.close().await;
    ready(&session, &queue, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mandatory_message_that_no_queue_takes_is_unroutable_and_one_that_is_not_mandatory_is_fine() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let nowhere = fresh_namespace();
    let error = session.publish("", &nowhere, message("a", "a")).await.unwrap_err();
    assert!(matches!(&error, PublishError::Unroutable(reason) if reason.contains("NO_ROUTE")), "{error}");
    session.publisher().publish("", &nowhere, false, message("a", "a")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_rejects() {
    let rabbit = SharedRabbit::get().await;
    let queue = fresh_namespace();
    full_queue(&Foreign::connect(rabbit.url()).await, &queue).await;
    let session = rabbit.session().await;
    assert_eq!(session.publish("", &queue, message("first", "1")).await, Ok(()));
    assert_eq!(session.publish("", &queue, message("second", "2")).await, Err(PublishError::Rejected));
    ready(&session, &queue, 1).await;
}

/// A queue that holds one message and refuses the next.
async fn full_queue(foreign: &Foreign, name: &str) {
    foreign.queue(name, &[("x-max-length", 1.into()), ("x-overflow", text("reject-publish"))]).await;
}

/// What is true of a publish, by construction.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Truth {
    Stored,
    Refused,
    NoQueue,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_concurrent_publishes_each_get_the_word_that_is_true_of_them() {
    const TASKS: usize = 48;
    const EACH: usize = 250;
    let rabbit = SharedRabbit::get().await;
    let space = fresh_namespace();
    let foreign = Foreign::connect(rabbit.url()).await;
    let (open, full) = (format!("{space}.open"), format!("{space}.full"));
    foreign.queue(&open, &[("x-queue-type", text("quorum"))]).await;
    full_queue(&foreign, &full).await;
    let session = rabbit.session().await;
    session.publish("", &full, message("fills", "it")).await.unwrap();

    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (session, space) = (session.clone(), space.clone());
        tasks.spawn(async move {
            let mut wrong = Vec::new();
            for n in 0..EACH {
                let (truth, name) = match (task + n) % 5 {
                    0 | 1 => (Truth::Stored, "open"),
                    2 => (Truth::Refused, "full"),
                    _ => (Truth::NoQueue, "nowhere"),
                };
                // Ids repeat across tasks, as the ids of jobs may.
                let sent = message(&format!("id-{}", n % 7), format!("{task}/{n}"));
                let outcome = session.publish("", &format!("{space}.{name}"), sent).await;
                let reported = match &outcome {
                    Ok(()) => Some(Truth::Stored),
                    Err(PublishError::Rejected) => Some(Truth::Refused),
                    Err(PublishError::Unroutable(_)) => Some(Truth::NoQueue),
                    Err(PublishError::NotSent(_) | PublishError::Unknown(_)) => None,
                };
                if reported != Some(truth) {
                    wrong.push((truth, outcome));
                }
            }
            wrong
        });
    }
    let wrong = within("the publishes", tasks.join_all()).await.concat();
    assert!(wrong.is_empty(), "{} wrong, such as {:?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    ready(&session, &open, (TASKS * EACH * 2 / 5) as u64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_comes_and_goes_never_makes_a_returned_message_look_stored() {
    const TASKS: usize = 16;
    const EACH: usize = 150;
    let rabbit = SharedRabbit::get().await;
    let space = fresh_namespace();
    let foreign = Foreign::connect(rabbit.url()).await;
    let queue = format!("{space}.queue");
    foreign.queue(&queue, &[]).await;
    let session = rabbit.session().await;

    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (session, space) = (session.clone(), space.clone());
        tasks.spawn(async move {
            let mut stored = Vec::new();
            for n in 0..EACH {
                // One id for all: nothing that comes back with a returned message sets it apart
                // from the others.
                let body = format!("{task}/{n}").into_bytes();
                if session.publish("amq.direct", &space, message("same", body.clone())).await.is_ok() {
                    stored.push(body);
                }
            }
            stored
        });
    }
    let (name, key) = (queue.clone(), space.clone());
    let flapping = tokio::spawn(async move {
        loop {
            let (queue, exchange, key) = (name.as_str(), "amq.direct", key.as_str());
            let bound = foreign.channel.queue_bind(
                queue.into(),
                exchange.into(),
                key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
            let unbound = foreign.channel.queue_unbind(
                queue.into(),
                exchange.into(),
                key.into(),
                FieldTable::default(),
            );
            unbound.await.unwrap();
        }
    });
    let confirmed = within("the publishes", tasks.join_all()).await.concat();
    flapping.abort();
    let depth = session.link().depth(&queue).await.unwrap().ready;
    assert!(0 < depth && depth < (TASKS * EACH) as u64, "the binding did not flap: {depth} stored");
    let mut consumer = session.link().consume(spec(&queue, u16::MAX)).await.unwrap();
    let mut stored = HashSet::new();
    for _ in 0..depth {
        let delivery = within("a delivery", consumer.recv()).await.unwrap();
        stored.insert(delivery.message.body.to_vec());
        delivery.receipt.ack().unwrap();
    }
    let lost: Vec<_> = confirmed.iter().filter(|body| !stored.contains(*body)).collect();
    assert!(lost.is_empty(), "{} of {} confirmed are not stored", lost.len(), confirmed.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_to_a_missing_exchange_ends_the_session_and_says_why() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let error = session.publish("no-such-exchange", "key", message("a", "a")).await.unwrap_err();
    assert!(
        matches!(&error, PublishError::Unknown(reason) if reason.contains("no-such-exchange")),
        "{error}"
    );
    let reason = within("the session's end", session.closed()).await;
    assert!(reason.contains("no exchange 'no-such-exchange'"), "{reason}");
    let error = session.publish("", "key", message("b", "b")).await.unwrap_err();
    assert!(matches!(error, PublishError::NotSent(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_further_publishing_channel_dies_alone() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let further = session.link().open_publisher().await.unwrap();
    further.publish("no-such-exchange", "key", false, message("a", "a")).await.unwrap_err();
    let queue = fresh_namespace();
    Foreign::connect(rabbit.url()).await.queue(&queue, &[]).await;
    session.publish("", &queue, message("b", "b")).await.unwrap();
    assert!(!session.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_amqp_cannot_hold_is_not_sent_and_harms_no_other() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let error = session.publish("", "key", message(&"x".repeat(256), "a")).await.unwrap_err();
    assert_eq!(error, PublishError::NotSent("message_id is 256 bytes long; AMQP allows 255".to_owned()));
    assert!(!session.is_closed());
}
