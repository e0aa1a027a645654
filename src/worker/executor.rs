//! The executor: carries one delivery through what the core decides, from admission to settlement.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::Instrument;

use super::api_calls::{self, Next};
use super::context::{Context, Scope};
use super::dedup::{self, recognise};
use super::job_index::HeldJob;
use super::job_log;
use super::lanes::HeldOfLane;
use super::limits::TypeLimiter;
use super::limits::in_flight::InFlightPermit;
use super::settlement::{End, Settling, carry_out, end_of, refused};
use crate::broker::{Delivery, Receipt};
use crate::domain::call::TaskState;
use crate::domain::class::Class;
use crate::domain::fault::{ApiLiveness, Fault, Stage, local_code};
use crate::domain::history::{Attempt, History};
use crate::domain::job::{Job, MAX_MESSAGE, RejectedMessage};
use crate::domain::lane::Lane;
use crate::domain::lifecycle::{Action, Effect, Event, JobRun, OpenTask, Origin};
use crate::domain::message::Message;
use crate::domain::money::{Decimal, Orphan};
use crate::domain::outcome::{self, Outcome};
use crate::domain::ticket::{self, Kept};
use crate::failpoint::Failpoint;
use crate::fleet::CALLBACKS_REMEMBERED_FOR;
use crate::trace::{self, RunEnd, Source};

/// The largest message on the ticket queue that is kept in an outcome although no worker has
/// written it. The prefetch of that queue runs into thousands, and each such outcome is held
/// several times over until it is published.
const MAX_FOREIGN: usize = 8 * 1024;

/// A delivery in flight. It outlives a panic in its own handling, so that the message can still be
/// settled.
struct Held {
    receipt: Receipt,
    /// Of a job from the start; a ticket says its own.
    lane: Option<HeldOfLane>,
    /// Until it has become a run.
    message: Box<Message>,
    /// Of the message, which may be gone into an outcome by then.
    reply_to: Option<String>,
    run: Option<JobRun>,
    /// Of a ticket's task.
    claim: Option<dedup::TicketClaim>,
    place: Option<HeldJob>,
    /// When the API's answer was read.
    answered_at: Option<Instant>,
    trace: trace::Span,
}

impl Held {
    fn lane(&self) -> Lane {
        self.lane.as_ref().map(|held| held.lane().lane().clone()).unwrap_or_default()
    }
}

/// Handles a delivery off the job or ticket queue. The permit counts it as in flight until it is
/// settled.
///
/// Thousands of these wait at once, each for its next poll. What a future is begun with, and what
/// it still holds when it waits, takes room twice; so the delivery is put aside before, and
/// whatever is not the wait itself has its future on the heap while it lasts.
pub(super) fn handle_delivery(
    ctx: Arc<Context>,
    scope: Arc<Scope>,
    delivery: Delivery,
    (origin, lane): (Origin, Option<HeldOfLane>),
    permit: InFlightPermit,
) -> impl Future<Output = ()> + Send {
    let Delivery { mut message, redelivered, routing_key, receipt } = delivery;
    let reply_to = message.properties.reply_to.clone();
    let trace = ctx.tracer.begin(&mut message, || Source {
        queue: lane
            .as_ref()
            .map_or_else(|| ctx.names.tickets(), |held| ctx.names.jobs_of(held.lane().lane())),
        routing_key: &routing_key,
        delivery_tag: receipt.tag(),
    });
    let message = Box::new(message);
    let mut held = Box::new(Held {
        receipt,
        lane,
        message,
        reply_to,
        run: None,
        claim: None,
        place: None,
        answered_at: None,
        trace,
    });
    async move {
        let handled =
            AssertUnwindSafe(handle(&ctx, &scope, &mut held, origin, redelivered)).catch_unwind().await;
        let end = handled.unwrap_or_else(|_| poisoned(&ctx, &mut held));
        let span = job_log::span(held.run.as_ref(), &held.trace);
        Box::pin(finish(&ctx, &scope, held, origin, end).instrument(span)).await;
        if Failpoint::PassLeaked.in_force() {
            std::mem::forget(permit);
            return;
        }
        drop(permit);
    }
}

