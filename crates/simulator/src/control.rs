//! What a trial may change while a simulator runs.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::kinds;
use super::outage::{Flash, Outage, outage_faults};
use super::settings::is_money;

/// Changes, all optional, applied together. Over HTTP: JSON to `POST /_sim/control`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Control {
    /// Sets the balance, in the account's currency.
    pub balance: Option<f64>,
    /// Adds to the balance; applied after `balance`.
    pub add_credits: Option<f64>,
    /// False refuses every key, true lets the configured ones in again.
    pub key_valid: Option<bool>,
    /// Bans the account for so many seconds from now; 0 lifts a ban and forgets the offences and banned proxies.
    pub ban_seconds: Option<u32>,
    /// Slots by task type; null means no limit, 0 answers `ERROR_NO_SLOT_AVAILABLE` to every task of it.
    pub slots: BTreeMap<String, Option<u32>>,
    /// A time in which every API call gets one HTTP status.
    pub storm: Option<Storm>,
    /// Outages from now on, instead of all that are on or planned; an empty list ends them.
    pub outages: Option<Vec<Outage>>,
    /// The next calls are answered by a step, instead of what is left of an earlier flash.
    pub flash: Option<Flash>,
    /// True forgets every task at once, as a service does that restarts without its memory.
    pub forget_tasks: bool,
}

/// Every API call is answered by a failing front.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storm {
    /// The HTTP status, 400 to 599.
    pub status: u16,
    /// Ends so many seconds from now; 0 ends a storm at once.
    pub until_seconds: u32,
    /// The header `Retry-After` in seconds, if wanted.
    #[serde(default)]
    pub retry_after: Option<u64>,
}

/// Changes that cannot be applied; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ControlError(pub(super) String);

impl Control {
    pub(super) fn check(&self) -> Result<(), ControlError> {
        let wrong = |fault: String| Err(ControlError(fault));
        if self.balance.is_some_and(|amount| !is_money(amount)) {
            return wrong("balance: not an amount of 0 to 1,000,000,000".to_owned());
        }
        if self.add_credits.is_some_and(|amount| !is_money(amount)) {
            return wrong("add_credits: not an amount of 0 to 1,000,000,000".to_owned());
        }
        if let Some(kind) = self.slots.keys().find(|kind| kinds::index_of(kind).is_none()) {
            return wrong(format!("slots: no such task type: {kind}"));
        }
        match self.storm {
            Some(storm) if !(400..=599).contains(&storm.status) => {
                return wrong(format!("storm.status: {} is not a status of 400 to 599", storm.status));
            }
            _ => {}
        }
        let of_outages =
            self.outages.as_deref().and_then(|outages| outage_faults(outages).into_iter().next());
        match of_outages.or_else(|| self.flash.as_ref().and_then(Flash::fault)) {
            Some(fault) => wrong(fault),
            None => Ok(()),
        }
    }
}
