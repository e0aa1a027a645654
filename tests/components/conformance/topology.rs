//! Declaring and checking.

use captcha_worker::broker::topology::{ExchangeKind, Names, RETRY_DELAYS, Topology};
use captcha_worker::broker::{Broker, BrokerError, ConsumeSpec, Delivery, Session};
use captcha_worker::domain::message::Value;

use crate::conformance::fixtures::{
    connect, declare, exchange, get, message, name, put, queue, ready, text, topology, until_ready,
    with_queues, within,
};

pub(crate) async fn declaring_twice_is_the_same_as_once(broker: Broker, names: Names) {
    let session = connect(&broker).await;
    let all = Topology::new(&names);
    declare(&session, &all).await;
    put(&session, &names.jobs(), &["kept"]).await;
    declare(&session, &all).await;
    assert_eq!(ready(&session, &names.jobs()).await, 1);
}

pub(crate) async fn a_queue_that_exists_with_another_argument_is_named_with_it(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[("x-message-ttl", Value::Int(5_000))])]).await;
    let other = topology(vec![], vec![queue(&own, &[("x-message-ttl", Value::Int(6_000))])], vec![]);
    let refused = within("a refusal", session.link().declare(&other)).await.unwrap_err();
    let BrokerError::Mismatch { kind, name, detail } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!((*kind, name), ("queue", &own));
    for part in ["x-message-ttl", "5000", "6000"] {
        assert!(detail.contains(part), "no {part} in: {detail}");
    }
    assert!(!refused.is_passing());
    put(&session, &own, &["the session goes on"]).await;
}

pub(crate) async fn an_exchange_that_exists_with_another_kind_is_named(broker: Broker, names: Names) {
    let own = name(&names, "x");
    let session = connect(&broker).await;
    let of_kind = |kind| topology(vec![exchange(&own, kind, &[])], vec![], vec![]);
    declare(&session, &of_kind(ExchangeKind::Topic)).await;
    let other = of_kind(ExchangeKind::Fanout);
    let refused = within("a refusal", session.link().declare(&other)).await.unwrap_err();
    let BrokerError::Mismatch { kind, name, detail } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((kind, name), ("exchange", own));
    assert!(detail.contains("fanout") && detail.contains("topic"), "{detail}");
}

pub(crate) async fn a_lane_is_reached_by_its_keys_its_exchange_and_its_retry_queues(
    broker: Broker,
    names: Names,
) {
    let session = connect(&broker).await;
    let lane = "urgent".parse().expect("a lane");
    let all = Topology::with_lanes(&names, [&lane]);
    declare(&session, &all).await;
    assert_eq!(within("a check", session.link().check(&all)).await.unwrap(), vec![]);
    let (jobs, own) = (names.jobs(), names.jobs_of(&lane));
    let retry = names.retry_of(RETRY_DELAYS[0], &lane);
    for (exchange, key) in [(&*jobs, "jobs.urgent"), (&*jobs, &*own), (&*own, ""), ("", &*own), ("", &*retry)]
    {
        let mut sent = message(key);
        sent.properties.priority = Some(7);
        // The shorter of the two times counts.
        sent.properties.expiration = (key == retry).then(|| "300".to_owned());
        within("a confirm", session.publish(exchange, key, sent)).await.expect("confirmed");
        let came = until_ready_then_get(&session, &own).await;
        assert_eq!((text(&came.message).as_str(), came.message.properties.priority), (key, Some(7)));
        came.receipt.ack().expect("live");
    }
    assert_eq!(ready(&session, &jobs).await, 0, "nothing of it is in the default lane");
}

async fn until_ready_then_get(session: &Session, queue: &str) -> Delivery {
    until_ready(session, queue, 1).await;
    get(session, queue).await
}

pub(crate) async fn check_finds_nothing_wrong_with_what_was_declared(broker: Broker, names: Names) {
    let session = connect(&broker).await;
    let all = Topology::new(&names);
    declare(&session, &all).await;
    let found = within("a check", session.link().check(&all)).await.unwrap();
    assert_eq!(found, vec![]);
}

pub(crate) async fn check_reports_what_is_missing_and_makes_nothing(broker: Broker, names: Names) {
    let (there, missing, gone) = (name(&names, "there"), name(&names, "missing"), name(&names, "x"));
    let session = with_queues(&broker, vec![queue(&there, &[])]).await;
    let wanted = topology(
        vec![exchange(&gone, ExchangeKind::Direct, &[])],
        vec![queue(&there, &[]), queue(&missing, &[])],
        vec![],
    );
    for _ in 0..2 {
        let found = within("a check", session.link().check(&wanted)).await.unwrap();
        let things: Vec<_> = found.iter().map(|found| (found.kind, found.name.as_str())).collect();
        assert_eq!(things, [("exchange", gone.as_str()), ("queue", missing.as_str())]);
    }
}

pub(crate) async fn check_reports_what_differs_and_changes_nothing(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[("x-message-ttl", Value::Int(60_000))])]).await;
    put(&session, &own, &["kept"]).await;
    let wanted = topology(vec![], vec![queue(&own, &[("x-message-ttl", Value::Int(7))])], vec![]);
    let found = within("a check", session.link().check(&wanted)).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].kind, &found[0].name), ("queue", &own));
    assert!(found[0].problem.contains("x-message-ttl"), "{}", found[0].problem);
    assert_eq!(ready(&session, &own).await, 1);
}

pub(crate) async fn calls_on_a_queue_that_is_missing_name_it_and_leave_the_session_usable(
    broker: Broker,
    names: Names,
) {
    let (there, own) = (name(&names, "there"), name(&names, "missing"));
    let session = with_queues(&broker, vec![queue(&there, &[])]).await;
    let missing = BrokerError::Missing { kind: "queue", name: own.clone() };
    let spec = ConsumeSpec { queue: own.clone(), prefetch: 1, tag: "conformance".to_owned() };
    assert_eq!(within("consume", session.link().consume(spec)).await.unwrap_err(), missing);
    assert_eq!(within("get", session.link().get(&own)).await.unwrap_err(), missing);
    assert_eq!(within("depth", session.link().depth(&own)).await.unwrap_err(), missing);
    put(&session, &there, &["still usable"]).await;
    assert!(!session.is_closed());
}
