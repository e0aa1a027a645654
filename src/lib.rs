//! captcha-worker: a distributed worker between a message queue and a slow, paid, poll-based recognition API.
//!
//! ```text
//! jobs ─▶ door (domain::job) ─▶ gate (worker::gate) ─▶ createTask (solver) ─▶ ticket ─▶ getTaskResult … ─▶ outcome
//!  ▲                                   │ unpaid, passing                                                      │
//!  └───────── retry queues ◀───────────┘                                results, dead letters, unrouted ◀─────┘
//! ```
//!
//! A delivery comes to [`worker`], which asks the pure [`domain`] what to do with each event, has it done by [`solver`] and [`broker`], and
//! acks only what has a confirmed successor. [`fleet`] tells all replicas of an account when to stop and when to go on.
//!
//! * [`domain`]: jobs, tickets, outcomes, classes, pacing and the guard, as values. No I/O, no clock, no dice.
//! * [`broker`], [`solver`]: the seams to the queue and to the recognition API.
//! * [`worker`], [`fleet`], [`ops`]: one replica's work, what replicas know together, and what they tell over HTTP.
//! * [`simulator`]: the API's stand-in, which shares nothing with `solver`.
//! * [`cli`], [`config`], [`telemetry`], [`trace`]: commands, settings, logs, spans.
//! * [`clock`], [`linger`], [`histogram`], [`tls`], [`failpoint`]: time and dice; going out together; histograms; certificates; faults for tests.
//!
//! `main → cli → {worker, fleet, ops, simulator} → {broker, solver} → domain`; a test holds these arrows.
//!
//! Absent on purpose: recognition, evasion, callbacks of the API, state outside of the broker, and a second API.

pub mod broker;
pub mod cli;
pub mod clock;
pub mod config;
pub mod contract;
pub mod failpoint;
pub mod fleet;
pub mod histogram;
pub mod linger;
pub mod ops;
pub mod overview;
pub mod solver;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod worker;

pub use captcha_domain as domain;
pub use captcha_simulator as simulator;
