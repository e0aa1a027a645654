//! The calls of the API for one job: when each may begin, and under which permit it runs.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::context::{Context, Scope};
use super::lanes::LaneState;
use super::limits::resizable_semaphore::CallPermit;
use super::limits::{SubmissionPermit, Turn, TypeLimiter};
use crate::broker::Receipt;
use crate::domain::class::Class;
use crate::domain::fault::{Fault, Stage, is_wrong_id, local_code};
use crate::domain::guard::Jobs;
use crate::domain::lifecycle::{Canary, Event, JobRun, NEXT_CANARY, OpenTask, Origin};
use crate::domain::poll_schedule::MAX_AGE;
use crate::failpoint::Failpoint;
use crate::fleet::{Awaited, OTHERS_TRY_FOR, Reservation};
use crate::trace::Span;

/// Between two tasks in doubt after a wrong id.
const NEXT_DOUBTFUL: Duration = Duration::from_secs(2);
/// A job that the rest of a budget is not enough for goes back to the queue after so long: another
/// replica may have the rest.
const BUDGET_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a lapsed lease is looked at again.
const LEASE_RECHECK: Duration = Duration::from_millis(250);

/// A call that has ended, until what it shows is applied: its permit is not free before that.
pub(super) struct Call<'a> {
    /// The guard's term in which it began.
    pub(super) term: u64,
    pub(super) began_at: Instant,
    _permit: HeldPermits<'a>,
    canary: Option<Turn<'a>>,
}

enum HeldPermits<'a> {
    Submission { _permit: SubmissionPermit, _reserved: Reservation },
    Poll { _permit: CallPermit, _turn: Option<Turn<'a>> },
}

impl Call<'_> {
    /// What it shows is applied.
    pub(super) fn end(mut self, ctx: &Context) {
        if ids_in_doubt(ctx) {
            // Its answer shows whether the API keeps what it accepts; without it, more jobs show no
            // more.
            self.pause_canary(NEXT_CANARY);
        }
    }

    /// Has the next canary, if this was one, wait for at least so long.
    pub(super) fn pause_canary(&mut self, pause: Duration) {
        if let Some(canary) = &mut self.canary {
            **canary = canary.max(Some(Instant::now() + pause));
        }
    }
}

/// What has happened next, and the call that it came from, if any.
pub(super) type Next<'a> = (Event, Option<Call<'a>>);

