//! The programs in `examples/`, as foreign as any: run against a real RabbitMQ, the worker and the
//! simulator, checking what they receive by the published schemas.

mod client;
mod consuming;
mod requesting;
mod restart;
mod unconfirmed;

/// Makes each of these a test for every client.
macro_rules! by_every_client {
    ($($story:ident),* $(,)?) => {
        mod pika { $( #[tokio::test] async fn $story() { super::$story(crate::examples::client::Client::Pika).await; } )* }
        mod aio_pika { $( #[tokio::test] async fn $story() { super::$story(crate::examples::client::Client::AioPika).await; } )* }
        mod amqplib { $( #[tokio::test] async fn $story() { super::$story(crate::examples::client::Client::Amqplib).await; } )* }
    };
}
pub(crate) use by_every_client;
