//! Each part of the worker on its own, in process: no test here needs a service, except those of
//! the conformance suite on AMQP.

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod config;
mod conformance;
mod power_loss;
mod queue_file;
mod robustness;
mod simulator;
mod solver;
mod worker;
