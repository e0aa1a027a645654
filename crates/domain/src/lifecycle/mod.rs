//! A job's life as a value: each event moves it on and says what is to be done next.
//!
//! ```text
//!              ┌────────── park ◀───────────┐
//!  taken ──▶ Held ──submit──▶ Submitting ───┤ unpaid refusal
//!              ▲                  │ accepted
//!              │ resubmit         ▼
//!              └──────────────── Paid ──▶ ticket ──▶ wait ⇄ poll ──▶ settle
//! ```
//!
//! The clock and the dice are arguments, and nothing here waits or calls: the worker carries out each [`Action`] and comes back with its end.

mod polling;
mod rules;
mod submitting;

#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::value::RawValue;

use super::call::{Accepted, CallError, TaskId, TaskState};
use super::class::Class;
use super::fault::{Fault, Stage, local_code};
use super::history::History;
use super::job::Job;
use super::message_hash::MessageHash;
use super::outcome::Task;
use super::retry_delay::RetryDelay;
use super::time::Timestamp;

pub use rules::{Ambiguous, DecisionInput, Rules};

/// How the job came to hand, and so what is to be settled in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// As a job: unpaid.
    Job,
    /// As a ticket: paid once at least.
    Ticket,
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
    /// How often the API has asked for fewer calls.
    slower: u32,
    /// The last poll's fault, where it brought no word about the task.
    unheard: Option<Box<Fault>>,
    /// Its age when this process took it, and the steady clock's reading then.
    taken: (Duration, Duration),
    /// For how long nobody could ask for it: the time-out of its type stands still meanwhile.
    withheld: Duration,
}

impl OpenTask {
    /// A task that is accepted or delivered at this moment, with no polls to be assumed.
    #[must_use]
    pub fn new(id: TaskId, accepted_at: Timestamp, now: Timestamp, uptime: Duration) -> Self {
        let taken = (now.since(accepted_at), uptime);
        Self { id, accepted_at, polls: 0, slower: 0, unheard: None, taken, withheld: Duration::ZERO }
    }

    /// Its age. The wall clock was read once, when this process took it: a step of that clock makes
    /// nothing older or younger.
    #[must_use]
    pub fn age(&self, uptime: Duration) -> Duration {
        let (age, taken_at) = self.taken;
        age.saturating_add(uptime.saturating_sub(taken_at))
    }

    /// What of its age counts against the time-out of its type.
    fn pursued(&self, uptime: Duration) -> Duration {
        self.age(uptime).saturating_sub(self.withheld)
    }

    /// As the outcome shows it.
    #[must_use]
    pub fn shown(&self) -> Task<'_> {
        Task { id: &self.id, accepted_at: self.accepted_at, polls: self.polls }
    }
}

/// A job at hand.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRun {
    /// The job.
    pub job: Job,
    /// What it has been through.
    pub history: History,
    /// How it came to hand.
    pub origin: Origin,
    /// The task that is paid and open, if any.
    pub task: Option<OpenTask>,
}

/// What has happened to a job at hand.
#[derive(Debug)]
pub enum Event {
    /// It came to hand as a job, past admission.
    Taken,
    /// It came to hand as a ticket.
    TicketTaken {
        /// Another owner may have polled it before.
        redelivered: bool,
    },
    /// createTask has ended.
    Submitted {
        /// When it was sent: the API counts a result's 5 minutes from there, and its answer can be long on its way.
        sent_at: Timestamp,
        /// How.
        end: Result<Accepted, CallError>,
    },
    /// A wait is over.
    Due,
    /// getTaskResult has ended.
    Answered {
        /// How.
        end: Result<TaskState, CallError>,
        /// How much later than due it was called: the guard, a limit or a lapsed lease withheld it.
        withheld: Duration,
    },
    /// It would have been submitted now, but nothing may be.
    SubmissionsShut {
        /// The guard is shut; else the worker is leaving.
        for_the_account: bool,
    },
    /// It would have been submitted now, but admission would no longer let it in.
    Refused(Fault),
    /// It would have been submitted now, but the API is known to have no slot for its type: it waits without a call.
    Deferred(Fault),
    /// It would have been submitted now, but createTask is known to fail for its type: it waits without a call.
    TypeFailing,
}

/// The last word on a job.
#[derive(Debug)]
pub enum Verdict {
    /// The API's solution, raw.
    Solved(Box<RawValue>),
    /// Why there is none.
    Failed(Fault),
}

