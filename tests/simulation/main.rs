//! Seeded histories of the whole worker, and traces. Both need features of their own; histories
//! also need the optimiser.

#[path = "../support/mod.rs"]
mod support;

mod history;
mod seeds;
mod traces;
