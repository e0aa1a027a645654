//! What is shown of a fleet, by the console and by `top` alike: one model, made from what replicas have told.
//!
//! Pure: no clock, no I/O. All foreign text in it is fit to be shown ([`shown`]), and every list is bounded, whoever has told it. It can be
//! written and read, so that one process shows what another has seen.

mod backlog;
mod fleet;
pub mod format;
mod guard;
mod rates;

use serde::{Deserialize, Serialize};

use crate::domain::guard::State;
use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;
use crate::fleet::{Depths, Heartbeat};

pub use backlog::Backlog;
pub use fleet::{ClassRow, FailureRow, ReplicaRow, TypeRow};
pub use guard::{Balance, Guard, Pause};
pub use rates::{Paces, Rates};

/// Characters of a name that are shown.
const NAME: usize = 40;
/// Points of the past that are kept and shown.
pub const HISTORY: usize = 60;

/// What is known of a fleet at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// When.
    pub at: Timestamp,
    /// The fleet's namespace.
    pub namespace: &'a str,
    /// The account's state; `None` where no leader has told it.
    pub state: Option<&'a State>,
    /// The leader's name.
    pub leader: Option<&'a str>,
    /// The leader's id.
    pub leader_id: Option<&'a str>,
    /// Replicas that the leader hears.
    pub expected: usize,
    /// Those that have told of themselves.
    pub replicas: &'a [&'a Heartbeat],
    /// Types without slots.
    pub shut: &'a [String],
    /// The queues.
    pub queues: Option<&'a Depths>,
    /// How fast work goes.
    pub paces: &'a Paces,
}

/// All that is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overview {
    /// When.
    pub at: Timestamp,
    /// The fleet's namespace.
    pub namespace: String,
    /// The account's guard.
    pub guard: Guard,
    /// The account's balance; `None` while unknown.
    pub balance: Option<Balance>,
    /// The leader's name.
    pub leader: Option<String>,
    /// Replicas that there should be.
    pub expected_replicas: usize,
    /// Replicas that have told of themselves.
    pub heard_replicas: usize,
    /// Of them, those whose version tells no types, classes and failures.
    pub terse_replicas: usize,
    /// The replicas, bounded.
    pub replicas: Vec<ReplicaRow>,
    /// What the fleet does in a second; `None` until it has been watched for a moment.
    pub rates: Option<Rates>,
    /// The same over the last minute or two, the latest last.
    pub history: Vec<Rates>,
    /// Solved jobs since the replicas run.
    pub solved: u64,
    /// Failed jobs since the replicas run.
    pub failed: u64,
    /// The same by class; what replicas of earlier versions do not tell by class stands last.
    pub classes: Vec<ClassRow>,
    /// Work by task type, bounded.
    pub types: Vec<TypeRow>,
    /// Types that the API has no slots for.
    pub shut_types: Vec<String>,
    /// What waits in the queues; `None` while unknown.
    pub backlog: Option<Backlog>,
    /// The jobs that failed last, the latest first, bounded.
    pub latest_failures: Vec<FailureRow>,
}

impl Overview {
    /// Makes it.
    #[must_use]
    pub fn of(sight: Sight<'_>) -> Self {
        let Sight { at, namespace, state, leader, leader_id, expected, replicas, shut, queues, paces } =
            sight;
        let heard = replicas.len();
        Self {
            at,
            namespace: shown(namespace, 64),
            guard: Guard::of(state),
            balance: state.and_then(|state| state.funds.as_ref()).map(Balance::of),
            leader: leader.map(|name| shown(name, NAME)),
            expected_replicas: expected.max(heard),
            heard_replicas: heard,
            terse_replicas: replicas.iter().filter(|replica| replica.vitals.detail.is_none()).count(),
            replicas: fleet::replicas(replicas, leader_id, paces),
            rates: paces.fleet(),
            history: paces.history(),
            solved: replicas.iter().map(|replica| replica.vitals.solved).fold(0, u64::saturating_add),
            failed: replicas.iter().map(|replica| replica.vitals.failed).fold(0, u64::saturating_add),
            classes: fleet::classes(replicas),
            types: fleet::types(replicas, shut),
            shut_types: fleet::shut(shut),
            backlog: queues.map(Backlog::of),
            latest_failures: fleet::failures(replicas),
        }
    }
}

#[cfg(test)]
mod tests;
