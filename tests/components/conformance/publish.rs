//! What becomes of a publish.

use captcha_worker::broker::topology::{ExchangeKind, Names};
use captcha_worker::broker::{Broker, PublishError};
use captcha_worker::domain::message::{Message, Properties, Value};
use futures_util::future::join_all;

use crate::conformance::fixtures::{
    binding, connect, declare, drain, exchange, get, message, name, queue, ready, text, topology, within,
};

pub(crate) async fn a_confirmed_message_is_in_every_bound_queue_once(broker: Broker, names: Names) {
    let [x, a, b] = ["x", "a", "b"].map(|suffix| name(&names, suffix));
    let session = connect(&broker).await;
    let bound = topology(
        vec![exchange(&x, ExchangeKind::Direct, &[])],
        vec![queue(&a, &[]), queue(&b, &[])],
        vec![binding(&x, &a, "key"), binding(&x, &b, "key"), binding(&x, &b, "other")],
    );
    declare(&session, &bound).await;
    within("a confirm", session.publish(&x, "key", message("m"))).await.unwrap();
    for own in [&a, &b] {
        let delivery = get(&session, own).await;
        assert_eq!((text(&delivery.message).as_str(), delivery.routing_key.as_str()), ("m", "key"));
        assert!(!delivery.redelivered);
        delivery.receipt.ack().unwrap();
        assert_eq!(ready(&session, own).await, 0);
    }
}

pub(crate) async fn topic_patterns_decide_which_queues_take_a_message(broker: Broker, names: Names) {
    let [x, one, any, twice] = ["x", "one", "any", "twice"].map(|suffix| name(&names, suffix));
    let session = connect(&broker).await;
    let bound = topology(
        vec![exchange(&x, ExchangeKind::Topic, &[])],
        vec![queue(&one, &[]), queue(&any, &[]), queue(&twice, &[])],
        vec![
            binding(&x, &one, "dead.*"),
            binding(&x, &any, "dead.#"),
            binding(&x, &twice, "dead.lost.#"),
            binding(&x, &twice, "#.CODE"),
        ],
    );
    declare(&session, &bound).await;
    for key in ["dead", "dead.lost", "dead.lost.CODE"] {
        within("a confirm", session.publish(&x, key, message(key))).await.unwrap();
    }
    let none = within("a return", session.publish(&x, "deadly.lost", message("none"))).await;
    assert!(matches!(none, Err(PublishError::Unroutable(_))), "{none:?}");
    assert_eq!(drain(&session, &one).await, ["dead.lost"]);
    assert_eq!(drain(&session, &any).await, ["dead", "dead.lost", "dead.lost.CODE"]);
    assert_eq!(drain(&session, &twice).await, ["dead.lost", "dead.lost.CODE"]);
}

pub(crate) async fn a_mandatory_message_that_no_queue_takes_is_unroutable(broker: Broker, names: Names) {
    let x = name(&names, "x");
    let session = connect(&broker).await;
    declare(&session, &topology(vec![exchange(&x, ExchangeKind::Topic, &[])], vec![], vec![])).await;
    for (exchange, key) in [(x.as_str(), "key"), ("", x.as_str())] {
        let fate = within("a return", session.publish(exchange, key, message("m"))).await;
        assert!(matches!(fate, Err(PublishError::Unroutable(_))), "{fate:?}");
    }
    assert!(!session.is_closed());
}

pub(crate) async fn a_message_that_no_queue_takes_and_that_is_not_mandatory_is_confirmed(
    broker: Broker,
    names: Names,
) {
    let x = name(&names, "x");
    let session = connect(&broker).await;
    declare(&session, &topology(vec![exchange(&x, ExchangeKind::Fanout, &[])], vec![], vec![])).await;
    let publish = session.publisher().publish(&x, "key", false, message("m"));
    assert_eq!(within("a confirm", publish).await, Ok(()));
}

