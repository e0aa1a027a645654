//! Why a worker in this process makes no calls, and what to do about it: for the commands that wait
//! for its answers.

use crate::domain::guard::{Phase, Reason};
use crate::worker::WorkerHandle;

/// Why the worker makes no calls, if that is so: the graver reason of the account's and its own.
pub(super) fn tripped(view: &WorkerHandle) -> Option<Reason> {
    let seen = view.seen();
    // In the canary the trip is a memory.
    let tripped = seen.state.as_ref().filter(|state| state.phase == Phase::Tripped);
    let of_account = tripped.and_then(|state| state.tripped()).map(|trip| trip.reason);
    seen.held().max(of_account)
}

/// What is refused, and what to do about it; `None` where it passes by itself.
pub(super) fn advice(reason: Reason) -> Option<&'static str> {
    match reason {
        Reason::KeyInvalid => Some("the API refuses the key: correct solver.api_key"),
        Reason::NoFunds => Some("the balance is used up, or not above guard.min_balance: top up the account"),
        Reason::IpNotAllowed => {
            Some("the API refuses this machine's address: allow it for the key in the provider's panel")
        }
        Reason::IpBanned => Some(
            "the API has banned this machine's address: make no call for 10 minutes, each would prolong the ban",
        ),
        Reason::Operator | Reason::Budget | Reason::ProviderDown | Reason::WrongIds => None,
    }
}
