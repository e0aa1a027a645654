//! The AMQP broker, and who may do what on it, on a real RabbitMQ.

#[path = "../support/mod.rs"]
mod support;

mod amqp;
mod security;
