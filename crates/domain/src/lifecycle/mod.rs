//! A job's run as a state machine: each event moves it on, and says what to do next and what else
//! it shows.
//!
//! ```text
//! job ────▶ Received ── submit ──▶ Submitting ── accepted ──▶ ticket
//!                                    │   ▲
//!          outcome, retry, requeue ◀─┘   │ submitted again
//!                                        │
//! ticket ─▶ Pending ── wait, poll ───────┴──▶ outcome
//! ```
//!
//! Nothing here waits, calls, or reads a clock: time and jitter are arguments. The worker carries
//! each [`Action`] out, applies the [`Effect`]s before the call's permit is free for another, and
//! comes back with the next [`Event`]. `tests/table.rs` prints every state, event and action.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::api_code::Overrides;
use super::call::{Accepted, CallError, TaskId, TaskState};
use super::callback::CallbackToken;
use super::class::Class;
use super::fault::{
    ApiLiveness, Charge, Fault, Stage, charge_of, classify, doubts_account, is_service_down, is_wrong_id,
    liveness_of, local_code,
};
use super::guard::{CanaryEnd, Reason};
use super::history::{Attempt, Ended, History, MAX_ATTEMPTS};
use super::job::Job;
use super::learned_polls::{Answer, LearnedPolls};
use super::message_hash::MessageHash;
use super::money::{Acceptance, Cost, Decimal, Prices};
use super::outcome::Task;
use super::poll_schedule::{self, Next, PollSchedules, Polled};
use super::retry_delay::{self, RetryDelay};
use super::time::Timestamp;

/// What a retry takes beside its delay: the way through the broker, and the call. It is charged
/// with it, so that a budget is kept by the clock as well.
const RETRY_OVERHEAD: Duration = Duration::from_secs(1);

/// A poll that is later than this says little about when its task became ready.
const LATE: Duration = Duration::from_secs(1);

/// What a callback takes from the API to here, at most as a rule.
const CALLBACK_TRIP: Duration = Duration::from_millis(100);

/// The last poll before a deadline is planned so long before it, or up to a second longer: polls
/// may have to wait their turn, and a batch has one deadline.
const BEFORE_DEADLINE: Duration = Duration::from_millis(250);
const BEFORE_DEADLINE_SPREAD: Duration = Duration::from_secs(1);

/// Between two canaries where the first has shown nothing, or not yet.
pub const NEXT_CANARY: Duration = Duration::from_secs(1);

/// This many waits without a call use the shortest retry queue.
const SHORT_WAITS: u32 = 12;

/// What to do with a submission that was sent and not answered readably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ambiguous {
    /// Submit again, once: it may be paid twice.
    Retry,
    /// Never submit again: the job ends in `dead.transient`.
    DeadLetter,
}

/// The operator's settings, as far as they decide about jobs.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRules {
    /// When to poll.
    pub polling: PollSchedules,
    /// Classes of single codes.
    pub overrides: Overrides,
    /// How long a job without a free slot waits in the retry queues.
    pub capacity_timeout: Duration,
    /// The same while the API cannot be reached or fails.
    pub transient_timeout: Duration,
    /// The same while createTask answers a code that this version does not know.
    pub unknown_timeout: Duration,
    /// Paid resubmissions of an unsolved job.
    pub max_resubmissions: u32,
    /// What to do with a submission that was not answered.
    pub ambiguous: Ambiguous,
    /// What tasks cost.
    pub prices: Prices,
}

/// The moment of a decision.
#[derive(Debug, Clone)]
pub struct DecisionInput<'a> {
    /// The rules in force.
    pub rules: &'a JobRules,
    /// The polls of the job's kind, once enough answers are known.
    pub learned: Option<Arc<LearnedPolls>>,
    /// Callbacks come, so that a task with one may wait for it.
    pub callbacks_come: bool,
    /// The wall clock: for what stands in messages, and for deadlines. It can step.
    pub now: Timestamp,
    /// A steady clock, from any moment of this process: for ages.
    pub uptime: Duration,
    /// A fresh random number in `[0, 1)`.
    pub jitter: f64,
}

/// How a delivery came, and so what is settled in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// As a job: unpaid.
    Job,
    /// As a ticket: paid once at least.
    Ticket,
}

/// What is known of a task's cost.
#[derive(Debug, Clone, Default, PartialEq)]
struct TaskCharge {
    /// By the settings that it was submitted under.
    price: Option<Decimal>,
    /// By the API, if that has said so.
    cost: Option<Decimal>,
    /// By what the books know its acceptance. It is on every ticket of the task, since the replica
    /// that met it may leave before it was counted.
    acceptance: Option<Box<Acceptance>>,
}

/// A task that the API has accepted.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenTask {
    /// The API's id.
    pub id: TaskId,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Polls used, those of earlier owners as far as they must be assumed.
    pub polls: u32,
    /// Of those, the ones that are assumed: they count against the API's bound, and not against
    /// that of the settings.
    assumed_polls: u32,
    /// Of the callback that this process awaits, if any.
    pub callback: Option<CallbackToken>,
    /// The API has solved it.
    is_ready: bool,
    /// What is known of its cost. Boxed, since thousands of tasks wait at once, most without it.
    charge: Option<Box<TaskCharge>>,
    /// It must come to this process, and polls are made for the case that it does not.
    relies_on_callback: bool,
    /// How often the API has asked for fewer calls.
    backoff_steps: u32,
    /// The last poll's fault, where it brought no word about the task.
    last_poll_fault: Option<Box<Fault>>,
    /// Its age when the last poll was sent that said "not ready".
    not_ready_at: Duration,
    /// Its age when the last answered poll was sent.
    polled_at: Duration,
    /// It was delivered before it came to this process, and an earlier owner may still poll it.
    redelivered: bool,
    /// Its polls show when it became ready: this process made all of them, and none came late.
    shows_solve_time: bool,
    /// Its first poll comes when that was planned, and not with a callback.
    is_polled_as_planned: bool,
    /// Its age when this process took it, and the steady clock's reading then.
    taken: (Duration, Duration),
    /// For how long nobody could ask for it: the time-out of its type stands still meanwhile.
    unpollable: Duration,
    /// The steady clock's reading before which nobody may ask for it, this process or another.
    not_before: Duration,
}

