//! The calls of the API for one job: when each may begin, and what its end tells about the account.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::context::{Context, Scope};
use super::elastic::Place;
use super::lanes::{SubmissionPlace, TypeLane};
use crate::breakage::Breakage;
use crate::broker::Receipt;
use crate::domain::call::{Accepted, CallError, TaskState};
use crate::domain::class::Class;
use crate::domain::fault::{Fault, Stage, codes, is_wrong_id, judge};
use crate::domain::guard::{CanaryEnd, Jobs, Reason};
use crate::domain::lifecycle::{Case, Event, Origin};
use crate::domain::pacing::MAX_AGE;
use crate::domain::time::Timestamp;

/// How often a lapsed lease is looked at again.
const LEASE_RECHECK: Duration = Duration::from_millis(250);

/// What has come of a call, and the term in which it began.
type Told = (Event, u64);

/// Calls createTask, unless nothing may be submitted any more. `None`: the job is no longer ours.
pub(super) async fn submit(ctx: &Context, scope: &Scope, receipt: &Receipt, case: &Case) -> Option<Told> {
    let lane = ctx.lanes.of_type(case.job.kind());
    if !receipt.is_live() {
        return None;
    }
    if let Some(event) = not_now(ctx, case) {
        return Some((event, 0));
    }
    if let Err(fault) = ctx.lanes.admit(&lane, case.job.kind(), ctx.standing(), ctx.clock.now()) {
        return Some((Event::Withheld(fault), 0));
    }
    let waiting = ctx.waiting.submission();
    let shut = ctx.standing().until(|permit| permit.jobs == Jobs::None);
    let _place = tokio::select! {
        biased;
        () = scope.submissions_shut.cancelled() => return Some((shut_event(ctx), 0)),
        () = shut => return Some((shut_event(ctx), 0)),
        place = place_under_lease(ctx, scope, receipt, case.origin, &lane) => place?,
    };
    let canary = match ctx.standing().permit().jobs {
        Jobs::Canary => Some(ctx.lanes.canary().await),
        Jobs::All | Jobs::None => None,
    };
    drop(waiting);
    if !receipt.is_live() {
        return None;
    }
    // The wait may have outlasted the deadline, the guard's permit, or a proxy's good name.
    if let Some(event) = not_now(ctx, case) {
        return Some((event, 0));
    }
    let (_, term) = ctx.standing().permit_and_term();
    let task = case.job.task()?;
    ctx.tally.submitted();
    let sent_at = ctx.clock.now();
    let end = ctx.solver.create_task(&task).await;
    after_submission(ctx, case, &lane, &end, term, canary.is_some());
    Some((Event::Submitted { sent_at, end }, term))
}

/// Waits for a place, and for the lease where it has lapsed: a replica that is cut off hears of no trip, and others may have been given its
/// jobs. `None`: the job is no longer ours.
async fn place_under_lease<'a>(
    ctx: &'a Context,
    scope: &Scope,
    receipt: &Receipt,
    origin: Origin,
    lane: &'a TypeLane,
) -> Option<SubmissionPlace<'a>> {
    loop {
        let place = ctx.lanes.submission(lane, ctx.standing()).await;
        if scope.owns(origin) {
            return Some(place);
        }
        drop(place);
        if !receipt.is_live() {
            return None;
        }
        sleep(LEASE_RECHECK).await;
    }
}

/// Why a job is not to be submitted at this moment, if anything.
fn not_now(ctx: &Context, case: &Case) -> Option<Event> {
    let (job, now) = (&case.job, ctx.clock.now());
    if ctx.standing().permit().jobs == Jobs::None {
        return Some(shut_event(ctx));
    }
    if job.is_late(now) && !Breakage::DeadlineIgnored.in_force() {
        return Some(Event::Taken);
    }
    // What came as a ticket has not passed the door here, and the policy may have changed since its job did.
    if case.origin == Origin::Ticket
        && let Err(fault) = job.recheck(&ctx.policy)
    {
        return Some(Event::Refused(fault));
    }
    if let Some(fault) = job.unreachable(now, ctx.least_solve_time(job.kind())) {
        return Some(Event::Refused(fault));
    }
    let quarantined = job.proxy.as_ref().is_some_and(|proxy| ctx.standing().quarantines(proxy, now));
    quarantined.then(|| {
        let text = "the API has called this proxy banned; it is left alone for a while, since using it again endangers the account";
        Event::Refused(Fault::local(Class::Proxy, codes::PROXY_QUARANTINED, Stage::Submit, text))
    })
}

/// Why nothing may be submitted.
fn shut_event(ctx: &Context) -> Event {
    Event::SubmissionsShut { for_the_account: ctx.standing().permit().jobs == Jobs::None }
}

fn after_submission(
    ctx: &Context,
    case: &Case,
    lane: &TypeLane,
    end: &Result<Accepted, CallError>,
    term: u64,
    is_canary: bool,
) {
    note_reach(ctx, end, term);
    let task_type = case.job.kind();
    let Err(error) = end else {
        ctx.tally.accepted(task_type);
        ctx.tally.times.submission_wait.note(ctx.clock.now().since(case.history.first_seen));
        lane.accepted();
        ctx.standing().slots_back(lane.name_of(task_type));
        if is_canary {
            ctx.standing().canary(CanaryEnd::Passed, term);
        }
        return;
    };
    let fault = judge(error, Stage::Submit, case.job.own_proxy, &ctx.rules.overrides);
    // Before the canary's place is free for another.
    if let Some(reason) = fault.reason() {
        ctx.standing().refused(reason, term, ctx.clock.now());
    }
    if matches!(fault.class, Class::Capacity | Class::Throttled) && lane.refused() {
        ctx.standing().shut(lane.name_of(task_type), ctx.clock.now());
    }
    if is_canary && let Some(end) = canary_end(ctx, &fault) {
        ctx.standing().canary(end, term);
    }
}

