//! What every attempt at a job needs: the replica's parts, and the session it was begun on.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::clock::{Clock, Dice};
use super::gate::Gate;
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
    /// Calls of the API at once. Taken before the last look at lease and guard, so that nothing waits between that look and the call.
    pub(super) calls: Semaphore,
    /// Submissions at once.
    pub(super) submissions: Semaphore,
    /// The live session, for what must be published whichever session it began on.
    pub(super) live: watch::Sender<Option<Session>>,
    pub(super) worker: String,
    pub(super) reply_to_prefix: String,
}

impl Context {
    pub(super) fn moment(&self) -> Moment<'_> {
        Moment {
            rules: &self.rules,
            now: self.clock.now(),
            luck: self.dice.luck(),
        }
    }

    pub(super) fn finish(&self) -> Finish<'_> {
        Finish {
            worker: &self.worker,
            now: self.clock.now(),
        }
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
