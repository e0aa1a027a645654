//! What integration tests share.

#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    unused_macros,
    reason = "each test binary uses its own part of this"
)]

pub mod authority;
pub mod cluster;
pub mod either;
pub mod fleet;
pub mod foreign;
pub mod in_process;
pub mod jobs;
pub mod node;
pub mod rabbit;
pub mod raw;
