//! What the behaviours share: small topologies, and awaits with a deadline.

use std::future::Future;
use std::time::Duration;

use captcha_worker::broker::topology::{Arguments, Binding, Exchange, ExchangeKind, Names, Queue, Topology};
use captcha_worker::broker::{Broker, ConsumeSpec, Consumer, Delivery, Session};
use captcha_worker::domain::message::{Headers, Message, Value};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// Longer than any broker takes for anything asked here.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long nothing must come for "nothing comes".
const SILENCE: Duration = Duration::from_millis(500);

/// A namespace that nothing else uses.
pub(crate) fn fresh_names() -> Names {
    Names::new(&format!("conformance-{}", Uuid::new_v4()))
}

/// The future's value; panics, saying what was awaited, when it does not come in time.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

pub(crate) async fn connect(broker: &Broker) -> Session {
    within("a session", broker.connect()).await.expect("a session")
}

/// A name under the namespace.
pub(crate) fn name(names: &Names, suffix: &str) -> String {
    format!("{}.{suffix}", names.namespace())
}

/// A quorum queue with a delivery limit that does not matter, and further arguments.
pub(crate) fn queue(name: &str, further: &[(&str, Value)]) -> Queue {
    let mut arguments = Arguments::from([
        ("x-queue-type".to_owned(), "quorum".into()),
        ("x-delivery-limit".to_owned(), Value::Int(1_000)),
    ]);
    arguments.extend(further.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Queue { name: name.to_owned(), arguments }
}

/// The arguments that dead-letter a queue's messages to another queue, kept until that has them.
pub(crate) fn dead_letters_to(target: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("x-overflow", "reject-publish".into()),
        ("x-dead-letter-strategy", "at-least-once".into()),
        ("x-dead-letter-exchange", "".into()),
        ("x-dead-letter-routing-key", target.into()),
    ]
}

pub(crate) fn exchange(name: &str, kind: ExchangeKind, further: &[(&str, Value)]) -> Exchange {
    let arguments = further.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Exchange { name: name.to_owned(), kind, arguments: arguments.collect() }
}

pub(crate) fn binding(exchange: &str, queue: &str, routing_key: &str) -> Binding {
    Binding { exchange: exchange.to_owned(), queue: queue.to_owned(), routing_key: routing_key.to_owned() }
}

pub(crate) fn topology(exchanges: Vec<Exchange>, queues: Vec<Queue>, bindings: Vec<Binding>) -> Topology {
    Topology { exchanges, queues, bindings }
}

pub(crate) async fn declare(session: &Session, topology: &Topology) {
    within("a declaration", session.link().declare(topology)).await.expect("declared");
}

/// A session with nothing but these queues declared.
pub(crate) async fn with_queues(broker: &Broker, queues: Vec<Queue>) -> Session {
    let session = connect(broker).await;
    declare(&session, &topology(Vec::new(), queues, Vec::new())).await;
    session
}

pub(crate) fn message(body: &str) -> Message {
    Message { body: body.to_owned().into(), ..Message::default() }
}

/// Publishes to a queue by its name, one message after the other.
pub(crate) async fn put(session: &Session, queue: &str, bodies: &[&str]) {
    for body in bodies {
        let publish = session.publish("", queue, message(body));
        within("a confirm", publish).await.expect("confirmed");
    }
}

pub(crate) async fn consume(session: &Session, queue: &str, prefetch: u16) -> Consumer {
    let spec = ConsumeSpec { queue: queue.to_owned(), prefetch, tag: "conformance".to_owned() };
    within("a consumer", session.link().consume(spec)).await.expect("a consumer")
}

pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    within("a delivery", consumer.recv()).await.expect("a live consumer")
}

pub(crate) async fn next_bodies(consumer: &mut Consumer, count: usize) -> Vec<(String, Delivery)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await;
        all.push((text(&delivery.message), delivery));
    }
    all
}

pub(crate) async fn nothing_comes(consumer: &mut Consumer) {
    if let Ok(Some(delivery)) = timeout(SILENCE, consumer.recv()).await {
        panic!("delivered: {delivery:?}");
    }
}

/// Takes one message without a consumer, waiting for it to be there: a queue hands on what came
/// back to it only after a moment.
pub(crate) async fn get(session: &Session, queue: &str) -> Delivery {
    let got = async {
        loop {
            if let Some(delivery) = session.link().get(queue).await.expect("get") {
                return delivery;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(&format!("a message in {queue}"), got).await
}

pub(crate) async fn ready(session: &Session, queue: &str) -> u64 {
    within("a depth", session.link().depth(queue)).await.expect("a depth").ready
}

/// Waits until a queue holds so many ready messages.
pub(crate) async fn until_ready(session: &Session, queue: &str, count: u64) {
    let begun = Instant::now();
    let mut found = ready(session, queue).await;
    while found != count {
        assert!(begun.elapsed() < DEADLINE, "{queue} holds {found} ready messages, not {count}");
        sleep(Duration::from_millis(20)).await;
        found = ready(session, queue).await;
    }
}

/// All bodies of a queue, in order; takes them.
pub(crate) async fn drain(session: &Session, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(delivery) = within("get", session.link().get(queue)).await.expect("get") {
        bodies.push(text(&delivery.message));
        delivery.receipt.ack().expect("a live channel");
    }
    bodies
}

pub(crate) fn text(message: &Message) -> String {
    String::from_utf8(message.body.to_vec()).expect("a text")
}

/// The `x-death` entries, the latest first.
pub(crate) fn deaths(message: &Message) -> Vec<Headers> {
    let Some(Value::Array(deaths)) = message.properties.headers.get("x-death") else {
        panic!("no x-death in {:?}", message.properties.headers);
    };
    let table = |death: &Value| match death {
        Value::Table(table) => table.clone(),
        other => panic!("no table: {other:?}"),
    };
    deaths.iter().map(table).collect()
}