async fn finish(ctx: &Context, scope: &Scope, held: Box<Held>, origin: Origin, end: End) {
    let Held { receipt, reply_to, run, claim, place, answered_at, trace, .. } = *held;
    let settling = Settling { receipt, run: run.as_ref(), trace: &trace };
    let done = carry_out(ctx, scope, settling, origin, end, (reply_to, answered_at)).await;
    drop(place);
    let failure = done.routing_key.as_deref().and_then(outcome::failure_of);
    trace.end(RunEnd { to: done.end_name, failure });
    if let Some(claim) = claim.filter(|_| done.safe) {
        claim.settled();
    }
}

async fn handle(ctx: &Context, scope: &Scope, held: &mut Held, origin: Origin, redelivered: bool) -> End {
    let first = job_log::span(None, &held.trace).in_scope(|| {
        let is_too_large = match origin {
            Origin::Job => held.message.body.len() > MAX_MESSAGE,
            Origin::Ticket => ticket::is_too_large(&held.message),
        };
        if is_too_large {
            // Not kept until the broker has its answer: many of them are in flight at once.
            return Err(too_large(&std::mem::take(&mut held.message)));
        }
        match origin {
            Origin::Job => take_job(ctx, held, redelivered),
            Origin::Ticket => take_ticket(ctx, held, redelivered),
        }
    });
    match first {
        Ok(event) => {
            let span = job_log::span(held.run.as_ref(), &held.trace);
            if let Some(run) = &held.run {
                held.trace.of(run);
                held.place = Some(ctx.job_index.hold(&run.job.id, origin, ctx.clock.now()));
                match Box::pin(recognise(ctx, scope, run, redelivered).instrument(span.clone())).await {
                    Ok(claim) => held.claim = claim,
                    Err(end) => return end,
                }
            }
            drive(ctx, scope, held, event).instrument(span).await
        }
        Err(end) => end,
    }
}

/// Too large to be looked at, or copied into an outcome: the broker keeps it whole.
fn too_large(message: &Message) -> End {
    let (id, bytes) = (message.properties.message_id.as_deref(), message.body.len());
    tracing::warn!(id, bytes, "a message over the size limit goes to the queue dead.raw");
    End::Rejected
}

/// Admission: what is no job, or must not be submitted, ends here.
fn take_job(ctx: &Context, held: &mut Held, redelivered: bool) -> Result<Event, End> {
    let now = ctx.clock.now();
    let history = History::of_job(&held.message.properties.headers, &ctx.names.retry_prefix(), now);
    if let (Ok(None), Some(published_at)) = (&history, held.message.properties.published_at()) {
        ctx.counters.times.queue_wait.note(now.since(published_at));
    }
    let is_first = matches!(history, Ok(None));
    let read = Job::read(&mut held.message, &ctx.policy, || ctx.rng.fresh_id());
    let lane = held.lane();
    let (job, history) = match (read, history) {
        (Ok(job), Ok(history)) => (job, history.unwrap_or_else(|| History::begin(now))),
        (Ok(job), Err(fault)) => {
            let message = job.message();
            let Job { id, task_type, .. } = job;
            let task_type = Some(task_type);
            return Err(refused(ctx, &RejectedMessage { id, lane, task_type, fault, message }));
        }
        (Err(no_job), _) => return Err(refused(ctx, &RejectedMessage { lane, ..*no_job })),
    };
    let mut run = JobRun::of_job(Job { lane, ..job }, history);
    // A redelivered job was counted when it came first.
    let event = ctx.taken(&mut run, is_first && !redelivered);
    held.run = Some(run);
    Ok(event)
}

fn take_ticket(ctx: &Context, held: &mut Held, redelivered: bool) -> Result<Event, End> {
    match ticket::read(std::mem::take(&mut held.message), ctx.clock.now()) {
        Ok(Kept::Open {
            job,
            history,
            task_id,
            accepted_at,
            polls,
            assumed_polls,
            not_before,
            callback,
            price,
            acceptance,
        }) => {
            let accepted_at = if Failpoint::AgeForgotten.in_force() { ctx.clock.now() } else { accepted_at };
            let redelivered = redelivered && !Failpoint::RedeliveryUnnoticed.in_force();
            let at = ctx.decision_input(job.kind());
            let callback = callback.filter(|_| at.callbacks_come);
            let run = JobRun::of_ticket(job, history, task_id, accepted_at, polls, callback, &at);
            let run = run.with_assumed_polls(assumed_polls).not_polled_before(not_before, &at);
            if let (Some(acceptance), Some(price)) = (&acceptance, price) {
                let (lane, kind) = (run.job.lane.name().to_owned(), run.job.kind().to_owned());
                let orphan = Orphan { acceptance: acceptance.clone(), lane, kind, price };
                ctx.fleet.ledger().watch(orphan, at.now.since(accepted_at));
            }
            held.run = Some(run.priced(price, acceptance));
            Ok(Event::TicketTaken { redelivered })
        }
        Ok(Kept::Answered { routing_key, outcome }) => {
            Err(End::Outcome(Box::new(Outcome { routing_key, message: outcome, reason: None })))
        }
        Err(refusal) if refusal.1.body.len() > MAX_FOREIGN => Err(too_large(&refusal.1)),
        Err(refusal) => {
            let (fault, message) = *refusal;
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.rng.fresh_id());
            let lane = Lane::default();
            Err(refused(ctx, &RejectedMessage { id, lane, task_type: None, fault, message }))
        }
    }
}

