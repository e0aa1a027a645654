//! One delivery, from hand to settlement: carries out what the lifecycle says, and reports back to it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep};

use super::context::{Context, Scope};
use super::end::{End, carry_out, failed, kept, refused, settled};
use super::gate::Pass;
use crate::broker::{Delivery, Receipt};
use crate::domain::class::Class;
use crate::domain::envelope::Message;
use crate::domain::fault::{Fault, Stage, codes};
use crate::domain::history::History;
use crate::domain::job::{Job, MAX_MESSAGE, NotAJob};
use crate::domain::lifecycle::{Action, Case, Event, OpenTask, Origin, Step};
use crate::domain::outcome::{self, Outcome};
use crate::domain::pacing::MAX_AGE;
use crate::domain::ticket::{self, Kept};

/// How often a lapsed lease is looked at again.
const LEASE_RECHECK: Duration = Duration::from_millis(250);

/// A delivery at hand. It outlives a panic in its own handling, so that the message can still be settled.
struct Held {
    receipt: Receipt,
    message: Message,
    case: Option<Case>,
}

/// Handles a delivery off the job or ticket queue. The pass counts it against the gate until it is settled.
pub(super) async fn attempt(
    ctx: Arc<Context>,
    scope: Arc<Scope>,
    delivery: Delivery,
    origin: Origin,
    pass: Pass,
) {
    let Delivery { message, redelivered, receipt, .. } = delivery;
    let reply_to = message.properties.reply_to.clone();
    let mut held = Held { receipt, message, case: None };
    let handled = AssertUnwindSafe(handle(&ctx, &scope, &mut held, origin, redelivered)).catch_unwind().await;
    let end = handled.unwrap_or_else(|_| poisoned(&ctx, &mut held));
    Box::pin(carry_out(&ctx, &scope, held.receipt, origin, end, reply_to)).await;
    drop(pass);
}

async fn handle(ctx: &Context, scope: &Scope, held: &mut Held, origin: Origin, redelivered: bool) -> End {
    if held.message.body.len() > MAX_MESSAGE && origin == Origin::Job {
        tracing::warn!(
            bytes = held.message.body.len(),
            "a message above 1 MiB goes to the queue of raw dead letters"
        );
        return End::Rejected;
    }
    let first = match origin {
        Origin::Job => take_job(ctx, held),
        Origin::Ticket => take_ticket(ctx, held, redelivered),
    };
    match first {
        Ok(event) => drive(ctx, scope, held, event).await,
        Err(end) => end,
    }
}

/// The door: what is no job, or must not be submitted, ends here.
fn take_job(ctx: &Context, held: &mut Held) -> Result<Event, End> {
    let now = ctx.clock.now();
    let history = History::of_job(&held.message.properties.headers, &ctx.names.retry_prefix(), now);
    let read = Job::read(&mut held.message, &ctx.policy, || ctx.dice.fresh_id());
    let (job, history) = match (read, history) {
        (Ok(job), Ok(history)) => (job, history.unwrap_or_else(|| History::begin(now))),
        (Ok(job), Err(fault)) => {
            let Job { id, task_type, message, .. } = job;
            return Err(refused(ctx, &NotAJob { id, task_type: Some(task_type), fault, message }));
        }
        (Err(no_job), _) => return Err(refused(ctx, &no_job)),
    };
    held.case = Some(Case::of_job(job, history));
    Ok(Event::Taken)
}

fn take_ticket(ctx: &Context, held: &mut Held, redelivered: bool) -> Result<Event, End> {
    match ticket::read(std::mem::take(&mut held.message), ctx.clock.now()) {
        Ok(Kept::Open { job, history, task_id, accepted_at }) => {
            held.case = Some(Case::of_ticket(job, history, task_id, accepted_at));
            Ok(Event::TicketTaken { redelivered })
        }
        Ok(Kept::Answered { routing_key, outcome }) => {
            Err(End::Outcome(Box::new(Outcome { routing_key, message: outcome })))
        }
        Err(refusal) => {
            let (fault, message) = *refusal;
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.dice.fresh_id());
            Err(refused(ctx, &NotAJob { id, task_type: None, fault, message }))
        }
    }
}

