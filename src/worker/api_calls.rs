//! The calls of the API for one job: when each may begin, and what its end tells about the account.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::context::{Context, Scope};
use super::limits::resizable_semaphore::CallPermit;
use super::limits::{SubmissionPermit, Turn, TypeLimiter};
use crate::broker::Receipt;
use crate::domain::call::{Accepted, CallError, TaskState};
use crate::domain::class::Class;
use crate::domain::fault::{Fault, Stage, classify, doubts_account, is_wrong_id, local_code};
use crate::domain::guard::{CanaryEnd, Jobs, Reason};
use crate::domain::lifecycle::{Event, JobRun, OpenTask, Origin};
use crate::domain::poll_schedule::MAX_AGE;
use crate::failpoint::Failpoint;

/// Between two canaries while task ids are in doubt.
const NEXT_CANARY: Duration = Duration::from_secs(1);
/// Between two tasks in doubt after a wrong id.
const NEXT_DOUBTFUL: Duration = Duration::from_secs(2);
/// A job whose submission got no answer leaves it to others for so long to find out whether the API accepts tasks.
const OTHERS_TRY_FOR: Duration = Duration::from_secs(60);
/// How often a lapsed lease is looked at again.
const LEASE_RECHECK: Duration = Duration::from_millis(250);

/// When a call began, and in which term.
#[derive(Debug, Clone, Copy)]
struct Began {
    term: u64,
    at: Instant,
}

/// Calls createTask, unless nothing may be submitted any more. `None`: the job is no longer ours.
pub(super) async fn submit(ctx: &Context, scope: &Scope, receipt: &Receipt, case: &JobRun) -> Option<Event> {
    let lane = ctx.lanes.of_type(case.job.kind());
    if !receipt.is_live() {
        return None;
    }
    if let Some(event) = submission_blocked(ctx, case) {
        return Some(event);
    }
    // Another submission without an answer would be its last: it waits until another has been accepted, or for a minute where there is none. The canary follows a look at the API that went well.
    let unanswered_at = case.history.unanswered_at();
    let is_canary = ctx.standing().permit().jobs == Jobs::Canary;
    if let Some(at) = unanswered_at.filter(|_| !is_canary) {
        let waits = ctx.clock.now().since(at) < OTHERS_TRY_FOR && !ctx.lanes.accepted_since(at);
        if waits || ctx.reach.was_lost_lately() {
            return Some(Event::TypeFailing);
        }
    }
    let admitted = ctx.lanes.admit(&lane, case.job.kind(), unanswered_at.is_some(), ctx.standing());
    if let Err(event) = admitted {
        return Some(event);
    }
    let waiting = ctx.waiting.submission();
    let shut = ctx.standing().until(|permit| permit.jobs == Jobs::None);
    let _place = tokio::select! {
        biased;
        () = scope.submissions_shut.cancelled() => return Some(shut_event(ctx)),
        () = shut => return Some(shut_event(ctx)),
        place = place_under_lease(ctx, scope, receipt, case.origin, &lane) => place?,
    };
    let mut canary = match ctx.standing().permit().jobs {
        Jobs::Canary => Some(ctx.lanes.canary().await),
        Jobs::All | Jobs::None => None,
    };
    drop(waiting);
    if !receipt.is_live() {
        return None;
    }
    // The wait may have outlasted the deadline, the guard's permit, or a proxy's good name.
    if let Some(event) = submission_blocked(ctx, case) {
        return Some(event);
    }
    let began = Began { term: ctx.standing().permit_and_term().1, at: Instant::now() };
    let task = case.job.task()?;
    ctx.tally.submitted();
    let sent_at = ctx.clock.now();
    let end = ctx.solver.create_task(&task).await;
    after_submission(ctx, case, &lane, &end, began, canary.is_some());
    if let Some(canary) = &mut canary
        && ids_in_doubt(ctx)
    {
        // Its answer shows whether the API keeps what it accepts; without it, more jobs show no more.
        **canary = Some(Instant::now() + NEXT_CANARY);
    }
    Some(Event::Submitted { sent_at, end })
}

