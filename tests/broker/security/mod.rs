//! Who may reach the broker and how, on a real RabbitMQ: TLS, the users of `deploy/rabbitmq` and what they may do, retention.

mod broker;
mod bytes;
mod full;
mod permissions;
mod refusals;
mod retention;
mod secured;
mod tls;
mod work;

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

/// A message with an id and a body.
fn message(id: &str, body: impl Into<Vec<u8>>) -> Message {
    Message {
        body: body.into().into(),
        properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
        transient: false,
    }
}
