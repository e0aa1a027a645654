//! The AMQP broker against a real RabbitMQ.

mod breaking;
mod consuming;
mod declaring;
mod hostile;
mod lingering;
mod publishing;
mod sessions;

use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Consumer, Delivery, Session};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;

use crate::{DEADLINE, message, within};

fn spec(queue: &str, prefetch: u16) -> ConsumeSpec {
    ConsumeSpec { queue: queue.to_owned(), prefetch, tag: format!("{queue}.consumer") }
}

/// How many messages are ready, as soon as the broker says `wanted`: its counts lag behind by
/// moments.
async fn ready(session: &Session, queue: &str, wanted: u64) {
    within("the queue's depth", async {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        while session.link().depth(queue).await.expect("the queue is there").ready != wanted {
            look.tick().await;
        }
    })
    .await;
}

/// A quorum queue with `count` messages in it.
async fn filled(url: &str, session: &Session, count: usize) -> String {
    let queue = crate::support::rabbit::fresh_namespace();
    Foreign::connect(url).await.queue(&queue, &[("x-queue-type", text("quorum"))]).await;
    for n in 0..count {
        session.publish("", &queue, message(&n.to_string(), n.to_string())).await.unwrap();
    }
    queue
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(within("a delivery", consumer.recv()).await.expect("the consumer goes on"));
    }
    taken
}

/// A client that is not ours, to prepare what our own side never declares.
struct Foreign {
    // The channel lives on it.
    _connection: lapin::Connection,
    channel: lapin::Channel,
}

impl Foreign {
    async fn connect(url: &str) -> Self {
        let connection =
            lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { _connection: connection, channel }
    }

    async fn queue(&self, name: &str, arguments: &[(&str, lapin::types::AMQPValue)]) {
        let mut table = FieldTable::default();
        for (key, value) in arguments {
            table.insert((*key).into(), value.clone());
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(name.into(), options, table).await.unwrap();
    }

    async fn delete_queue(&self, name: &str) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(name.into(), options).await.unwrap();
    }
}

fn text(value: &str) -> lapin::types::AMQPValue {
    lapin::types::AMQPValue::LongString(value.into())
}
