//! The whole worker on paused time, with the in-process broker and simulator.

mod account;
mod bad_days;
mod budgets;
mod callbacks;
mod fleet;
mod handover;
mod lanes;
mod money;
mod outcomes;
mod publishers;
mod scene;
mod slots;
