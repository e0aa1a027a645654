//! The whole worker on paused time, with the in-process broker and simulator.

mod account;
mod handover;
mod outcomes;
mod scene;
