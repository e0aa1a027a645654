//! What trials and chaos share: processes of the program, the API's stand-in, an operator, jobs,
//! waiting, and reports.

#![allow(dead_code, reason = "each bench uses its own part of this")]

pub(crate) mod command;
pub(crate) mod completion;
pub(crate) mod fleet;
pub(crate) mod jobs;
pub(crate) mod process;
pub(crate) mod report;
pub(crate) mod simulator;
pub(crate) mod wait;