/// Calls createTask, unless nothing may be submitted any more. `None`: the job is no longer ours.
pub(super) async fn submit<'a>(
    ctx: &'a Context,
    scope: &Scope,
    receipt: &Receipt,
    (run, span): (&JobRun, &Span),
    (limiter, lane): (&Arc<TypeLimiter>, &LaneState),
) -> Option<Next<'a>> {
    if !receipt.is_live() {
        return None;
    }
    if let Some(event) = submission_blocked(ctx, run) {
        return Some((event, None));
    }
    // Another submission without an answer would be its last: it waits until another has been
    // accepted, or for a minute where there is none. The canary follows a probe of the API that
    // went well.
    let unanswered_at = run.history.unanswered_at();
    let is_canary = ctx.account().permit().jobs == Jobs::Canary;
    if let Some(at) = unanswered_at.filter(|_| !is_canary) {
        let waits = ctx.clock.now().since(at) < OTHERS_TRY_FOR && !ctx.limits.accepted_since(at);
        if waits || ctx.api_health.was_down_recently() {
            return Some((Event::TypeFailing, None));
        }
    }
    let admitted = ctx.limits.admit(limiter, run.job.kind(), unanswered_at.is_some(), ctx.account());
    if let Err(event) = admitted {
        return Some((event, None));
    }
    let waiting = ctx.waiting.submission();
    let shut = ctx.account().until(|permit| permit.jobs == Jobs::None);
    let (lane_name, kind) = (run.job.lane.name(), run.job.kind());
    let price = ctx.rules.prices.of(kind);
    // The canary is the leader's, whatever its rank among the replicas.
    let share = || if is_canary { (1, 0) } else { ctx.fleet.budget_share() };
    let reserving = async {
        let priced = if ctx.fleet.ledger().has_budgets() { lane.priced().await } else { None };
        let reserved = timeout(BUDGET_TIMEOUT, ctx.fleet.ledger().reserve(lane_name, price, share)).await;
        reserved.map(|reserved| (reserved, priced))
    };
    let permitted = tokio::select! {
        biased;
        () = scope.submissions_shut.cancelled() => return Some((shut_event(ctx), None)),
        () = shut => return Some((shut_event(ctx), None)),
        permitted = async {
            let canary = if is_canary { canary_turn(ctx).await } else { None };
            let Ok((reserved, _priced)) = reserving.await else {
                return Some(Err(Event::SubmissionBlocked { by_guard: true }));
            };
            let permit = permit_under_lease(ctx, scope, receipt, run.origin, (limiter, lane)).await?;
            Some(Ok((permit, reserved, canary)))
        } => permitted?,
    };
    let (permit, reserved, canary) = match permitted {
        Ok(permitted) => permitted,
        Err(event) => return Some((event, None)),
    };
    let canary = match (ctx.account().permit().jobs, canary) {
        // The account has come into doubt meanwhile.
        (Jobs::Canary, None) => return Some((Event::SubmissionBlocked { by_guard: true }, None)),
        (Jobs::Canary, turn) => turn,
        (Jobs::All | Jobs::None, _) => None,
    };
    drop(waiting);
    if !receipt.is_live() {
        return None;
    }
    // The wait may have outlasted the deadline, the guard's permit, or a proxy's good name.
    if let Some(event) = submission_blocked(ctx, run) {
        return Some((event, None));
    }
    let (term, began_at) = (ctx.account().permit_and_term().1, Instant::now());
    let task = run.job.task()?;
    ctx.counters.submitted();
    let sent_at = ctx.clock.now();
    // The canary is to find out about the account, and about nothing else.
    let asks = run.may_ask_for_callback() && canary.is_none();
    let callback = if asks { ctx.fleet.callbacks().ask(&ctx.rng, sent_at) } else { None };
    let (callback, url) = callback.unzip();
    let end = ctx.solver.create_task_with_callback(&task, url.as_deref(), span).await;
    let shows = canary.is_some().then(|| {
        let state = ctx.account().state();
        let trip = state.as_ref().and_then(|state| state.tripped().map(|trip| trip.reason));
        Canary { reason: trip, awaits_known_id: ids_in_doubt(ctx) }
    });
    let acceptance = end.is_ok().then(|| Box::new(ctx.fleet.ledger().accepted(lane_name, kind, price)));
    // Set aside until what else it shows is booked.
    let permit = HeldPermits::Submission { _permit: permit, _reserved: reserved };
    let call = Call { term, began_at, _permit: permit, canary };
    Some((Event::Submitted { sent_at, end, callback, canary: shows, acceptance }, Some(call)))
}

/// Waits for the turn of the canary, before any permit is taken: the API may have asked for a long
/// pause. `None`: no canary is needed any more.
async fn canary_turn(ctx: &Context) -> Option<Turn<'_>> {
    tokio::select! {
        turn = ctx.limits.canary() => Some(turn),
        () = ctx.account().until(|permit| permit.jobs != Jobs::Canary) => None,
    }
}

/// Waits for a permit, and for the lease where it has lapsed: a replica that is cut off hears of no
/// trip, and others may have been given its jobs. `None`: the job is no longer ours.
async fn permit_under_lease(
    ctx: &Context,
    scope: &Scope,
    receipt: &Receipt,
    origin: Origin,
    (limiter, lane): (&Arc<TypeLimiter>, &LaneState),
) -> Option<SubmissionPermit> {
    loop {
        let permit = ctx.limits.submission(limiter, (&ctx.lanes, lane), ctx.account()).await;
        if scope.owns(origin) {
            return Some(permit);
        }
        drop(permit);
        if !receipt.is_live() {
            return None;
        }
        sleep(LEASE_RECHECK).await;
    }
}

