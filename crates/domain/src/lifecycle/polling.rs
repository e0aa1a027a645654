//! The paid part of a job's life.

use std::time::Duration;

use super::super::call::{CallError, TaskState};
use super::super::class::Class;
use super::super::fault::{Fault, Stage, classify, local_code};
use super::super::history::{Attempt, Ended, MAX_ATTEMPTS};
use super::super::poll_schedule::{self, Next};
use super::{Action, DecisionInput, DoublePaymentRisk, JobRun, OpenTask, Step, Verdict};

impl JobRun {
    pub(super) fn ticket_at_hand(
        &mut self,
        mut task: OpenTask,
        redelivered: bool,
        at: &DecisionInput<'_>,
    ) -> Step {
        let age = task.age(at.uptime);
        let mut wait_at_least = Duration::ZERO;
        if redelivered {
            task.polls = poll_schedule::assumed_polls(age);
            // An earlier owner may go on until its lease ends, and the API wants its polls apart from ours.
            wait_at_least = poll_schedule::HANDOVER_WAIT;
        }
        let pace = at.rules.pacing.of(self.job.kind());
        // How much of its past it could be asked for in is not known here, and until its first poll nobody may ask for it. The API's own
        // limits hold either way, and a paid answer is worth the type's time-out once more.
        task.withheld = (age + wait_at_least).saturating_sub(pace.first_delay());
        let next = pace.first(age, task.polls);
        match next {
            Next::After(wait) => self.wait(task, wait.max(wait_at_least)),
            Next::Over | Next::Gone => self.no_more_polls(task, next, at),
        }
    }

    pub(super) fn poll_due(&mut self, task: OpenTask, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) {
            self.task = Some(task);
            return self.too_late(Stage::Poll);
        }
        if task.age(at.uptime) >= poll_schedule::MAX_AGE {
            return self.no_more_polls(task, Next::Gone, at);
        }
        self.task = Some(OpenTask { polls: task.polls.saturating_add(1), ..task });
        Action::Poll.into()
    }

    pub(super) fn after_poll(
        &mut self,
        mut task: OpenTask,
        end: Result<TaskState, CallError>,
        at: &DecisionInput<'_>,
    ) -> Step {
        match end {
            Ok(TaskState::Ready { solution, .. }) => {
                self.task = Some(task);
                Action::Settle(Verdict::Solved(solution)).into()
            }
            Ok(TaskState::Processing) => {
                task.unheard = None;
                self.ask_again(task, None, at)
            }
            Err(error) => {
                let fault = classify(&error, Stage::Poll, self.job.own_proxy, &at.rules.overrides);
                self.poll_refused(task, fault, at)
            }
        }
    }

    fn poll_refused(&mut self, mut task: OpenTask, fault: Fault, at: &DecisionInput<'_>) -> Step {
        match fault.class {
            Class::Pending => {
                task.unheard = None;
                self.ask_again(task, fault.retry_after, at)
            }
            Class::Throttled => {
                task.slower += 1;
                self.ask_again(task, fault.retry_after, at)
            }
            Class::Capacity | Class::Transient => {
                let pause = fault.retry_after;
                task.unheard = Some(Box::new(fault));
                self.ask_again(task, pause, at)
            }
            // The task is paid, and the code may be about the API rather than the task: it is asked for on, ever more seldom.
            Class::Unknown => {
                task.slower += 1;
                let pause = fault.retry_after;
                task.unheard = Some(Box::new(fault));
                self.ask_again(task, pause, at)
            }
            Class::Lost => self.submit_again(task, fault, 1, at),
            Class::Unsolved => self.submit_again(task, fault, at.rules.max_resubmissions, at),
            Class::Account => self.poll_refused_for_the_account(task, &fault, at),
            Class::Invalid
            | Class::Forbidden
            | Class::Expired
            | Class::Proxy
            | Class::Malformed
            | Class::Poison => self.fail_paid(task, fault),
        }
    }

    /// The task is paid and may still be answered, so its ticket is kept, and asked for again once the guard allows it.
    fn poll_refused_for_the_account(
        &mut self,
        task: OpenTask,
        fault: &Fault,
        at: &DecisionInput<'_>,
    ) -> Step {
        let pace = at.rules.pacing.of(self.job.kind());
        // That poll told nothing about the task, so the type's time-out does not end it: it is asked for once more, if it is kept so long.
        let next = pace.after_answer(
            task.age(at.uptime),
            Duration::ZERO,
            task.polls,
            task.slower,
            fault.retry_after,
            at.jitter,
        );
        match next {
            Next::After(wait) => self.wait(task, wait),
            Next::Over | Next::Gone => self.no_more_polls(task, next, at),
        }
    }

    fn ask_again(&mut self, task: OpenTask, pause: Option<Duration>, at: &DecisionInput<'_>) -> Step {
        let pace = at.rules.pacing.of(self.job.kind());
        let (age, pursued) = (task.age(at.uptime), task.pursued(at.uptime));
        match pace.after_answer(age, pursued, task.polls, task.slower, pause, at.jitter) {
            Next::After(wait) => self.wait(task, wait),
            end @ (Next::Over | Next::Gone) => self.no_more_polls(task, end, at),
        }
    }

    fn wait(&mut self, task: OpenTask, wait: Duration) -> Step {
        self.task = Some(task);
        Action::Wait(wait).into()
    }

    /// The polls are over without an answer: in time or number, or because the API has forgotten the task.
    fn no_more_polls(&mut self, mut task: OpenTask, why: Next, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) {
            self.task = Some(task);
            return self.too_late(Stage::Poll);
        }
        if why == Next::Gone {
            let text = "the API keeps a result for 5 minutes, and they are over";
            let fault = Fault::local(Class::Lost, local_code::RESULT_EXPIRED, Stage::Poll, text);
            return self.submit_again(task, fault, 1, at);
        }
        if let Some(fault) = task.unheard.take() {
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
        let wasted = fault.class;
        self.record(&task, ended);
        Step {
            wasted: Some(wasted),
            ..Step::from(Action::Submit).with_window(DoublePaymentRisk::Resubmission)
        }
    }

    fn fail_paid(&mut self, task: OpenTask, fault: Fault) -> Step {
        self.record(&task, Ended::Failed(fault.class));
        self.task = Some(task);
        Step { wasted: Some(fault.class), ..Step::fail(fault) }
    }

    fn record(&mut self, task: &OpenTask, ended: Ended) {
        self.history.attempts.push(Attempt {
            submitted_at: task.accepted_at,
            task_id: Some(task.id.clone()),
            polls: task.polls,
            ended,
        });
    }
}
