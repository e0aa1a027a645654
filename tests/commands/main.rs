//! The commands as their users see them, and the contract for machines that they print.

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod contract;
mod dead_letters;
mod publish_outcomes;
