//! Outages: times in which every call of a kind fails in one way, and flashes, which are over after some calls.
//!
//! Both answer in front of the API, as a gateway or a broken release does: the API behind does not hear of the call, so
//! no task is accepted, no script takes a step and no offence is committed.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::reply::Endpoint;
use super::script::{Step, http_fault};

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
    /// It begins so many ms from now, or from the simulator's start where a scenario plans it; 0 by default.
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

    /// What a call is answered instead, if anything; a flash comes before outages, the first outage before later ones.
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
