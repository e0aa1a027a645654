//! `captcha-worker dead` as a process, on a real RabbitMQ with a real fleet.

mod again;
mod harness;
mod kill;
mod leave;
mod order;
