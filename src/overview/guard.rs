//! The account's state in words.

use serde::{Deserialize, Serialize};

use super::NAME;
use crate::domain::guard::{Funds, Phase, State};
use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;

/// Characters of an operator's reason that are shown.
const REASON: usize = 200;
/// What stands for a state that nobody has told.
const UNKNOWN: &str = "unknown";

/// The guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// `open`, `probing`, `canary`, `tripped` or `unknown`.
    pub state: String,
    /// What that means for jobs.
    pub meaning: String,
    /// Why work is stopped, the gravest first.
    pub reasons: Vec<String>,
    /// Since when it is in this state.
    pub since: Option<Timestamp>,
    /// When the leader looks again; only while tripped.
    pub next_look: Option<Timestamp>,
    /// Looks that found it still tripped.
    pub failed_looks: u32,
    /// What to do, for each reason.
    pub advice: Vec<String>,
    /// An operator's pause.
    pub paused: Option<Pause>,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// The broker's user who asked for it.
    pub by: String,
    /// Since when.
    pub since: Timestamp,
    /// The operator's words.
    pub reason: Option<String>,
}

/// The balance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Balance {
    /// The decimal as the API wrote it.
    pub text: String,
    /// When it was asked for.
    pub at: Timestamp,
    /// Its change by the hour; `None` while unknown.
    pub per_hour: Option<f64>,
}

impl Balance {
    pub(super) fn of(funds: &Funds) -> Self {
        Self { text: shown(&funds.text, 24), at: funds.at, per_hour: funds.per_hour }
    }
}

impl Guard {
    pub(super) fn of(state: Option<&State>) -> Self {
        let Some(state) = state else {
            return Self {
                state: UNKNOWN.to_owned(),
                meaning: "no leader tells how the account stands: nothing is called".to_owned(),
                reasons: Vec::new(),
                since: None,
                next_look: None,
                failed_looks: 0,
                advice: Vec::new(),
                paused: None,
            };
        };
        let (reasons, trip) = (state.reasons(), state.tripped());
        Self {
            state: state.phase.name().to_owned(),
            meaning: meaning(state).to_owned(),
            reasons: reasons.iter().map(|reason| reason.name().to_owned()).collect(),
            since: Some(state.since),
            next_look: trip.filter(|_| state.phase == Phase::Tripped).map(|trip| trip.next_probe_at),
            failed_looks: trip.map_or(0, |trip| trip.failures),
            advice: reasons.iter().map(|reason| reason.advice().to_owned()).collect(),
            paused: state.paused.as_ref().map(|paused| Pause {
                by: shown(&paused.by, NAME),
                since: paused.since,
                reason: paused.reason.as_deref().map(|reason| shown(reason, REASON)),
            }),
        }
    }

    /// Whether work goes on.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.state == Phase::Active.name() && self.paused.is_none()
    }

    /// Whether the account is guarded.
    #[must_use]
    pub fn is_tripped(&self) -> bool {
        self.state == Phase::Tripped.name()
    }

    /// The state in a word or three, such as `tripped (key_invalid)`.
    #[must_use]
    pub fn title(&self) -> String {
        match (&self.paused, self.reasons.is_empty()) {
            (Some(_), _) if self.state == Phase::Active.name() => "paused".to_owned(),
            (_, true) => self.state.clone(),
            (_, false) => format!("{} ({})", self.state, self.reasons.join(", ")),
        }
    }
}

fn meaning(state: &State) -> &'static str {
    match (state.phase, &state.paused) {
        (Phase::Tripped, _) => "the account is not to be used: jobs stay queued",
        (_, Some(_)) => "paused by an operator: jobs stay queued, paid tasks are finished",
        (Phase::Probing, None) => "the account is being looked at before anything is submitted",
        (Phase::Canary, None) => "the account is well again: one job is submitted first",
        (Phase::Active, None) => "the account may be used",
    }
}
