//! What replicas of one account know together: how it stands, and who looks after it.
//!
//! * One message on `captcha.guard` holds the state. The queue has a single active consumer;
//!   whoever gets the message **leads**: it alone calls getBalance, decides, and writes each new
//!   state before it acks the old.
//! * The fan-out `captcha.control` carries news between replicas and orders of operators. What a
//!   replica meets stops it at once, and all others as soon as they hear of it; going on needs the
//!   leader's announcement ([`AccountState`]).
//! * A replica calls nothing before it knows the state.
//! * Each replica reports what it spends; the leader keeps the books ([`Ledger`]).

mod account_state;
mod answers;
mod callbacks;
mod client;
mod leadership;
mod ledger;
mod local_trip;
mod member;
mod membership;
mod message;
mod type_breaker;
mod vitals;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::mpsc::Receiver;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::broker::Session;
use crate::broker::topology::Names;
use crate::clock::{Clock, Rng};
use crate::domain::api_code::Overrides;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::GuardRules;
use crate::domain::solve_time::SolveTimes;
use crate::domain::time::Timestamp;
use crate::solver::{Solver, SolverConfigError};

pub use account_state::{AccountState, Egress, Snapshot};
pub use callbacks::{
    Awaited, CALLBACKS_REMEMBERED_FOR, CallbackAddress, CallbackCounts, CallbackStatus, Callbacks,
};
pub use client::{Answer, Client, Order, Survey};
pub use ledger::{Ledger, Reservation};
pub use message::{Heartbeat, LeaderAnnouncement, Sighting};
pub use type_breaker::{OTHERS_TRY_FOR, TypeBreaker};
pub use vitals::{
    Depths, Detail, FailedJob, LaneFigures, LearnedFigures, MAX_FAILURES, OTHER_TYPES, TypeFigures, Vitals,
    type_shown,
};

use account_state::Finding;
use member::Member;
use membership::Membership;
use message::{Control, Trust, encode};

/// A replica that has just begun does not know how many others spend from the same budget. A fleet
/// is seldom larger, and this much of what is left is still many tasks, or the last one.
const UNKNOWN_SIZE: usize = 32;

/// What a replica's part in the fleet is made of.
pub struct FleetOptions {
    /// Names of everything on the broker.
    pub names: Names,
    /// This replica's name.
    pub name: String,
    /// The broker's user that all replicas log in as.
    pub user: String,
    /// Further users of the broker who may pause and resume.
    pub operators: Vec<String>,
    /// What decides about the account.
    pub rules: GuardRules,
    /// Classes of single codes.
    pub overrides: Overrides,
    /// Whose address the API sees.
    pub egress: Egress,
    /// Where the API sends its callbacks; `None`: it is asked for none.
    pub callbacks: Option<CallbackAddress>,
    /// The API.
    pub solver: Solver,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub rng: Rng,
    /// What is known of how long the API takes; at the start, nothing.
    pub solve_times: SolveTimes,
}

/// What a replica's work is for the fleet.
pub trait Work: Send + Sync {
    /// What it reports of itself.
    fn vitals(&self) -> Vitals;
    /// What it knows of the job with this id, the latest first.
    fn find(&self, id: &str) -> Vec<Sighting>;
}

/// A replica's part in the fleet. It outlives its sessions.
pub struct Fleet {
    id: String,
    options: FleetOptions,
    trust: Trust,
    started_at: Timestamp,
    account: AccountState,
    callbacks: Arc<Callbacks>,
    ledger: Ledger,
    membership: Membership,
    solve_times: parking_lot::Mutex<SolveTimes>,
    plan_changed: Notify,
    found: Mutex<Receiver<Finding>>,
    leaving: CancellationToken,
}

impl Fleet {
    /// A part in the fleet that has not begun yet.
    #[must_use]
    pub fn new(options: FleetOptions) -> Self {
        let key = options.solver.key_fingerprint();
        let id = options.rng.fresh_id();
        let solve_times = parking_lot::Mutex::new(options.solve_times.clone());
        let (account, found) = AccountState::new(id.clone(), options.rules.clone(), options.egress, key);
        Self {
            trust: Trust { own: options.user.clone(), operators: options.operators.clone() },
            started_at: options.clock.now(),
            callbacks: Callbacks::new(options.callbacks.clone(), options.name.clone()),
            ledger: Ledger::new(id.clone()),
            options,
            account,
            membership: Membership::new(),
            solve_times,
            plan_changed: Notify::new(),
            found: Mutex::new(found),
            leaving: CancellationToken::new(),
            id,
        }
    }

    /// How the account stands, as this replica knows it.
    #[must_use]
    pub fn account(&self) -> &AccountState {
        &self.account
    }

    /// The API's callbacks.
    #[must_use]
    pub fn callbacks(&self) -> &Arc<Callbacks> {
        &self.callbacks
    }