impl OpenTask {
    /// A task that is accepted or delivered at this moment, and was not polled yet.
    #[must_use]
    pub fn new(id: TaskId, accepted_at: Timestamp, now: Timestamp, uptime: Duration) -> Self {
        let taken = (now.since(accepted_at), uptime);
        Self {
            id,
            accepted_at,
            polls: 0,
            assumed_polls: 0,
            callback: None,
            is_ready: false,
            charge: None,
            relies_on_callback: false,
            backoff_steps: 0,
            last_poll_fault: None,
            not_ready_at: Duration::ZERO,
            polled_at: Duration::ZERO,
            redelivered: false,
            shows_solve_time: true,
            is_polled_as_planned: true,
            taken,
            unpollable: Duration::ZERO,
            not_before: Duration::ZERO,
        }
    }

    /// Its age. The wall clock was read once, when this process took it: a step of that clock makes
    /// nothing older or younger.
    #[must_use]
    pub fn age(&self, uptime: Duration) -> Duration {
        let (age, taken_at) = self.taken;
        age.saturating_add(uptime.saturating_sub(taken_at))
    }

    /// As its last poll has left it.
    fn polled(&self, retry_after: Option<Duration>, uptime: Duration) -> Polled {
        let age = self.age(uptime);
        let pursued = age.saturating_sub(self.unpollable);
        let (polls, slower) = (self.polls, self.backoff_steps);
        let made = polls.saturating_sub(self.assumed_polls);
        Polled { age, pursued, polls, made, slower, retry_after }
    }

    /// When it became ready, if the last poll has found it ready; `None` where its polls do not
    /// show it.
    #[must_use]
    pub fn answer(&self) -> Option<Answer> {
        self.shows_solve_time.then_some(Answer { after: self.not_ready_at, by: self.polled_at })
    }

    /// Its age at its only poll so far, if that was made when it was planned.
    #[must_use]
    pub fn first_poll(&self) -> Option<Duration> {
        let is_first = self.polls == 1 && self.shows_solve_time && self.is_polled_as_planned;
        is_first.then_some(self.polled_at)
    }

    /// Of its polls, the ones that earlier owners are only assumed to have made.
    #[must_use]
    pub fn assumed_polls(&self) -> u32 {
        self.assumed_polls
    }

    /// Whether it is polled as one whose callback comes.
    #[must_use]
    pub fn relies_on_callback(&self) -> bool {
        self.relies_on_callback
    }

    /// Whether the API has solved it.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// What the API has charged beyond what the books count since the acceptance.
    #[must_use]
    pub fn correction(&self) -> Option<Decimal> {
        let charge = self.charge.as_ref()?;
        Some(charge.cost?.saturating_sub(charge.price.unwrap_or_default()))
    }

    /// As the outcome shows it.
    #[must_use]
    pub fn shown(&self) -> Task<'_> {
        let charge = self.charge.as_deref();
        Task {
            id: &self.id,
            accepted_at: self.accepted_at,
            polls: self.polls,
            cost: charge.and_then(|charge| Cost::of(charge.cost, charge.price)),
            acceptance: charge.and_then(|charge| charge.acceptance.as_deref()),
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, PartialEq)]
pub enum JobState {
    /// Nothing is under way, and nothing is paid that is still open.
    Received,
    /// createTask is to be called, or is under way.
    Submitting,
    /// A task is paid and open.
    Pending(OpenTask),
}

/// One delivery of a job, or of its ticket, on its way to a settlement.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRun {
    /// The job.
    pub job: Job,
    /// What it has been through.
    pub history: History,
    /// How it was delivered.
    pub origin: Origin,
    state: JobState,
    /// createTask has refused it with a callback: it goes without.
    callback_refused: bool,
}

/// What has happened to a job.
#[derive(Debug)]
pub enum Event {
    /// It was delivered as a job, and admitted.
    Taken,
    /// The same, and its publisher has brought more jobs than the settings allow: it waits without
    /// a call.
    OverPublisherLimit {
        /// See [`super::publishers::publisher`].
        publisher: String,
        /// For about so long.
        wait: Duration,
    },
    /// It was delivered as a ticket.
    TicketTaken {
        /// Another owner may have polled it before.
        redelivered: bool,
    },
    /// createTask has ended.
    Submitted {
        /// When it was sent: the API counts a result's 5 minutes from there, and its answer can be
        /// long on its way.
        sent_at: Timestamp,
        /// How.
        end: Result<Accepted, CallError>,
        /// Of the callback that it asked for, if any.
        callback: Option<CallbackToken>,
        /// It was the one submission that the guard allowed.
        canary: Option<Canary>,
        /// By what the books know it, if it was accepted.
        acceptance: Option<Box<Acceptance>>,
    },
    /// A wait is over.
    Due,
    /// During a wait for the first poll, the plan for it has changed much, or callbacks are no
    /// longer to be relied on.
    PlanChanged,
    /// This replica may poll no more: the ticket is to go to another.
    PollingStopped,
    /// A wait for a callback is over, since that has come.
    CallbackCame {
        /// It came before this process awaited it.
        was_early: bool,
    },
    /// getTaskResult has ended.
    Answered {
        /// How.
        end: Result<TaskState, CallError>,
        /// How much later than due it was called: the guard, a limit or a lapsed lease withheld it.
        late_by: Duration,
        /// How long the call took.
        took: Duration,
    },
    /// It would have been submitted now, but its deadline has passed.
    DeadlinePassed,
    /// It would have been submitted now, but nothing may be.
    SubmissionBlocked {
        /// The guard is shut; else the worker is leaving.
        by_guard: bool,
    },
    /// It would have been submitted now, but admission would no longer let it in.
    Refused(Fault),
    /// It would have been submitted now, but the API is known to have no slot for its type: it
    /// waits without a call.
    Deferred(Fault),
    /// It would have been submitted now, but createTask is known to fail for its type: it waits
    /// without a call.
    TypeFailing,
}

