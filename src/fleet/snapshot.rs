//! What a replica knows of the account at one moment.

use std::sync::Arc;

use tokio::time::Instant;

use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{KeyStanding, Permit, Phase, Reason, State};

/// What this replica has met itself, until the leader's word about it comes, or for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalTrip {
    pub(super) reason: Reason,
    /// The term it was met in: a later one has it accounted for.
    pub(super) term: u64,
    /// For what concerns this replica alone.
    pub(super) until: Option<Instant>,
    /// Met by this replica's own call.
    pub(super) mine: bool,
}

/// All that this replica knows.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The state in force; `None` until the leader's word has come over the present session.
    pub state: Option<Arc<State>>,
    /// Whether this replica leads.
    pub leads: bool,
    /// The leader's name.
    pub leader: Option<String>,
    /// The leader's id: of one name there can be several.
    pub leader_id: Option<String>,
    /// Replicas in the fleet, this one included.
    pub replicas: usize,
    /// This one's place among them, from 0.
    pub rank: usize,
    /// What it may do.
    pub permit: Permit,
    /// What the leader's word must account for.
    pub(super) hold: Option<LocalTrip>,
    /// What concerns this replica alone, and ends by time.
    pub(super) alone: Option<LocalTrip>,
    /// The last state ever seen, whichever session it came over.
    pub(super) memory: Option<Arc<State>>,
}

impl Snapshot {
    /// What holds this replica alone, beside the fleet's state.
    #[must_use]
    pub fn held(&self) -> Option<Reason> {
        self.hold.into_iter().chain(self.alone).map(|hold| hold.reason).max()
    }

    /// The highest epoch ever seen; 0 for none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.memory.as_ref().map_or(0, |state| state.epoch)
    }

    pub(super) fn term(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.term)
    }
}

/// Whether the leader's word covers what was met: it is of a later term, or stops the same and more, or has this replica's key among the
/// refused ones.
pub(super) fn accounted_for(hold: &LocalTrip, state: &State, key: &Fingerprint) -> bool {
    // What is graver than what the leader knows is still to be heard by it.
    if is_graver(hold, state) {
        return false;
    }
    state.term > hold.term
        || match hold.reason {
            Reason::KeyInvalid => state.keys.standing(key) == KeyStanding::Refused,
            // A trip that goes on keeps its term, and what holds until a later one would be reported over and over, and put the look at
            // the account off each time.
            _ => state.term == hold.term && state.phase == Phase::Tripped,
        }
}

/// Whether a state that is tripped does not know yet how bad it is.
pub(super) fn is_graver(hold: &LocalTrip, state: &State) -> bool {
    state.phase == Phase::Tripped && state.trip.as_ref().is_some_and(|trip| hold.reason > trip.reason)
}
