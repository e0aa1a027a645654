//! The programs in `examples/`, as foreign as any: run against a real RabbitMQ, the worker and the simulator, checking what they receive by
//! the published schemas.

#[path = "../support/mod.rs"]
mod support;

#[path = "../e2e/fleet.rs"]
#[allow(dead_code, reason = "this binary uses a part of it")]
mod fleet;

mod client;
mod consuming;
mod requesting;
mod restart;
mod unconfirmed;

/// Makes each of these a test for every client.
macro_rules! by_every_client {
    ($($story:ident),* $(,)?) => {
        mod pika { $( #[tokio::test] async fn $story() { super::$story(crate::client::Client::Pika).await; } )* }
        mod aio_pika { $( #[tokio::test] async fn $story() { super::$story(crate::client::Client::AioPika).await; } )* }
        mod amqplib { $( #[tokio::test] async fn $story() { super::$story(crate::client::Client::Amqplib).await; } )* }
    };
}
pub(crate) use by_every_client;
