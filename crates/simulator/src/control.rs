//! What a trial may change while a simulator runs. Outages are times in which every call of a kind
//! fails in one way; a flash is over after some calls. Both answer in front of the API, as a
//! gateway or a broken release does: the API behind does not hear of the call, so no task is
//! accepted, no script takes a step and no offence is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::account::is_money;
use super::kinds;
use super::script::{Step, http_fault};
use super::wire::Endpoint;

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
    /// Bans the account for so many seconds from now; 0 lifts a ban and forgets the offences and
    /// banned proxies.
    pub ban_seconds: Option<u32>,
    /// Slots by task type; null means no limit, 0 answers `ERROR_NO_SLOT_AVAILABLE` to every task
    /// of it.
    pub slots: BTreeMap<String, Option<u32>>,
    /// A time in which every API call gets one HTTP status.
    pub storm: Option<Storm>,
    /// Outages from now on, instead of all that are on or planned; an empty list ends them.
    pub outages: Option<Vec<Outage>>,
    /// The next calls are answered by a step, instead of what is left of an earlier flash.
    pub flash: Option<Flash>,
    /// True refuses every createTask that asks for a callback, as for a host that cannot be
    /// reached; false lets them in again, whatever host could not be reached before.
    pub refuse_callbacks: Option<bool>,
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

/// Most outages that are planned at one time.
const MAX_OUTAGES: usize = 100;

/// Which calls fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Every call, getBalance included.
    #[default]
    All,
    /// createTask.
    CreateTask,
    /// getTaskResult.
    GetTaskResult,
}

/// A time in which every call of a kind is answered by one step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outage {
    /// Which calls; every one by default.
    #[serde(default)]
    pub of: Target,
    /// What they are answered: any step that needs no task.
    pub answer: Step,
    /// It begins so many ms from now, or from the simulator's start where a scenario plans it; 0 by
    /// default.
    #[serde(default)]
    pub after_ms: u32,
    /// How long it lasts, in ms.
    pub for_ms: u32,
}

/// The next calls of a kind are answered by one step.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flash {
    /// Which calls; every one by default.
    #[serde(default)]
    pub of: Target,
    /// What they are answered: any step that needs no task.
    pub answer: Step,
    /// How many; 0 ends a flash.
    pub calls: u32,
}

impl Target {
    fn fits(self, endpoint: Endpoint) -> bool {
        match self {
            Self::All => true,
            Self::CreateTask => endpoint == Endpoint::CreateTask,
            Self::GetTaskResult => endpoint == Endpoint::GetTaskResult,
        }
    }

    /// What is wrong with a step as the answer to these calls, if anything.
    fn step_fault(self, step: &Step) -> Option<String> {
        match step {
            Step::Ok | Step::Processing | Step::Forget | Step::AcceptedThenCut | Step::AcceptedThenHang => {
                Some(
                    "answer: a step that needs a task; \"hang\", \"cut\", a code or { http = … } do not"
                        .to_owned(),
                )
            }
            Step::NoStatus if self != Self::GetTaskResult => {
                Some("answer: \"no_status\" is for of = \"get_task_result\"".to_owned())
            }
            step => http_fault(step),
        }
    }
}

impl Flash {
    pub(super) fn fault(&self) -> Option<String> {
        self.of.step_fault(&self.answer).map(|fault| format!("flash: {fault}"))
    }
}

/// Everything that is wrong with a list of outages.
pub(super) fn outage_faults(outages: &[Outage]) -> Vec<String> {
    let of_one = |(at, outage): (usize, &Outage)| {
        outage.of.step_fault(&outage.answer).map(|fault| format!("outage {}: {fault}", at + 1))
    };
    let too_many = (outages.len() > MAX_OUTAGES).then(|| format!("more than {MAX_OUTAGES} outages"));
    outages.iter().enumerate().filter_map(of_one).chain(too_many).collect()
}

/// What is on and what is planned.
#[derive(Debug)]
pub(super) struct Outages {
    planned: Vec<(Instant, Outage)>,
    flash: Option<Flash>,
}

impl Outages {
    pub(super) fn planned(outages: Vec<Outage>, now: Instant) -> Self {
        let mut all = Self { planned: Vec::new(), flash: None };
        all.plan(outages, now);
        all
    }

    /// These take the place of all others.
    pub(super) fn plan(&mut self, outages: Vec<Outage>, now: Instant) {
        let begins = |outage: &Outage| now + Duration::from_millis(outage.after_ms.into());
        self.planned = outages.into_iter().map(|outage| (begins(&outage), outage)).collect();
    }

    pub(super) fn flash(&mut self, flash: Flash) {
        self.flash = Some(flash);
    }

    /// What a call is answered instead, if anything; a flash comes before outages, the first outage
    /// before later ones.
    pub(super) fn answer(&mut self, endpoint: Endpoint, now: Instant) -> Option<Step> {
        let flash = self.flash.as_mut().filter(|flash| flash.calls > 0 && flash.of.fits(endpoint));
        if let Some(flash) = flash {
            flash.calls -= 1;
            return Some(flash.answer.clone());
        }
        let is_on = |(begins, outage): &&(Instant, Outage)| {
            outage.of.fits(endpoint)
                && now
                    .checked_duration_since(*begins)
                    .is_some_and(|age| age.as_millis() < outage.for_ms.into())
        };
        self.planned.iter().find(is_on).map(|(_, outage)| outage.answer.clone())
    }
}
