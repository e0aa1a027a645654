//! A namespace on the broker, seen from outside of the worker.

use std::time::Duration;

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{ConsumeSpec, Consumer, Session};
use captcha_worker::domain::class::Class;
use captcha_worker::domain::message::{Message, Properties};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::rabbit;

/// Nothing here takes a tenth of it for one message.
const TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) struct Namespace {
    pub(crate) names: Names,
    pub(crate) session: Session,
}

impl Namespace {
    /// Declares a fresh namespace.
    pub(crate) async fn declare(amqp: &str) -> Self {
        let names = Names::new(&rabbit::fresh_namespace());
        let session = rabbit::connect(amqp).await;
        session.link().declare(&Topology::new(&names)).await.expect("the topology is declared");
        Self { names, session }
    }

    /// Publishes these bytes, confirmed.
    pub(crate) async fn publish(&self, exchange: &str, key: &str, id: &str, body: Vec<u8>) {
        let properties = Properties { message_id: Some(id.to_owned()), ..Properties::default() };
        let message = Message { body: body.into(), properties, transient: false };
        self.session.publish(exchange, key, message).await.expect("the broker takes it");
    }

    /// Publishes a job with a picture.
    pub(crate) async fn job(&self, id: &str) {
        let picture = "QUJD".repeat(60);
        let job = json!({"id": id, "task": {"type": "ImageToTextTask", "body": picture}});
        self.publish("", &self.names.jobs(), id, job.to_string().into_bytes()).await;
    }

    /// Consumes a queue.
    pub(crate) async fn consume(&self, queue: String) -> Consumer {
        let spec = ConsumeSpec { tag: "memory".to_owned(), queue, prefetch: 16 };
        self.session.link().consume(spec).await.expect("the queue can be consumed")
    }
}

/// The next message, acked.
pub(crate) async fn take(consumer: &mut Consumer) -> Message {
    let delivery =
        timeout(TIMEOUT, consumer.recv()).await.expect("a message comes").expect("the consumer lives");
    delivery.receipt.ack().expect("the channel lives");
    delivery.message
}

/// Outcomes as they come, from every queue that a job can end in.
pub(crate) struct Ends {
    came: UnboundedReceiver<Ended>,
    _consumers: JoinSet<()>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) id: String,
    /// `solved`, or the code of its failure.
    pub(crate) how: String,
}

impl Ends {
    pub(crate) async fn of(namespace: &Namespace) -> Self {
        let mut queues = vec![namespace.names.results()];
        queues.extend(Class::finals().map(|class| namespace.names.dead(class)));
        let (coming, came) = unbounded_channel();
        let mut consumers = JoinSet::new();
        for queue in queues {
            let (mut consumer, coming) = (namespace.consume(queue).await, coming.clone());
            consumers.spawn(async move {
                while let Some(delivery) = consumer.recv().await {
                    delivery.receipt.ack().expect("the channel lives");
                    coming.send(ended(&delivery.message)).expect("somebody listens");
                }
            });
        }
        Self { came, _consumers: consumers }
    }

    pub(crate) async fn next(&mut self) -> Ended {
        timeout(TIMEOUT, self.came.recv()).await.expect("a job ends").expect("the consumers live")
    }
}

/// What an outcome says.
pub(crate) fn ended(message: &Message) -> Ended {
    let outcome: Value = serde_json::from_slice(&message.body).expect("an outcome");
    let how = outcome["failure"]["code"].as_str().or(outcome["status"].as_str());
    Ended {
        id: outcome["id"].as_str().expect("an id").to_owned(),
        how: how.expect("it ended somehow").to_owned(),
    }
}