/// What a canary is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Canary {
    /// Why the account tripped.
    pub reason: Option<Reason>,
    /// Its task's answer is to show that the API knows what it accepts; its acceptance alone does
    /// not.
    pub awaits_known_id: bool,
}

/// What a job ends in.
#[derive(Debug)]
pub enum Verdict {
    /// The API's solution, raw.
    Solved(Box<RawValue>),
    /// Why there is none.
    Failed(Fault),
}

/// How a delivery is settled: what is published, before it is acked.
#[derive(Debug)]
pub enum Disposition {
    /// The ticket of the open task. Somebody, perhaps this replica, takes it from there.
    Ticket,
    /// The outcome.
    Outcome(Verdict),
    /// The job, to a retry queue.
    Retry(RetryDelay),
    /// The ticket once more, with its polls.
    HandOver {
        /// When so much time has passed.
        after: Duration,
        /// Before that its next owner may not poll; `None`: it may at once.
        not_before: Option<Timestamp>,
    },
    /// Nothing: the delivery returns to its queue, unchanged.
    Requeue,
}

/// What to do next.
#[derive(Debug)]
pub enum Action {
    /// Call createTask.
    Submit,
    /// Wait, then report [`Event::Due`].
    Wait(Duration),
    /// The same, but no longer than until the task's callback has come.
    AwaitCallback {
        /// The callback ends the wait no sooner than this.
        at_least: Duration,
        /// The wait without a callback.
        at_most: Duration,
    },
    /// Call getTaskResult.
    Poll,
    /// Settle the delivery.
    Finish(Disposition),
}

/// Where a job may come to be paid for once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoublePaymentRisk {
    /// (a): createTask was sent and not answered readably, and is sent again.
    AmbiguousSubmission,
    /// (g): a resubmission that the rules allow, of an unsolved or lost task.
    Resubmission,
}

/// What an event shows beside what is to be done: about the account, the API, and the job's type.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The API refused the account.
    TripAccount(Reason),
    /// A call ended: what that says about the API being there. The text is for people.
    Api(ApiLiveness, String),
    /// Something before the API refused the call in the account's name: the leader looks.
    DoubtAccount,
    /// The API accepted a submission of the type.
    TypeAccepted,
    /// The API had no slot for the type, or none at this rate.
    TypeRefused,
    /// A submission failed in a way that says nothing about its job. `first`: the job has not
    /// failed so before.
    TypeFailed {
        /// Only a job's first failure says something about its type.
        first: bool,
    },
    /// A submission was refused for the job's own sake: its type works.
    TypeAnswered,
    /// createTask accepted a job without a callback that it had just refused with one.
    CallbackRefused,
    /// The canary has shown something.
    CanaryEnded(CanaryEnd),
    /// The canary has shown nothing: the next one may be submitted after this time.
    CanaryUndecided(Duration),
    /// The API spoke of a task as one that it knows, or called its id wrong.
    IdAnswered {
        /// It knows no such task.
        wrong: bool,
        /// When the task was accepted.
        accepted_at: Timestamp,
    },
    /// A task was solved.
    Solved,
    /// The first poll of a task has found it not ready yet.
    NotReady,
    /// A submission was not answered: it may be paid.
    Unanswered,
    /// The API called the job's proxy banned.
    BanProxy,
    /// A possible second payment.
    DoublePayment(DoublePaymentRisk),
    /// A submission was paid in vain; how it ended.
    Wasted(Class),
}

/// An action, with what it shows beside.
#[derive(Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// What to apply before the call's permit is free for another, in this order.
    pub effects: Vec<Effect>,
}

impl From<Action> for Step {
    fn from(action: Action) -> Self {
        Self { action, effects: Vec::new() }
    }
}

impl Step {
    fn fail(fault: Fault) -> Self {
        let effects = if fault.bans_proxy() { vec![Effect::BanProxy] } else { Vec::new() };
        Self { action: Action::Finish(Disposition::Outcome(Verdict::Failed(fault))), effects }
    }

    fn retry(delay: RetryDelay) -> Self {
        Action::Finish(Disposition::Retry(delay)).into()
    }

    fn with(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    /// The same, after these.
    fn after(self, mut effects: Vec<Effect>) -> Self {
        effects.extend(self.effects);
        Self { effects, ..self }
    }
}

impl JobRun {
    /// A job that was admitted.
    #[must_use]
    pub fn of_job(job: Job, history: History) -> Self {
        let (origin, state) = (Origin::Job, JobState::Received);
        Self { job, history, origin, state, callback_refused: false }
    }

    /// A ticket that was delivered.
    #[must_use]
    pub fn of_ticket(
        job: Job,
        history: History,
        task_id: TaskId,
        accepted_at: Timestamp,
        polls: u32,
        callback: Option<CallbackToken>,
        at: &DecisionInput<'_>,
    ) -> Self {
        let task = OpenTask::new(task_id, accepted_at, at.now, at.uptime);
        let (origin, state) = (Origin::Ticket, JobState::Pending(OpenTask { polls, callback, ..task }));
        Self { job, history, origin, state, callback_refused: false }
    }

    /// The same ticket, of whose polls earlier owners are only assumed to have made so many.
    #[must_use]
    pub fn with_assumed_polls(mut self, assumed_polls: u32) -> Self {
        if let JobState::Pending(task) = &mut self.state {
            task.assumed_polls = assumed_polls.min(task.polls);
        }
        self
    }

