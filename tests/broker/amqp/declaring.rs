//! The topology on the broker: made, compared, and subscribed to.

use captcha_worker::broker::BrokerError;
use captcha_worker::broker::topology::{Names, Topology};

use super::{Foreign, message, spec, text, within};
use crate::support::rabbit::{SharedRabbit, fresh_namespace};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_topology_checks_clean_and_declaring_it_again_changes_nothing() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let names = Names::new(&fresh_namespace());
    let topology = Topology::new(&names);
    session.link().declare(&topology).await.unwrap();
    session.link().declare(&topology).await.unwrap();
    assert_eq!(session.link().check(&topology).await.unwrap(), []);
    session.publish(&names.jobs(), "", message("a", "a")).await.unwrap();
    session.publish(&names.outcomes(), "solved.ImageToTextTask", message("a", "a")).await.unwrap();
    assert_eq!(session.link().depth(&names.jobs()).await.unwrap().ready, 1);
    assert_eq!(session.link().depth(&names.results()).await.unwrap().ready, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_reported_and_not_made() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let names = Names::new(&fresh_namespace());
    let topology = Topology::new(&names);
    for _ in 0..2 {
        let found = session.link().check(&topology).await.unwrap();
        assert_eq!(found.len(), topology.exchanges.len() + topology.queues.len());
        assert!(found.iter().all(|mismatch| mismatch.problem.contains("topology declare")), "{found:?}");
    }
    let error = session.link().depth(&names.jobs()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("queue '{}' does not exist", names.jobs()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_arguments_is_named_with_both_values() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let names = Names::new(&fresh_namespace());
    let mut topology = Topology::new(&names);
    session.link().declare(&topology).await.unwrap();
    let queue = topology.queues.iter_mut().find(|queue| queue.name == names.tickets()).unwrap();
    queue.arguments.insert("x-delivery-limit".to_owned(), 7.into());

    let found = session.link().check(&topology).await.unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((found[0].kind, found[0].name.as_str()), ("queue", names.tickets().as_str()));
    assert!(
        found[0].problem.contains("'x-delivery-limit' is '1000' there, but '7' is wanted"),
        "{}",
        found[0]
    );

    let error = session.link().declare(&topology).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Mismatch { name, .. } if *name == names.tickets()), "{error}");
    assert!(!session.is_closed(), "a mismatch costs its own channel only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_another_type_and_an_exchange_of_another_kind_are_found() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let names = Names::new(&fresh_namespace());
    let topology = Topology::new(&names);
    let foreign = Foreign::connect(rabbit.url()).await;
    foreign.queue(&names.jobs(), &[("x-queue-type", text("classic"))]).await;
    let kind = lapin::ExchangeKind::Fanout;
    let options = lapin::options::ExchangeDeclareOptions { durable: true, ..Default::default() };
    foreign.channel.exchange_declare(names.jobs().into(), kind, options, Default::default()).await.unwrap();
    let found = session.link().check(&topology).await.unwrap();
    let problem = |kind| found.iter().find(|m| m.kind == kind && m.name == names.jobs()).unwrap().to_string();
    assert!(
        problem("exchange").contains("'type' is 'fanout' there, but 'direct' is wanted"),
        "{}",
        problem("exchange")
    );
    assert!(problem("queue").contains("is wanted"), "{}", problem("queue"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_from_a_missing_queue_names_it() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let error = session.link().consume(spec("no-such-queue", 1)).await.unwrap_err();
    assert_eq!(error.to_string(), "queue 'no-such-queue' does not exist");
    assert!(!session.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_of_a_fan_out_exchange_gets_the_news() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let names = Names::new(&fresh_namespace());
    session.link().declare(&Topology::new(&names)).await.unwrap();
    let mut first = session.link().subscribe(&names.control()).await.unwrap();
    let mut second = session.link().subscribe(&names.control()).await.unwrap();
    session.publish(&names.control(), "", message("news", "tripped")).await.unwrap();
    for subscriber in [&mut first, &mut second] {
        let news = within("the news", subscriber.recv()).await.unwrap();
        assert_eq!(news.message.body, "tripped");
        news.receipt.ack().unwrap();
    }
    let error = session.link().subscribe("no-such-exchange").await.unwrap_err();
    assert!(matches!(error, BrokerError::Missing { kind: "exchange", .. }), "{error}");
}
