//! Settings: raw values from several layers, parsed once into types that cannot be invalid, every
//! fault reported at once.
//!
//! ```text
//! built-in defaults ◁ ./config/*.toml ◁ --config FILE ◁ environment ◁ command line
//!        └───────────────────── one layer each, its keys checked ────────┘
//!                                   │ merged, each value with its origin
//!                                   ▼
//!                     read key by key ──▶ Settings  or  every fault
//! ```
//!
//! `config/default.toml` is built in. It is the list of settings too: a key that does not stand
//! there is not known, and its value there shows which shape a value must have. The tables
//! `[codes]`, `[caps]` and `[polling.*]` are open: codes and task types are the API's to name.
//!
//! Nothing here, faults and `Debug` included, ever shows the API's key or the broker's password.

mod fault;
mod files;
mod layers;
mod load;
mod reader;
mod sections;
mod settings;
#[cfg(test)]
mod tests;
mod values;

pub use fault::{ConfigErrors, SettingFault};
pub use layers::IgnoredVariable;
pub use load::{LoadOptions, Loaded, Override};
pub use reader::SettingLine;
pub use settings::{
    BrokerSettings, CallbackSettings, GuardSettings, LimitSettings, LogFormat, LogSettings, OpsSettings,
    RetrySettings, Settings, SolverSettings, TraceSettings, WorkerSettings,
};
pub use values::{AmqpUrl, BrokerUrl, LogFilter};

/// What environment variables that carry settings begin with.
pub const ENV_PREFIX: &str = "CAPTCHA_WORKER__";

/// Every setting with its default and a comment, as built in.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");
