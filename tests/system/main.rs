//! The whole system: worker processes, a real RabbitMQ, foreign clients, a browser; and the ops
//! server.

#[path = "../support/mod.rs"]
mod support;

mod e2e;
mod examples;
mod memory;
mod ops;
