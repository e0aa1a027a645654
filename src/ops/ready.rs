//! Whether a replica does its work, and if not why. Being connected is not enough.

use crate::domain::guard::{Jobs, KeyStanding, Phase, Reason, State};
use crate::domain::lane::Lane;
use crate::domain::lifecycle::Origin;
use crate::fleet::Snapshot;
use crate::worker::WorkerHandle;

/// Whether a replica is ready, and why it takes no jobs. A pause and a budget that is used up are
/// no obstacles: an operator wants them, and a roll-out must not wait for their end.
pub(super) fn readiness(view: &WorkerHandle) -> (bool, Vec<String>) {
    let mut reasons = obstacles(view);
    let ready = reasons.is_empty();
    reasons.extend(wanted(view));
    (ready, reasons)
}

/// Why a replica takes no jobs now, or does not get on with those it has; empty where it does, or
/// would if there were any.
pub(super) fn obstacles(view: &WorkerHandle) -> Vec<String> {
    let mut reasons = Vec::new();
    if view.is_leaving() {
        reasons.push("this replica is leaving: it takes no more jobs".to_owned());
    }
    let connected = view.is_connected();
    if !connected {
        reasons.push("no session with the broker".to_owned());
    }
    if view.is_blocked() {
        reasons.push("the broker blocks publishing: it has a memory or disk alarm".to_owned());
    }
    let seen = view.seen();
    let Some(state) = &seen.state else {
        reasons.push("the state of the account is not known yet: no leader has reported it".to_owned());
        return reasons;
    };
    guarded(state, &seen, &mut reasons);
    keyless(view, state, &mut reasons);
    if connected {
        idle(view, &mut reasons);
    }
    let overdue = view.overdue_polls();
    if overdue > 0 {
        reasons.push(format!("{overdue} polls of paid tasks are overdue by more than 5 s"));
    }
    reasons.extend(view.unroutable());
    reasons
}

fn wanted(view: &WorkerHandle) -> Vec<String> {
    let seen = view.seen();
    let Some(state) = &seen.state else { return Vec::new() };
    let budget = state.money.stops.account.map(|stop| {
        let advice = Reason::Budget.advice();
        format!("budget: used up since {}, until {}: {advice}", stop.since, stop.until)
    });
    let pause = state.paused.as_ref().map(|paused| {
        let why = paused.reason.as_deref().unwrap_or("no reason given");
        let advice = Reason::Operator.advice();
        format!("operator: paused since {} by {} ({why}): {advice}", paused.since, paused.by)
    });
    let lanes = state.money.stops.lanes.iter().map(|(lane, stop)| {
        format!("budget of lane {lane}: used up since {}, until {}", stop.since, stop.until)
    });
    budget.into_iter().chain(lanes).chain(pause).collect()
}

fn guarded(state: &State, seen: &Snapshot, reasons: &mut Vec<String>) {
    match (state.phase, &state.trip) {
        (Phase::Probing, _) => reasons.push("the account is being probed".to_owned()),
        (Phase::Tripped, Some(trip)) => {
            let (reason, since, next) = (trip.reason, trip.since, trip.next_probe_at);
            reasons.push(format!("{reason} since {since}, next probe at {next}: {}", reason.advice()));
        }
        // A fleet without jobs has none to try the account with: a canary takes one as soon as it
        // comes.
        (Phase::Active | Phase::Canary | Phase::Tripped, _) => {}
    }
    if let Some(reason) = seen.held() {
        reasons.push(format!("{reason}, met by this replica: {}", reason.advice()));
    }
}

fn keyless(view: &WorkerHandle, state: &State, reasons: &mut Vec<String>) {
    match state.keys.standing(&view.key()) {
        KeyStanding::Refused if state.phase != Phase::Tripped => {
            reasons.push("the API refuses this replica's key, but accepts those of others".to_owned());
        }
        KeyStanding::Unknown if !state.keys.good.is_empty() => {
            reasons.push("this replica's key is not verified yet".to_owned());
        }
        KeyStanding::Good | KeyStanding::Refused | KeyStanding::Unknown => {}
    }
}

/// Connected, and yet not at work.
fn idle(view: &WorkerHandle, reasons: &mut Vec<String>) {
    let permit = view.permit();
    let seen = view.seen();
    let stops = |lane: &Lane| seen.state.as_ref().is_some_and(|state| state.money.stops(lane.name()));
    let may_take = permit.jobs != Jobs::None && !view.lanes().keys().all(stops);
    if may_take && !view.is_consuming(Origin::Job) {
        reasons.push(
            "jobs are not being consumed: the broker has not answered on their channel for 5 s".to_owned(),
        );
    }
    if permit.tickets && !view.is_consuming(Origin::Ticket) {
        reasons.push(
            "tickets are not being consumed: the broker has not answered on their channel for 5 s".to_owned(),
        );
    }
}
