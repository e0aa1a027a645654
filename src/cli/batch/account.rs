//! Why a batch waits: each reason is printed once. A refused key ends the batch, since no waiting
//! helps and each further call endangers the account.

use std::time::Duration;

use tokio::time::Instant;

use crate::cli::account::{advice, tripped};
use crate::domain::guard::{KeyStanding, Permit, Reason};
use crate::domain::time::Timestamp;
use crate::worker::WorkerHandle;

/// An API that has not answered for so long is worth a line.
const SILENT: Duration = Duration::from_secs(5);

/// Something to print, or to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Text(String),
    KeyRefused,
}

/// What has been printed of the account.
pub(super) struct AccountWatch {
    began: Timestamp,
    noted: Option<Reason>,
    /// A refusal that an earlier run has left in the queue: how often it was confirmed until then.
    left: Option<u32>,
    silent_since: Option<Instant>,
    noted_silent: bool,
}

impl AccountWatch {
    pub(super) fn new(view: &WorkerHandle) -> Self {
        Self { began: view.now(), noted: None, left: None, silent_since: None, noted_silent: false }
    }

    /// Checks the account's state after a change.
    pub(super) fn check(&mut self, view: &WorkerHandle) -> Option<Notice> {
        let is_paused = view.seen().state.is_some_and(|state| state.paused.is_some());
        let has_budget = view.seen().state.is_none_or(|state| state.money.stops.account.is_none());
        let budget = (!has_budget).then_some(Reason::Budget);
        let reason = tripped(view).or(budget).or(is_paused.then_some(Reason::Operator));
        if reason == Some(Reason::KeyInvalid) && self.is_of_this_run(view) {
            return Some(Notice::KeyRefused);
        }
        // The guard probes between a refusal and the report that the account can be used.
        let is_open = reason.is_some() || view.permit().jobs != Permit::NOTHING.jobs;
        let is_other_key = reason == Some(Reason::KeyInvalid) && !is_refused(view);
        if reason == self.noted || !is_open || is_other_key {
            return None;
        }
        self.noted = reason;
        let Some(reason) = reason else {
            return Some(Notice::Text("the account can be used again".to_owned()));
        };
        let why = match reason {
            Reason::KeyInvalid => "the API has refused this key in an earlier run",
            Reason::Operator => "an operator has paused the work",
            Reason::Budget => "the budget is used up",
            Reason::ProviderDown => "the API does not answer, or fails",
            Reason::WrongIds => "the API does not know tasks that it has accepted",
            _ => advice(reason).unwrap_or_default(),
        };
        let next = view.seen().state.as_ref().and_then(|state| {
            let at = state.tripped()?.next_probe_at;
            Some(format!("; the account is tried again at {at}"))
        });
        Some(Notice::Text(format!("waiting: {why}{}", next.unwrap_or_default())))
    }

    /// Whether the refusal is news, and not the record of an earlier run.
    fn is_of_this_run(&mut self, view: &WorkerHandle) -> bool {
        let seen = view.seen();
        let Some(trip) = seen.state.as_ref().and_then(|state| state.tripped()) else { return true };
        if seen.held().is_some() || trip.since >= self.began {
            return true;
        }
        trip.failures > *self.left.get_or_insert(trip.failures)
    }

    /// Looks whether the API answers.
    pub(super) fn check_api(&mut self, view: &WorkerHandle) -> Option<Notice> {
        if view.reaches_api() {
            self.silent_since = None;
            return take_if(&mut self.noted_silent)
                .map(|()| Notice::Text("the API answers again".to_owned()));
        }
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if self.noted_silent || since.elapsed() < SILENT {
            return None;
        }
        self.noted_silent = true;
        Some(Notice::Text("waiting: the API does not answer; it is tried again and again".to_owned()))
    }
}

/// Whether it is this key that was refused, and not the one before it.
fn is_refused(view: &WorkerHandle) -> bool {
    let state = view.seen().state;
    state.is_none_or(|state| state.keys.standing(&view.key()) == KeyStanding::Refused)
}

fn take_if(flag: &mut bool) -> Option<()> {
    std::mem::take(flag).then_some(())
}
