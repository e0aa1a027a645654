//! Money, in the account's currency: exact decimals, never floats.
//!
//! The API says what a task cost at its end, if at all. Until then a task counts with the price
//! that the settings give its type. [`Books`] hold what was spent, and [`Budgets`] what may be.

mod books;
mod budget;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::kind;

pub use books::{
    Acceptance, Books, FORGOTTEN_AFTER, Hour, KEPT_HOURS, MAX_REPLICAS, OTHERS, Orphan, SpendReport, Spent,
    Window,
};
pub use budget::{
    BudgetStops, Budgets, LONGEST_RAISE, Limits, MAX_RAISES, MOST_MONEY, Money, Ordered, Raise, Stop,
    Uncounted,
};
pub use rust_decimal::Decimal;

/// Longest text that is read as an amount, in bytes.
const MAX_TEXT: usize = 64;

/// Reads a decimal number as it stands in JSON or in a setting, exponents included; `None` where it
/// is none, or beyond what 28 digits can hold.
#[must_use]
pub fn decimal(text: &str) -> Option<Decimal> {
    let text = text.trim();
    if text.len() > MAX_TEXT {
        return None;
    }
    if text.contains(['e', 'E']) {
        return Decimal::from_scientific(text).ok();
    }
    // Underscores and a sign before the digits are Rust's way to write numbers, and no one else's.
    let plain = text.strip_prefix('-').unwrap_or(text);
    let digits = plain.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    digits.then(|| text.parse().ok()).flatten()
}

/// An amount that was, or may be, spent: not negative.
#[must_use]
pub fn amount(text: &str) -> Option<Decimal> {
    decimal(text).filter(|amount| !amount.is_sign_negative() || amount.is_zero())
}

/// What a submission cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// How much.
    pub amount: Decimal,
    /// It is the price of the settings; the API has said nothing.
    pub estimated: bool,
}

impl Cost {
    /// What the API said, else the price.
    #[must_use]
    pub fn of(said: Option<Decimal>, price: Option<Decimal>) -> Option<Self> {
        let estimate = || price.map(|amount| Self { amount, estimated: true });
        said.map(|amount| Self { amount, estimated: false }).or_else(estimate)
    }

    /// The sum of all; `None` where one of them is not known, or there is none.
    #[must_use]
    pub fn sum(costs: impl Iterator<Item = Option<Self>>) -> Option<Self> {
        let mut sum: Option<Self> = None;
        for cost in costs {
            let (cost, before) = (cost?, sum.unwrap_or(Self { amount: Decimal::ZERO, estimated: false }));
            let amount = before.amount.saturating_add(cost.amount);
            sum = Some(Self { amount, estimated: before.estimated || cost.estimated });
        }
        sum
    }
}

/// What a task of a type costs, by the operator's settings: by type, or `type/class`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prices(pub BTreeMap<String, Decimal>);

impl Prices {
    /// The price of a kind of task.
    #[must_use]
    pub fn of(&self, kind: &str) -> Option<Decimal> {
        kind::find(&self.0, kind).map(|(_, price)| *price)
    }
}