/// The executor: it carries an action out, has the core decide about what happened, and so on to
/// the end.
async fn drive(ctx: &Context, scope: &Scope, held: &mut Held, first: Event) -> End {
    let Held { receipt, run: Some(run), lane, answered_at, trace, .. } = held else {
        return End::Returned;
    };
    let of_type = ctx.limits.hold(run.job.kind());
    let limiter = of_type.limiter();
    let lane = lane.get_or_insert_with(|| ctx.lanes.hold(&run.job.lane)).lane();
    // Boxed, since most tickets have none.
    let callback = run.task().and_then(|task| Some(Box::new(ctx.fleet.callbacks().expect(task.callback?))));
    // Of one that may have come to an earlier owner, or before this one remembers, nothing is
    // known.
    let counts = matches!(first, Event::TicketTaken { redelivered: false })
        && run.task().is_some_and(|task| task.age(ctx.uptime()) < CALLBACKS_REMEMBERED_FOR);
    let mut action = decide(ctx, run, limiter, (first, None));
    let mut due = Instant::now();
    loop {
        let next = match action {
            Action::Submit => {
                Box::pin(api_calls::submit(ctx, scope, receipt, (run, trace), (limiter, lane))).await
            }
            Action::Wait(span) => {
                due = api_calls::due_in(span);
                api_calls::wait(ctx, scope, run, due).await
            }
            Action::AwaitCallback { at_least, at_most } => {
                let span = (api_calls::due_in(at_least), api_calls::due_in(at_most));
                // It comes about with a callback alone.
                let Some(callback) = &callback else { return End::Returned };
                match Box::pin(api_calls::await_callback(ctx, scope, run, callback, span)).await {
                    Some((at, next)) => {
                        due = at;
                        Some(next)
                    }
                    None => None,
                }
            }
            Action::Poll => Box::pin(api_calls::poll(ctx, scope, receipt, (run, trace), lane, due)).await,
            Action::Finish(disposition) => return end_of(ctx, run, disposition),
        };
        let next = match next {
            Some(next) => next,
            None if receipt.is_live() => (Event::PollingStopped, None),
            None => return End::Returned,
        };
        if matches!(next.0, Event::Answered { end: Ok(TaskState::Ready { .. }), .. }) {
            *answered_at = Some(Instant::now());
            if let Some(callback) = callback.as_ref().filter(|_| counts) {
                ctx.fleet.callbacks().answered(callback.has_come(), ctx.clock.now());
            }
        }
        action = decide(ctx, run, limiter, next);
    }
}

/// Has the core decide, and applies what the event shows before the call's permit is free for
/// another.
fn decide(ctx: &Context, run: &mut JobRun, limiter: &TypeLimiter, (event, mut call): Next<'_>) -> Action {
    if Failpoint::BudgetRunsOn.in_force() {
        let age = ctx.clock.now().since(run.history.first_seen);
        for class in [Class::Capacity, Class::Transient, Class::Unknown] {
            run.history.charge(class, age.saturating_sub(run.history.spent(class)));
        }
    }
    let at = ctx.decision_input(run.job.kind());
    let step = run.advance(event, &at);
    apply(ctx, run, limiter, call.as_mut(), step.effects);
    if let Some(call) = call {
        call.end(ctx);
    }
    step.action
}