/// Why a job is not to be submitted at this moment, if anything.
fn submission_blocked(ctx: &Context, run: &JobRun) -> Option<Event> {
    let (job, now) = (&run.job, ctx.clock.now());
    if ctx.account().permit().jobs == Jobs::None {
        return Some(shut_event(ctx));
    }
    if ctx.account().state().is_some_and(|state| state.money.stops(job.lane.name())) {
        return Some(Event::SubmissionBlocked { by_guard: true });
    }
    if job.is_late(now) && !Failpoint::DeadlineIgnored.in_force() {
        return Some(Event::DeadlinePassed);
    }
    // What came as a ticket has not passed admission here, and the policy may have changed since
    // its job did.
    if run.origin == Origin::Ticket
        && let Err(fault) = job.recheck(&ctx.policy)
    {
        return Some(Event::Refused(fault));
    }
    if let Some(fault) = job.deadline_unreachable(now, ctx.least_solve_time(job.kind())) {
        return Some(Event::Refused(fault));
    }
    let quarantined = job.proxy.as_ref().is_some_and(|proxy| ctx.account().quarantines(proxy, now));
    quarantined.then(|| {
        let text = "the API has called this proxy banned; it is left alone for a while, since using it again endangers the account";
        Event::Refused(Fault::local(Class::Proxy, local_code::PROXY_QUARANTINED, Stage::Submit, text))
    })
}

/// Whether the canary is to show that the API knows the tasks that it has accepted, which takes an
/// answer to a poll.
fn ids_in_doubt(ctx: &Context) -> bool {
    ctx.account().state().is_some_and(|state| state.awaits_known_id())
}

/// Why nothing may be submitted.
fn shut_event(ctx: &Context) -> Event {
    Event::SubmissionBlocked { by_guard: ctx.account().permit().jobs == Jobs::None }
}

/// When a wait that begins now is over.
pub(super) fn due_in(span: Duration) -> Instant {
    let span = if Failpoint::SpacingHalved.in_force() { span / 2 } else { span };
    Instant::now() + span
}

/// Waits. `None`: polling has stopped here.
pub(super) async fn wait<'a>(ctx: &Context, scope: &Scope, run: &JobRun, due: Instant) -> Option<Next<'a>> {
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        () = plan_changed(ctx, run) => Some((Event::PlanChanged, None)),
        () = sleep_until(ctx.linger.at_or_after(due)) => Some((Event::Due, None)),
    }
}

/// The same for a task whose callback may end the wait sooner; with the moment at which the poll is
/// due. It is then made at once, not together with others.
pub(super) async fn await_callback<'a>(
    ctx: &Context,
    scope: &Scope,
    run: &JobRun,
    callback: &Awaited,
    (at_least, at_most): (Instant, Instant),
) -> Option<(Instant, Next<'a>)> {
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        () = plan_changed(ctx, run) => Some((at_most, (Event::PlanChanged, None))),
        () = ctx.fleet.callbacks().turned_off(), if run.task().is_some_and(OpenTask::relies_on_callback) => {
            Some((at_most, (Event::PlanChanged, None)))
        }
        due = async {
            callback.called().await;
            sleep_until(at_least).await;
            at_least.max(Instant::now())
        } => Some((due, (Event::CallbackCame { was_early: callback.was_early() }, None))),
        () = sleep_until(ctx.linger.at_or_after(at_most)) => Some((at_most, (Event::Due, None))),
    }
}

/// Later polls follow a new plan anyway.
fn awaits_first_poll(run: &JobRun) -> bool {
    run.task().is_some_and(|task| task.polls == 0)
}

/// Waits until the plan for the first poll is out of date.
async fn plan_changed(ctx: &Context, run: &JobRun) {
    if !awaits_first_poll(run) {
        return pending().await;
    }
    ctx.fleet.plan_changed(run.job.kind()).await;
}

