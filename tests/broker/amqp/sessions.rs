//! Connecting, and what is said where it fails.

use std::time::{Duration, Instant};

use captcha_worker::broker::BrokerError;
use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use tokio::net::TcpListener;

use super::{filled, message, ready, spec, take, within};
use crate::support::rabbit::{RabbitNode, SharedRabbit, options};

async fn failure(options: AmqpOptions) -> BrokerError {
    let connector = Connector::new(options).unwrap();
    match within("the refusal", connector.connect()).await {
        Ok(_) => panic!("connected"),
        Err(error) => {
            let shown = format!("{error} {error:?} {connector:?}");
            assert!(!shown.contains("s3cret"), "{shown}");
            error
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_a_wrong_virtual_host_and_a_missing_right_are_told_apart() {
    let node = RabbitNode::start().await;
    node.ctl(&["add_user", "ann", "s3cret"]);
    let vhost = "%2f";

    let refused = failure(options(&node.url_as("ann:s3cret-but-wrong", vhost))).await;
    assert!(matches!(&refused, BrokerError::Refused { user, .. } if user == "ann"), "{refused:?}");
    assert!(refused.to_string().contains(&format!("127.0.0.1:{}", node.port())), "{refused}");

    let no_right = failure(options(&node.url_as("ann:s3cret", vhost))).await;
    assert!(matches!(&no_right, BrokerError::VirtualHost { vhost, .. } if vhost == "/"), "{no_right:?}");

    let no_host = failure(options(&node.url_as("guest:guest", "other"))).await;
    assert!(matches!(&no_host, BrokerError::VirtualHost { vhost, .. } if vhost == "other"), "{no_host:?}");
    let empty = failure(options(&node.url_as("guest:guest", ""))).await;
    assert!(empty.to_string().contains("%2f"), "{empty}");

    node.ctl(&["set_permissions", "ann", "", "", ""]);
    let connector = Connector::new(options(&node.url_as("ann:s3cret", vhost))).unwrap();
    let session = connector.connect().await.unwrap();
    let error = session.link().depth("captcha.jobs").await.unwrap_err();
    // Which of both is said first is the broker's choice.
    assert!(matches!(&error, BrokerError::Forbidden(_) | BrokerError::Missing { .. }), "{error:?}");
    let names = captcha_worker::broker::topology::Names::new("captcha");
    let topology = captcha_worker::broker::topology::Topology::new(&names);
    let error = session.link().declare(&topology).await.unwrap_err();
    assert!(matches!(&error, BrokerError::Forbidden(text) if text.contains("captcha.jobs")), "{error:?}");
    assert!(!error.is_passing() && !format!("{error} {error:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_listening_and_a_name_that_does_not_resolve_are_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    for host in [&format!("127.0.0.1:{port}"), "no-such-host.invalid"] {
        let error = failure(options(&format!("amqp://ann:s3cret@{host}"))).await;
        assert!(matches!(&error, BrokerError::Unreachable { .. }), "{error:?}");
        assert!(error.is_passing() && error.to_string().contains(host), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_accepts_and_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://ann:s3cret@{}", listener.local_addr().unwrap());
    let began = Instant::now();
    let impatient = AmqpOptions { connect_timeout: Duration::from_millis(500), ..options(&url) };
    let error = failure(impatient).await;
    assert!(matches!(&error, BrokerError::Unreachable { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stops_in_order_ends_the_session_and_takes_the_next_one_when_it_is_back() {
    let node = RabbitNode::start().await;
    let session = node.session().await;
    node.stop_app();
    let reason = within("the session's end", session.closed()).await;
    assert!(reason.contains("connection"), "{reason}");
    assert!(session.publish("", "anywhere", message("a", "a")).await.is_err());
    node.start_app();
    assert!(!node.session().await.is_closed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_session_is_closed_for_everybody_and_closing_twice_is_fine() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let clone = session.clone();
    within("the close", session.link().close()).await;
    assert!(clone.is_closed());
    assert_eq!(clone.closed().await, "closed");
    within("the second close", clone.link().close()).await;
    assert!(clone.link().depth("anything").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_session_ends_what_came_from_it() {
    let rabbit = SharedRabbit::get().await;
    let session = rabbit.session().await;
    let queue = filled(rabbit.url(), &session, 1).await;
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let held = take(&mut consumer, 1).await.pop().unwrap();
    drop(session);
    assert!(within("the consumer's end", consumer.recv()).await.is_none());
    assert!(!held.receipt.is_live());
    ready(&rabbit.session().await, &queue, 1).await;
}
