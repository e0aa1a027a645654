//! The pure core: what a job, a ticket and an outcome are, what every answer of the API means, and
//! when to do what.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness are
//! arguments.

pub mod aimd;
pub mod api_code;
pub mod call;
pub mod callback;
pub mod class;
pub mod dead_letter;
pub mod fault;
pub mod fingerprint;
pub mod guard;
pub mod history;
pub mod job;
pub mod kind;
pub mod lane;
pub mod learned_polls;
pub mod lifecycle;
pub mod local_code;
pub mod message;
pub mod message_hash;
pub mod money;
pub mod outcome;
pub mod policy;
pub mod poll_schedule;
pub mod publishers;
pub mod replay;
pub mod retry_delay;
pub mod sanitize;
pub mod solve_time;
mod speed_change;
pub mod ticket;
pub mod time;
pub mod trace;
pub mod unreadable;
