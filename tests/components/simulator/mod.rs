//! The simulator keeps the API's rules: in process on paused time, and over real sockets.

mod account;
mod bans;
mod callbacks;
mod http;
mod lost;
mod outages;
mod polling;
mod scenario;
mod scripts;
mod support;
mod tasks;
