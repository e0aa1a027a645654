//! captcha-worker: a distributed worker between a message queue and a slow, paid, poll-based
//! recognition API.
//!
//! ```text
//! job ─▶ admission ─▶ createTask ─▶ ticket ─▶ getTaskResult … ─▶ outcome
//!  ▲                      │ unpaid, passing            results, dead letters, unrouted
//!  └──── retry queues ◀───┘
//! ```
//!
//! [`worker`] takes a delivery, asks the pure [`domain`] what to do about each event, calls the API
//! through [`solver`], publishes through [`broker`], and acks only what has a confirmed successor.
//! [`fleet`] says to all replicas of an account when to stop and when to go on.
//!
//! * [`domain`]: jobs, tickets, outcomes, error classes, poll schedules and the guard, as values.
//!   No I/O, no clock, no random numbers.
//! * [`broker`], [`solver`]: the seams to the message broker and to the recognition API.
//! * [`worker`], [`fleet`], [`ops`]: one replica's work, what replicas share, the HTTP server.
//! * [`simulator`]: the API's stand-in. It shares no type with `solver`.
//! * [`cli`], [`config`], [`telemetry`], [`trace`]: commands, settings, logs, spans.
//! * [`clock`], [`linger`], [`histogram`], [`tls`], [`failpoint`]: time and jitter, batching,
//!   histograms, certificates, deliberate faults for tests.
//!
//! `main → cli → {worker, fleet, ops, simulator} → {broker, solver} → domain`; a test holds these
//! arrows. docs/ARCHITECTURE.md has the components, the state machine and a glossary.
//!
//! Absent on purpose: recognition, evasion, callbacks of the API, state outside of the broker, and
//! a second API.

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
