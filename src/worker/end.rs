//! The ends of an attempt: what is published, and then what becomes of the delivery.

use tokio::time::Instant;

use super::context::{Context, Scope};
use super::settle::{Settled, Settling};
use crate::broker::Receipt;
use crate::domain::envelope::Message;
use crate::domain::fault::Fault;
use crate::domain::job::NotAJob;
use crate::domain::lifecycle::{Case, OpenTask, Origin, Verdict};
use crate::domain::outcome::{self, Outcome};
use crate::domain::ticket;

/// What is to be published before the delivery is acked.
pub(super) enum End {
    /// The ticket of a paid task.
    Ticket(Box<Message>),
    /// The job, to this retry queue.
    Parked(String, Box<Message>),
    /// The outcome.
    Outcome(Box<Outcome>),
    /// Nothing: its successor is safe already.
    Known,
    /// Nothing: the broker dead-letters it whole.
    Rejected,
    /// Nothing: back to its queue, where it came from.
    Returned,
}

pub(super) fn kept(case: &Case) -> End {
    match &case.task {
        Some(task) => {
            End::Ticket(Box::new(ticket::ticket(&case.job, &case.history, &task.id, task.accepted_at)))
        }
        None => End::Returned,
    }
}

pub(super) fn settled(ctx: &Context, case: &Case, verdict: &Verdict) -> End {
    let (job, history, by) = (&case.job, &case.history, ctx.finish());
    let task = case.task.as_ref().map(OpenTask::shown);
    match (verdict, task) {
        (Verdict::Solved(solution), Some(task)) => {
            End::Outcome(Box::new(outcome::solved(job, history, task, solution, by)))
        }
        (Verdict::Failed(fault), task) => {
            failed(outcome::failed(job, history, task, fault, by), fault, &job.id)
        }
        // A solution without a task cannot come about; were it to, the ticket must not be lost.
        (Verdict::Solved(_), None) => End::Returned,
    }
}

pub(super) fn refused(ctx: &Context, no_job: &NotAJob) -> End {
    failed(outcome::refused(no_job, ctx.clock.now(), ctx.finish()), &no_job.fault, &no_job.id)
}

pub(super) fn failed(outcome: Outcome, fault: &Fault, id: &str) -> End {
    tracing::info!(id, class = fault.class.name(), code = &*fault.code, "job failed");
    End::Outcome(Box::new(outcome))
}

/// Carries an end out, the API's answer to which came at `answered_at`, if it is one. Tells whether a successor of what came to hand is safe now.
pub(super) async fn carry_out(
    ctx: &Context,
    scope: &Scope,
    held: Settling<'_>,
    origin: Origin,
    end: End,
    (reply_to, answered_at): (Option<String>, Option<Instant>),
) -> bool {
    match end {
        End::Ticket(ticket) => {
            ctx.keep_ticket(held, *ticket, origin).await;
            true
        }
        End::Parked(queue, job) => ctx.park(scope, held, &queue, *job).await,
        End::Outcome(outcome) => {
            let failure = outcome.failure().map(|(class, code)| (class, code.to_owned()));
            let copy = reply_to.map(|reply_to| (reply_to, outcome.message.clone()));
            let settled = ctx.settle(scope, held, *outcome).await;
            if settled != Settled::Published {
                return settled == Settled::Kept;
            }
            match failure {
                Some((class, code)) => ctx.tally.failed(class, &code),
                None => ctx.tally.solved(),
            }
            if let Some(answered_at) = answered_at {
                ctx.tally.times.delivery.note(answered_at.elapsed());
            }
            if let Some((reply_to, message)) = copy {
                ctx.reply(scope, &reply_to, &message).await;
            }
            true
        }
        End::Known => {
            ctx.known(held);
            true
        }
        // Carried out by the channel's owner; where that is gone, the broker has requeued the message already.
        End::Rejected => {
            let _ = held.receipt.reject();
            false
        }
        End::Returned => {
            give_back(scope, origin, held.receipt).await;
            false
        }
    }
}

/// Returns a delivery once its consumer is cancelled: before that it would come straight in again, and be charged for it each time.
async fn give_back(scope: &Scope, origin: Origin, receipt: Receipt) {
    scope.cancelled(origin).cancelled().await;
    drop(receipt);
}