    /// The same ticket, which may not be polled before this moment. No pause outlasts what the API
    /// keeps.
    #[must_use]
    pub fn not_polled_before(mut self, moment: Option<Timestamp>, at: &DecisionInput<'_>) -> Self {
        if let (JobState::Pending(task), Some(moment)) = (&mut self.state, moment) {
            let wait = moment.since(at.now).min(poll_schedule::MAX_AGE);
            task.not_before = at.uptime.saturating_add(wait);
        }
        self
    }

    /// The same ticket, which says what its task costs, and by what the books know that.
    #[must_use]
    pub fn priced(mut self, price: Option<Decimal>, acceptance: Option<Acceptance>) -> Self {
        if let JobState::Pending(task) = &mut self.state {
            let charge =
                |price| TaskCharge { price: Some(price), cost: None, acceptance: acceptance.map(Box::new) };
            task.charge = price.map(charge).map(Box::new);
        }
        self
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> &JobState {
        &self.state
    }

    /// The task that is paid and open, if any.
    #[must_use]
    pub fn task(&self) -> Option<&OpenTask> {
        match &self.state {
            JobState::Pending(task) => Some(task),
            JobState::Received | JobState::Submitting => None,
        }
    }

    /// Whether its next submission may ask for a callback.
    #[must_use]
    pub fn may_ask_for_callback(&self) -> bool {
        !self.callback_refused
    }

    /// By what its message is known when it is delivered again.
    #[must_use]
    pub fn identity(&self) -> MessageHash {
        MessageHash::of(&self.job)
    }

    /// Moves the run on. This is the only place that decides.
    pub fn advance(&mut self, event: Event, at: &DecisionInput<'_>) -> Step {
        use JobState::{Pending, Received, Submitting};
        match (std::mem::replace(&mut self.state, Received), event) {
            (Received, Event::Taken) => self.before_submission(at),
            (Received, Event::OverPublisherLimit { publisher, wait }) => {
                self.over_publisher_limit(publisher, wait, at)
            }
            (Submitting, Event::DeadlinePassed) => Step::fail(self.late(Stage::Admission)),
            (Submitting, Event::Submitted { sent_at, end, callback, canary, acceptance }) => {
                let end = end.map(|accepted| (accepted, acceptance));
                self.after_submission(sent_at, end, callback, canary, at)
            }
            (Submitting, Event::SubmissionBlocked { by_guard }) => self.put_back(by_guard),
            (Submitting, Event::Refused(fault)) => Step::fail(fault),
            (Submitting, Event::Deferred(fault)) => self.retry_within(at.rules.capacity_timeout, fault, at),
            (Submitting, Event::TypeFailing) => self.type_failing(at),
            (Pending(task), Event::TicketTaken { redelivered }) => self.ticket_taken(task, redelivered, at),
            (Pending(task), Event::Due) => self.poll_due(task, at),
            (Pending(task), Event::PlanChanged) => self.plan_changed(task, at),
            (Pending(task), Event::PollingStopped) => self.hand_over(task, at),
            // Whatever the poll shows, the ordinary schedule goes on: there is no second callback.
            (Pending(mut task), Event::CallbackCame { was_early }) => {
                if task.polls == 0 && !was_early {
                    // Had it been ready for longer, the callback would have come sooner.
                    task.not_ready_at = task.age(at.uptime).saturating_sub(CALLBACK_TRIP);
                }
                self.poll_due(OpenTask { callback: None, relies_on_callback: false, ..task }, at)
            }
            (Pending(mut task), Event::Answered { end, late_by, took }) => {
                task.polls = task.polls.saturating_add(1);
                task.polled_at = task.age(at.uptime).saturating_sub(took);
                task.shows_solve_time &= late_by <= LATE;
                task.unpollable = task.unpollable.saturating_add(late_by);
                self.after_poll(task, end, at)
            }
            // No executor does this; were one to, the job must end, and its task must not be lost.
            (state, _) => {
                self.state = state;
                let text = "a bug: an event that cannot happen in this state of a job";
                Step::fail(Fault::local(Class::Poison, local_code::PANIC, Stage::Admission, text))
            }
        }
    }

    fn submit(&mut self) -> Step {
        self.state = JobState::Submitting;
        Action::Submit.into()
    }

    /// The deadline is over: nobody waits for the answer, so nothing more is spent on it.
    fn late(&self, stage: Stage) -> Fault {
        let deadline = self.job.deadline.map(|at| at.to_string()).unwrap_or_default();
        let text = format!("the deadline {deadline} has passed");
        Fault::local(Class::Expired, local_code::DEADLINE_PASSED, stage, text)
    }

    fn before_submission(&mut self, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) { Step::fail(self.late(Stage::Admission)) } else { self.submit() }
    }

    /// No budget is charged, and its own backoff does not grow: nothing has failed.
    fn over_publisher_limit(&mut self, publisher: String, wait: Duration, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) {
            return Step::fail(self.late(Stage::Admission));
        }
        let left = self.job.deadline.map_or(Duration::MAX, |deadline| deadline.since(at.now));
        let longest = wait.min(left);
        self.history.retried.get_or_insert_default().publisher = Some(publisher);
        let fits = |delay: &&RetryDelay| delay.delay() <= longest;
        Step::retry(*retry_delay::RETRY_DELAYS.iter().rev().find(fits).unwrap_or(&retry_delay::SHORTEST))
    }