/// Waits for a place, and for the lease where it has lapsed: a replica that is cut off hears of no trip, and others may have been given its
/// jobs. `None`: the job is no longer ours.
async fn place_under_lease<'a>(
    ctx: &'a Context,
    scope: &Scope,
    receipt: &Receipt,
    origin: Origin,
    lane: &'a TypeLimiter,
) -> Option<SubmissionPermit<'a>> {
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
fn submission_blocked(ctx: &Context, case: &JobRun) -> Option<Event> {
    let (job, now) = (&case.job, ctx.clock.now());
    if ctx.standing().permit().jobs == Jobs::None {
        return Some(shut_event(ctx));
    }
    if job.is_late(now) && !Failpoint::DeadlineIgnored.in_force() {
        return Some(Event::Taken);
    }
    // What came as a ticket has not passed admission here, and the policy may have changed since its job did.
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
        Event::Refused(Fault::local(Class::Proxy, local_code::PROXY_QUARANTINED, Stage::Submit, text))
    })
}

/// Whether the canary is to show that the API knows the tasks that it has accepted, which takes an answer to a poll.
fn ids_in_doubt(ctx: &Context) -> bool {
    ctx.standing().state().is_some_and(|state| state.awaits_known_id())
}

/// Why nothing may be submitted.
fn shut_event(ctx: &Context) -> Event {
    Event::SubmissionsShut { for_the_account: ctx.standing().permit().jobs == Jobs::None }
}

