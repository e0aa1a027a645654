//! What the account's state lets one replica do.

use super::reason::Reason;
use super::state::{KeyStanding, Phase, State};
use crate::fingerprint::Fingerprint;
use crate::time::Timestamp;

/// How many jobs a replica may submit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jobs {
    /// None; they stay queued.
    None,
    /// One at a time, to see whether the API takes it.
    Canary,
    /// As many as the windows allow.
    All,
}

/// Which tasks a replica may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Polls {
    /// None; paid tasks wait.
    None,
    /// Those accepted since this moment: the API may have forgotten what was open before, and the
    /// leader finds out with its own.
    Since(Timestamp),
    /// All.
    All,
}

impl Polls {
    /// Whether a task that was accepted then may be asked for.
    #[must_use]
    pub fn allow(self, accepted_at: Timestamp) -> bool {
        match self {
            Polls::None => false,
            Polls::Since(moment) => accepted_at >= moment,
            Polls::All => true,
        }
    }
}

/// What one replica may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// createTask.
    pub jobs: Jobs,
    /// getTaskResult.
    pub polls: Polls,
    /// Holding tickets. One that may not poll for a reason of its own must leave them to others;
    /// one that waits with all the others keeps them.
    pub tickets: bool,
}

impl Permit {
    /// Before the fleet's state is known, and for a replica that must not call at all: nothing.
    pub const NOTHING: Permit = Permit { jobs: Jobs::None, polls: Polls::None, tickets: false };
    /// Everything.
    pub const ALL: Permit = Permit { jobs: Jobs::All, polls: Polls::All, tickets: true };

    /// The permit under a state.
    #[must_use]
    pub fn under(state: &State, leads: bool, key: &Fingerprint) -> Self {
        if state.phase == Phase::Probing && state.keys.good.is_empty() {
            return Self::NOTHING;
        }
        if state.keys.standing(key) != KeyStanding::Good {
            // Where no key is good there is nobody to leave the tickets to.
            let waits = state.keys.good.is_empty() && state.phase == Phase::Tripped;
            return Self { tickets: waits, ..Self::NOTHING };
        }
        let jobs = match state.phase {
            Phase::Active => Jobs::All,
            Phase::Canary if leads => Jobs::Canary,
            Phase::Probing | Phase::Tripped | Phase::Canary => Jobs::None,
        };
        let stopped = state.paused.is_some() || state.money.stops.account.is_some();
        let jobs = if stopped { Jobs::None } else { jobs };
        let sound = match state.doubt {
            Some(doubt) if doubt.lost || !leads => Polls::Since(doubt.before),
            Some(_) | None => Polls::All,
        };
        let polls = match state.phase {
            Phase::Active | Phase::Canary => sound,
            Phase::Probing => Polls::None,
            Phase::Tripped if state.tripped().is_some_and(|trip| !trip.reason.stops().polls) => sound,
            Phase::Tripped => Polls::None,
        };
        Self { jobs, polls, tickets: true }
    }

    /// What is left of it under a reason that this replica has met itself.
    #[must_use]
    pub fn without(self, reason: Reason) -> Self {
        let stops = reason.stops();
        Self {
            jobs: if stops.submissions { Jobs::None } else { self.jobs },
            polls: if stops.polls { Polls::None } else { self.polls },
            tickets: self.tickets,
        }
    }
}
