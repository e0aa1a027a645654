//! captcha-worker: a distributed worker between a message queue and a slow, paid, poll-based recognition API.

pub mod breakage;
pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod domain;
pub mod fleet;
pub mod linger;
pub mod measure;
pub mod ops;
pub mod overview;
pub mod simulator;
pub mod solver;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod worker;