async fn drive(ctx: &Context, scope: &Scope, held: &mut Held, first: Event) -> End {
    let Held { receipt, case: Some(case), .. } = held else {
        return End::Returned;
    };
    let mut event = first;
    loop {
        let step = case.advance(event, &ctx.moment());
        note(ctx, &step);
        let next = match step.action {
            Action::Submit => Box::pin(submit(ctx, scope, receipt, case)).await,
            Action::Wait(span) => wait(scope, span).await,
            Action::Poll => Box::pin(poll(ctx, scope, receipt, case)).await,
            Action::KeepTicket => return kept(case),
            Action::Settle(verdict) => return settled(ctx, case, &verdict),
            Action::Park(park) => {
                return End::Parked(
                    ctx.names.retry(park),
                    Box::new(ticket::parked(&case.job, &case.history)),
                );
            }
            Action::HandBack => None,
        };
        match next {
            Some(next) => event = next,
            None => return End::Returned,
        }
    }
}

fn note(ctx: &Context, step: &Step) {
    if let Some(reason) = step.trip {
        ctx.standing.trip(reason, ctx.clock.now());
    }
    if let Some(window) = step.window {
        ctx.tally.window(window);
    }
}

/// Calls createTask, unless nothing may be submitted any more. `None`: the job is no longer ours.
async fn submit(ctx: &Context, scope: &Scope, receipt: &Receipt, case: &Case) -> Option<Event> {
    // In this order: whoever waits to submit must not hold a call that a poll could use.
    let places = async { (ctx.submissions.place().await, ctx.calls.acquire().await) };
    let _places = tokio::select! {
        biased;
        () = scope.submissions_shut.cancelled() => return Some(shut(ctx)),
        places = places => places,
    };
    if ctx.standing.stops().submissions {
        return Some(shut(ctx));
    }
    if !receipt.is_live() {
        return None;
    }
    // The wait may have outlasted the deadline.
    if case.job.is_late(ctx.clock.now()) {
        return Some(Event::Taken);
    }
    // What came as a ticket has not passed the door here, and the policy may have changed since its job did.
    if case.origin == Origin::Ticket
        && let Err(fault) = case.job.recheck(&ctx.policy)
    {
        return Some(Event::Refused(fault));
    }
    let parts = case.job.parts()?;
    let end = ctx.solver.create_task(parts.task).await;
    ctx.reach.note(&end);
    if end.is_ok() {
        ctx.tally.accepted();
        ctx.submissions.prove();
    }
    Some(Event::Submitted(end))
}

/// Why nothing may be submitted.
fn shut(ctx: &Context) -> Event {
    Event::SubmissionsShut { for_the_account: ctx.standing.stops().submissions }
}

/// Waits. `None`: the ticket is to be handed back.
async fn wait(scope: &Scope, span: Duration) -> Option<Event> {
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        () = sleep(span) => Some(Event::Due),
    }
}

/// Calls getTaskResult under a lease that holds. `None`: the ticket is to be handed back.
async fn poll(ctx: &Context, scope: &Scope, receipt: &Receipt, case: &Case) -> Option<Event> {
    loop {
        let place = ctx.calls.acquire().await;
        if !receipt.is_live() || scope.tickets_cancelled.is_cancelled() || ctx.standing.stops().polls {
            return None;
        }
        let task = case.task.as_ref()?;
        let now = ctx.clock.now();
        // The wait for a place or for the lease may have outlasted the result or the deadline.
        if now.since(task.accepted_at) >= MAX_AGE || case.job.is_late(now) {
            return Some(Event::Due);
        }
        if scope.lease.holds(Instant::now()) {
            ctx.tally.polled();
            let end = ctx.solver.task_state(&task.id).await;
            drop(place);
            ctx.reach.note(&end);
            return Some(Event::Answered(end));
        }
        drop(place);
        sleep(LEASE_RECHECK).await;
    }
}

/// Handling it panicked: the job is set aside with what is left of it, and the worker goes on.
fn poisoned(ctx: &Context, held: &mut Held) -> End {
    let fault = Fault::local(
        Class::Poison,
        codes::PANIC,
        Stage::Door,
        "handling this job panicked; this is a bug of the worker",
    );
    match &held.case {
        Some(case) => {
            let task = case.task.as_ref().map(OpenTask::shown);
            failed(
                outcome::failed(&case.job, &case.history, task, &fault, ctx.finish()),
                &fault,
                &case.job.id,
            )
        }
        None => {
            let message = std::mem::take(&mut held.message);
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.dice.fresh_id());
            refused(ctx, &NotAJob { id, task_type: None, fault, message })
        }
    }
}