    fn after_submission(
        &mut self,
        sent_at: Timestamp,
        end: Result<(Accepted, Option<Box<Acceptance>>), CallError>,
        callback: Option<CallbackToken>,
        canary: Option<Canary>,
        at: &DecisionInput<'_>,
    ) -> Step {
        let error = match end {
            Ok((accepted, acceptance)) => {
                let task = OpenTask::new(accepted.task_id, sent_at, at.now, at.uptime);
                let price = at.rules.prices.of(self.job.kind());
                let charge = Some(Box::new(TaskCharge { price, cost: None, acceptance }));
                self.state = JobState::Pending(OpenTask { callback, charge, ..task });
                let mut effects =
                    vec![Effect::Api(ApiLiveness::Answers, String::new()), Effect::TypeAccepted];
                if canary.is_some_and(|canary| !canary.awaits_known_id) {
                    effects.push(Effect::CanaryEnded(CanaryEnd::Passed));
                }
                if self.callback_refused && callback.is_none() {
                    effects.push(Effect::CallbackRefused);
                }
                return Step { action: Action::Finish(Disposition::Ticket), effects };
            }
            // The API answers so when it cannot reach the callback's host, too. Nothing is paid, so
            // the same job without a callback shows at once which it was, and pays no retry for it.
            Err(error) if callback.is_some() && is_service_down(&error) => {
                self.callback_refused = true;
                return self.submit();
            }
            Err(error) => error,
        };
        let fault = classify(&error, Stage::Submit, self.job.own_proxy, &at.rules.overrides);
        let mut effects = shown_by(&error, &fault);
        let canary_ended = canary.map(|canary| match canary_end(canary, &fault) {
            Some(end) => Effect::CanaryEnded(end),
            None => Effect::CanaryUndecided(until_next_canary(&fault)),
        });
        let failed = Effect::TypeFailed { first: self.history.retries == 0 };
        // Whatever class the settings give the error, a submission that may be paid is in the books
        // and in the outcome.
        let charge = charge_of(&error);
        if charge == Charge::Possible {
            self.note_unanswered(at);
            effects.push(Effect::Unanswered);
        }
        let (of_type, step) = match fault.class {
            Class::Capacity | Class::Throttled => {
                (Some(Effect::TypeRefused), self.submit_later(at.rules.capacity_timeout, fault, charge, at))
            }
            // "Not ready" is no answer to a submission; it is treated as the passing trouble that
            // it must be.
            Class::Transient | Class::Pending => {
                (Some(failed), self.submit_later(at.rules.transient_timeout, fault, charge, at))
            }
            // The code may be about the API rather than the job. Without a budget for it, it is the
            // job's own fault by the operator's setting.
            Class::Unknown => {
                self.history.met_unknown(&fault.code);
                let is_own = at.rules.unknown_timeout.is_zero();
                let of_type = if is_own { Effect::TypeAnswered } else { failed };
                (Some(of_type), self.submit_later(at.rules.unknown_timeout, fault, charge, at))
            }
            Class::Account => (None, self.account_refused(fault)),
            Class::Lost
            | Class::Unsolved
            | Class::Invalid
            | Class::Forbidden
            | Class::Expired
            | Class::Proxy
            | Class::Malformed
            | Class::Poison => (Some(Effect::TypeAnswered), Step::fail(fault)),
        };
        effects.extend(of_type);
        effects.extend(canary_ended);
        step.after(effects)
    }

    /// Whatever class the settings give an error, a submission that may be paid is repeated once at
    /// most.
    fn submit_later(
        &mut self,
        budget: Duration,
        fault: Fault,
        charge: Charge,
        at: &DecisionInput<'_>,
    ) -> Step {
        if charge == Charge::None {
            return self.retry_within(budget, fault, at);
        }
        // Nobody knows what has become of it, whatever class the settings give the error.
        let fault = Fault { class: Class::Transient, ..fault };
        let is_first = self.history.count(Ended::Ambiguous) == 1;
        if at.rules.ambiguous == Ambiguous::DeadLetter || !is_first {
            return Step::fail(fault);
        }
        let step = self.retry_within(at.rules.transient_timeout, fault, at);
        if matches!(step.action, Action::Finish(Disposition::Retry(_))) {
            step.with(Effect::DoublePayment(DoublePaymentRisk::AmbiguousSubmission))
        } else {
            step
        }
    }

    /// The task may have been accepted, and paid.
    fn note_unanswered(&mut self, at: &DecisionInput<'_>) {
        let attempt = Attempt {
            submitted_at: at.now,
            task_id: None,
            polls: 0,
            ended: Ended::Ambiguous,
            cost: None,
            estimated: false,
        };
        let cost = Cost::of(None, at.rules.prices.of(self.job.kind()));
        self.history.attempts.push(attempt.costing(cost));
    }

    /// A wrong key takes the job that met it along, so that somebody sees it. For every other
    /// reason the job is not to blame, and goes back.
    fn account_refused(&mut self, fault: Fault) -> Step {
        match fault.reason() {
            Some(Reason::KeyInvalid) | None => Step::fail(fault),
            Some(_) => self.put_back(true),
        }
    }

    /// Back unpaid. A leaving worker returns a job as it came; what came as a ticket must not be
    /// polled again, so it goes to a retry queue as a job.
    ///
    /// Where the account is refused every job takes the way of the retry queue: a plain return is
    /// charged by the broker's delivery counter, and a fleet whose replicas meet the refusal one
    /// after another would use the counter up.
    fn put_back(&mut self, by_guard: bool) -> Step {
        match self.origin {
            Origin::Job if !by_guard => Action::Finish(Disposition::Requeue).into(),
            // It has not failed, so that its backoff does not grow.
            Origin::Job | Origin::Ticket => Step::retry(retry_delay::SHORTEST),
        }
    }

