//! One delivery, from hand to settlement: carries out what the lifecycle says, and reports back to it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::api_calls;
use super::context::{Context, Scope};
use super::custody;
use super::end::{End, carry_out, kept, refused, settled};
use super::job_log;
use super::limits::in_flight::InFlightPermit;
use super::recognise::recognise;
use super::settlement::Settling;
use crate::broker::{Delivery, Receipt};
use crate::domain::call::TaskState;
use crate::domain::class::Class;
use crate::domain::fault::{Fault, Stage, local_code};
use crate::domain::history::History;
use crate::domain::job::{Job, MAX_MESSAGE, RejectedMessage};
use crate::domain::lifecycle::{Action, Event, JobRun, OpenTask, Origin, Step, Verdict};
use crate::domain::message::Message;
use crate::domain::outcome::{self, Outcome};
use crate::domain::ticket::{self, Kept};
use crate::failpoint::Failpoint;
use crate::trace::{self, Came};

/// The largest message on the ticket queue that is kept in an outcome although no worker has written it. The prefetch of that queue runs into
/// thousands, and each such outcome is held several times over until it is published.
const MAX_FOREIGN: usize = 8 * 1024;

/// A delivery at hand. It outlives a panic in its own handling, so that the message can still be settled.
struct Held {
    receipt: Receipt,
    /// Until it has become a case.
    message: Box<Message>,
    /// Of the message, which may be gone into an outcome by then.
    reply_to: Option<String>,
    case: Option<JobRun>,
    /// Of a ticket's task.
    custody: Option<custody::Held>,
    /// When the API's answer was read.
    answered_at: Option<Instant>,
    trace: trace::Span,
}

/// Handles a delivery off the job or ticket queue. The pass counts it against the gate until it is settled.
///
/// Thousands of these wait at once, each for its next poll. What a future is begun with, and what it still holds when it waits, takes room twice;
/// so the delivery is put aside before, and whatever is not the wait itself has its future on the heap while it lasts.
pub(super) fn attempt(
    ctx: Arc<Context>,
    scope: Arc<Scope>,
    delivery: Delivery,
    origin: Origin,
    pass: InFlightPermit,
) -> impl Future<Output = ()> + Send {
    let Delivery { mut message, redelivered, receipt, .. } = delivery;
    let reply_to = message.properties.reply_to.clone();
    let trace = ctx.tracer.begin(origin, &mut message);
    let message = Box::new(message);
    let mut held =
        Box::new(Held { receipt, message, reply_to, case: None, custody: None, answered_at: None, trace });
    async move {
        let handled =
            AssertUnwindSafe(handle(&ctx, &scope, &mut held, origin, redelivered)).catch_unwind().await;
        let end = handled.unwrap_or_else(|_| poisoned(&ctx, &mut held));
        let span = job_log::span(held.case.as_ref());
        Box::pin(finish(&ctx, &scope, held, origin, end).instrument(span)).await;
        if Failpoint::PassLeaked.in_force() {
            std::mem::forget(pass);
            return;
        }
        drop(pass);
    }
}

async fn finish(ctx: &Context, scope: &Scope, held: Box<Held>, origin: Origin, end: End) {
    let Held { receipt, reply_to, case, custody, answered_at, trace, .. } = *held;
    let settling = Settling { receipt, case: case.as_ref() };
    let done = carry_out(ctx, scope, settling, origin, end, (reply_to, answered_at)).await;
    let failure = done.routing_key.as_deref().and_then(outcome::failure_of);
    trace.end(Came { to: done.came_to, failure });
    if let Some(custody) = custody.filter(|_| done.safe) {
        custody.settled();
    }
}

async fn handle(ctx: &Context, scope: &Scope, held: &mut Held, origin: Origin, redelivered: bool) -> End {
    let is_too_large = match origin {
        Origin::Job => held.message.body.len() > MAX_MESSAGE,
        Origin::Ticket => ticket::is_too_large(&held.message),
    };
    if is_too_large {
        // Not kept until the broker has been told: many of them are at hand at once.
        return too_large(&std::mem::take(&mut held.message));
    }
    let first = match origin {
        Origin::Job => take_job(ctx, held),
        Origin::Ticket => take_ticket(ctx, held, redelivered),
    };
    match first {
        Ok(event) => {
            if let Some(case) = &held.case {
                held.trace.of(case);
                match Box::pin(recognise(ctx, scope, case, redelivered)).await {
                    Ok(custody) => held.custody = custody,
                    Err(end) => return end,
                }
            }
            let span = job_log::span(held.case.as_ref());
            drive(ctx, scope, held, event).instrument(span).await
        }
        Err(end) => end,
    }
}

/// Too large to be looked at, or copied into an outcome: the broker keeps it whole.
fn too_large(message: &Message) -> End {
    let (id, bytes) = (message.properties.message_id.as_deref(), message.body.len());
    tracing::warn!(id, bytes, "a message above its bound goes to the queue of raw dead letters");
    End::Rejected
}

