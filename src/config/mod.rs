//! Settings: raw values from several layers, parsed once into types that cannot be invalid, every fault reported at once.
//!
//! ```text
//! built-in defaults ◁ ./config/*.toml ◁ --config FILE ◁ environment ◁ command line
//!        └───────────────────── one layer each, its keys checked ────────┘
//!                                   │ merged, each value with its origin
//!                                   ▼
//!                     read key by key ──▶ Settings  or  every fault
//! ```
//!
//! `config/default.toml` is built in. It is the list of settings too: a key that does not stand there is not known, and
//! what it holds tells of which shape a value must be. The tables `[codes]`, `[caps]` and `[polling.*]` are open: codes and
//! task types are the API's to name.
//!
//! Nothing here, faults and `Debug` included, ever shows the API's key or the broker's password.

mod amqp_url;
mod environment;
mod fault;
mod guard;
mod layer;
mod load;
mod reader;
mod schema;
mod secret;
mod sections;
mod settings;
mod solver;
mod tables;
#[cfg(test)]
mod tests;
mod tls;
mod values;

pub use amqp_url::AmqpUrl;
pub use fault::{ConfigErrors, Fault};
pub use load::{LoadOptions, Loaded, Override};
pub use reader::SettingLine;
pub use settings::{
    BrokerSettings, GuardSettings, LogFormat, LogSettings, OpsSettings, RetrySettings, Settings,
    SolverSettings, TraceSettings, WorkerSettings,
};
pub use values::LogFilter;

/// What environment variables that carry settings begin with.
pub const ENV_PREFIX: &str = "CAPTCHA_WORKER__";

/// Every setting with its default and a comment, as built in.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