/// Calls getTaskResult under a lease that holds and a guard that allows it. `None`: polling has
/// stopped here, or the ticket is no longer ours.
pub(super) async fn poll<'a>(
    ctx: &'a Context,
    scope: &Scope,
    receipt: &Receipt,
    (run, span): (&JobRun, &Span),
    lane: &LaneState,
    due: Instant,
) -> Option<Next<'a>> {
    let task = run.task()?;
    let mut waiting = None;
    let mut one_by_one = None;
    loop {
        if !goes_one_by_one(ctx, task) {
            one_by_one = None;
        } else if one_by_one.is_none() {
            waiting.get_or_insert_with(|| ctx.waiting.poll(due));
            let turn = in_time(ctx, scope, run, ctx.limits.one_by_one()).await?;
            match turn {
                Ok(turn) => one_by_one = Some(turn),
                Err(event) => return Some((event, None)),
            }
            // It may have become known meanwhile that nobody need wait any more.
            continue;
        }
        let held = match permit_at_once(ctx, scope, task, lane) {
            Some(held) => held,
            None => {
                waiting.get_or_insert_with(|| ctx.waiting.poll(due));
                let permit = ctx.limits.poll((&ctx.lanes, lane), ctx.account());
                let permit = in_time(ctx, scope, run, permit).await?;
                match permit {
                    Ok(held) => held,
                    Err(event) => return Some((event, None)),
                }
            }
        };
        if !receipt.is_live() || scope.tickets_cancelled.is_cancelled() {
            return None;
        }
        let now = ctx.clock.now();
        // The wait for a permit or for the lease may have outlasted the result or the deadline.
        if task.age(ctx.uptime()) >= MAX_AGE || run.job.is_late(now) {
            return Some((Event::Due, None));
        }
        let (permit, term) = ctx.account().permit_and_term();
        let is_held = ctx.account().holds_polls();
        let allowed = permit.polls.allow(task.accepted_at);
        if allowed && !is_held && scope.owns(Origin::Ticket) {
            drop(waiting);
            let late = due.elapsed();
            ctx.counters.polled(late);
            let late_by = if Failpoint::TimeoutRunsOn.in_force() { Duration::ZERO } else { late };
            let began_at = Instant::now();
            let end = ctx.solver.task_state_in(&task.id, span).await;
            if let Some(next) = &mut one_by_one
                && is_doubtful(ctx, task)
                && end.as_ref().is_err_and(is_wrong_id)
            {
                **next = Some(Instant::now() + NEXT_DOUBTFUL);
            }
            let permit = HeldPermits::Poll { _permit: held, _turn: one_by_one };
            let call = Call { term, began_at, _permit: permit, canary: None };
            let took = began_at.elapsed();
            return Some((Event::Answered { end, late_by, took }, Some(call)));
        }
        drop(held);
        waiting.get_or_insert_with(|| ctx.waiting.poll(due));
        if is_held {
            ctx.account().until_polls_released().await;
        } else if allowed {
            sleep(LEASE_RECHECK).await;
        } else {
            // Others may be asked for all the same.
            one_by_one = None;
        }
    }
}

/// Whether the API may have forgotten the task, with others that it knew.
fn is_doubtful(ctx: &Context, task: &OpenTask) -> bool {
    ctx.account().state().is_some_and(|state| state.doubts(task.accepted_at))
}

/// Whether polls are made one by one: while this replica is on probation, and where the task is in
/// doubt. The window on calls would not do, since submissions that are accepted meanwhile widen it.
fn goes_one_by_one(ctx: &Context, task: &OpenTask) -> bool {
    ctx.account().is_on_probation() || is_doubtful(ctx, task)
}

/// A permit that is free now, as it is for most polls: those who need not wait need no timers
/// either.
fn permit_at_once(ctx: &Context, scope: &Scope, task: &OpenTask, lane: &LaneState) -> Option<CallPermit> {
    let allowed = ctx.account().permit().polls.allow(task.accepted_at);
    let may_poll = allowed && !scope.tickets_cancelled.is_cancelled();
    if may_poll { ctx.limits.poll_at_once(lane) } else { None }
}

/// Waits for the guard, and then for what else a poll needs. Fails where that takes longer than the
/// result is kept, or than somebody waits for it: what cannot be in time any more must not stand in
/// the way of others. `None`: polling has stopped here.
async fn in_time<T>(
    ctx: &Context,
    scope: &Scope,
    run: &JobRun,
    needed: impl Future<Output = T>,
) -> Option<Result<T, Event>> {
    let task = run.task()?;
    let kept = MAX_AGE.saturating_sub(task.age(ctx.uptime()));
    let left = run.job.deadline.map_or(kept, |deadline| kept.min(deadline.since(ctx.clock.now())));
    let needed = async {
        ctx.account().until(|permit| permit.polls.allow(task.accepted_at)).await;
        needed.await
    };
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        needed = needed => Some(Ok(needed)),
        () = sleep(left) => Some(Err(Event::Due)),
    }
}