/// What is to be done next.
#[derive(Debug)]
pub enum Action {
    /// Call createTask.
    Submit,
    /// Publish the ticket of the accepted task, then ack what came to hand. Somebody, perhaps this replica, takes the ticket from there.
    KeepTicket,
    /// Wait, then report [`Event::Due`].
    Wait(Duration),
    /// Call getTaskResult.
    Poll,
    /// Publish the outcome, then ack what came to hand.
    Settle(Verdict),
    /// Publish the job to a retry queue, then ack what came to hand.
    RetryDelay(RetryDelay),
    /// Return what came to hand to its queue, unchanged.
    Requeue,
}

/// Where a job may come to be paid for once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoublePaymentRisk {
    /// (a): createTask was sent and not answered readably, and is sent again.
    AmbiguousSubmission,
    /// (g): a resubmission that the rules allow, of an unsolved or lost task.
    Resubmission,
}

/// An action, with what must be known beside it.
#[derive(Debug)]
pub struct Step {
    /// What to do.
    pub action: Action,
    /// A possible second payment, to be counted.
    pub window: Option<DoublePaymentRisk>,
    /// A submission was paid in vain; how it ended.
    pub wasted: Option<Class>,
}

impl From<Action> for Step {
    fn from(action: Action) -> Self {
        Self { action, window: None, wasted: None }
    }
}

impl Step {
    fn fail(fault: Fault) -> Self {
        Action::Settle(Verdict::Failed(fault)).into()
    }

    fn with_window(self, window: DoublePaymentRisk) -> Self {
        Self { window: Some(window), ..self }
    }
}

impl JobRun {
    /// A job that passed admission.
    #[must_use]
    pub fn of_job(job: Job, history: History) -> Self {
        Self { job, history, origin: Origin::Job, task: None }
    }

    /// A ticket that came to hand.
    #[must_use]
    pub fn of_ticket(
        job: Job,
        history: History,
        task_id: TaskId,
        accepted_at: Timestamp,
        at: &DecisionInput<'_>,
    ) -> Self {
        let task = Some(OpenTask::new(task_id, accepted_at, at.now, at.uptime));
        Self { job, history, origin: Origin::Ticket, task }
    }

    /// By what its message is known when it is delivered again.
    #[must_use]
    pub fn identity(&self) -> MessageHash {
        MessageHash::of(&self.job)
    }

    /// Moves the job on.
    pub fn advance(&mut self, event: Event, at: &DecisionInput<'_>) -> Step {
        match (event, self.task.take()) {
            (Event::Taken, None) => self.before_submission(at),
            (Event::Submitted { sent_at, end }, None) => self.after_submission(sent_at, end, at),
            (Event::SubmissionsShut { for_the_account }, None) => self.held_back(for_the_account),
            (Event::Refused(fault), None) => Step::fail(fault),
            (Event::Deferred(fault), None) => self.park_within(at.rules.capacity_timeout, fault, at),
            (Event::TypeFailing, None) => self.type_failing(at),
            (Event::TicketTaken { redelivered }, Some(task)) => self.ticket_at_hand(task, redelivered, at),
            (Event::Due, Some(task)) => self.poll_due(task, at),
            (Event::Answered { end, withheld }, Some(mut task)) => {
                task.withheld = task.withheld.saturating_add(withheld);
                self.after_poll(task, end, at)
            }
            (event, task) => {
                self.task = task;
                Step::fail(Fault::local(
                    Class::Poison,
                    local_code::PANIC,
                    Stage::Admission,
                    format!("a bug: {} cannot happen to a job that is {}", event.name(), self.phase()),
                ))
            }
        }
    }

    fn phase(&self) -> &'static str {
        if self.task.is_some() { "paid" } else { "unpaid" }
    }

    /// The deadline is over: nobody waits for the answer, so nothing more is spent on it.
    fn too_late(&self, stage: Stage) -> Step {
        let deadline = self.job.deadline.map(|at| at.to_string()).unwrap_or_default();
        let wasted = self.task.as_ref().map(|_| Class::Expired);
        let step = Step::fail(Fault::local(
            Class::Expired,
            local_code::DEADLINE_PASSED,
            stage,
            format!("the deadline {deadline} has passed"),
        ));
        Step { wasted, ..step }
    }
}

impl Event {
    fn name(&self) -> &'static str {
        match self {
            Event::Taken => "being taken as a job",
            Event::TicketTaken { .. } => "being taken as a ticket",
            Event::Submitted { .. } => "the end of createTask",
            Event::Due => "the end of a wait",
            Event::Answered { .. } => "the end of getTaskResult",
            Event::SubmissionsShut { .. } => "being held back from submission",
            Event::Refused(_) => "being refused",
            Event::Deferred(_) => "being withheld",
            Event::TypeFailing => "being withheld since its type fails",
        }
    }
}
