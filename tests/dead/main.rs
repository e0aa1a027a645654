//! `captcha-worker dead` as a process, on a real RabbitMQ with a real fleet.

#[path = "../e2e/fleet.rs"]
#[allow(dead_code, reason = "end-to-end tests use the rest")]
mod fleet;
#[path = "../e2e/jobs.rs"]
mod jobs;
#[path = "../support/mod.rs"]
mod support;

mod again;
mod kill;
mod leave;
mod order;
mod stage;