    /// Has the job wait in a retry queue, unless that would outlast its budget or its deadline.
    fn retry_within(&mut self, budget: Duration, fault: Fault, at: &DecisionInput<'_>) -> Step {
        let class = match fault.class {
            Class::Throttled => Class::Capacity,
            Class::Pending => Class::Transient,
            class => class,
        };
        let left = budget.saturating_sub(self.history.spent(class));
        let left = self.job.deadline.map_or(left, |deadline| left.min(deadline.since(at.now)));
        match retry_delay::delay(self.history.retries, fault.retry_after, left, at.jitter) {
            Some(delay) => {
                self.history.charge(class, delay.delay().saturating_add(RETRY_OVERHEAD));
                self.history.retries = self.history.retries.saturating_add(1);
                Step::retry(delay)
            }
            // An exhausted budget needs a class that a job can end in.
            None if fault.class.is_final() => Step::fail(fault),
            None => Step::fail(Fault { class: Class::Transient, ..fault }),
        }
    }

    /// Waits its turn without a call, as others have found that createTask fails for their type.
    /// The budget stands still, since it is not the job that failed. One that has met an unknown
    /// code itself may be what shuts its type: it cannot wait for ever for others to be accepted.
    fn type_failing(&mut self, at: &DecisionInput<'_>) -> Step {
        // Most outages are short; and the longer queues would keep the job for minutes after the
        // API is back.
        let soon = self.history.count_deferral() <= SHORT_WAITS || at.jitter < 0.25;
        let mut delay = if soon { retry_delay::SHORTEST } else { retry_delay::RETRY_DELAYS[1] };
        if let Some(code) = self.history.unknown_code() {
            let left = at.rules.unknown_timeout.saturating_sub(self.history.spent(Class::Unknown));
            // A longer wait than is left of the budget must not end a job that a shorter one would
            // not.
            if delay.delay().saturating_add(RETRY_OVERHEAD) > left {
                delay = retry_delay::SHORTEST;
            }
            let cost = delay.delay().saturating_add(RETRY_OVERHEAD);
            if cost > left {
                return Step::fail(Fault {
                    class: Class::Unknown,
                    code: code.to_owned().into(),
                    description: "createTask answered this code, and goes on failing for the job's type"
                        .into(),
                    stage: Stage::Submit,
                    retry_after: None,
                });
            }
            self.history.charge(Class::Unknown, cost);
        }
        // It has not failed, so that its own backoff does not grow.
        Step::retry(delay)
    }

    fn ticket_taken(&mut self, mut task: OpenTask, redelivered: bool, at: &DecisionInput<'_>) -> Step {
        let age = task.age(at.uptime);
        let mut wait_at_least = task.not_before.saturating_sub(at.uptime);
        task.redelivered = redelivered;
        task.shows_solve_time = task.polls == 0 && !redelivered;
        if redelivered {
            let made = task.polls - task.assumed_polls;
            task.polls = task.polls.max(poll_schedule::assumed_polls(age));
            task.assumed_polls = task.polls - made;
            // An earlier owner may go on until its lease ends, and the API wants its polls apart
            // from ours.
            wait_at_least = wait_at_least.max(poll_schedule::REDELIVERY_WAIT);
        }
        task.not_before = at.uptime.saturating_add(wait_at_least);
        let schedule = at.rules.polling.of(self.job.kind());
        // For how long earlier owners could poll it is not known here, and until its first poll
        // nobody may. So its age so far does not count against the type's time-out.
        task.unpollable = (age + wait_at_least).saturating_sub(schedule.first_delay());
        // The callback of a ticket that comes again may have gone to an earlier owner.
        task.relies_on_callback = task.callback.is_some() && !redelivered;
        task.is_polled_as_planned = task.callback.is_none();
        self.wait_for_first_poll(task, wait_at_least, at)
    }

    /// The API has become faster or slower, or callbacks are off. Polls that are overdue by the new
    /// plan are spread over the spacing, so that the API does not meet them all at once.
    fn plan_changed(&mut self, task: OpenTask, at: &DecisionInput<'_>) -> Step {
        let rest = task.not_before.saturating_sub(at.uptime);
        if task.polls > 0 {
            // A pause that the API has asked for goes on.
            let pause = Some(rest).filter(|rest| *rest > poll_schedule::SPACING);
            return self.ask_again(OpenTask { relies_on_callback: false, ..task }, pause, at);
        }
        let mut step = self.wait_for_first_poll(task, rest, at);
        if let Action::Wait(wait) | Action::AwaitCallback { at_most: wait, .. } = &mut step.action
            && wait.is_zero()
        {
            *wait = poll_schedule::SPACING.mul_f64(at.jitter).min(self.until_last_poll(at));
        }
        step
    }

    fn wait_for_first_poll(
        &mut self,
        mut task: OpenTask,
        wait_at_least: Duration,
        at: &DecisionInput<'_>,
    ) -> Step {
        let age = task.age(at.uptime);
        let schedule = at.rules.polling.of(self.job.kind());
        let learned = at.learned.as_deref();
        let fallback = schedule.callback_fallback(learned);
        // A deadline must not pass while a lost callback is awaited.
        task.relies_on_callback &= at.callbacks_come && self.is_in_time(fallback.saturating_sub(age), at);
        let next = if task.relies_on_callback {
            schedule.first_with_callback(age, task.polls, fallback)
        } else {
            schedule.first(age, task.polls, learned, at.jitter)
        };
        match next {
            Next::After(wait) => self.wait(task, wait.max(wait_at_least), at),
            Next::Over | Next::Gone => self.no_more_polls(task, next, at),
        }
    }

    /// An earlier version takes a ticket that is not redelivered for one that nobody has polled,
    /// and polls it at once. So the ticket leaves when the spacing allows that, and says how long
    /// to wait only where the API has asked for more. While an earlier owner may still poll, the
    /// ticket goes back as it came: only a redelivery says so.
    fn hand_over(&mut self, task: OpenTask, at: &DecisionInput<'_>) -> Step {
        let rest = task.not_before.saturating_sub(at.uptime);
        let is_short = rest <= poll_schedule::SPACING;
        let others_may_poll = task.redelivered && task.polled_at.is_zero();
        self.state = JobState::Pending(task);
        if others_may_poll && !is_short {
            return Action::Finish(Disposition::Requeue).into();
        }
        let not_before = (!is_short).then(|| at.now.plus(rest));
        Action::Finish(Disposition::HandOver { after: rest.min(poll_schedule::SPACING), not_before }).into()
    }

