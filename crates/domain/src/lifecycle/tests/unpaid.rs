use super::*;

#[test]
fn no_free_slot_has_the_job_retried_until_its_budget_is_used_up() {
    let mut scene = Scene::plain();
    let mut waited = Duration::ZERO;
    loop {
        let step = scene.submit_refused("ERROR_NO_SLOT_AVAILABLE");
        let Action::Finish(Disposition::Retry(delay)) = step.action else {
            assert_eq!(ends_in(&step), "capacity/ERROR_NO_SLOT_AVAILABLE");
            break;
        };
        assert!(delay.delay() >= secs(5), "the API wants 5 s at least");
        waited += delay.delay() + secs(1);
        scene.now = scene.now.plus(delay.delay());
    }
    assert!(waited > secs(594) && waited <= secs(601), "{waited:?}");
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
    let never_sent = || submitted(Err(CallError::NeverSent("refused".to_owned())));
    scene.on(Event::Taken);
    for _ in 0..3 {
        let step = scene.on(never_sent());
        assert!(matches!(step.action, Action::Finish(Disposition::Retry(_))) && risk(&step).is_none());
    }
    scene.now = scene.now.plus(secs(3_600));
    assert!(
        matches!(scene.on(never_sent()).action, Action::Finish(Disposition::Retry(_))),
        "an hour in a backlog is not its fault"
    );
    let end = (0..100)
        .map(|_| scene.on(never_sent()))
        .find(|step| !matches!(step.action, Action::Finish(Disposition::Retry(_))));
    assert_eq!(end.map(|step| ends_in(&step)).as_deref(), Some("transient/CONNECT_FAILED"));
}

#[test]
fn throttled_past_the_budget_ends_in_a_class_that_has_a_queue() {
    let mut scene = Scene::plain();
    scene.case.history.charge(Class::Capacity, secs(600));
    assert_eq!(
        ends_in(&scene.submit_refused("ERROR_TOO_MUCH_REQUESTS")),
        "transient/ERROR_TOO_MUCH_REQUESTS"
    );
}

#[test]
fn a_submission_without_an_answer_is_repeated_once_and_counted() {
    let mut scene = Scene::plain();
    scene.on(Event::Taken);
    let first = scene.on(submitted(Err(cut())));
    assert!(matches!(first.action, Action::Finish(Disposition::Retry(_))));
    assert_eq!(risk(&first), Some(DoublePaymentRisk::AmbiguousSubmission));
    let second = scene.on(submitted(Err(cut())));
    assert_eq!((ends_in(&second).as_str(), risk(&second)), ("transient/CONNECTION_CUT", None));
    assert_eq!(scene.case.history.count(Ended::Ambiguous), 2);
}

/// A scene in which the settings give `HTTP_502` this class, and such an answer of a gateway to
/// createTask.
fn bad_gateway_is(class: Class) -> (Scene, impl Fn() -> Event) {
    let mut scene = Scene::plain();
    scene.rules.overrides = Overrides::new([("HTTP_502".to_owned(), class)].into());
    let bad_gateway = || {
        submitted(Err(CallError::Refused(Refusal {
            code: None,
            description: None,
            status: 502,
            retry_after: None,
            body: ReplyBody::Foreign,
        })))
    };
    (scene, bad_gateway)
}

#[test]
fn a_class_that_the_settings_give_a_gateways_error_does_not_have_it_repeated_more_often() {
    for class in [Class::Capacity, Class::Throttled, Class::Pending, Class::Transient] {
        let (mut scene, bad_gateway) = bad_gateway_is(class);
        let first = scene.on(bad_gateway());
        assert_eq!(risk(&first), Some(DoublePaymentRisk::AmbiguousSubmission), "{class:?}");
        let second = scene.on(bad_gateway());
        assert_eq!(ends_in(&second), "transient/HTTP_502", "{class:?}");
        let (mut scene, bad_gateway) = bad_gateway_is(class);
        scene.rules.ambiguous = Ambiguous::DeadLetter;
        let only = scene.on(bad_gateway());
        assert_eq!(ends_in(&only), "transient/HTTP_502", "{class:?}");
    }
}

#[test]
fn a_submission_that_may_be_paid_is_in_the_books_and_the_outcome_whatever_its_class() {
    for class in [Class::Invalid, Class::Forbidden, Class::Unknown, Class::Account, Class::Transient] {
        let (mut scene, bad_gateway) = bad_gateway_is(class);
        scene.on(Event::Taken);
        let step = scene.on(bad_gateway());
        let booked = step.effects.iter().filter(|effect| matches!(effect, Effect::Unanswered)).count();
        assert_eq!((booked, scene.case.history.count(Ended::Ambiguous)), (1, 1), "{class:?}");
        if !matches!(class, Class::Unknown | Class::Transient) {
            assert_eq!(ends_in(&step), format!("{}/HTTP_502", class.name()));
        }
    }
}

