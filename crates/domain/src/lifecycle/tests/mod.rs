mod paid;
mod table;
mod unpaid;

use std::collections::BTreeMap;

use super::*;
use crate::api_code::Overrides;
use crate::call::{NoAnswer, Refusal, ReplyBody};
use crate::history::Ended;
use crate::message::Message;
use crate::policy::Policy;
use crate::poll_schedule::{PollMode, PollSchedule, PollSchedules, REDELIVERY_WAIT};
use crate::ticket::{self, Kept};

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rules() -> JobRules {
    JobRules {
        polling: PollSchedules {
            mode: PollMode::Fixed,
            default: PollSchedule::try_new(secs(1), secs(2), secs(60)).unwrap(),
            by_type: BTreeMap::new(),
        },
        overrides: Overrides::default(),
        capacity_timeout: secs(600),
        transient_timeout: secs(300),
        unknown_timeout: secs(120),
        max_resubmissions: 1,
        ambiguous: Ambiguous::Retry,
        prices: Prices::default(),
    }
}

/// A job, the rules and the seconds since the start.
#[derive(Clone)]
struct Scene {
    case: JobRun,
    rules: JobRules,
    now: Timestamp,
    /// A step of the wall clock since the start.
    clock_is_ahead: Duration,
}

impl Scene {
    fn new(job: &str) -> Self {
        let policy = Policy::try_new(&[], &["T"]).unwrap();
        let mut message = Message { body: job.to_owned().into(), ..Message::default() };
        let job = Job::read(&mut message, &policy, || "id".to_owned()).unwrap();
        Self {
            case: JobRun::of_job(job, History::begin(START)),
            rules: rules(),
            now: START,
            clock_is_ahead: Duration::ZERO,
        }
    }

    fn plain() -> Self {
        Self::new(r#"{"task":{"type":"T"}}"#)
    }

    fn with_ticket() -> Self {
        let mut scene = Self::plain();
        scene.on(Event::Taken);
        scene.on(accepted());
        scene.case.origin = Origin::Ticket;
        scene
    }

    fn input(&self) -> DecisionInput<'_> {
        DecisionInput {
            rules: &self.rules,
            learned: None,
            callbacks_come: true,
            now: self.now.plus(self.clock_is_ahead),
            uptime: self.now.since(START),
            jitter: 0.0,
        }
    }

    fn on(&mut self, event: Event) -> Step {
        let submits = !matches!(
            event,
            Event::Taken
                | Event::OverPublisherLimit { .. }
                | Event::TicketTaken { .. }
                | Event::Due
                | Event::CallbackCame { .. }
                | Event::Answered { .. }
        );
        let mut case = self.case.clone();
        if submits && *case.state() == JobState::Received {
            case.advance(Event::Taken, &self.input());
        }
        let step = case.advance(event, &self.input());
        self.case = case;
        step
    }

    fn after(&mut self, span: Duration, event: Event) -> Step {
        self.now = self.now.plus(span);
        self.on(event)
    }

    /// Refuses the submission, and returns the class it ends in, where it ends.
    fn submit_refused(&mut self, code: &str) -> Step {
        self.on(Event::Taken);
        self.on(submitted(Err(refusal(code))))
    }

    fn poll_refused(&mut self, code: &str) -> Step {
        self.on(Event::Due);
        self.on(answered(Err(refusal(code))))
    }
}

fn task_id() -> TaskId {
    TaskId::from_raw(serde_json::from_str("42").unwrap()).unwrap()
}

fn answered(end: Result<TaskState, CallError>) -> Event {
    Event::Answered { end, late_by: Duration::ZERO, took: Duration::ZERO }
}

fn submitted(end: Result<Accepted, CallError>) -> Event {
    Event::Submitted { sent_at: START, end, callback: None, canary: None, acceptance: None }
}

/// The same of a submission that asked for a callback.
fn with_callback(end: Result<Accepted, CallError>) -> Event {
    Event::Submitted {
        sent_at: START,
        end,
        callback: Some(CallbackToken::new(7)),
        canary: None,
        acceptance: None,
    }
}

fn accepted() -> Event {
    submitted(Ok(Accepted { task_id: task_id() }))
}

fn refusal(code: &str) -> CallError {
    CallError::Refused(Refusal {
        code: Some(code.to_owned()),
        description: None,
        status: 200,
        retry_after: None,
        body: ReplyBody::Api,
    })
}

fn cut() -> CallError {
    CallError::NoAnswer { kind: NoAnswer::Cut, status: None, detail: "cut".to_owned() }
}

fn ends_in(step: &Step) -> String {
    match &step.action {
        Action::Finish(Disposition::Outcome(Verdict::Failed(fault))) => {
            format!("{}/{}", fault.class, fault.code)
        }
        other => format!("{other:?}"),
    }
}

fn risk(step: &Step) -> Option<DoublePaymentRisk> {
    step.effects.iter().find_map(|effect| match effect {
        Effect::DoublePayment(risk) => Some(*risk),
        _ => None,
    })
}