fn after_submission(
    ctx: &Context,
    case: &JobRun,
    lane: &TypeLimiter,
    end: &Result<Accepted, CallError>,
    began: Began,
    is_canary: bool,
) {
    let fault = end.as_ref().err();
    let fault = fault.map(|error| classify(error, Stage::Submit, case.job.own_proxy, &ctx.rules.overrides));
    let fails = fault.as_ref().is_some_and(|fault| matches!(fault.class, Class::Transient | Class::Unknown));
    note_call(ctx, case, end, (fault.as_ref(), fails), began);
    let task_type = case.job.kind();
    let Some(fault) = fault else {
        ctx.tally.accepted(task_type);
        ctx.tally.times.submission_wait.note(ctx.clock.now().since(case.history.first_seen));
        lane.accepted();
        ctx.lanes.accepted(ctx.clock.now());
        ctx.standing().slots_back(lane.name_of(task_type));
        if is_canary && !ids_in_doubt(ctx) {
            ctx.standing().canary(CanaryEnd::Passed, began.term);
        }
        return;
    };
    let name = lane.name_of(task_type);
    // Without a budget for them, unknown codes are the jobs' own fault by the operator's word.
    let is_own = fault.class == Class::Unknown && ctx.rules.unknown_timeout.is_zero();
    match fault.class {
        Class::Unknown if is_own => {
            lane.answered();
            ctx.standing().works_again(name);
        }
        Class::Capacity | Class::Throttled if lane.refused() => ctx.standing().shut(name, false),
        Class::Capacity | Class::Throttled => ctx.standing().still_shut(name, false),
        // One that has failed before is its own trouble, and says nothing new about its type.
        Class::Transient | Class::Pending | Class::Unknown if case.history.retries == 0 && lane.failed() => {
            ctx.standing().shut(name, true);
        }
        Class::Transient | Class::Pending | Class::Unknown => ctx.standing().still_shut(name, true),
        Class::Account => {}
        Class::Lost
        | Class::Unsolved
        | Class::Invalid
        | Class::Forbidden
        | Class::Expired
        | Class::Proxy
        | Class::Malformed
        | Class::Poison => {
            lane.answered();
            ctx.standing().works_again(name);
        }
    }
    if is_canary && let Some(end) = canary_end(ctx, &fault) {
        ctx.standing().canary(end, began.term);
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

/// What every call's end tells about the account, and about the API's being there. Said before the call's place is free for another.
fn note_call<T>(
    ctx: &Context,
    case: &JobRun,
    end: &Result<T, CallError>,
    (fault, fails): (Option<&Fault>, bool),
    began: Began,
) {
    let now = ctx.clock.now();
    if let Some(reason) = fault.and_then(Fault::reason) {
        ctx.standing().refused(reason, began.term, began.at, now);
    }
    let noted = ctx.reach.note(end, fails, &case.job.id);
    if noted.silence_begins {
        ctx.lanes.restart();
        ctx.standing().silence();
    }
    if noted.unanswered {
        ctx.lanes.unanswered(now);
    } else if !end.as_ref().is_err_and(is_wrong_id) {
        ctx.lanes.answered();
    }
    if end.as_ref().is_err_and(doubts_account) && fault.is_some_and(|fault| fault.class != Class::Account) {
        ctx.standing().doubted();
    }
    if noted.is_lost {
        ctx.standing().unanswered(began.term, now);
    }
    if noted.is_suspect {
        ctx.standing().suspect();
    }
}

/// When a wait that begins now is over.
pub(super) fn due_in(span: Duration) -> Instant {
    let span = if Failpoint::SpacingHalved.in_force() { span / 2 } else { span };
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
    case: &JobRun,
    due: Instant,
) -> Option<Event> {
    let task = case.task.as_ref()?;
    let mut waiting = None;
    let mut one_by_one = None;
    loop {
        if !goes_one_by_one(ctx, task) {
            one_by_one = None;
        } else if one_by_one.is_none() {
            waiting.get_or_insert_with(|| ctx.waiting.poll(due));
            match turn_in_time(ctx, scope, task).await? {
                Some(turn) => one_by_one = Some(turn),
                None => return Some(Event::Due),
            }
            // It may have become known meanwhile that nobody need wait any more.
            continue;
        }
        let place = match place_at_once(ctx, scope, task) {
            Some(place) => place,
            None => {
                waiting.get_or_insert_with(|| ctx.waiting.poll(due));
                match place_in_time(ctx, scope, task).await? {
                    Some(place) => place,
                    None => return Some(Event::Due),
                }
            }
        };
        if !receipt.is_live() || scope.tickets_cancelled.is_cancelled() {
            return None;
        }
        let now = ctx.clock.now();
        // The wait for a place or for the lease may have outlasted the result or the deadline.
        if task.age(ctx.uptime()) >= MAX_AGE || case.job.is_late(now) {
            return Some(Event::Due);
        }
        let (permit, term) = ctx.standing().permit_and_term();
        let held_until = ctx.standing().polls_held_until();
        let allowed = permit.polls.allow(task.accepted_at);
        if allowed && held_until.is_none() && scope.owns(Origin::Ticket) {
            drop(waiting);
            let late = due.elapsed();
            ctx.tally.polled(late);
            let withheld = if Failpoint::TimeoutRunsOn.in_force() { Duration::ZERO } else { late };
            let began_at = Instant::now();
            let end = ctx.solver.task_state(&task.id).await;
            if let Some(next) = &mut one_by_one
                && is_doubtful(ctx, task)
                && end.as_ref().is_err_and(is_wrong_id)
            {
                **next = Some(Instant::now() + NEXT_DOUBTFUL);
            }
            after_poll(ctx, case, &end, Began { term, at: began_at });
            drop(place);
            return Some(Event::Answered { end, withheld });
        }
        drop(place);
        waiting.get_or_insert_with(|| ctx.waiting.poll(due));
        match held_until {
            Some(until) => sleep_until(until).await,
            None if allowed => sleep(LEASE_RECHECK).await,
            // Others may be asked for all the same.
            None => one_by_one = None,
        }
    }
}

/// Whether the API may have forgotten the task, with others that it knew.
fn is_doubtful(ctx: &Context, task: &OpenTask) -> bool {
    ctx.standing().state().is_some_and(|state| state.doubts(task.accepted_at))
}

/// Whether polls are made one by one: while this replica is on probation, and where the task is in doubt. The window on calls would not do,
/// since submissions that are accepted meanwhile widen it.
fn goes_one_by_one(ctx: &Context, task: &OpenTask) -> bool {
    ctx.standing().is_on_probation() || is_doubtful(ctx, task)
}

/// Waits for the turn of a poll among those that are made one by one; `Some(None)`: for longer than the result is kept. `None`: the ticket is to
/// be handed back.
async fn turn_in_time<'a>(ctx: &'a Context, scope: &Scope, task: &OpenTask) -> Option<Option<Turn<'a>>> {
    let left = MAX_AGE.saturating_sub(task.age(ctx.uptime()));
    let turn = async {
        ctx.standing().until(|permit| permit.polls.allow(task.accepted_at)).await;
        ctx.lanes.one_by_one().await
    };
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        turn = turn => Some(Some(turn)),
        () = sleep(left) => Some(None),
    }
}

