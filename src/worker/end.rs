//! The ends of an attempt: what is published, and then what becomes of the delivery.

use tokio::time::Instant;

use super::context::{Context, Scope};
use super::job_log;
use super::settlement::{Settled, Settling};
use crate::broker::Receipt;
use crate::domain::job::RejectedMessage;
use crate::domain::lifecycle::{JobRun, OpenTask, Origin, Verdict};
use crate::domain::message::Message;
use crate::domain::outcome::{self, Outcome, failure_of};
use crate::domain::ticket;

/// What is to be published before the delivery is acked.
pub(super) enum End {
    /// The ticket of a paid task.
    Ticket(Box<Message>),
    /// The job, to this retry queue.
    Parked(String, Box<Message>),
    /// The outcome.
    Outcome(Box<Outcome>),
    /// The same of what was refused at admission, with its type where it has one.
    Refused(Box<(Outcome, Option<String>)>),
    /// Nothing: its successor is safe already.
    Known,
    /// Nothing: the broker dead-letters it whole.
    Rejected,
    /// Nothing: back to its queue, where it came from.
    Returned,
}

pub(super) fn kept(case: &JobRun) -> End {
    match &case.task {
        Some(task) => {
            End::Ticket(Box::new(ticket::ticket(&case.job, &case.history, &task.id, task.accepted_at)))
        }
        None => End::Returned,
    }
}

pub(super) fn settled(ctx: &Context, case: &JobRun, verdict: &Verdict) -> End {
    let (job, history, by) = (&case.job, &case.history, ctx.finish());
    let task = case.task.as_ref().map(OpenTask::shown);
    match (verdict, task) {
        (Verdict::Solved(solution), Some(task)) => {
            End::Outcome(Box::new(outcome::solved(job, history, task, solution, by)))
        }
        (Verdict::Failed(fault), task) => {
            End::Outcome(Box::new(outcome::failed(job, history, task, fault, by)))
        }
        // A solution without a task cannot come about; were it to, the ticket must not be lost.
        (Verdict::Solved(_), None) => End::Returned,
    }
}

pub(super) fn refused(ctx: &Context, no_job: &RejectedMessage) -> End {
    let outcome = outcome::refused(no_job, ctx.clock.now(), ctx.finish());
    End::Refused(Box::new((outcome, no_job.task_type.clone())))
}

/// How an end was carried out.
pub(super) struct Done {
    /// A successor of what came to hand is safe now.
    pub(super) safe: bool,
    /// What it came to, in a word.
    pub(super) came_to: &'static str,
    /// Of an outcome.
    pub(super) routing_key: Option<String>,
}

/// Carries an end out. Who waits for a copy of the outcome goes with it, and when the API's answer to it was read, if it is one.
pub(super) async fn carry_out(
    ctx: &Context,
    scope: &Scope,
    held: Settling<'_>,
    origin: Origin,
    end: End,
    wanted: (Option<String>, Option<Instant>),
) -> Done {
    let done = |safe, came_to| Done { safe, came_to, routing_key: None };
    match end {
        End::Ticket(ticket) => {
            ctx.keep_ticket(held, *ticket, origin).await;
            done(true, "ticket")
        }
        End::Parked(queue, job) => done(ctx.park(scope, held, &queue, *job).await, "parked"),
        End::Outcome(outcome) => deliver(ctx, scope, held, (*outcome, None), wanted).await,
        End::Refused(refused) => deliver(ctx, scope, held, *refused, wanted).await,
        End::Known => {
            ctx.known(held);
            done(true, "known")
        }
        // Carried out by the channel's owner; where that is gone, the broker has requeued the message already.
        End::Rejected => {
            let _ = held.receipt.reject();
            done(false, "rejected")
        }
        End::Returned => {
            give_back(scope, origin, held.receipt).await;
            done(false, "returned")
        }
    }
}

/// Publishes an outcome, counts it, and sends the copy that the publisher asked for.
async fn deliver(
    ctx: &Context,
    scope: &Scope,
    held: Settling<'_>,
    (outcome, refused_type): (Outcome, Option<String>),
    (reply_to, answered_at): (Option<String>, Option<Instant>),
) -> Done {
    let Outcome { routing_key, message } = outcome;
    let failure = failure_of(&routing_key);
    let came_to = if failure.is_some() { "failed" } else { "solved" };
    let copy = reply_to.map(|reply_to| (reply_to, message.clone()));
    let case = held.case;
    // What was no job has its id from the message alone.
    let id = if case.is_some() { None } else { message.properties.message_id.clone() };
    let settled = ctx.settle(scope, held, &routing_key, message).await;
    if settled == Settled::Published {
        match failure {
            Some((class, code)) => {
                ctx.tally.failed(class, code);
                let (id, task_type) = match case {
                    Some(case) => (Some(&*case.job.id), Some(case.job.kind())),
                    None => (id.as_deref(), refused_type.as_deref()),
                };
                ctx.tally.failures.note(ctx.clock.now(), id, task_type, (class, code));
            }
            None => ctx.tally.solved(),
        }
        if let Some(answered_at) = answered_at {
            ctx.tally.times.delivery.note(answered_at.elapsed());
        }
        job_log::finished(ctx, case, id.as_deref(), failure);
        if let Some((reply_to, message)) = copy {
            ctx.reply(scope, &reply_to, &message).await;
        }
    }
    Done { safe: settled != Settled::No, came_to, routing_key: Some(routing_key) }
}

/// Returns a delivery once its consumer is cancelled: before that it would come straight in again, and be charged for it each time.
async fn give_back(scope: &Scope, origin: Origin, receipt: Receipt) {
    scope.cancelled(origin).cancelled().await;
    drop(receipt);
}
