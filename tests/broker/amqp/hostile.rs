//! Messages that lapin cannot read, and frames of sizes that nobody else has.

use captcha_worker::broker::amqp::Connector;
use captcha_worker::broker::{BrokerError, PublishError, Session};
use captcha_worker::domain::fault::local_code;
use captcha_worker::domain::unreadable;

use super::{Foreign, message, ready, spec, take, text, within};
use crate::support::rabbit::{Needs, RabbitNode, SharedRabbit, fresh_namespace, options};
use crate::support::raw::{FRAME, Properties, RawPublisher, array, entry, text as raw_text};

async fn raw(url: &str) -> RawPublisher {
    let port = url.rsplit_once(':').and_then(|(_, rest)| rest.split_once('/')).expect("a port").0;
    RawPublisher::connect(port.parse().unwrap(), "guest", "guest").await
}

fn filling(properties: Properties) -> Properties {
    let size = properties.clone().with_headers(&[entry(b"note", &raw_text(b""))]).frame();
    properties.with_headers(&[entry(b"note", &raw_text(&vec![b'x'; FRAME - size]))])
}

async fn session_with(url: &str, query: &str) -> Session {
    Connector::new(options(&format!("{url}{query}"))).unwrap().connect().await.unwrap()
}

/// Each time that it comes back, RabbitMQ adds or grows `x-delivery-count`: the frame just fits
/// before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_grows_beyond_a_frame_comes_back_as_often_as_it_is_given_back() {
    let rabbit = SharedRabbit::get().await;
    for query in ["", "?frame_max=65536"] {
        let (queue, dead) = (fresh_namespace(), fresh_namespace());
        let foreign = Foreign::connect(rabbit.url()).await;
        let dead_lettering =
            [("x-dead-letter-exchange", text("")), ("x-dead-letter-routing-key", text(&dead))];
        let quorum = ("x-queue-type", text("quorum"));
        foreign.queue(&queue, &[&[quorum.clone()][..], &dead_lettering].concat()).await;
        foreign.queue(&dead, &[quorum]).await;
        let session = session_with(rabbit.url(), query).await;
        let properties = filling(Properties::default().with("message_id", b"m-1").with("app_id", b"shop"));
        raw(rabbit.url()).await.publish("", queue.as_bytes(), &properties, b"body").await.unwrap();
        session.publish("", &queue, message("good", "good")).await.unwrap();

        let mut consumer = session.link().consume(spec(&queue, 2)).await.unwrap();
        for round in 0..4 {
            let mut came = take(&mut consumer, 2).await;
            came.sort_by_key(|delivery| delivery.message.body.len() != 4 || delivery.message.body == "good");
            let (hostile, good) = (&came[0].message, &came[1].message);
            assert_eq!((&*hostile.body, &*good.body), (&b"body"[..], &b"good"[..]), "{query} {round}");
            let id = hostile.properties.message_id.as_deref();
            assert_eq!((id, hostile.properties.app_id.as_deref()), (Some("m-1"), Some("shop")));
            let fault = unreadable::fault_of(&hostile.properties.headers);
            if round > 0 || !query.is_empty() {
                assert_eq!(fault.expect("too large").code, local_code::HEADERS_TOO_LARGE);
            }
            assert_eq!(unreadable::fault_of(&good.properties.headers), None);
            if round == 3 {
                let hostile = came.remove(0);
                hostile.receipt.reject().unwrap();
                came.remove(0).receipt.ack().unwrap();
            }
        }
        // The broker's record of the death comes on top.
        ready(&session, &dead, 1).await;
        let letter = within("the dead letter", session.link().get(&dead)).await.unwrap().unwrap();
        let headers = &letter.message.properties.headers;
        assert!(headers.contains_key("x-death"), "{:?}", headers.keys());
        assert_eq!(unreadable::fault_of(headers).expect("too large").code, local_code::HEADERS_TOO_LARGE);
        letter.receipt.ack().unwrap();
        assert!(!session.is_closed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_routing_key_that_is_not_utf8_is_reported_by_get_and_by_a_consumer() {
    let rabbit = SharedRabbit::get().await;
    let queue = fresh_namespace();
    Foreign::connect(rabbit.url()).await.queue(&queue, &[]).await;
    let session = rabbit.session().await;
    let copy = entry(b"CC", &array(&[raw_text(queue.as_bytes())]));
    let properties = Properties::default().with_headers(&[copy]);
    for _ in 0..2 {
        raw(rabbit.url()).await.publish("", b"k\xff", &properties, b"body").await.unwrap();
    }
    let got = within("the first", session.link().get(&queue)).await.unwrap().unwrap();
    let mut consumer = session.link().consume(spec(&queue, 1)).await.unwrap();
    let came = take(&mut consumer, 1).await.remove(0);
    for delivery in [got, came] {
        assert_eq!(delivery.routing_key, "k?");
        let fault = unreadable::fault_of(&delivery.message.properties.headers).expect("it is reported");
        assert_eq!(fault.code, local_code::PROPERTIES_NOT_UTF8);
        delivery.receipt.ack().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_whose_frames_have_no_room_for_a_ticket_is_refused_at_once_and_says_why() {
    let needs = Needs { conf: "frame_max = 8192\n".to_owned(), ..Needs::default() };
    let node = RabbitNode::start_with(needs).await;
    let connector = Connector::new(options(&node.url())).unwrap();
    let Err(error) = within("the refusal", connector.connect()).await else { panic!("connected") };
    assert!(matches!(error, BrokerError::Unfit { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("frame_max is 8192 bytes") && text.contains("65536"), "{text}");
    assert!(!error.is_passing());
    let error = Connector::new(options(&format!("{}?frame_max=8192", node.url()))).expect_err("too small");
    assert!(error.to_string().contains("frame_max must be 65536"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_no_frame_holds_are_not_sent_and_the_session_goes_on() {
    let rabbit = SharedRabbit::get().await;
    let queue = fresh_namespace();
    Foreign::connect(rabbit.url()).await.queue(&queue, &[]).await;
    let session = session_with(rabbit.url(), "?frame_max=65536").await;
    for (size, is_sent) in [(62_000, true), (63_000, false), (70_000, false), (62_000, true)] {
        let mut large = message("large", "body");
        large.properties.headers.insert("note".to_owned(), "x".repeat(size).into());
        let said = within("an answer", session.publish("", &queue, large)).await;
        assert_eq!(matches!(said, Ok(())), is_sent, "{size}: {said:?}");
        assert!(is_sent || matches!(said, Err(PublishError::NotSent(_))), "{said:?}");
    }
    assert!(!session.is_closed());
    ready(&session, &queue, 2).await;
}

/// As deep as a frame can make it. lapin would read it by recursion, to the end of its thread's
/// stack.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_of_20_000_levels_cost_their_own_message_alone() {
    let rabbit = SharedRabbit::get().await;
    let queue = fresh_namespace();
    Foreign::connect(rabbit.url()).await.queue(&queue, &[]).await;
    let session = rabbit.session().await;
    let deep = (0..20_000).fold(b"V".to_vec(), |inner, _| array(&[inner]));
    let properties = Properties::default().with_headers(&[entry(b"a", &deep)]);
    raw(rabbit.url()).await.publish("", queue.as_bytes(), &properties, b"body").await.unwrap();
    session.publish("", &queue, message("good", "good")).await.unwrap();
    let mut consumer = session.link().consume(spec(&queue, 2)).await.unwrap();
    let came = take(&mut consumer, 2).await;
    let fault = unreadable::fault_of(&came[0].message.properties.headers).expect("it is reported");
    assert_eq!(fault.code, local_code::HEADERS_UNREADABLE);
    assert_eq!(unreadable::fault_of(&came[1].message.properties.headers), None);
    assert!(!session.is_closed());
}
