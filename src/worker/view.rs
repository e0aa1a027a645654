//! A running worker, seen from outside.

use std::sync::Arc;

use secrecy::SecretString;
use tokio::sync::watch;

use super::context::Context;
use super::tally::Reading;
use crate::domain::mark::Mark;
use crate::fleet::{Seen, Vitals};
use crate::solver::SolverConfigError;

/// A way to look at a running worker.
#[derive(Clone)]
pub struct View {
    pub(super) ctx: Arc<Context>,
}

impl View {
    /// Its counters.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.ctx.tally.read()
    }

    /// Tickets and submissions held.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ctx.gate.held()
    }

    /// Places held in windows, caps and limits on calls; 0 when nothing is under way.
    #[must_use]
    pub fn places_held(&self) -> usize {
        self.ctx.lanes.in_use()
    }

    /// The account's state as this replica knows it.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.ctx.standing().seen()
    }

    /// For awaiting a change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Seen> {
        self.ctx.standing().watch()
    }

    /// What it tells the fleet of itself.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.ctx.vitals()
    }

    /// The mark of its key, as the account's state names it.
    #[must_use]
    pub fn key(&self) -> Mark {
        self.ctx.standing().key()
    }

    /// Takes another key; see [`crate::fleet::Fleet::replace_key`].
    ///
    /// # Errors
    /// An empty key; the one in use stays.
    pub fn replace_key(&self, key: SecretString) -> Result<(), SolverConfigError> {
        self.ctx.fleet.replace_key(key)
    }

    /// Task types that the API has no slots for.
    #[must_use]
    pub fn shut_types(&self) -> Vec<String> {
        self.ctx.standing().shut_types()
    }

    /// Proxies that are left alone now.
    #[must_use]
    pub fn quarantined_proxies(&self) -> usize {
        self.ctx.standing().state().map_or(0, |state| state.quarantined(self.ctx.clock.now()).count())
    }

    /// Whether the API answered when it was last called.
    #[must_use]
    pub fn reaches_api(&self) -> bool {
        !self.ctx.reach.is_lost()
    }

    /// Whether it has a session with the broker.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.ctx.live.now().is_some_and(|session| !session.is_closed())
    }
}
