//! A running worker, seen from outside.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

use super::context::Context;
use super::stats::counters::Reading;
use crate::broker::QueueDepth;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::Permit;
use crate::domain::lane::Lane;
use crate::domain::lifecycle::Origin;
use crate::domain::money::Money;
use crate::domain::time::Timestamp;
use crate::fleet::{Callbacks, Depths, Heartbeat, LaneFigures, Snapshot, Vitals, Work};
use crate::histogram::Distribution;
use crate::solver::{CallTimes, SolverConfigError};

/// How long a poll that is due may wait before it counts as overdue.
const OVERDUE: Duration = Duration::from_secs(5);

/// What waits inside of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Buffers {
    /// Received from the broker, and not begun.
    pub deliveries: usize,
    /// Jobs in flight that wait for their call of createTask.
    pub submissions: usize,
    /// Handed to the broker, and not confirmed yet.
    pub publishes: usize,
}

/// A way to look at a running worker.
#[derive(Clone)]
pub struct WorkerHandle {
    pub(super) ctx: Arc<Context>,
}

impl WorkerHandle {
    /// Its counters.
    #[must_use]
    pub fn reading(&self) -> Reading {
        self.ctx.counters.read()
    }

    /// Tickets and submissions held.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.ctx.in_flight.held()
    }

    /// Of what is held, tickets.
    #[must_use]
    pub fn tickets_open(&self) -> usize {
        self.ctx.in_flight.tickets()
    }

    /// Polls that have been due for more than 5 s, and have not begun.
    #[must_use]
    pub fn overdue_polls(&self) -> usize {
        Instant::now().checked_sub(OVERDUE).map_or(0, |moment| self.ctx.waiting.polls_due_before(moment))
    }

    /// What waits.
    #[must_use]
    pub fn buffers(&self) -> Buffers {
        Buffers {
            deliveries: self.ctx.consumers.waiting(),
            submissions: self.ctx.waiting.submissions(),
            publishes: self.ctx.meter.under_way(),
        }
    }

    /// How long the broker took to confirm publishes.
    #[must_use]
    pub fn confirms(&self) -> Distribution {
        self.ctx.meter.confirms()
    }

    /// How long calls of the API took.
    #[must_use]
    pub fn call_times(&self) -> Vec<CallTimes> {
        self.ctx.solver.call_times()
    }

    /// The queues as this replica last saw them, by their names without the namespace; none where
    /// it does not lead.
    #[must_use]
    pub fn queues(&self) -> BTreeMap<String, QueueDepth> {
        self.ctx.queue_monitor.queues()
    }

    /// The figures of each lane.
    #[must_use]
    pub fn lanes(&self) -> BTreeMap<Lane, LaneFigures> {
        self.ctx.lanes.figures()
    }

    /// Why outcomes do not reach those who wait for them, if anything is known about that.
    #[must_use]
    pub fn unroutable(&self) -> Option<String> {
        self.ctx.queue_monitor.unroutable()
    }

    /// Whether the broker is known to deliver this queue's messages here.
    #[must_use]
    pub fn is_consuming(&self, origin: Origin) -> bool {
        self.ctx.consumers.is_consuming(origin)
    }

    /// What the account's guard allows.
    #[must_use]
    pub fn permit(&self) -> Permit {
        self.ctx.account().permit()
    }

    /// Whether it was asked to leave.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.ctx.leaving.load(Ordering::Relaxed)
    }

    /// Whether the runtime that the worker lives in answers within this time. To be asked from
    /// another runtime.
    pub async fn makes_progress(&self, within: Duration) -> bool {
        self.ctx.watchdog.is_responsive(within).await
    }

    /// Places held in windows, caps and limits on calls; 0 when nothing is under way.
    #[must_use]
    pub fn places_held(&self) -> usize {
        self.ctx.limits.in_use()
    }

    /// The account's state as this replica knows it.
    #[must_use]
    pub fn seen(&self) -> Snapshot {
        self.ctx.account().snapshot()
    }

    /// For awaiting a change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.ctx.account().watch()
    }

    /// What it reports of itself to the fleet.
    #[must_use]
    pub fn vitals(&self) -> Vitals {
        self.ctx.vitals()
    }

    /// The replicas of its fleet that it hears, itself included, and how long ago each of them was
    /// heard.
    #[must_use]
    pub fn replicas(&self) -> Vec<(Arc<Heartbeat>, Duration)> {
        self.ctx.fleet.replicas()
    }

    /// The queues as the leader, be it this replica or another, saw them last.
    #[must_use]
    pub fn depths(&self) -> Option<Depths> {
        self.ctx.account().queues()
    }

    /// Its name in outcomes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.ctx.worker
    }

    /// What the names of everything on the broker begin with.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.ctx.names.namespace()
    }

    /// The time by its clock.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.ctx.clock.now()
    }

    /// The fingerprint of its key, as the account's state names it.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        self.ctx.account().key()
    }

    /// Takes another key; see [`crate::fleet::Fleet::replace_key`].
    ///
    /// # Errors
    /// An empty key; the one in use stays.
    pub fn replace_key(&self, key: SecretString) -> Result<(), SolverConfigError> {
        self.ctx.fleet.replace_key(key)
    }

    /// Task types whose circuit breaker is open.
    #[must_use]
    pub fn shut_types(&self) -> Vec<String> {
        self.ctx.account().open_breakers()
    }

    /// Proxies that are left alone now.
    #[must_use]
    pub fn quarantined_proxies(&self) -> usize {
        self.ctx.account().state().map_or(0, |state| state.quarantined(self.ctx.clock.now()).count())
    }

    /// The account's money as the leader announced it last, and when that was by its clock; the
    /// epoch where no leader has.
    #[must_use]
    pub fn money(&self) -> (Arc<Money>, Timestamp) {
        self.ctx.fleet.ledger().money()
    }

    /// Whether every kind of task that it has had accepted has a price.
    #[must_use]
    pub fn knows_prices(&self, reading: &Reading) -> bool {
        let prices = &self.ctx.rules.prices;
        !prices.0.is_empty() && reading.spent.keys().all(|kind| prices.of(kind).is_some())
    }

    /// The API's callbacks.
    #[must_use]
    pub fn callbacks(&self) -> &Callbacks {
        self.ctx.fleet.callbacks()
    }

    /// Whether the API answered when it was last called.
    #[must_use]
    pub fn reaches_api(&self) -> bool {
        !self.ctx.api_health.is_down()
    }

    /// Whether the broker takes no publishes now, since it is short of memory or disk.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.ctx.live.now().is_some_and(|session| session.link().is_blocked())
    }

    /// Whether it has a session with the broker.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.ctx.live.now().is_some_and(|session| !session.is_closed())
    }
}