/// What a failed canary shows about the account; `None`: nothing, the next job must.
fn canary_end(ctx: &Context, fault: &Fault) -> Option<CanaryEnd> {
    match fault.class {
        Class::Account => Some(CanaryEnd::Refused(fault.reason().unwrap_or(Reason::KeyInvalid))),
        Class::Transient | Class::Pending => Some(CanaryEnd::Down),
        // A code that is not known may well be about the account.
        Class::Throttled | Class::Unknown => None,
        // Refused for the job's own sake: the account was good enough to look at it. Whether there is money for it is not known.
        Class::Capacity
        | Class::Lost
        | Class::Unsolved
        | Class::Invalid
        | Class::Forbidden
        | Class::Expired
        | Class::Proxy
        | Class::Malformed
        | Class::Poison => {
            let state = ctx.standing().state();
            let trip = state.as_ref().and_then(|state| state.tripped().map(|trip| trip.reason));
            (!matches!(trip, Some(Reason::NoFunds | Reason::WrongIds))).then_some(CanaryEnd::Passed)
        }
    }
}

/// What every call's end tells about the API's being there.
fn note_reach<T>(ctx: &Context, end: &Result<T, CallError>, term: u64) {
    let now = ctx.clock.now();
    let noted = ctx.reach.note(end);
    if noted.answered {
        ctx.lanes.answered();
    } else {
        ctx.lanes.unanswered(now);
    }
    if noted.is_lost {
        ctx.standing().unanswered(term, now);
    }
}

/// When a wait that begins now is over.
pub(super) fn due_in(span: Duration) -> Instant {
    let span = if Breakage::SpacingHalved.in_force() { span / 2 } else { span };
    Instant::now() + span
}

/// Waits. `None`: the ticket is to be handed back.
pub(super) async fn wait(ctx: &Context, scope: &Scope, due: Instant) -> Option<Event> {
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        () = sleep_until(ctx.linger.at_or_after(due)) => Some(Event::Due),
    }
}

/// Calls getTaskResult under a lease that holds and a guard that allows it. `None`: the ticket is to be handed back.
pub(super) async fn poll(
    ctx: &Context,
    scope: &Scope,
    receipt: &Receipt,
    case: &Case,
    due: Instant,
) -> Option<Told> {
    let task = case.task.as_ref()?;
    let mut waiting = None;
    loop {
        let place = match place_at_once(ctx, scope) {
            Some(place) => place,
            None => {
                waiting.get_or_insert_with(|| ctx.waiting.poll(due));
                match place_in_time(ctx, scope, task.accepted_at).await? {
                    Some(place) => place,
                    None => return Some((Event::Due, 0)),
                }
            }
        };
        if !receipt.is_live() || scope.tickets_cancelled.is_cancelled() {
            return None;
        }
        let now = ctx.clock.now();
        // The wait for a place or for the lease may have outlasted the result or the deadline.
        if now.since(task.accepted_at) >= MAX_AGE || case.job.is_late(now) {
            return Some((Event::Due, 0));
        }
        let (permit, term) = ctx.standing().permit_and_term();
        if permit.polls && scope.owns(Origin::Ticket) {
            drop(waiting);
            ctx.tally.polled(due.elapsed());
            let end = ctx.solver.task_state(&task.id).await;
            drop(place);
            after_poll(ctx, case, &end, term);
            return Some((Event::Answered(end), term));
        }
        drop(place);
        waiting.get_or_insert_with(|| ctx.waiting.poll(due));
        if permit.polls {
            sleep(LEASE_RECHECK).await;
        }
    }
}

/// A place that is free now, as it is for most polls: those who need not wait need no timers either.
fn place_at_once<'a>(ctx: &'a Context, scope: &Scope) -> Option<Place<'a>> {
    let may_poll = ctx.standing().permit().polls && !scope.tickets_cancelled.is_cancelled();
    if may_poll { ctx.lanes.poll_at_once() } else { None }
}

/// Waits for the guard and for a place; `Some(None)`: for longer than the result is kept. `None`: the ticket is to be handed back.
async fn place_in_time<'a>(
    ctx: &'a Context,
    scope: &Scope,
    accepted_at: Timestamp,
) -> Option<Option<Place<'a>>> {
    let left = MAX_AGE.saturating_sub(ctx.clock.now().since(accepted_at));
    let place = async {
        ctx.standing().until(|permit| permit.polls).await;
        ctx.lanes.poll(ctx.standing()).await
    };
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        place = place => Some(Some(place)),
        () = sleep(left) => Some(None),
    }
}

fn after_poll(ctx: &Context, case: &Case, end: &Result<TaskState, CallError>, term: u64) {
    note_reach(ctx, end, term);
    match end {
        Ok(TaskState::Ready { cost, .. }) => {
            ctx.tally.cost(case.job.kind(), *cost);
            if let Some(task) = &case.task {
                ctx.solved(case.job.kind(), task.accepted_at);
            }
        }
        Ok(TaskState::Processing) => {}
        Err(error) if is_wrong_id(error) => ctx.standing().wrong_id(term, ctx.clock.now()),
        Err(_) => {}
    }
}