    /// What this replica spends, and what it may.
    #[must_use]
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Among how many replicas what is left of a budget is divided, and this one's place among
    /// them.
    #[must_use]
    pub fn budget_share(&self) -> (usize, usize) {
        let (replicas, rank) = self.account.share();
        (replicas.max(self.membership.size_or(UNKNOWN_SIZE)), rank)
    }

    /// How long the API takes, as all replicas together see it.
    pub fn solve_times(&self) -> parking_lot::MutexGuard<'_, SolveTimes> {
        self.solve_times.lock()
    }

    /// The replicas that are heard, this one included, and how long ago each of them was; nobody
    /// without a session.
    #[must_use]
    pub fn replicas(&self) -> Vec<(Arc<Heartbeat>, Duration)> {
        self.membership.heard()
    }

    /// How many jobs of a publisher the other replicas have let pass within the last minute, as
    /// they report it, and how many replicas there are.
    #[must_use]
    pub fn let_pass_elsewhere(&self, publisher: &str) -> (u32, u32) {
        let heard = self.replicas();
        let others = heard.iter().filter(|(replica, _)| replica.id != self.id);
        let reported = others.filter_map(|(replica, _)| replica.vitals.detail.as_ref());
        let of_it = reported.flat_map(|detail| &detail.publishers).filter(|known| known.name == publisher);
        let elsewhere = of_it.fold(0_u32, |sum, known| sum.saturating_add(known.minute));
        (elsewhere, u32::try_from(heard.len()).unwrap_or(u32::MAX))
    }

    /// How many times as long a replica waits before it tries the broker again, since all others of
    /// a large fleet try as well.
    #[must_use]
    pub fn slower(&self) -> u32 {
        self.membership.slower_reconnects()
    }

    /// Learns from answers. `learn` returns whether first polls that wait are to be planned anew.
    pub fn learn(&self, learn: impl FnOnce(&mut SolveTimes) -> bool) {
        let plan_changed = learn(&mut self.solve_times());
        if plan_changed {
            self.plan_changed.notify_waiters();
        }
    }

    /// Waits until the plan for a kind of task changes.
    pub async fn plan_changed(&self, kind: &str) {
        // From here on no change is missed.
        let mut changed = pin!(self.plan_changed.notified());
        let known = self.solve_times().plan_changes(kind);
        loop {
            changed.as_mut().await;
            changed.set(self.plan_changed.notified());
            if self.solve_times().plan_changes(kind) != known {
                return;
            }
        }
    }

    /// Takes another key. Nothing is called with it before the leader has had it tried.
    ///
    /// # Errors
    /// An empty key; the one in use stays.
    pub fn replace_key(&self, key: SecretString) -> Result<(), SolverConfigError> {
        let mark = Fingerprint::of_key(key.expose_secret());
        if mark != self.account.key() && !key.expose_secret().trim().is_empty() {
            self.account.set_key(mark);
        }
        self.options.solver.replace_key(key)
    }

    /// Takes part over a session until that is gone, and returns why. Once it has ended nothing is
    /// known any more, and nothing may be called.
    pub async fn serve(&self, session: &Session, work: &dyn Work) -> String {
        // Held to the end, so that a later session begins when this one is forgotten.
        let mut found = self.found.lock().await;
        // Also where this is dropped half-way.
        let _ending = Forgetting(self);
        let member = match Member::join(self, session, work, &mut found).await {
            Ok(member) => member,
            Err(reason) => return reason,
        };
        let exchange = self.options.names.control();
        tokio::select! {
            biased;
            lost = member.run() => lost,
            () = self.callbacks.forward(session, &exchange, &self.trust.own) => {
                "callbacks cannot be handed on".to_owned()
            }
        }
    }

    /// This replica is about to leave: it gives the lead to another, which a fleet that is stopped
    /// must not wait for.
    pub fn step_down(&self) {
        self.leaving.cancel();
    }

    /// Announces to the others that this replica leaves.
    pub async fn leave(&self, session: &Session) {
        // What is not heard of this is found out by the others, a little later.
        let spent = self.ledger.report().map(Control::Spent);
        for control in spent.into_iter().chain([Control::Bye { id: self.id.clone() }]) {
            let message = encode(&control, &self.trust.own);
            let _ = session.publisher().publish(&self.options.names.control(), "", false, message).await;
        }
    }

    fn probe(&self) -> member::Probing {
        let (solver, key) = (self.options.solver.clone(), self.options.solver.key_fingerprint());
        AbortOnDropHandle::new(tokio::spawn(async move { (key, solver.balance().await) }))
    }
}

struct Forgetting<'a>(&'a Fleet);

impl Drop for Forgetting<'_> {
    fn drop(&mut self) {
        self.0.account.forget();
        self.0.membership.end();
        // Reported over the next session, they would pass for answers of the last seconds.
        drop(self.0.solve_times().take_unreported());
    }
}
