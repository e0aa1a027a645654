//! The pure core: what a job, a ticket and an outcome are, what every answer of the API means, and when to do what.
//!
//! Nothing here does I/O, reads a clock or draws a random number: time and randomness are arguments.

pub mod call;
pub mod class;
pub mod code;
pub mod codes;
pub mod envelope;
pub mod fault;
pub mod guard;
pub mod history;
pub mod identity;
pub mod job;
pub mod kind;
pub mod letter;
pub mod lifecycle;
pub mod mark;
pub mod outcome;
pub mod pacing;
pub mod policy;
pub mod replay;
pub mod retry;
pub mod shown;
pub mod solve_time;
pub mod ticket;
pub mod time;
pub mod trace;
pub mod unreadable;
pub mod window;