/// Admission: what is no job, or must not be submitted, ends here.
fn take_job(ctx: &Context, held: &mut Held) -> Result<Event, End> {
    let now = ctx.clock.now();
    let history = History::of_job(&held.message.properties.headers, &ctx.names.retry_prefix(), now);
    if let (Ok(None), Some(published_at)) = (&history, held.message.properties.published_at()) {
        ctx.tally.times.queue_wait.note(now.since(published_at));
    }
    let read = Job::read(&mut held.message, &ctx.policy, || ctx.dice.fresh_id());
    let (job, history) = match (read, history) {
        (Ok(job), Ok(history)) => (job, history.unwrap_or_else(|| History::begin(now))),
        (Ok(job), Err(fault)) => {
            let message = job.message();
            let Job { id, task_type, .. } = job;
            return Err(refused(ctx, &RejectedMessage { id, task_type: Some(task_type), fault, message }));
        }
        (Err(no_job), _) => return Err(refused(ctx, &no_job)),
    };
    held.case = Some(JobRun::of_job(job, history));
    Ok(Event::Taken)
}

fn take_ticket(ctx: &Context, held: &mut Held, redelivered: bool) -> Result<Event, End> {
    match ticket::read(std::mem::take(&mut held.message), ctx.clock.now()) {
        Ok(Kept::Open { job, history, task_id, accepted_at }) => {
            let accepted_at = if Failpoint::AgeForgotten.in_force() { ctx.clock.now() } else { accepted_at };
            let redelivered = redelivered && !Failpoint::RedeliveryUnnoticed.in_force();
            held.case = Some(JobRun::of_ticket(job, history, task_id, accepted_at, &ctx.moment()));
            Ok(Event::TicketTaken { redelivered })
        }
        Ok(Kept::Answered { routing_key, outcome }) => {
            Err(End::Outcome(Box::new(Outcome { routing_key, message: outcome })))
        }
        Err(refusal) if refusal.1.body.len() > MAX_FOREIGN => Err(too_large(&refusal.1)),
        Err(refusal) => {
            let (fault, message) = *refusal;
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.dice.fresh_id());
            Err(refused(ctx, &RejectedMessage { id, task_type: None, fault, message }))
        }
    }
}

/// What takes its time.
enum Doing {
    Submitting,
    Waiting(Duration),
    Polling,
}

async fn drive(ctx: &Context, scope: &Scope, held: &mut Held, first: Event) -> End {
    let Held { receipt, case: Some(case), answered_at, trace, .. } = held else {
        return End::Returned;
    };
    let _held = ctx.lanes.hold(case.job.kind());
    let mut decided = decide(ctx, case, first);
    let mut due = Instant::now();
    loop {
        let doing = match decided {
            Ok(doing) => doing,
            Err(end) => return end,
        };
        let told = match doing {
            Doing::Submitting => Box::pin(api_calls::submit(ctx, scope, receipt, case)).await,
            Doing::Waiting(span) => {
                due = api_calls::due_in(span);
                api_calls::wait(ctx, scope, due).await
            }
            Doing::Polling => Box::pin(api_calls::poll(ctx, scope, receipt, case, due)).await,
        };
        let Some(event) = told else {
            return End::Returned;
        };
        if matches!(event, Event::Answered { end: Ok(TaskState::Ready { .. }), .. }) {
            *answered_at = Some(Instant::now());
        }
        trace.saw(&event);
        decided = decide(ctx, case, event);
    }
}

/// What is to be done now that something has happened: something that takes its time, or the end.
fn decide(ctx: &Context, case: &mut JobRun, event: Event) -> Result<Doing, End> {
    if Failpoint::BudgetRunsOn.in_force() {
        let age = ctx.clock.now().since(case.history.first_seen);
        for class in [Class::Capacity, Class::Transient, Class::Unknown] {
            case.history.charge(class, age.saturating_sub(case.history.spent(class)));
        }
    }
    let step = case.advance(event, &ctx.moment());
    note(ctx, &step, case);
    Err(match step.action {
        Action::Submit => return Ok(Doing::Submitting),
        Action::Wait(span) => return Ok(Doing::Waiting(span)),
        Action::Poll => return Ok(Doing::Polling),
        Action::KeepTicket => kept(case),
        Action::Settle(verdict) => settled(ctx, case, &verdict),
        Action::RetryDelay(park) => {
            if Failpoint::HistoryForgotten.in_force() {
                case.history = History::begin(ctx.clock.now());
            }
            End::Parked(ctx.names.retry(park), Box::new(ticket::parked(&case.job, &case.history)))
        }
        Action::Requeue => End::Returned,
    })
}

/// What a step tells beside what is to be done next.
fn note(ctx: &Context, step: &Step, case: &JobRun) {
    if let Some(window) = step.window {
        ctx.tally.window(window);
    }
    if let Some(class) = step.wasted {
        ctx.tally.wasted(class);
    }
    if let Action::Settle(Verdict::Failed(fault)) = &step.action
        && fault.bans_proxy()
        && let Some(proxy) = &case.job.proxy
    {
        ctx.standing().proxy_banned(proxy.clone(), ctx.clock.now());
    }
}

/// Handling it panicked: the job is set aside with what is left of it, and the worker goes on.
fn poisoned(ctx: &Context, held: &mut Held) -> End {
    let fault = Fault::local(
        Class::Poison,
        local_code::PANIC,
        Stage::Admission,
        "handling this job panicked; this is a bug of the worker",
    );
    match &held.case {
        Some(case) => {
            let task = case.task.as_ref().map(OpenTask::shown);
            End::Outcome(Box::new(outcome::failed(&case.job, &case.history, task, &fault, ctx.finish())))
        }
        None => {
            let message = std::mem::take(&mut *held.message);
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.dice.fresh_id());
            refused(ctx, &RejectedMessage { id, task_type: None, fault, message })
        }
    }
}
