use super::*;

#[test]
fn a_job_is_submitted_kept_as_a_ticket_polled_and_settled() {
    let mut scene = Scene::plain();
    assert!(matches!(scene.on(Event::Taken).action, Action::Submit));
    assert!(matches!(scene.on(accepted()).action, Action::Finish(Disposition::Ticket)));
    scene.case.origin = Origin::Ticket;
    assert!(
        matches!(scene.on(Event::TicketTaken { redelivered: false }).action, Action::Wait(w) if w == secs(1))
    );
    assert!(matches!(scene.after(secs(1), Event::Due).action, Action::Poll));
    let not_yet = scene.on(answered(Ok(TaskState::Processing)));
    assert!(matches!(not_yet.action, Action::Wait(w) if w == secs(2)));
    scene.after(secs(2), Event::Due);
    let solution = serde_json::from_str::<Box<RawValue>>(r#"{"text":"x"}"#).unwrap();
    let ready = scene.on(answered(Ok(TaskState::Ready { solution, cost: None })));
    assert!(
        matches!(ready.action, Action::Finish(Disposition::Outcome(Verdict::Solved(s))) if s.get() == r#"{"text":"x"}"#)
    );
    assert_eq!(scene.case.task().map(|task| task.polls), Some(2));
}

#[test]
fn a_job_past_its_deadline_is_never_submitted_nor_polled() {
    let late = r#"{"task":{"type":"T"},"deadline":"2020-01-01T00:00:00Z"}"#;
    assert_eq!(ends_in(&Scene::new(late).on(Event::Taken)), "expired/DEADLINE_PASSED");
    let mut scene = Scene::with_ticket();
    scene.case.job.deadline = Some(START.plus(secs(3)));
    assert_eq!(ends_in(&scene.after(secs(3), Event::Due)), "expired/DEADLINE_PASSED");
    let ended = Ended::Failed(Class::Expired);
    assert_eq!(scene.case.history.count(ended), 1, "its task is paid, and so it is listed");
}

#[test]
fn the_last_poll_comes_before_the_deadline_unless_the_interval_forbids_it() {
    let mut scene = Scene::with_ticket();
    // The second poll is kept for the time-out.
    let schedule = PollSchedule::try_new(secs(1), secs(3), secs(60)).and_then(|it| it.with_max_polls(2));
    scene.rules.polling.default = schedule.unwrap();
    scene.after(secs(1), Event::Due);
    let wait = |left: u64, event: Event| {
        let mut scene = scene.clone();
        scene.case.job.deadline = Some(START.plus(secs(1 + left)));
        match scene.on(event).action {
            Action::Wait(wait) => wait,
            action => panic!("{action:?}"),
        }
    };
    let before = |left: u64| secs(left) - BEFORE_DEADLINE;
    let not_ready = || answered(Ok(TaskState::Processing));
    let waits = [80, 10, 5, 4, 3, 1].map(|left| wait(left, not_ready()));
    assert_eq!(waits, [secs(59), before(10), before(5), before(4), secs(3), secs(3)]);
    let mut slower = refusal("ERROR_TOO_MUCH_REQUESTS");
    if let CallError::Refused(refusal) = &mut slower {
        refusal.retry_after = Some(secs(20));
    }
    assert_eq!(wait(10, answered(Err(slower))), secs(59), "the API has asked for a pause");

    let mut first = Scene::with_ticket();
    first.rules.polling.default = PollSchedule::try_new(secs(8), secs(5), secs(60)).unwrap();
    first.case.job.deadline = Some(START.plus(secs(6)));
    let step = first.on(Event::TicketTaken { redelivered: false });
    assert!(matches!(step.action, Action::Wait(wait) if wait == before(6)), "{:?}", step.action);
    let mut redelivered = first.clone();
    let step = redelivered.on(Event::TicketTaken { redelivered: true });
    assert!(matches!(step.action, Action::Wait(wait) if wait == REDELIVERY_WAIT), "{:?}", step.action);
    first.after(before(6), Event::Due);
    let solution = serde_json::from_str::<Box<RawValue>>("{}").unwrap();
    first.on(answered(Ok(TaskState::Ready { solution, cost: None })));
    let task = first.case.task().unwrap();
    assert_eq!((task.first_poll(), task.answer()), (None, None), "it says nothing of solve times");
}

#[test]
fn a_pause_that_the_api_has_asked_for_outlasts_callbacks_that_are_turned_off() {
    let mut scene = Scene::plain();
    scene.on(Event::Taken);
    scene.on(with_callback(Ok(Accepted { task_id: task_id() })));
    scene.case.origin = Origin::Ticket;
    scene.on(Event::TicketTaken { redelivered: false });
    scene.after(secs(5), Event::Due);
    let mut unavailable = refusal("ERROR_SERVICE_NOT_AVAILABLE");
    if let CallError::Refused(refusal) = &mut unavailable {
        refusal.retry_after = Some(secs(20));
    }
    scene.on(answered(Err(unavailable)));
    let until = |step: Step| match step.action {
        Action::Wait(at_most) => at_most,
        Action::AwaitCallback { at_least, .. } => at_least,
        action => panic!("{action:?}"),
    };
    assert!(until(scene.after(secs(4), Event::PlanChanged)) >= secs(16));
    // Without a pause it is polled as without a callback.
    scene.after(secs(16), Event::Due);
    scene.on(answered(Ok(TaskState::Processing)));
    let Action::AwaitCallback { at_most, .. } = scene.after(secs(1), Event::PlanChanged).action else {
        panic!("its callback may still come")
    };
    assert_eq!(at_most, secs(2));
}

#[test]
fn a_changed_plan_moves_no_poll_past_the_deadline() {
    let mut scene = Scene::with_ticket();
    scene.rules.polling.default = PollSchedule::try_new(secs(8), secs(2), secs(60)).unwrap();
    scene.case.job.deadline = Some(START.plus(secs(10)));
    scene.on(Event::TicketTaken { redelivered: false });
    scene.now = scene.now.plus(secs(9));
    let input = DecisionInput { jitter: 0.5, ..scene.input() };
    let mut run = scene.case.clone();
    let step = run.advance(Event::PlanChanged, &input);
    let until_deadline = secs(1) - BEFORE_DEADLINE - BEFORE_DEADLINE_SPREAD / 2;
    assert!(matches!(step.action, Action::Wait(wait) if wait == until_deadline), "{:?}", step.action);
}

#[test]
fn a_paid_ticket_outlives_account_faults() {
    let wrong_key = Scene::with_ticket().poll_refused("ERROR_KEY_DOES_NOT_EXIST");
    assert!(matches!(wrong_key.action, Action::Wait(_)));
    let no_funds = Scene::with_ticket().poll_refused("ERROR_ZERO_BALANCE");
    assert!(matches!(no_funds.action, Action::Wait(_)));
}

#[test]
fn final_refusals_end_a_job_at_once_wherever_they_come() {
    for (code, class) in [
        ("ERROR_TASK_ABSENT", "invalid"),
        ("ERROR_DOMAIN_NOT_ALLOWED", "forbidden"),
        ("ERROR_TOKEN_EXPIRED", "expired"),
        ("ERROR_PROXY_BANNED", "proxy"),
    ] {
        for step in [Scene::plain().submit_refused(code), Scene::with_ticket().poll_refused(code)] {
            assert_eq!((ends_in(&step), risk(&step)), (format!("{class}/{code}"), None));
        }
    }
}

#[test]
fn an_unsolved_task_is_resubmitted_as_often_as_allowed() {
    let mut scene = Scene::with_ticket();
    let again = scene.poll_refused("ERROR_CAPTCHA_UNSOLVABLE");
    assert!(matches!(again.action, Action::Submit));
    assert_eq!(risk(&again), Some(DoublePaymentRisk::Resubmission));
    assert!(matches!(scene.on(accepted()).action, Action::Finish(Disposition::Ticket)));
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
    let step = late.after(secs(1), answered(Err(refusal("WRONG_CAPTCHA_ID"))));
    assert_eq!(ends_in(&step), "lost/WRONG_CAPTCHA_ID");
}

#[test]
fn a_task_that_is_not_solved_in_time_is_unsolved_and_one_never_heard_of_is_transient() {
    let mut scene = Scene::with_ticket();
    scene.rules.max_resubmissions = 0;
    scene.on(Event::Due);
    let step = scene.after(secs(60), answered(Ok(TaskState::Processing)));
    assert_eq!(ends_in(&step), "unsolved/SOLVE_TIMEOUT");

    let mut silent = Scene::with_ticket();
    silent.on(Event::Due);
    let step = silent.after(secs(60), answered(Err(cut())));
    assert_eq!(ends_in(&step), "transient/CONNECTION_CUT");
}

#[test]
fn a_failing_poll_is_repeated_and_costs_nothing() {
    let mut scene = Scene::with_ticket();
    scene.on(Event::Due);
    let step = scene.on(answered(Err(cut())));
    assert!(matches!(step.action, Action::Wait(w) if w >= secs(2)) && risk(&step).is_none());
    let slower = scene.poll_refused("ERROR_TOO_MUCH_REQUESTS");
    assert!(matches!(slower.action, Action::Wait(w) if w >= secs(4)));
}

#[test]
fn a_redelivered_ticket_waits_for_the_lease_and_assumes_the_polls_of_its_age() {
    let mut scene = Scene::with_ticket();
    let step = scene.after(secs(25), Event::TicketTaken { redelivered: true });
    assert!(matches!(step.action, Action::Wait(w) if w == REDELIVERY_WAIT));
    assert_eq!(scene.case.task().map(|task| task.polls), Some(20));
}

#[test]
fn polls_that_were_only_assumed_do_not_use_up_the_settings_polls_of_the_next_owner() {
    let mut scene = Scene::with_ticket();
    scene.rules.polling.default = scene.rules.polling.default.with_max_polls(4).unwrap();
    scene.after(secs(25), Event::TicketTaken { redelivered: true });
    scene.after(REDELIVERY_WAIT, Event::Due);
    scene.on(answered(Ok(TaskState::Processing)));
    let task = scene.case.task().unwrap();
    assert_eq!((task.polls, task.assumed_polls()), (21, 20));
    let message = ticket::handed_over(&scene.case.job, &scene.case.history, task.shown(), 20, None);
    let Ok(Kept::Open { job, history, task_id, accepted_at, polls, assumed_polls, .. }) =
        ticket::read(message, scene.now)
    else {
        panic!("it is a ticket")
    };
    let run = JobRun::of_ticket(job, history, task_id, accepted_at, polls, None, &scene.input());
    scene.case = run.with_assumed_polls(assumed_polls);
    scene.on(Event::TicketTaken { redelivered: false });
    let step = scene.on(answered(Ok(TaskState::Processing)));
    assert!(matches!(step.action, Action::Wait(wait) if wait == secs(2)), "{:?}", step.action);
    // Nobody need assume them twice.
    scene.on(Event::TicketTaken { redelivered: true });
    let task = scene.case.task().unwrap();
    assert_eq!(task.polls - task.assumed_polls(), 2);
}

#[test]
fn a_ticket_past_its_age_is_submitted_again_without_a_poll_of_the_dead_id() {
    let mut scene = Scene::with_ticket();
    scene.rules.polling.default = PollSchedule::try_new(secs(1), secs(2), secs(280)).unwrap();
    let step = scene.after(secs(280), Event::TicketTaken { redelivered: true });
    assert!(matches!(step.action, Action::Submit));
    assert_eq!(risk(&step), Some(DoublePaymentRisk::Resubmission));
    assert_eq!(scene.case.history.count(Ended::Failed(Class::Lost)), 1);
    scene.on(accepted());
    assert_eq!(ends_in(&scene.after(secs(281), Event::Due)), "lost/RESULT_EXPIRED");
}

#[test]
fn an_event_that_cannot_happen_poisons_the_job_and_nothing_else() {
    assert_eq!(ends_in(&Scene::plain().on(Event::Due)), "poison/PANIC");
    assert_eq!(ends_in(&Scene::with_ticket().on(accepted())), "poison/PANIC");
}

#[test]
fn a_tasks_age_counts_from_the_call_that_submitted_it_however_long_its_answer_took() {
    let mut scene = Scene::plain();
    scene.on(Event::Taken);
    let step = scene.after(secs(30), accepted());
    assert!(matches!(step.action, Action::Finish(Disposition::Ticket)));
    assert_eq!(scene.case.task().map(|task| task.accepted_at), Some(START));
}

#[test]
fn an_unknown_code_at_a_poll_does_not_give_up_a_paid_task_at_once() {
    let mut scene = Scene::with_ticket();
    let mut polls = 0;
    let end = loop {
        let step = scene.poll_refused("ERROR_OF_NEXT_YEAR");
        polls += 1;
        let Action::Wait(wait) = step.action else { break step };
        scene.now = scene.now.plus(wait);
    };
    assert_eq!(ends_in(&end), "unknown/ERROR_OF_NEXT_YEAR");
    assert!((4..10).contains(&polls), "a few times, ever more seldom: {polls}");
    assert_eq!(scene.now.since(START), secs(60), "until the time-out of its type");

    let mut solved = Scene::with_ticket();
    solved.poll_refused("ERROR_OF_NEXT_YEAR");
    assert!(matches!(solved.on(answered(Ok(TaskState::Processing))).action, Action::Wait(_)));
}

#[test]
fn the_time_out_of_a_type_stands_still_while_nobody_may_ask() {
    let mut scene = Scene::with_ticket();
    scene.rules.max_resubmissions = 0;
    scene.on(Event::TicketTaken { redelivered: false });
    // Due after 1 s, and asked for after a trip of 4 minutes, when the API fails once.
    scene.after(secs(241), Event::Due);
    let step = scene.on(Event::Answered { end: Err(cut()), late_by: secs(240), took: Duration::ZERO });
    assert!(matches!(step.action, Action::Wait(_)), "{step:?}");
    // What the API keeps no longer is not asked for all the same.
    let gone = scene.after(secs(39), Event::Due);
    assert!(matches!(gone.action, Action::Submit), "{gone:?}");
}

#[test]
fn a_step_of_the_wall_clock_makes_no_task_older_or_younger() {
    let mut scene = Scene::with_ticket();
    scene.on(Event::TicketTaken { redelivered: false });
    scene.clock_is_ahead = secs(600);
    scene.after(secs(1), Event::Due);
    let step = scene.on(answered(Ok(TaskState::Processing)));
    assert!(matches!(step.action, Action::Wait(wait) if wait == secs(2)), "{step:?}");
    assert!(matches!(scene.after(secs(2), Event::Due).action, Action::Poll));
}

#[test]
fn a_ticket_is_handed_over_when_its_task_may_be_polled_again() {
    let handed_over = |step: &Step| match &step.action {
        Action::Finish(Disposition::HandOver { after, not_before: None }) => Some(*after),
        _ => None,
    };
    let mut never_polled = Scene::with_ticket();
    never_polled.on(Event::TicketTaken { redelivered: false });
    assert_eq!(handed_over(&never_polled.on(Event::PollingStopped)), Some(Duration::ZERO));

    let polled = || {
        let mut scene = Scene::with_ticket();
        scene.after(secs(3), Event::Due);
        scene
    };
    let mut scene = polled();
    scene.on(answered(Ok(TaskState::Processing)));
    let step = scene.after(Duration::from_millis(500), Event::PollingStopped);
    assert_eq!(handed_over(&step), Some(Duration::from_millis(1_500)));
    assert_eq!(scene.case.task().map(|task| task.polls), Some(1));

    // An earlier owner may still poll: only a redelivery says so to the next one.
    let mut redelivered = Scene::with_ticket();
    redelivered.on(Event::TicketTaken { redelivered: true });
    assert!(matches!(
        redelivered.after(secs(4), Event::PollingStopped).action,
        Action::Finish(Disposition::Requeue)
    ));
    assert_eq!(handed_over(&redelivered.after(secs(1), Event::PollingStopped)), Some(secs(2)));
}

#[test]
fn the_next_owner_of_a_ticket_keeps_the_pause_that_the_api_has_asked_for() {
    let mut scene = Scene::with_ticket();
    scene.after(secs(3), Event::Due);
    let mut pause = refusal("ERROR_TOO_MUCH_REQUESTS");
    if let CallError::Refused(pause) = &mut pause {
        pause.retry_after = Some(secs(40));
    }
    scene.on(answered(Err(pause)));
    let step = scene.after(secs(10), Event::PollingStopped);
    let Action::Finish(Disposition::HandOver { after, not_before }) = step.action else { panic!("{step:?}") };
    assert_eq!((after, not_before), (secs(2), Some(START.plus(secs(43)))));

    let mut next = Scene::with_ticket();
    next.now = START.plus(secs(15));
    next.case = next.case.clone().not_polled_before(not_before, &next.input());
    let step = next.on(Event::TicketTaken { redelivered: false });
    assert!(matches!(step.action, Action::Wait(wait) if wait == secs(28)), "{step:?}");
    // One that leaves before it has polled hands the pause on.
    let step = next.after(secs(5), Event::PollingStopped);
    let handed_on = Disposition::HandOver { after: secs(2), not_before };
    assert_eq!(format!("{:?}", step.action), format!("{:?}", Action::Finish(handed_on)));
}

#[test]
fn polls_that_are_only_assumed_do_not_use_up_those_that_the_settings_allow() {
    let mut scene = Scene::with_ticket();
    scene.rules.polling.default = scene.rules.polling.default.with_max_polls(3).unwrap();
    scene.now = START.plus(secs(50));
    scene.on(Event::TicketTaken { redelivered: true });
    let poll = |scene: &mut Scene, after| {
        scene.after(secs(after), Event::Due);
        scene.on(answered(Ok(TaskState::Processing))).action
    };
    assert!(matches!(poll(&mut scene, 7), Action::Wait(wait) if wait == secs(2)));
    // One of three is left, and is kept for the time-out, which began anew with the new owner.
    let Action::Wait(last) = poll(&mut scene, 2) else { panic!("it may be polled once more") };
    assert!(last > secs(50) && last < secs(60), "{last:?}");
}

#[test]
fn a_ticket_that_was_handed_over_counts_on_and_one_that_was_redelivered_counts_the_most() {
    let with_polls = |polls, redelivered| {
        let Scene { case, rules, .. } = Scene::plain();
        let at = DecisionInput {
            rules: &rules,
            learned: None,
            callbacks_come: true,
            now: START.plus(secs(20)),
            uptime: secs(20),
            jitter: 0.0,
        };
        let mut run = JobRun::of_ticket(case.job, case.history, task_id(), START, polls, None, &at);
        run.advance(Event::TicketTaken { redelivered }, &at);
        run.task().map(|task| task.polls)
    };
    assert_eq!(with_polls(9, false), Some(9));
    let most = poll_schedule::assumed_polls(secs(20));
    assert_eq!((with_polls(9, true), with_polls(most + 1, true)), (Some(most), Some(most + 1)));
}

/// The span of a wait.
fn waits(step: &Step) -> Duration {
    let Action::Wait(span) = step.action else { panic!("{step:?}") };
    span
}

#[test]
fn a_change_of_the_plan_brings_the_first_poll_forward_or_puts_it_off() {
    let learned = |age: u64| {
        let answer = |n: u64| {
            let by = secs(age) + Duration::from_millis(n * 97 % 3_000);
            crate::learned_polls::Answer { after: by - secs(1), by }
        };
        let bounds = PollSchedule::try_new(secs(3), secs(2), secs(120)).unwrap();
        Arc::new(LearnedPolls::from_answers((0..100).map(answer), &bounds))
    };
    let Scene { case, rules, .. } = Scene::plain();
    let at = |plan: &Arc<LearnedPolls>, age, jitter| DecisionInput {
        rules: &rules,
        learned: Some(Arc::clone(plan)),
        callbacks_come: true,
        now: START.plus(secs(age)),
        uptime: secs(age),
        jitter,
    };
    let (slow, fast) = (learned(20), learned(5));
    let mut run = JobRun::of_ticket(case.job, case.history, task_id(), START, 0, None, &at(&slow, 0, 0.5));
    let planned = waits(&run.advance(Event::TicketTaken { redelivered: false }, &at(&slow, 0, 0.5)));
    assert!(planned > secs(15), "{planned:?}");
    let sooner = waits(&run.advance(Event::PlanChanged, &at(&fast, 1, 0.5)));
    assert!(sooner > secs(3) && sooner < secs(6), "{sooner:?}");
    let later = waits(&run.advance(Event::PlanChanged, &at(&slow, 2, 0.5)));
    assert!(later > secs(13), "{later:?}");
    // What is overdue by the new plan is not polled all at once.
    let overdue = [0.25, 0.75].map(|jitter| waits(&run.advance(Event::PlanChanged, &at(&fast, 12, jitter))));
    assert_eq!(overdue, [Duration::from_millis(500), Duration::from_millis(1_500)]);
}

#[test]
fn every_ticket_of_a_task_names_its_acceptance() {
    let Scene { case, rules, .. } = Scene::plain();
    let at = DecisionInput {
        rules: &rules,
        learned: None,
        callbacks_come: true,
        now: START,
        uptime: secs(0),
        jitter: 0.0,
    };
    let acceptance = Acceptance { replica: "a".to_owned(), number: 3 };
    let run = JobRun::of_ticket(case.job, case.history, task_id(), START, 0, None, &at);
    let run = run.priced(Some(Decimal::ONE), Some(acceptance.clone()));
    let named = run.task().and_then(|task| task.shown().acceptance.cloned());
    assert_eq!(named, Some(acceptance));
}

impl Scene {
    /// A ticket whose callback is awaited.
    fn with_callback() -> Self {
        let mut scene = Self::plain();
        scene.on(Event::Taken);
        scene.on(with_callback(Ok(Accepted { task_id: task_id() })));
        scene.case.origin = Origin::Ticket;
        scene
    }
}

/// The shortest and the longest wait for a callback.
fn awaited(step: &Step) -> (u64, u64) {
    let Action::AwaitCallback { at_least, at_most } = step.action else { panic!("{step:?}") };
    (at_least.as_secs(), at_most.as_secs())
}

#[test]
fn the_first_poll_waits_for_the_callback_and_later_ones_keep_the_spacing_whatever_it_says() {
    let mut scene = Scene::with_callback();
    // First delay and two intervals.
    assert_eq!(awaited(&scene.on(Event::TicketTaken { redelivered: false })), (0, 5));
    let not_yet = scene.after(secs(5), Event::Due);
    assert!(matches!(not_yet.action, Action::Poll));
    // A callback ends the wait at the spacing; without one it is half as long as the task is old.
    scene.on(answered(Ok(TaskState::Processing)));
    scene.on(Event::Due);
    assert_eq!(awaited(&scene.after(secs(15), answered(Ok(TaskState::Processing)))), (2, 10));
    let came = scene.on(Event::CallbackCame { was_early: false });
    assert!(matches!(came.action, Action::Poll), "{came:?}");
    let processing = scene.on(answered(Ok(TaskState::Processing)));
    assert!(
        matches!(processing.action, Action::Wait(w) if w == secs(2)),
        "the ordinary schedule: {processing:?}"
    );
}

#[test]
fn a_callback_brings_no_poll_forward_that_the_api_wants_later() {
    let mut scene = Scene::with_callback();
    scene.on(Event::TicketTaken { redelivered: false });
    scene.on(Event::Due);
    let throttled = scene.on(answered(Err(refusal("ERROR_TOO_MUCH_REQUESTS"))));
    assert_eq!(awaited(&throttled), (4, 4));
}

#[test]
fn a_callback_that_may_have_gone_to_another_owner_is_not_waited_for() {
    let again = Scene::with_callback().on(Event::TicketTaken { redelivered: true });
    let handover = REDELIVERY_WAIT.as_secs();
    assert_eq!(awaited(&again), (handover, handover));
}

#[test]
fn once_callbacks_do_not_come_a_task_is_polled_as_without_one_and_its_own_may_still_come() {
    let mut scene = Scene::with_callback();
    assert_eq!(awaited(&scene.on(Event::TicketTaken { redelivered: false })), (0, 5));
    let off = DecisionInput { callbacks_come: false, ..scene.input() };
    assert_eq!(awaited(&scene.case.clone().advance(Event::PlanChanged, &off)), (0, 1));
}

#[test]
fn only_a_first_poll_that_was_planned_shows_that_a_task_is_not_ready_yet() {
    let is_shown = |mut scene: Scene, redelivered| {
        scene.on(Event::TicketTaken { redelivered });
        [(); 2].map(|()| {
            scene.on(Event::Due);
            let step = scene.after(secs(3), answered(Ok(TaskState::Processing)));
            step.effects.iter().any(|effect| matches!(effect, Effect::NotReady))
        })
    };
    assert_eq!(is_shown(Scene::with_ticket(), false), [true, false]);
    assert_eq!(is_shown(Scene::with_ticket(), true), [false, false]);
    assert_eq!(is_shown(Scene::with_callback(), false), [false, false]);
    let mut called = Scene::with_callback();
    for event in [Event::TicketTaken { redelivered: false }, Event::CallbackCame { was_early: true }] {
        called.on(event);
    }
    called.after(secs(3), answered(Ok(TaskState::Processing)));
    assert!(called.case.task().is_some_and(|task| task.polls == 1 && task.first_poll().is_none()));
}

#[test]
fn a_deadline_does_not_pass_while_a_callback_is_awaited() {
    let mut scene = Scene::with_callback();
    scene.case.job.deadline = Some(START.plus(secs(4)));
    assert_eq!(awaited(&scene.on(Event::TicketTaken { redelivered: false })), (0, 1));
}

#[test]
fn a_submission_refused_for_its_callback_is_made_again_at_once_without_and_costs_the_job_nothing() {
    let down = || Err(refusal("ERROR_SERVICE_NOT_AVAILABLE"));
    let mut scene = Scene::plain();
    scene.rules.transient_timeout = Duration::ZERO;
    scene.on(Event::Taken);
    assert!(scene.case.may_ask_for_callback());
    let step = scene.on(with_callback(down()));
    assert!(matches!(step.action, Action::Submit) && step.effects.is_empty(), "{step:?}");
    assert!(!scene.case.may_ask_for_callback());
    let step = scene.on(accepted());
    assert!(matches!(step.action, Action::Finish(Disposition::Ticket)));
    assert!(step.effects.contains(&Effect::CallbackRefused), "{step:?}");

    // Where it is refused without one, too, the API is down, and callbacks are not to blame.
    let mut scene = Scene::plain();
    scene.on(Event::Taken);
    scene.on(with_callback(down()));
    let step = scene.on(submitted(down()));
    assert!(matches!(step.action, Action::Finish(Disposition::Retry(_))));
    assert!(!step.effects.contains(&Effect::CallbackRefused), "{step:?}");
}