    fn poll_due(&mut self, task: OpenTask, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) {
            let fault = self.late(Stage::Poll);
            return self.fail_paid(task, fault);
        }
        if task.age(at.uptime) >= poll_schedule::MAX_AGE {
            return self.no_more_polls(task, Next::Gone, at);
        }
        self.state = JobState::Pending(task);
        Action::Poll.into()
    }

    fn after_poll(
        &mut self,
        mut task: OpenTask,
        end: Result<TaskState, CallError>,
        at: &DecisionInput<'_>,
    ) -> Step {
        let accepted_at = task.accepted_at;
        let answers = || {
            vec![
                Effect::Api(ApiLiveness::Answers, String::new()),
                Effect::IdAnswered { wrong: false, accepted_at },
            ]
        };
        match end {
            Ok(TaskState::Ready { solution, cost }) => {
                if cost.is_some() {
                    task.charge.get_or_insert_default().cost = cost;
                }
                self.state = JobState::Pending(OpenTask { is_ready: true, ..task });
                let action = Action::Finish(Disposition::Outcome(Verdict::Solved(solution)));
                Step { action, effects: answers() }.with(Effect::Solved)
            }
            Ok(TaskState::Processing) => self.not_ready(task, None, at).after(answers()),
            Err(error) => {
                let fault = classify(&error, Stage::Poll, self.job.own_proxy, &at.rules.overrides);
                let mut effects = shown_by(&error, &fault);
                let wrong = is_wrong_id(&error);
                if wrong || speaks_of_the_task(fault.class) {
                    effects.push(Effect::IdAnswered { wrong, accepted_at });
                }
                self.poll_refused(task, fault, at).after(effects)
            }
        }
    }

    fn not_ready(&mut self, mut task: OpenTask, pause: Option<Duration>, at: &DecisionInput<'_>) -> Step {
        task.not_ready_at = task.polled_at;
        task.last_poll_fault = None;
        let is_first = task.first_poll().is_some();
        let step = self.ask_again(task, pause, at);
        if is_first { step.with(Effect::NotReady) } else { step }
    }

    fn poll_refused(&mut self, mut task: OpenTask, fault: Fault, at: &DecisionInput<'_>) -> Step {
        match fault.class {
            Class::Pending => self.not_ready(task, fault.retry_after, at),
            Class::Throttled => {
                task.backoff_steps += 1;
                self.ask_again(task, fault.retry_after, at)
            }
            Class::Capacity | Class::Transient => {
                let pause = fault.retry_after;
                task.last_poll_fault = Some(Box::new(fault));
                self.ask_again(task, pause, at)
            }
            // The task is paid, and the code may be about the API rather than the task: polling
            // goes on, at growing intervals.
            Class::Unknown => {
                task.backoff_steps += 1;
                let pause = fault.retry_after;
                task.last_poll_fault = Some(Box::new(fault));
                self.ask_again(task, pause, at)
            }
            Class::Lost => self.submit_again(task, fault, 1, at),
            Class::Unsolved => self.submit_again(task, fault, at.rules.max_resubmissions, at),
            Class::Account => self.poll_refused_by_guard(task, &fault, at),
            Class::Invalid
            | Class::Forbidden
            | Class::Expired
            | Class::Proxy
            | Class::Malformed
            | Class::Poison => self.fail_paid(task, fault),
        }
    }

    /// The task is paid and may still be answered, so its ticket is kept, and asked for again once
    /// the guard allows it.
    fn poll_refused_by_guard(&mut self, task: OpenTask, fault: &Fault, at: &DecisionInput<'_>) -> Step {
        // That poll said nothing about the task, so the type's time-out does not end it: it is
        // asked for once more, if it is kept so long.
        let task = OpenTask { relies_on_callback: false, ..task };
        let polled = Polled { pursued: Duration::ZERO, ..task.polled(fault.retry_after, at.uptime) };
        self.ask_within(task, &polled, at)
    }

    fn ask_again(&mut self, task: OpenTask, pause: Option<Duration>, at: &DecisionInput<'_>) -> Step {
        let polled = task.polled(pause, at.uptime);
        self.ask_within(task, &polled, at)
    }

    fn ask_within(&mut self, mut task: OpenTask, polled: &Polled, at: &DecisionInput<'_>) -> Step {
        let schedule = at.rules.polling.of(self.job.kind());
        let learned = at.learned.as_deref();
        match schedule.after_answer(polled, learned, at.jitter) {
            Next::After(wait) if polled.retry_after.is_some() || polled.slower > 0 => {
                // A callback does not bring the poll forward: the API has asked for the wait.
                task.not_before = at.uptime.saturating_add(wait);
                self.wait(task, wait, at)
            }
            Next::After(wait) => {
                task.not_before = at.uptime.saturating_add(poll_schedule::SPACING);
                let relies = task.relies_on_callback && at.callbacks_come && task.last_poll_fault.is_none();
                let wait = match schedule.after_answer_with_callback(polled, at.jitter) {
                    Next::After(rarely) if relies && self.is_in_time(rarely, at) => rarely,
                    _ => wait,
                };
                self.wait(task, wait, at)
            }
            end @ (Next::Over | Next::Gone) => self.no_more_polls(task, end, at),
        }
    }

    /// How long until the last poll that the deadline leaves time for.
    fn until_last_poll(&self, at: &DecisionInput<'_>) -> Duration {
        let before = BEFORE_DEADLINE + BEFORE_DEADLINE_SPREAD.mul_f64(at.jitter);
        self.job.deadline.map_or(Duration::MAX, |deadline| deadline.since(at.now).saturating_sub(before))
    }

    /// Whether the deadline comes after this wait.
    fn is_in_time(&self, wait: Duration, at: &DecisionInput<'_>) -> bool {
        self.job.deadline.is_none_or(|deadline| at.now.plus(wait) < deadline)
    }

    /// Waits for the next poll, which comes before the deadline where the type's interval allows
    /// that: a later one would only find that nobody waits for the answer.
    fn wait(&mut self, mut task: OpenTask, planned: Duration, at: &DecisionInput<'_>) -> Step {
        let rest = task.not_before.saturating_sub(at.uptime);
        let (mut at_most, last_poll) = (planned, self.until_last_poll(at));
        if last_poll < planned {
            let interval = at.rules.polling.of(self.job.kind()).interval();
            let is_first = task.polled_at.is_zero();
            let next_poll = if is_first { Duration::ZERO } else { task.polled_at.saturating_add(interval) };
            let apart = rest.max(next_poll.saturating_sub(task.age(at.uptime)));
            at_most = planned.min(last_poll.max(apart));
        }
        if at_most < planned {
            // What such polls find says more of deadlines than of solve times: tasks that are not
            // ready by then are never seen ready.
            (task.is_polled_as_planned, task.shows_solve_time) = (false, false);
        }
        let at_least = rest.min(at_most);
        let action = match task.callback {
            Some(_) => Action::AwaitCallback { at_least, at_most },
            None => Action::Wait(at_most),
        };
        self.state = JobState::Pending(task);
        action.into()
    }

    /// The polls are over without an answer: in time or number, or because the API has forgotten
    /// the task.
    fn no_more_polls(&mut self, mut task: OpenTask, why: Next, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) {
            let fault = self.late(Stage::Poll);
            return self.fail_paid(task, fault);
        }
        if why == Next::Gone {
            let text = "the API keeps a result for 5 minutes, and they are over";
            let fault = Fault::local(Class::Lost, local_code::RESULT_EXPIRED, Stage::Poll, text);
            return self.submit_again(task, fault, 1, at);
        }
        if let Some(fault) = task.last_poll_fault.take() {
            let class = if fault.class == Class::Unknown { Class::Unknown } else { Class::Transient };
            return self.fail_paid(task, Fault { class, ..*fault });
        }
        let text = format!("not solved within the time-out of type {}", self.job.kind());
        let fault = Fault::local(Class::Unsolved, local_code::SOLVE_TIMEOUT, Stage::Poll, text);
        self.submit_again(task, fault, at.rules.max_resubmissions, at)
    }

    /// Submits the job anew, as often as its class allows and while somebody waits for the answer.
    fn submit_again(&mut self, task: OpenTask, fault: Fault, allowed: u32, at: &DecisionInput<'_>) -> Step {
        let ended = Ended::Failed(fault.class);
        let used = self.history.count(ended);
        if used >= allowed || self.job.is_late(at.now) || self.history.attempts.len() + 1 >= MAX_ATTEMPTS {
            return self.fail_paid(task, fault);
        }
        let wasted = Effect::Wasted(fault.class);
        self.record(&task, ended);
        self.submit().with(Effect::DoublePayment(DoublePaymentRisk::Resubmission)).with(wasted)
    }

    fn fail_paid(&mut self, task: OpenTask, fault: Fault) -> Step {
        self.record(&task, Ended::Failed(fault.class));
        self.state = JobState::Pending(task);
        let wasted = Effect::Wasted(fault.class);
        Step::fail(fault).with(wasted)
    }

    fn record(&mut self, task: &OpenTask, ended: Ended) {
        let attempt = Attempt {
            submitted_at: task.accepted_at,
            task_id: Some(task.id.clone()),
            polls: task.polls,
            ended,
            cost: None,
            estimated: false,
        };
        self.history.attempts.push(attempt.costing(task.shown().cost));
    }
}