/// A place that is free now, as it is for most polls: those who need not wait need no timers either.
fn place_at_once<'a>(ctx: &'a Context, scope: &Scope, task: &OpenTask) -> Option<CallPermit<'a>> {
    let allowed = ctx.standing().permit().polls.allow(task.accepted_at);
    let may_poll = allowed && !scope.tickets_cancelled.is_cancelled();
    if may_poll { ctx.lanes.poll_at_once() } else { None }
}

/// Waits for the guard and for a place; `Some(None)`: for longer than the result is kept. `None`: the ticket is to be handed back.
async fn place_in_time<'a>(
    ctx: &'a Context,
    scope: &Scope,
    task: &OpenTask,
) -> Option<Option<CallPermit<'a>>> {
    let left = MAX_AGE.saturating_sub(task.age(ctx.uptime()));
    let place = async {
        ctx.standing().until(|permit| permit.polls.allow(task.accepted_at)).await;
        ctx.lanes.poll(ctx.standing()).await
    };
    tokio::select! {
        biased;
        () = scope.tickets_cancelled.cancelled() => None,
        place = place => Some(Some(place)),
        () = sleep(left) => Some(None),
    }
}

fn after_poll(ctx: &Context, case: &JobRun, end: &Result<TaskState, CallError>, began: Began) {
    let fault = end.as_ref().err();
    let fault = fault.map(|error| classify(error, Stage::Poll, case.job.own_proxy, &ctx.rules.overrides));
    // A poll takes no slot, so that an API that has none for polls fails.
    let fails = fault.as_ref().is_some_and(|fault| {
        matches!(fault.class, Class::Transient | Class::Unknown | Class::Capacity | Class::Throttled)
    });
    note_call(ctx, case, end, (fault.as_ref(), fails), began);
    let wrong_id = end.as_ref().is_err_and(is_wrong_id);
    if let Some(task) = &case.task
        && (wrong_id || fault.is_none_or(|fault| speaks_of_the_task(fault.class)))
    {
        ctx.standing().answered(wrong_id, task.accepted_at, began.term, ctx.clock.uptime());
    }
    match end {
        Ok(TaskState::Ready { cost, .. }) => {
            ctx.tally.cost(case.job.kind(), *cost);
            if let Some(task) = &case.task {
                ctx.solved(case.job.kind(), task);
            }
        }
        Ok(TaskState::Processing) | Err(_) => {}
    }
}

/// Whether a refused poll shows that the API knows the task.
fn speaks_of_the_task(class: Class) -> bool {
    match class {
        Class::Pending
        | Class::Unsolved
        | Class::Invalid
        | Class::Forbidden
        | Class::Expired
        | Class::Proxy => true,
        Class::Throttled
        | Class::Capacity
        | Class::Transient
        | Class::Lost
        | Class::Account
        | Class::Malformed
        | Class::Poison
        | Class::Unknown => false,
    }
}