pub(crate) async fn an_alternate_exchange_takes_what_no_queue_takes(broker: Broker, names: Names) {
    let [x, other, taken, rest] = ["x", "other", "taken", "rest"].map(|suffix| name(&names, suffix));
    let session = connect(&broker).await;
    let bound = topology(
        vec![
            exchange(&other, ExchangeKind::Fanout, &[]),
            exchange(&x, ExchangeKind::Topic, &[("alternate-exchange", other.as_str().into())]),
        ],
        vec![queue(&taken, &[]), queue(&rest, &[])],
        vec![binding(&x, &taken, "solved.#"), binding(&other, &rest, "")],
    );
    declare(&session, &bound).await;
    for key in ["solved.image", "dead.lost"] {
        within("a confirm", session.publish(&x, key, message(key))).await.unwrap();
    }
    assert_eq!(drain(&session, &taken).await, ["solved.image"]);
    assert_eq!(drain(&session, &rest).await, ["dead.lost"]);
}

/// Fills a bounded queue until it refuses, and returns how many it took. Quorum queues take a few
/// more than the bound.
async fn fill(session: &captcha_worker::broker::Session, own: &str) -> usize {
    for taken in 0..100 {
        match within("a word", session.publish("", own, message("m"))).await {
            Ok(()) => {}
            Err(PublishError::Rejected) => return taken,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("a bound of 10, and 100 were taken");
}

fn bounded(own: &str) -> captcha_worker::broker::topology::Queue {
    queue(own, &[("x-max-length", Value::Int(10)), ("x-overflow", "reject-publish".into())])
}

pub(crate) async fn a_full_queue_refuses_and_takes_again_once_it_has_room(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = connect(&broker).await;
    declare(&session, &topology(vec![], vec![bounded(&own)], vec![])).await;
    let taken = fill(&session, &own).await;
    assert!(taken >= 10, "only {taken}");
    assert_eq!(drain(&session, &own).await.len(), taken, "what was refused is not stored");
    let taken_again = async {
        // The broker lets a refused publisher know of the room only after a moment.
        while session.publish("", &own, message("again")).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("room", taken_again).await;
    assert_eq!(drain(&session, &own).await, ["again"]);
}

pub(crate) async fn many_publishes_at_once_each_get_their_own_fate(broker: Broker, names: Names) {
    const EACH: usize = 300;
    let [free, full, none] = ["free", "full", "none"].map(|suffix| name(&names, suffix));
    let session = connect(&broker).await;
    declare(&session, &topology(vec![], vec![queue(&free, &[]), bounded(&full)], vec![])).await;
    let held = fill(&session, &full).await;
    let one = |number: usize| {
        let own = [&free, &full, &none][number % 3];
        let message = Message {
            properties: Properties { message_id: Some(number.to_string()), ..Properties::default() },
            ..message(&number.to_string())
        };
        session.publish("", own, message)
    };
    let fates = within("every fate", join_all((0..3 * EACH).map(one))).await;
    for (number, fate) in fates.into_iter().enumerate() {
        match number % 3 {
            0 => assert_eq!(fate, Ok(()), "{number}"),
            1 => assert_eq!(fate, Err(PublishError::Rejected), "{number}"),
            _ => assert!(matches!(fate, Err(PublishError::Unroutable(_))), "{number}: {fate:?}"),
        }
    }
    assert_eq!(ready(&session, &free).await, EACH as u64);
    assert_eq!(ready(&session, &full).await, held as u64);
}

pub(crate) async fn a_missing_exchange_ends_the_session_and_is_named(broker: Broker, names: Names) {
    let x = name(&names, "x");
    let session = connect(&broker).await;
    let fate = within("a fate", session.publish(&x, "key", message("m"))).await;
    assert!(matches!(fate, Err(PublishError::Unknown(_) | PublishError::NotSent(_))), "{fate:?}");
    let reason = within("the session's end", session.closed()).await;
    assert!(reason.contains(&x), "{reason}");
}
