//! What every attempt at a job needs: the replica's parts, and the session it was begun on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

use super::clock::{Clock, Dice};
use super::gate::Gate;
use super::reach::Reach;
use super::tally::Tally;
use crate::broker::topology::Names;
use crate::broker::{Lease, Session};
use crate::domain::lifecycle::{Moment, Rules};
use crate::domain::outcome::Finish;
use crate::domain::policy::Policy;
use crate::fleet::Standing;
use crate::solver::Solver;

/// The parts of a replica that outlive its connections.
pub(super) struct Context {
    pub(super) solver: Solver,
    pub(super) rules: Rules,
    pub(super) policy: Policy,
    pub(super) names: Names,
    pub(super) clock: Clock,
    pub(super) dice: Dice,
    pub(super) standing: Standing,
    pub(super) tally: Arc<Tally>,
    pub(super) gate: Arc<Gate>,
    pub(super) reach: Reach,
    /// Calls of the API at once. Taken before the last look at lease and guard, so that nothing waits between that look and the call.
    pub(super) calls: Semaphore,
    pub(super) submissions: Submissions,
    /// The live session, for what must be published whichever session it began on.
    pub(super) live: watch::Sender<Option<Session>>,
    pub(super) worker: String,
    pub(super) reply_to_prefix: String,
}

/// Submissions at once. Only one is under way until the API has given a first good answer: with a wrong key, the fewer learn of it the better.
pub(super) struct Submissions {
    places: Semaphore,
    full: usize,
    proved: AtomicBool,
}

impl Submissions {
    pub(super) fn new(full: usize) -> Self {
        Self { places: Semaphore::new(1), full, proved: AtomicBool::new(false) }
    }

    /// A place for one; never an error, since this semaphore is never closed.
    pub(super) async fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.acquire().await.ok()
    }

    /// The API has accepted a task.
    pub(super) fn prove(&self) {
        if !self.proved.swap(true, Ordering::AcqRel) {
            self.places.add_permits(self.full - 1);
        }
    }

    /// Waits until none is under way. Nothing may be begun any more.
    pub(super) async fn ended(&self) {
        let all = if self.proved.load(Ordering::Acquire) { self.full } else { 1 };
        drop(self.places.acquire_many(u32::try_from(all).unwrap_or(u32::MAX)).await);
    }
}

impl Context {
    pub(super) fn moment(&self) -> Moment<'_> {
        Moment { rules: &self.rules, now: self.clock.now(), luck: self.dice.luck() }
    }

    pub(super) fn finish(&self) -> Finish<'_> {
        Finish { worker: &self.worker, now: self.clock.now() }
    }
}

/// One session as its attempts see it, with the signs that end them early.
pub(super) struct Scope {
    pub(super) session: Session,
    /// On the ticket channel; nobody polls without it.
    pub(super) lease: Lease,
    /// Nothing more is submitted.
    pub(super) submissions_shut: CancellationToken,
    /// No more jobs are delivered: one that is handed back now does not come straight in again.
    pub(super) jobs_cancelled: CancellationToken,
    /// No more tickets are delivered, and those at hand are handed back.
    pub(super) tickets_cancelled: CancellationToken,
}

impl Scope {
    pub(super) fn new(session: Session, lease: Lease) -> Self {
        Self {
            session,
            lease,
            submissions_shut: CancellationToken::new(),
            jobs_cancelled: CancellationToken::new(),
            tickets_cancelled: CancellationToken::new(),
        }
    }

    /// The session is gone: what waits on it need not wait any longer.
    pub(super) fn end(&self) {
        self.submissions_shut.cancel();
        self.jobs_cancelled.cancel();
        self.tickets_cancelled.cancel();
    }
}