/// Applies what a step shows about the account, the API and the job's type. `call`: the call that
/// it comes from; its permit is not free yet.
fn apply(
    ctx: &Context,
    run: &JobRun,
    limiter: &TypeLimiter,
    mut call: Option<&mut api_calls::Call<'_>>,
    effects: Vec<Effect>,
) {
    if effects.is_empty() {
        return;
    }
    let (account, now) = (ctx.account(), ctx.clock.now());
    let (ledger, lane, kind) = (ctx.fleet.ledger(), run.job.lane.name(), run.job.kind());
    let name = limiter.name_of(kind);
    for effect in effects {
        match (effect, call.as_deref_mut()) {
            (Effect::TripAccount(reason), Some(call)) => {
                account.refused(reason, call.term, call.began_at, now);
            }
            (Effect::Api(liveness, text), Some(call)) => {
                let noted = ctx.api_health.note(liveness, &text, &run.job.id);
                if noted.silence_begins {
                    ctx.limits.restart();
                    account.silence();
                }
                match liveness {
                    ApiLiveness::Cut | ApiLiveness::Unreachable => {
                        account.interrupted();
                        ctx.limits.unanswered(now);
                    }
                    ApiLiveness::Silent => ctx.limits.unanswered(now),
                    ApiLiveness::Answers | ApiLiveness::Fails => ctx.limits.answered(),
                    ApiLiveness::KnowsNoSuchId => {}
                }
                if noted.is_down {
                    account.unanswered(call.term, now);
                }
                if noted.is_suspect {
                    account.suspect();
                }
            }
            (Effect::CanaryEnded(end), Some(call)) => account.canary(end, call.term),
            (Effect::CanaryUndecided(pause), Some(call)) => call.pause_canary(pause),
            (Effect::IdAnswered { wrong, accepted_at }, Some(call)) => {
                account.answered(wrong, accepted_at, (call.term, call.began_at), ctx.clock.uptime());
            }
            (
                Effect::TripAccount(_)
                | Effect::Api(..)
                | Effect::CanaryEnded(_)
                | Effect::CanaryUndecided(_)
                | Effect::IdAnswered { .. },
                None,
            ) => tracing::error!("a bug: an effect of a call that was not made"),
            (Effect::DoubtAccount, _) => account.doubted(),
            (Effect::TypeAccepted, _) => {
                ctx.counters.accepted(kind);
                ctx.counters.times.submission_wait.note(now.since(run.history.first_seen));
                limiter.accepted();
                ctx.limits.accepted(now);
                account.close_breaker(name);
            }
            (Effect::CallbackRefused, _) => ctx.fleet.callbacks().refused(now),
            (Effect::TypeRefused, _) if limiter.refused() => account.open_breaker(name, false),
            (Effect::TypeRefused, _) => account.trial_failed(name, false),
            // A job that has failed before is its own trouble, and says nothing new about its type.
            (Effect::TypeFailed { first }, _) if first && limiter.failed() => {
                account.open_breaker(name, true);
            }
            (Effect::TypeFailed { .. }, _) => account.trial_failed(name, true),
            (Effect::TypeAnswered, _) => {
                limiter.answered();
                account.type_answered(name);
            }
            (Effect::Unanswered, _) => ledger.unanswered(lane, kind, ctx.rules.prices.of(kind)),
            (Effect::Solved, _) => {
                if let Some(task) = run.task() {
                    ctx.solved(kind, task);
                }
            }
            (Effect::NotReady, _) => {
                if let Some(task) = run.task() {
                    ctx.first_poll(kind, task, false);
                }
            }
            (Effect::BanProxy, _) => {
                if let Some(proxy) = &run.job.proxy {
                    account.proxy_banned(proxy.clone(), now);
                }
            }
            (Effect::DoublePayment(risk), _) => {
                ctx.counters.window(risk);
                ledger.repeated(ctx.rules.prices.of(kind).unwrap_or_default());
            }
            (Effect::Wasted(class), _) => {
                ctx.counters.wasted(class);
                let cost = run.history.attempts.last().and_then(Attempt::cost);
                ctx.counters.cost((lane, kind), cost);
                ledger.wasted(cost.map_or(Decimal::ZERO, |cost| cost.amount));
            }
        }
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
    match &held.run {
        Some(run) => {
            let task = run.task().map(OpenTask::shown);
            End::Outcome(Box::new(outcome::failed(&run.job, &run.history, task, &fault, ctx.finish())))
        }
        None => {
            let message = std::mem::take(&mut *held.message);
            let id = message.properties.message_id.clone().unwrap_or_else(|| ctx.rng.fresh_id());
            let lane = held.lane();
            refused(ctx, &RejectedMessage { id, lane, task_type: None, fault, message })
        }
    }
}
