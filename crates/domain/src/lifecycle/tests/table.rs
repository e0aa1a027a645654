//! The state machine as a table: what follows upon each event in each state. It stands in
//! docs/ARCHITECTURE.md, and `UPDATE_DOCS=1 cargo test -p captcha-domain table` writes it there.

use std::path::Path;

use super::*;

/// Something by its name, made anew for each row.
type Named<T> = (&'static str, fn() -> T);

/// A run in each state.
fn states() -> [Named<Scene>; 3] {
    [
        ("Received", Scene::plain),
        ("Submitting", || {
            let mut scene = Scene::plain();
            scene.on(Event::Taken);
            scene
        }),
        ("Pending", Scene::with_ticket),
    ]
}

fn slow() -> Event {
    Event::Answered { end: Err(cut()), late_by: Duration::ZERO, took: Duration::ZERO }
}

fn over_limit() -> Event {
    Event::OverPublisherLimit { publisher: "user a".to_owned(), wait: Duration::ZERO }
}

fn ready() -> Event {
    let solution = RawValue::from_string("{}".to_owned()).unwrap();
    answered(Ok(TaskState::Ready { solution, cost: None }))
}

fn fault(class: Class) -> Fault {
    Fault::local(class, local_code::PROXY_QUARANTINED, Stage::Submit, "text")
}

/// Every kind of event, with the ends of calls that differ.
fn events() -> Vec<Named<Event>> {
    vec![
        ("delivered as a job", || Event::Taken),
        ("delivered as a job, its publisher over the limit", over_limit),
        ("delivered as a ticket", || Event::TicketTaken { redelivered: false }),
        ("deadline passed before submission", || Event::DeadlinePassed),
        ("submission blocked by the guard", || Event::SubmissionBlocked { by_guard: true }),
        ("submission blocked by shutdown", || Event::SubmissionBlocked { by_guard: false }),
        ("submission refused locally", || Event::Refused(fault(Class::Proxy))),
        ("type without slots", || Event::Deferred(fault(Class::Capacity))),
        ("type failing", || Event::TypeFailing),
        ("createTask: accepted", accepted),
        ("createTask: no slot", || submitted(Err(refusal("ERROR_NO_SLOT_AVAILABLE")))),
        ("createTask: too many requests", || submitted(Err(refusal("ERROR_TOO_MUCH_REQUESTS")))),
        ("createTask: no answer", || submitted(Err(cut()))),
        ("createTask: never sent", || submitted(Err(CallError::NeverSent("refused".to_owned())))),
        ("createTask: service down", || submitted(Err(refusal("ERROR_SERVICE_NOT_AVAILABLE")))),
        ("createTask: service down, a callback asked for", || {
            with_callback(Err(refusal("ERROR_SERVICE_NOT_AVAILABLE")))
        }),
        ("createTask: unknown code", || submitted(Err(refusal("ERROR_OF_NEXT_YEAR")))),
        ("createTask: invalid job", || submitted(Err(refusal("ERROR_ZERO_CAPTCHA_FILESIZE")))),
        ("createTask: proxy banned", || submitted(Err(refusal("ERROR_PROXY_BANNED")))),
        ("createTask: wrong key", || submitted(Err(refusal("ERROR_KEY_DOES_NOT_EXIST")))),
        ("createTask: no funds", || submitted(Err(refusal("ERROR_ZERO_BALANCE")))),
        ("wait over", || Event::Due),
        ("plan of the first poll changed", || Event::PlanChanged),
        ("polling stopped", || Event::PollingStopped),
        ("callback came", || Event::CallbackCame { was_early: false }),
        ("getTaskResult: processing", || answered(Ok(TaskState::Processing))),
        ("getTaskResult: ready", ready),
        ("getTaskResult: no answer", slow),
        ("getTaskResult: too many requests", || answered(Err(refusal("ERROR_TOO_MUCH_REQUESTS")))),
        ("getTaskResult: unknown code", || answered(Err(refusal("ERROR_OF_NEXT_YEAR")))),
        ("getTaskResult: unsolvable", || answered(Err(refusal("ERROR_CAPTCHA_UNSOLVABLE")))),
        ("getTaskResult: unknown id", || answered(Err(refusal("ERROR_NO_SUCH_CAPCHA_ID")))),
        ("getTaskResult: wrong key", || answered(Err(refusal("ERROR_KEY_DOES_NOT_EXIST")))),
    ]
}

fn action(step: &Step) -> String {
    match &step.action {
        Action::Submit => "submit".to_owned(),
        Action::Wait(_) => "wait".to_owned(),
        Action::AwaitCallback { .. } => "await callback".to_owned(),
        Action::Poll => "poll".to_owned(),
        Action::Finish(Disposition::Ticket) => "finish: ticket".to_owned(),
        Action::Finish(Disposition::Retry(_)) => "finish: retry".to_owned(),
        Action::Finish(Disposition::HandOver { .. }) => "finish: hand over".to_owned(),
        Action::Finish(Disposition::Requeue) => "finish: requeue".to_owned(),
        Action::Finish(Disposition::Outcome(Verdict::Solved(_))) => "finish: solved".to_owned(),
        Action::Finish(Disposition::Outcome(Verdict::Failed(fault))) => format!("finish: {}", fault.class),
    }
}

fn effect(effect: &Effect) -> String {
    match effect {
        Effect::Api(liveness, _) => format!("Api({liveness:?})"),
        Effect::IdAnswered { wrong, .. } => format!("IdAnswered(wrong: {wrong})"),
        Effect::TypeFailed { first } => format!("TypeFailed(first: {first})"),
        other => format!("{other:?}"),
    }
}

fn table() -> String {
    let mut text = "| State | Event | Next state | Action | Effects |\n|---|---|---|---|---|\n".to_owned();
    for (state, scene) in states() {
        for (name, event) in events() {
            let mut scene = scene();
            let before = scene.case.state().clone();
            if before == JobState::Received
                && !matches!(event(), Event::Taken | Event::OverPublisherLimit { .. })
            {
                continue;
            }
            let step = scene.on(event());
            if matches!(&step.action, Action::Finish(Disposition::Outcome(Verdict::Failed(fault))) if fault.class == Class::Poison)
            {
                continue;
            }
            let next = match (&step.action, scene.case.state()) {
                (Action::Finish(_), _) => "settled",
                (_, JobState::Received) => "Received",
                (_, JobState::Submitting) => "Submitting",
                (_, JobState::Pending(_)) => "Pending",
            };
            let effects: Vec<String> = step.effects.iter().map(effect).collect();
            let effects = if effects.is_empty() { "none".to_owned() } else { effects.join(", ") };
            text += &format!("| {state} | {name} | {next} | {} | {effects} |\n", action(&step));
        }
    }
    text
}

#[test]
fn the_table_stands_in_the_documentation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ARCHITECTURE.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- state-table -->\n", "<!-- /state-table -->");
    let from = page.find(begin).expect("the table's begin") + begin.len();
    let to = page.find(end).expect("the table's end");
    let table = table();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{}{table}{}", &page[..from], &page[to..])).unwrap();
        return;
    }
    assert_eq!(&page[from..to], table, "UPDATE_DOCS=1 cargo test -p captcha-domain table");
}
