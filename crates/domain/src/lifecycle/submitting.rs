//! The unpaid part of a job's life.

use std::time::Duration;

use super::super::call::{Accepted, CallError};
use super::super::class::Class;
use super::super::fault::{Charge, Fault, Stage, charge_of, classify};
use super::super::guard::Reason;
use super::super::history::{Attempt, Ended};
use super::super::retry_delay;
use super::super::time::Timestamp;
use super::{Action, Ambiguous, DecisionInput, DoublePaymentRisk, JobRun, OpenTask, Origin, Step};

/// What a retry takes beside its delay: the way through the broker, and the call. Charged with it, so that a
/// budget is kept by the clock as well.
const HOP: Duration = Duration::from_secs(1);

/// So many waits without a call are short ones.
const AT_FIRST: u32 = 12;

impl JobRun {
    pub(super) fn before_submission(&mut self, at: &DecisionInput<'_>) -> Step {
        if self.job.is_late(at.now) { self.too_late(Stage::Admission) } else { Action::Submit.into() }
    }

    pub(super) fn after_submission(
        &mut self,
        sent_at: Timestamp,
        end: Result<Accepted, CallError>,
        at: &DecisionInput<'_>,
    ) -> Step {
        match end {
            Ok(accepted) => {
                self.task = Some(OpenTask::new(accepted.task_id, sent_at, at.now, at.uptime));
                Action::KeepTicket.into()
            }
            Err(error) => {
                let fault = classify(&error, Stage::Submit, self.job.own_proxy, &at.rules.overrides);
                self.submission_refused(fault, charge_of(&error), at)
            }
        }
    }

    fn submission_refused(&mut self, fault: Fault, charge: Charge, at: &DecisionInput<'_>) -> Step {
        match fault.class {
            Class::Capacity | Class::Throttled => self.park_within(at.rules.capacity_timeout, fault, at),
            // "Not ready" is no answer to a submission; it is treated as the passing trouble that it must be.
            Class::Transient | Class::Pending => match charge {
                Charge::None => self.park_within(at.rules.transient_timeout, fault, at),
                Charge::Possible => self.submission_unanswered(fault, at),
            },
            // Nothing was paid, and the code may be about the API rather than the job: trying again costs nothing.
            Class::Unknown => {
                self.history.met_unknown(&fault.code);
                self.park_within(at.rules.unknown_timeout, fault, at)
            }
            Class::Account => self.account_refused(fault),
            Class::Lost
            | Class::Unsolved
            | Class::Invalid
            | Class::Forbidden
            | Class::Expired
            | Class::Proxy
            | Class::Malformed
            | Class::Poison => Step::fail(fault),
        }
    }

    /// The task may have been accepted, and paid: it is submitted again once at most.
    fn submission_unanswered(&mut self, fault: Fault, at: &DecisionInput<'_>) -> Step {
        let before = self.history.count(Ended::Ambiguous);
        self.history.attempts.push(Attempt {
            submitted_at: at.now,
            task_id: None,
            polls: 0,
            ended: Ended::Ambiguous,
        });
        match at.rules.ambiguous {
            Ambiguous::Retry if before == 0 => {
                let step = self.park_within(at.rules.transient_timeout, fault, at);
                if matches!(step.action, Action::RetryDelay(_)) {
                    step.with_window(DoublePaymentRisk::AmbiguousSubmission)
                } else {
                    step
                }
            }
            Ambiguous::Retry | Ambiguous::DeadLetter => Step::fail(fault),
        }
    }

    /// A wrong key takes the job that met it along, so that somebody sees it. For every other reason the job is not to blame, and goes back.
    fn account_refused(&mut self, fault: Fault) -> Step {
        match fault.reason() {
            Some(Reason::KeyInvalid) | None => Step::fail(fault),
            Some(_) => self.held_back(true),
        }
    }

    /// Back unpaid. A leaving worker returns a job as it came; what came as a ticket must not be polled again, so it is parked as a job.
    ///
    /// Where the account is refused every job takes the way of the retry queue: a plain return is charged by the broker's delivery counter,
    /// and a fleet whose replicas meet the refusal one after another would use the counter up.
    pub(super) fn held_back(&mut self, for_the_account: bool) -> Step {
        match self.origin {
            Origin::Job if !for_the_account => Action::Requeue.into(),
            // It has not failed, so that its backoff does not grow.
            Origin::Job | Origin::Ticket => Action::RetryDelay(retry_delay::SHORTEST).into(),
        }
    }

    fn park_at(&mut self, park: retry_delay::RetryDelay) -> Step {
        self.history.retries = self.history.retries.saturating_add(1);
        Action::RetryDelay(park).into()
    }

    /// Parks the job, unless that would outlast its budget or its deadline.
    pub(super) fn park_within(&mut self, budget: Duration, fault: Fault, at: &DecisionInput<'_>) -> Step {
        let class = match fault.class {
            Class::Throttled => Class::Capacity,
            Class::Pending => Class::Transient,
            class => class,
        };
        let left = budget.saturating_sub(self.history.spent(class));
        let left = self.job.deadline.map_or(left, |deadline| left.min(deadline.since(at.now)));
        match retry_delay::park(self.history.retries, fault.retry_after, left, at.jitter) {
            Some(park) => {
                self.history.charge(class, park.delay().saturating_add(HOP));
                self.park_at(park)
            }
            // An exhausted budget needs a class that a job can end in.
            None if fault.class.is_final() => Step::fail(fault),
            None => Step::fail(Fault { class: Class::Transient, ..fault }),
        }
    }

    /// Waits its turn without a call, as others have found that createTask fails for their type. The budget stands still, since it is not the
    /// job that failed. One that has met an unknown code itself may be what shuts its type: it cannot wait for ever for others to be accepted.
    pub(super) fn type_failing(&mut self, at: &DecisionInput<'_>) -> Step {
        // Most outages are short; and the longer queues would keep the job for minutes after the API is back.
        let withheld = self.history.withheld();
        let soon = withheld <= AT_FIRST || at.jitter < 0.25;
        let mut park = if soon { retry_delay::SHORTEST } else { retry_delay::RETRY_DELAYS[1] };
        if let Some(code) = self.history.unknown_code() {
            let left = at.rules.unknown_timeout.saturating_sub(self.history.spent(Class::Unknown));
            // A longer wait than is left of the budget must not end a job that a shorter one would not.
            if park.delay().saturating_add(HOP) > left {
                park = retry_delay::SHORTEST;
            }
            let cost = park.delay().saturating_add(HOP);
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
        Action::RetryDelay(park).into()
    }
}
