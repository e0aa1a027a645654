//! The guard of the account: what was found out about it, what that stops, and when to look again.
//!
//! ```text
//!               nothing known, or nothing any more
//!                              │
//!                              ▼
//!              ┌──────────▶ Probing ──balance read──┐
//!      leader  │              │ refused             ▼
//!      changed │              ▼                   Canary ──a job accepted──▶ Active
//!              │           Tripped ──balance read──▲ │                        │
//!              │              ▲    (by schedule,   │ └── refused ──┐          │
//!              │              │     or resume)     └───────────────┼──────────┤
//!              │              └────────────────────────────────────┘◀─refused─┘
//!              └────────────── nothing heard for long ────────────────────────┘
//! ```
//!
//! An operator's pause and a budget that is used up stand beside the phase. The record ([`State`])
//! is the leader's alone to write; every replica derives from it what it may do ([`Permit`]).
//! Nothing here does I/O or reads a clock.

mod answer_share;
mod permit;
mod reason;
mod schedule;
mod spend;
mod state;
#[cfg(test)]
mod tests;
mod transition;

use std::time::Duration;

use crate::money::{Budgets, Decimal, Prices};

pub use answer_share::AnswerShare;
pub use permit::{Jobs, Permit, Polls};
pub use reason::{Reason, Schedule, Stops};
pub use schedule::Pressure;
pub use spend::Spending;
pub use state::{
    Doubt, Funds, KeyStanding, Keys, MAX_PROXIES, Paused, Phase, Quarantined, State, Trip, VERSION,
};
pub use transition::{CanaryEnd, GuardEvent, ProbeEnd};

/// The operator's settings, as far as they decide about the account.
#[derive(Debug, Clone, PartialEq)]
pub struct GuardRules {
    /// How long nothing is called after a refusal for a ban. Documented: 10 minutes, longer if the
    /// calls go on.
    pub ban_pause: Duration,
    /// The guard trips at this balance, or below it, before the API says no.
    pub min_balance: Decimal,
    /// A warning is logged below this balance.
    pub low_balance: Decimal,
    /// The longest time between two looks at the balance.
    pub balance_interval: Duration,
    /// How long a proxy that the API called banned is left alone.
    pub quarantine: Duration,
    /// Wrong task ids trip the guard where they are more than this share of the fleet's answers
    /// within a minute, beyond chance.
    pub wrong_ids_share: f64,
    /// And at least so many.
    pub wrong_ids_least: u64,
    /// So many within a minute trip it whatever their share; 0: no such bound.
    pub wrong_ids_per_minute: u64,
    /// What may be spent.
    pub budgets: Budgets,
    /// What tasks cost.
    pub prices: Prices,
}

impl Default for GuardRules {
    fn default() -> Self {
        Self {
            ban_pause: Duration::from_secs(630),
            min_balance: Decimal::ZERO,
            low_balance: Decimal::ZERO,
            balance_interval: Duration::from_secs(60),
            quarantine: Duration::from_secs(600),
            wrong_ids_share: 0.2,
            wrong_ids_least: 3,
            wrong_ids_per_minute: 0,
            budgets: Budgets::default(),
            prices: Prices::default(),
        }
    }
}