/// What a failed call shows about the account and the API.
fn shown_by(error: &CallError, fault: &Fault) -> Vec<Effect> {
    let mut effects: Vec<Effect> = fault.reason().map(Effect::TripAccount).into_iter().collect();
    let liveness = liveness_of(error, fault);
    let text = if liveness == ApiLiveness::Answers { String::new() } else { error.to_string() };
    effects.push(Effect::Api(liveness, text));
    if fault.class != Class::Account && doubts_account(error) {
        effects.push(Effect::DoubtAccount);
    }
    effects
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

/// The account has just been refused, or its state is unknown: without a pause, one job after
/// another would call the API as fast as it answers, and go to a retry queue.
fn until_next_canary(fault: &Fault) -> Duration {
    let least = if fault.class == Class::Capacity { retry_delay::SHORTEST.delay() } else { NEXT_CANARY };
    fault.retry_after.unwrap_or_default().max(least)
}

/// What a failed canary shows about the account; `None`: nothing, the next job must.
fn canary_end(canary: Canary, fault: &Fault) -> Option<CanaryEnd> {
    match fault.class {
        Class::Account => Some(CanaryEnd::Refused(fault.reason().unwrap_or(Reason::KeyInvalid))),
        Class::Transient | Class::Pending => Some(CanaryEnd::Down),
        // A code that is not known may well be about the account.
        Class::Throttled | Class::Unknown => None,
        // Refused for the job's own sake: the account was good enough to look at it. Whether there
        // is money for it is not known.
        Class::Capacity
        | Class::Lost
        | Class::Unsolved
        | Class::Invalid
        | Class::Forbidden
        | Class::Expired
        | Class::Proxy
        | Class::Malformed
        | Class::Poison => {
            let other = matches!(canary.reason, Some(Reason::NoFunds | Reason::WrongIds));
            (!other).then_some(CanaryEnd::Passed)
        }
    }
}
