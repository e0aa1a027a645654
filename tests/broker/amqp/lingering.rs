//! A session whose messages wait for each other: what comes out is the same.

use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::linger::Linger;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::interval;

use super::{filled, message, ready, spec, take, within};
use crate::support::rabbit::{SharedRabbit, options};

const SPAN: Duration = Duration::from_millis(20);

async fn lingering(rabbit: &SharedRabbit) -> Session {
    let options = AmqpOptions { linger: Linger::every(SPAN), ..options(rabbit.url()) };
    let connector = Connector::new(options).expect("a test's URL is well formed");
    within("a session", connector.connect()).await.expect("the test's broker answers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acks_in_any_order_among_returns_settle_what_they_name_and_nothing_else() {
    let rabbit = SharedRabbit::get().await;
    let session = lingering(&rabbit).await;
    let queue = filled(rabbit.url(), &session, 600).await;
    let mut consumer = within("a consumer", session.link().consume(spec(&queue, 1_000))).await.unwrap();
    let mut held = take(&mut consumer, 600).await;
    let mut rng = StdRng::seed_from_u64(7);
    held.shuffle(&mut rng);
    let (mut returned, mut pace) = (Vec::new(), interval(SPAN / 3));
    for (n, delivery) in held.into_iter().enumerate() {
        let body = delivery.message.body.clone();
        match rng.random_range(0..10) {
            // Left unsettled until the consumer's end.
            0 => returned.push((body, Some(delivery))),
            1 => {
                returned.push((body, None));
                delivery.receipt.reject().unwrap();
            }
            2..5 => delivery.receipt.ack().unwrap(),
            _ => delivery.receipt.ack_batched().unwrap(),
        }
        // Over several moments.
        if n % 40 == 0 {
            pace.tick().await;
        }
    }
    let rejected: Vec<_> =
        returned.iter().filter(|(_, delivery)| delivery.is_none()).map(|(body, _)| body.clone()).collect();
    within("the close", consumer.close()).await;
    let mut left: Vec<_> =
        returned.into_iter().filter_map(|(body, delivery)| delivery.map(|_| body)).collect();
    assert!(left.len() > 20 && rejected.len() > 20);
    ready(&session, &queue, u64::try_from(left.len()).unwrap()).await;
    let mut again = within("a consumer", session.link().consume(spec(&queue, 1_000))).await.unwrap();
    let mut came: Vec<_> =
        take(&mut again, left.len()).await.iter().map(|delivery| delivery.message.body.clone()).collect();
    came.sort();
    left.sort();
    assert_eq!(came, left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_that_may_linger_and_one_that_may_not_are_all_confirmed() {
    let rabbit = SharedRabbit::get().await;
    let session = lingering(&rabbit).await;
    let queue = filled(rabbit.url(), &session, 1).await;
    let soon =
        join_all((0..50).map(|n| session.publish_batched("", &queue, message(&format!("s{n}"), "soon"))));
    let once = session.publish_once("", &queue, message("once", "at once"));
    let (lingered, at_once) = tokio::join!(within("those that linger", soon), within("the other", once));
    assert!(lingered.iter().all(Result::is_ok), "{lingered:?}");
    assert!(at_once.is_ok(), "{at_once:?}");
    ready(&session, &queue, 52).await;
}