#[test]
fn a_submission_without_an_answer_can_be_left_alone() {
    let mut scene = Scene::plain();
    scene.rules.ambiguous = Ambiguous::DeadLetter;
    scene.on(Event::Taken);
    let step = scene.on(submitted(Err(cut())));
    assert_eq!((ends_in(&step).as_str(), risk(&step)), ("transient/CONNECTION_CUT", None));
}

#[test]
fn a_wrong_key_takes_its_job_along_and_other_account_faults_give_it_back() {
    let wrong_key = Scene::plain().submit_refused("ERROR_KEY_DOES_NOT_EXIST");
    assert_eq!(ends_in(&wrong_key), "account/ERROR_KEY_DOES_NOT_EXIST");
    for code in ["ERROR_ZERO_BALANCE", "ERROR_IP_NOT_ALLOWED", "ERROR_IP_BANNED", "ERROR_IP_BLOCKED"] {
        let step = Scene::plain().submit_refused(code);
        assert!(matches!(step.action, Action::Finish(Disposition::Retry(_))), "{code}");
    }
}

#[test]
fn what_may_not_be_submitted_now_goes_back_without_being_charged_or_polled_again() {
    let leaving = || Event::SubmissionBlocked { by_guard: false };
    let mut job = Scene::plain();
    job.on(Event::Taken);
    assert!(matches!(job.on(leaving()).action, Action::Finish(Disposition::Requeue)));
    let for_the_account = job.on(Event::SubmissionBlocked { by_guard: true });
    assert!(
        matches!(for_the_account.action, Action::Finish(Disposition::Retry(_))),
        "a return would be charged by the delivery counter"
    );
    let mut ticket = Scene::with_ticket();
    ticket.poll_refused("ERROR_CAPTCHA_UNSOLVABLE");
    assert!(
        matches!(ticket.on(leaving()).action, Action::Finish(Disposition::Retry(_))),
        "its id is used up"
    );
    assert_eq!(
        ticket.case.history.count(Ended::Failed(Class::Unsolved)),
        1,
        "the paid attempt is remembered"
    );
}

#[test]
fn an_unknown_code_costs_nothing_to_try_again_and_ends_the_job_after_its_budget() {
    let mut scene = Scene::plain();
    let end = loop {
        let step = scene.submit_refused("ERROR_OF_NEXT_YEAR");
        let Action::Finish(Disposition::Retry(delay)) = step.action else { break step };
        scene.now = scene.now.plus(delay.delay());
    };
    assert_eq!(ends_in(&end), "unknown/ERROR_OF_NEXT_YEAR");
    let took = scene.now.since(START);
    assert!(took > secs(90) && took <= secs(120), "{took:?}");
    assert_eq!(scene.case.history.attempts, [], "nothing was paid");
}

#[test]
fn what_waits_without_a_call_since_its_type_fails_spends_nothing() {
    let mut scene = Scene::plain();
    for _ in 0..50 {
        scene.on(Event::Taken);
        let Action::Finish(Disposition::Retry(delay)) = scene.on(Event::TypeFailing).action else {
            panic!("must wait")
        };
        assert!(delay.delay() <= secs(30), "soon back once the API is");
    }
    let spent = Class::ALL.map(|class| scene.case.history.spent(class));
    assert_eq!((spent, scene.case.history.retries), ([Duration::ZERO; 14], 0));
}

#[test]
fn what_waits_for_its_publishers_limit_spends_nothing_and_waits_no_longer_than_its_deadline() {
    let over = |wait| Event::OverPublisherLimit { publisher: "user a".to_owned(), wait: secs(wait) };
    let delay = |step: Step| match step.action {
        Action::Finish(Disposition::Retry(delay)) => delay.label,
        action => panic!("must wait: {action:?}"),
    };
    let mut scene = Scene::plain();
    let waits = [1, 29, 30, 600, 86_400].map(|wait| delay(scene.on(over(wait))));
    assert_eq!(waits, ["5s", "5s", "30s", "10m", "10m"]);
    let spent = Class::ALL.map(|class| scene.case.history.spent(class));
    assert_eq!((spent, scene.case.history.retries), ([Duration::ZERO; 14], 0));
    assert_eq!(scene.case.history.delayed_for(), Some("user a"));
    scene.case.history.let_pass();
    assert_eq!(scene.case.history.delayed_for(), None);

    let mut scene =
        Scene::new(&format!(r#"{{"task":{{"type":"T"}},"deadline":"{}"}}"#, START.plus(secs(60))));
    assert_eq!(delay(scene.on(over(600))), "30s");
    assert_eq!(delay(scene.after(secs(58), over(600))), "5s");
    assert_eq!(ends_in(&scene.after(secs(5), over(600))), "expired/DEADLINE_PASSED");
}
