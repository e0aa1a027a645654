//! The account's state as it is shown: one shape for the command line, the ops server and whoever reads either.

use serde_json::{Value, json};

use super::{Phase, State};

/// The state as JSON; `unknown` where nothing has been told.
#[must_use]
pub fn as_json(state: Option<&State>) -> Value {
    let Some(state) = state else {
        return json!({"state": "unknown", "reasons": []});
    };
    let trip = state.tripped();
    json!({
        "state": state.phase.name(),
        "reasons": state.reasons(),
        "since": state.since,
        "next_probe_at": trip.filter(|_| state.phase == Phase::Tripped).map(|trip| trip.next_probe_at),
        "failed_probes": trip.map(|trip| trip.failures),
        "advice": state.reasons().first().map(|reason| reason.advice()),
        "paused": state.paused,
        "epoch": state.epoch,
        "balance": state.funds,
    })
}
