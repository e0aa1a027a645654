//! Messages come out as they went in.

use captcha_worker::broker::Broker;
use captcha_worker::broker::topology::Names;
use captcha_worker::domain::message::{Headers, Message, Properties, Value};

use crate::conformance::fixtures::{consume, get, message, name, next, queue, with_queues, within};

/// Quorum queues add it to every delivery.
const ADDED: &str = "x-delivery-count";

fn headers() -> Headers {
    let nested = Headers::from([
        ("deep".to_owned(), Value::Array(vec![Value::Int(-1), "two".into(), Value::Bool(true)])),
        ("deeper".to_owned(), Value::Table(Headers::from([("at".to_owned(), Value::Timestamp(1))]))),
    ]);
    Headers::from([
        ("text".to_owned(), "größe".into()),
        ("empty".to_owned(), "".into()),
        ("small".to_owned(), Value::Int(7)),
        ("large".to_owned(), Value::Int(i64::MAX)),
        ("least".to_owned(), Value::Int(i64::MIN)),
        ("bytes".to_owned(), Value::Bytes(vec![0xff, 0x00, 0xfe])),
        ("double".to_owned(), Value::Double(0.1)),
        ("decimal".to_owned(), Value::Decimal(2, 314)),
        ("none".to_owned(), Value::Null),
        ("nested".to_owned(), Value::Table(nested)),
    ])
}

pub(crate) async fn properties_and_headers_survive_verbatim(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let some = |text: &str| Some(text.to_owned());
    let properties = Properties {
        content_type: some("application/json"),
        content_encoding: some("utf-8"),
        headers: headers(),
        priority: Some(3),
        correlation_id: some("correlation"),
        reply_to: some("reply"),
        expiration: some("60000"),
        message_id: some("id"),
        timestamp: Some(1_763_942_400),
        kind: some("captcha.job.v1"),
        user_id: None,
        app_id: some("conformance"),
    };
    for transient in [false, true] {
        let sent = Message { body: "{}".into(), properties: properties.clone(), transient };
        within("a confirm", session.publish("", &own, sent.clone())).await.unwrap();
        let delivery = get(&session, &own).await;
        let mut arrived = delivery.message;
        arrived.properties.headers.remove(ADDED);
        assert_eq!(arrived, sent);
        delivery.receipt.ack().unwrap();
    }
}

pub(crate) async fn bodies_survive_verbatim(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    let mut consumer = consume(&session, &own, 10).await;
    let large: Vec<u8> = (0..1_048_576_u32).map(|index| (index % 251) as u8).collect();
    for body in [Vec::new(), vec![0xc3, 0x28, 0x00, 0xff], large] {
        let sent = Message { body: body.clone().into(), ..Message::default() };
        within("a confirm", session.publish("", &own, sent)).await.unwrap();
        let delivery = next(&mut consumer).await;
        assert!(delivery.message.body == body, "{} bytes came otherwise", body.len());
        delivery.receipt.ack().unwrap();
    }
}

pub(crate) async fn a_message_without_properties_has_none_when_it_arrives(broker: Broker, names: Names) {
    let own = name(&names, "q");
    let session = with_queues(&broker, vec![queue(&own, &[])]).await;
    within("a confirm", session.publish("", &own, message("m"))).await.unwrap();
    let delivery = get(&session, &own).await;
    let mut arrived = delivery.message;
    arrived.properties.headers.remove(ADDED);
    assert_eq!(arrived, message("m"));
    delivery.receipt.ack().unwrap();
}
