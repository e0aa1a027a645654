//! The API client, from both ends: answers handed in under the seam, and real sockets with a badly
//! behaved server.

mod bounds;
mod faults;
mod reading;
mod refusing;
mod secrecy;
mod sending;
mod support;
