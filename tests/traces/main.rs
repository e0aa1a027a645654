//! One trace from publisher to consumer, on a real RabbitMQ, with worker processes and a collector that takes OTLP.

#[path = "../support/mod.rs"]
mod support;

#[allow(dead_code, reason = "of what the end-to-end tests need of processes, these need a part")]
#[path = "../e2e/fleet.rs"]
mod fleet;

#[path = "../e2e/jobs.rs"]
mod jobs;

mod collector;
mod lane;
mod quiet;
mod spanning;
