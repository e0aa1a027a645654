use std::collections::BTreeMap;

use super::super::call::{NoAnswer, Refusal};
use super::super::code::Overrides;
use super::super::envelope::Message;
use super::super::history::Ended;
use super::super::pacing::{HANDOVER_WAIT, Pacing, PacingTable};
use super::super::policy::Policy;
use super::*;

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn rules() -> Rules {
    Rules {
        pacing: PacingTable {
            default: Pacing::try_new(secs(1), secs(2), secs(60)).unwrap(),
            by_type: BTreeMap::new(),
        },
        overrides: Overrides::default(),
        capacity_timeout: secs(600),
        transient_timeout: secs(300),
        max_resubmissions: 1,
        ambiguous: Ambiguous::Retry,
    }
}

/// A job, the rules and the seconds since the start.
struct Scene {
    case: Case,
    rules: Rules,
    now: Timestamp,
}

impl Scene {
    fn new(job: &str) -> Self {
        let policy = Policy::try_new(&[], &["T"]).unwrap();
        let mut message = Message { body: job.as_bytes().to_vec(), ..Message::default() };
        let job = Job::read(&mut message, &policy, || "id".to_owned()).unwrap();
        Self { case: Case::of_job(job, History::begin(START)), rules: rules(), now: START }
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

    fn on(&mut self, event: Event) -> Step {
        let moment = Moment { rules: &self.rules, now: self.now, luck: 0.0 };
        self.case.advance(event, &moment)
    }

    fn after(&mut self, span: Duration, event: Event) -> Step {
        self.now = self.now.plus(span);
        self.on(event)
    }

    /// Refuses the submission, and tells the class it ends in, where it ends.
    fn submit_refused(&mut self, code: &str) -> Step {
        self.on(Event::Taken);
        self.on(Event::Submitted(Err(refusal(code))))
    }

    fn poll_refused(&mut self, code: &str) -> Step {
        self.on(Event::Due);
        self.on(Event::Answered(Err(refusal(code))))
    }
}

fn task_id() -> TaskId {
    TaskId::from_raw(serde_json::from_str("42").unwrap()).unwrap()
}

fn accepted() -> Event {
    Event::Submitted(Ok(Accepted { task_id: task_id() }))
}

fn refusal(code: &str) -> CallError {
    CallError::Refused(Refusal {
        code: Some(code.to_owned()),
        description: None,
        status: 200,
        retry_after: None,
    })
}

fn cut() -> CallError {
    CallError::NoAnswer { kind: NoAnswer::Cut, status: None, detail: "cut".to_owned() }
}

fn ends_in(step: &Step) -> String {
    match &step.action {
        Action::Settle(Verdict::Failed(fault)) => format!("{}/{}", fault.class, fault.code),
        other => format!("{other:?}"),
    }
}

#[test]
fn a_job_is_submitted_kept_as_a_ticket_polled_and_settled() {
    let mut scene = Scene::plain();
    assert!(matches!(scene.on(Event::Taken).action, Action::Submit));
    assert!(matches!(scene.on(accepted()).action, Action::KeepTicket));
    scene.case.origin = Origin::Ticket;
    assert!(
        matches!(scene.on(Event::TicketTaken { redelivered: false }).action, Action::Wait(w) if w == secs(1))
    );
    assert!(matches!(scene.after(secs(1), Event::Due).action, Action::Poll));
    let not_yet = scene.on(Event::Answered(Ok(TaskState::Processing)));
    assert!(matches!(not_yet.action, Action::Wait(w) if w == secs(2)));
    scene.after(secs(2), Event::Due);
    let solution = serde_json::from_str::<Box<RawValue>>(r#"{"text":"x"}"#).unwrap();
    let ready = scene.on(Event::Answered(Ok(TaskState::Ready(solution))));
    assert!(matches!(ready.action, Action::Settle(Verdict::Solved(s)) if s.get() == r#"{"text":"x"}"#));
    assert_eq!(scene.case.task.map(|task| task.polls), Some(2));
}

#[test]
fn a_job_past_its_deadline_is_never_submitted_nor_polled() {
    let late = r#"{"task":{"type":"T"},"deadline":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(ends_in(&Scene::new(late).on(Event::Taken)), "expired/DEADLINE_PASSED");
    let mut scene = Scene::with_ticket();
    scene.case.job.deadline = Some(START.plus(secs(3)));
    assert_eq!(ends_in(&scene.after(secs(3), Event::Due)), "expired/DEADLINE_PASSED");
}

#[test]
fn no_free_slot_parks_the_job_until_its_budget_is_used_up() {
    let mut scene = Scene::plain();
    let mut waited = Duration::ZERO;
    loop {
        let step = scene.submit_refused("ERROR_NO_SLOT_AVAILABLE");
        let Action::Park(park) = step.action else {
            assert_eq!(ends_in(&step), "capacity/ERROR_NO_SLOT_AVAILABLE");
            break;
        };
        assert!(park.delay() >= secs(5), "the API wants 5 s at least");
        waited += park.delay();
        scene.now = scene.now.plus(park.delay());
    }
    assert!(waited > secs(594) && waited <= secs(600), "{waited:?}");
    assert_eq!(scene.case.history.attempts, [], "nothing was paid");
}

#[test]
fn a_deadline_cuts_the_budget_short() {
    let mut scene = Scene::plain();
    scene.case.job.deadline = Some(START.plus(secs(4)));
    assert_eq!(ends_in(&scene.submit_refused("ERROR_NO_SLOT_AVAILABLE")), "capacity/ERROR_NO_SLOT_AVAILABLE");
}

#[test]
fn a_job_that_cannot_be_submitted_for_lack_of_an_api_ends_as_transient() {
    let mut scene = Scene::plain();
    let never_sent = || Event::Submitted(Err(CallError::NeverSent("refused".to_owned())));
    scene.on(Event::Taken);
    for _ in 0..3 {
        let step = scene.on(never_sent());
        assert!(matches!(step.action, Action::Park(_)) && step.window.is_none());
    }
    assert_eq!(ends_in(&scene.after(secs(300), never_sent())), "transient/CONNECT_FAILED");
}

#[test]
fn throttled_past_the_budget_ends_in_a_class_that_has_a_queue() {
    let mut scene = Scene::plain();
    scene.now = START.plus(secs(600));
    assert_eq!(
        ends_in(&scene.submit_refused("ERROR_TOO_MUCH_REQUESTS")),
        "transient/ERROR_TOO_MUCH_REQUESTS"
    );
}

#[test]
fn a_submission_without_an_answer_is_repeated_once_and_counted() {
    let mut scene = Scene::plain();
    scene.on(Event::Taken);
    let first = scene.on(Event::Submitted(Err(cut())));
    assert!(matches!(first.action, Action::Park(_)));
    assert_eq!(first.window, Some(Window::AmbiguousSubmission));
    let second = scene.on(Event::Submitted(Err(cut())));
    assert_eq!((ends_in(&second).as_str(), second.window), ("transient/CONNECTION_CUT", None));
    assert_eq!(scene.case.history.count(Ended::Ambiguous), 2);
}

#[test]
fn a_submission_without_an_answer_can_be_left_alone() {
    let mut scene = Scene::plain();
    scene.rules.ambiguous = Ambiguous::DeadLetter;
    scene.on(Event::Taken);
    let step = scene.on(Event::Submitted(Err(cut())));
    assert_eq!((ends_in(&step).as_str(), step.window), ("transient/CONNECTION_CUT", None));
}

#[test]
fn a_wrong_key_takes_its_job_along_and_other_account_faults_give_it_back() {
    let wrong_key = Scene::plain().submit_refused("ERROR_KEY_DOES_NOT_EXIST");
    assert_eq!(
        (ends_in(&wrong_key).as_str(), wrong_key.trip),
        ("account/ERROR_KEY_DOES_NOT_EXIST", Some(Reason::KeyInvalid))
    );
    for (code, reason) in [
        ("ERROR_ZERO_BALANCE", Reason::NoFunds),
        ("ERROR_IP_NOT_ALLOWED", Reason::IpNotAllowed),
        ("ERROR_IP_BANNED", Reason::IpBanned),
        ("ERROR_IP_BLOCKED", Reason::IpBanned),
    ] {
        let step = Scene::plain().submit_refused(code);
        assert!(matches!(step.action, Action::HandBack), "{code}");
        assert_eq!(step.trip, Some(reason));
    }
}

#[test]
fn a_paid_ticket_outlives_account_faults() {
    let wrong_key = Scene::with_ticket().poll_refused("ERROR_KEY_DOES_NOT_EXIST");
    assert!(matches!(wrong_key.action, Action::HandBack));
    assert_eq!(wrong_key.trip, Some(Reason::KeyInvalid));
    let no_funds = Scene::with_ticket().poll_refused("ERROR_ZERO_BALANCE");
    assert!(matches!(no_funds.action, Action::Wait(_)));
    assert_eq!(no_funds.trip, Some(Reason::NoFunds));
}

#[test]
fn final_refusals_end_a_job_at_once_wherever_they_come() {
    for (code, class) in [
        ("ERROR_TASK_ABSENT", "invalid"),
        ("ERROR_DOMAIN_NOT_ALLOWED", "forbidden"),
        ("ERROR_TOKEN_EXPIRED", "expired"),
        ("ERROR_PROXY_BANNED", "proxy"),
        ("ERROR_OF_NEXT_YEAR", "unknown"),
    ] {
        for step in [Scene::plain().submit_refused(code), Scene::with_ticket().poll_refused(code)] {
            assert_eq!((ends_in(&step), step.window), (format!("{class}/{code}"), None));
        }
    }
}

#[test]
fn an_unsolved_task_is_resubmitted_as_often_as_allowed() {
    let mut scene = Scene::with_ticket();
    let again = scene.poll_refused("ERROR_CAPTCHA_UNSOLVABLE");
    assert!(matches!(again.action, Action::Submit));
    assert_eq!(again.window, Some(Window::Resubmission));
    assert!(matches!(scene.on(accepted()).action, Action::KeepTicket));
    let step = scene.poll_refused("ERROR_CAPTCHA_UNSOLVABLE");
    assert_eq!(ends_in(&step), "unsolved/ERROR_CAPTCHA_UNSOLVABLE");
    assert_eq!(scene.case.history.count(Ended::Failed(Class::Unsolved)), 2);

    let mut never = Scene::with_ticket();
    never.rules.max_resubmissions = 0;
    assert_eq!(ends_in(&never.poll_refused("ERROR_CAPTCHA_UNSOLVABLE")), "unsolved/ERROR_CAPTCHA_UNSOLVABLE");
}

#[test]
fn a_lost_task_is_resubmitted_once_unless_nobody_waits_any_more() {
    let mut scene = Scene::with_ticket();
    assert!(matches!(scene.poll_refused("ERROR_NO_SUCH_CAPCHA_ID").action, Action::Submit));
    scene.on(accepted());
    assert_eq!(ends_in(&scene.poll_refused("WRONG_CAPTCHA_ID")), "lost/WRONG_CAPTCHA_ID");

    let mut late = Scene::with_ticket();
    late.case.job.deadline = Some(START.plus(secs(1)));
    late.on(Event::Due);
    let step = late.after(secs(1), Event::Answered(Err(refusal("WRONG_CAPTCHA_ID"))));
    assert_eq!(ends_in(&step), "lost/WRONG_CAPTCHA_ID");
}

#[test]
fn a_task_that_is_not_solved_in_time_is_unsolved_and_one_never_heard_of_is_transient() {
    let mut scene = Scene::with_ticket();
    scene.rules.max_resubmissions = 0;
    scene.on(Event::Due);
    let step = scene.after(secs(60), Event::Answered(Ok(TaskState::Processing)));
    assert_eq!(ends_in(&step), "unsolved/SOLVE_TIMEOUT");

    let mut silent = Scene::with_ticket();
    silent.on(Event::Due);
    let step = silent.after(secs(60), Event::Answered(Err(cut())));
    assert_eq!(ends_in(&step), "transient/CONNECTION_CUT");
}

#[test]
fn a_failing_poll_is_repeated_and_costs_nothing() {
    let mut scene = Scene::with_ticket();
    scene.on(Event::Due);
    let step = scene.on(Event::Answered(Err(cut())));
    assert!(matches!(step.action, Action::Wait(w) if w >= secs(2)) && step.window.is_none());
    let slower = scene.poll_refused("ERROR_TOO_MUCH_REQUESTS");
    assert!(matches!(slower.action, Action::Wait(w) if w >= secs(4)));
}

#[test]
fn a_redelivered_ticket_waits_for_the_lease_and_assumes_the_polls_of_its_age() {
    let mut scene = Scene::with_ticket();
    let step = scene.after(secs(25), Event::TicketTaken { redelivered: true });
    assert!(matches!(step.action, Action::Wait(w) if w == HANDOVER_WAIT));
    assert_eq!(scene.case.task.map(|task| task.polls), Some(10));
}

#[test]
fn a_ticket_past_its_age_is_submitted_again_without_a_poll_of_the_dead_id() {
    let mut scene = Scene::with_ticket();
    scene.rules.pacing.default = Pacing::try_new(secs(1), secs(2), secs(280)).unwrap();
    let step = scene.after(secs(280), Event::TicketTaken { redelivered: true });
    assert!(matches!(step.action, Action::Submit));
    assert_eq!(step.window, Some(Window::Resubmission));
    assert_eq!(scene.case.history.count(Ended::Failed(Class::Lost)), 1);
    scene.on(accepted());
    assert_eq!(ends_in(&scene.after(secs(281), Event::Due)), "lost/RESULT_EXPIRED");
}

#[test]
fn what_may_not_be_submitted_now_goes_back_unless_its_ticket_is_used_up() {
    let mut job = Scene::plain();
    job.on(Event::Taken);
    assert!(matches!(job.on(Event::SubmissionsShut).action, Action::HandBack));
    let mut ticket = Scene::with_ticket();
    ticket.poll_refused("ERROR_CAPTCHA_UNSOLVABLE");
    assert!(matches!(ticket.on(Event::SubmissionsShut).action, Action::Park(_)));
    assert_eq!(
        ticket.case.history.count(Ended::Failed(Class::Unsolved)),
        1,
        "the paid attempt is remembered"
    );
}

#[test]
fn an_event_that_cannot_happen_poisons_the_job_and_nothing_else() {
    assert_eq!(ends_in(&Scene::plain().on(Event::Due)), "poison/PANIC");
    assert_eq!(ends_in(&Scene::with_ticket().on(accepted())), "poison/PANIC");
}
