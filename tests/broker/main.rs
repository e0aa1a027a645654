//! The AMQP broker, and who may do what on it, on a real RabbitMQ.

#[path = "../support/mod.rs"]
mod support;

mod amqp;
mod security;

use std::future::Future;
use std::time::Duration;

use captcha_worker::domain::message::{Message, Properties};

/// How long a test waits for something before it has failed.
const DEADLINE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} took longer than {DEADLINE:?}"),
    }
}

fn message(id: &str, body: impl Into<Vec<u8>>) -> Message {
    Message {
        body: body.into().into(),
        properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
        transient: false,
    }
}
