//! The recognition API: createTask, getTaskResult and getBalance, over one pooled client.
//!
//! What goes out is built by hand and what comes in is read leniently, because the API's replies
//! are documented loosely and its relatives differ. Two things are never blurred: whether a request
//! *left this machine* (a createTask that never left costs nothing to repeat; one that may have
//! left may have been paid), and the bytes of tasks and solutions, which pass through as they are.
//!
//! * [`Solver`]: the calls.
//! * [`Transport`]: the seam beneath it. Over it sits everything about the API's language, under it
//!   HTTP; a stand-in under it answers in process, so that whole histories run on paused time (a
//!   real socket's timers fire at once there).
//! * [`wire`]: the language itself, as pure functions over untrusted bytes.
//!
//! Nothing here retries, waits between calls or judges what an error means for a job.

mod client;
mod http;
mod key;
mod options;
mod transport;
pub mod wire;

pub use client::{CallTimes, Solver};
pub use http::HttpTransport;
pub use key::Mask;
pub use options::{SolverConfigError, SolverOptions};
pub use transport::{CREATE_TASK, GET_BALANCE, GET_TASK_RESULT, RawReply, Transport, TransportError};
pub use wire::Balance;
