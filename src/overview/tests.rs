use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{Paused, Phase};
use crate::fleet::{CallbackStatus, Detail, FailedJob, TypeFigures, Vitals};

fn presence(name: &str, detail: Option<Detail>) -> Heartbeat {
    Heartbeat {
        id: name.to_owned(),
        name: name.to_owned(),
        epoch: 1,
        key: Fingerprint::of_key("key"),
        held: None,
        started_at: Timestamp::from_millis(0),
        vitals: Vitals { ready: true, detail, ..Vitals::default() },
        answers: BTreeMap::new(),
    }
}

fn counting(name: &str, solved: u64) -> Heartbeat {
    let mut presence = presence(name, None);
    presence.vitals.solved = solved;
    presence
}

fn overview(replicas: &[Heartbeat]) -> Overview {
    let replicas: Vec<&Heartbeat> = replicas.iter().collect();
    Overview::of(FleetFacts {
        at: Timestamp::from_millis(0),
        namespace: "captcha",
        state: None,
        leader: Some("b"),
        leader_id: Some("b"),
        expected: 1,
        replicas: &replicas,
        shut: &["Scarce".to_owned()],
        queues: None,
        tracker: &RateTracker::default(),
    })
}

#[test]
fn callbacks_are_shown_as_on_or_until_when_and_why_they_are_off() {
    let status = |off_until: Option<i64>| CallbackStatus {
        off_until: off_until.map(Timestamp::from_millis),
        reason: off_until.map(|_| "no callback \u{1b}came".to_owned()),
    };
    let with = |status: Option<CallbackStatus>| {
        let mut replica = presence("a", None);
        replica.vitals.callbacks = status;
        replica
    };
    let (on, off) = (with(Some(status(None))), with(Some(status(Some(600_000)))));
    assert_eq!(overview(&[with(None)]).callbacks, None);
    assert_eq!(
        overview(&[on.clone(), with(None), with(Some(status(Some(0))))]).callbacks.as_deref(),
        Some("on")
    );
    let text = overview(&[on, off.clone()]).callbacks.unwrap();
    assert!(text.starts_with("off until 00:10:00 on 1 of 2 replicas: no callback "), "{text}");
    assert!(
        !text.contains('\u{1b}') && overview(&[off]).callbacks.unwrap().starts_with("off until 00:10:00: ")
    );
}

fn failing(at: i64, id: &str) -> Detail {
    let failure = FailedJob {
        at: Timestamp::from_millis(at),
        id: id.to_owned(),
        class: "proxy".to_owned(),
        code: "CODE".to_owned(),
        task_type: Some("A".to_owned()),
        reason: Some("because".to_owned()),
    };
    let figures = TypeFigures { accepted: 3, ..TypeFigures::default() };
    Detail {
        publishers: Vec::new(),
        failed: [("unsolved", 1), ("proxy", 2), ("of_next_year", 1)]
            .map(|(class, jobs)| (class.to_owned(), jobs))
            .into(),
        types: BTreeMap::from([("A".to_owned(), figures)]),
        failures: vec![failure],
    }
}

#[test]
fn classes_types_and_failures_of_all_replicas_are_taken_together_and_older_replicas_are_counted() {
    let mut fleet = [
        presence("a", Some(failing(1, "first"))),
        presence("b", Some(failing(2, "last"))),
        presence("c", None),
    ];
    for (replica, failed) in fleet.iter_mut().zip([4, 4, 5]) {
        replica.vitals.failed = failed;
    }
    let overview = overview(&fleet);
    let classes: Vec<(&str, u64)> = overview.classes.iter().map(|row| (&*row.class, row.jobs)).collect();
    assert_eq!(classes, [("unsolved", 2), ("proxy", 4), ("of_next_year", 2), ("(not reported)", 5)]);
    let types: Vec<(&str, u64, bool)> =
        overview.types.iter().map(|row| (&*row.name, row.figures.accepted, row.shut)).collect();
    assert_eq!(types, [("A", 6, false), ("Scarce", 0, true)]);
    let failures: Vec<(&str, &str)> =
        overview.latest_failures.iter().map(|row| (&*row.replica, &*row.failure.id)).collect();
    assert_eq!(failures, [("b", "last"), ("a", "first")]);
    assert_eq!((overview.heard_replicas, overview.terse_replicas, overview.failed), (3, 1, 13));
    assert_eq!(
        overview.replicas.iter().filter(|row| row.leads).map(|row| &*row.name).collect::<Vec<_>>(),
        ["b"]
    );
}

#[test]
fn of_two_replicas_of_one_name_the_leader_alone_is_marked() {
    let mut fleet = [presence("b", None), presence("c", None)];
    fleet[1].name = "b".to_owned();
    assert_eq!(overview(&fleet).replicas.iter().map(|row| row.leads).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn an_overview_is_bounded_and_free_of_control_characters_whoever_reported_it() {
    let mut hostile = failing(1, &"\u{1b}[2J".repeat(100));
    let failure = hostile.failures[0].clone();
    hostile.failures = vec![failure; 100];
    hostile.types = (0..200).map(|n| (format!("\u{1b}{n}"), TypeFigures::default())).collect();
    hostile.failed = (0..200).map(|n| (format!("\u{1b}{n}"), u64::MAX)).collect();
    let fleet: Vec<Heartbeat> = (0..150)
        .map(|n| presence(&format!("\u{1b}]0;{n}{}", "x".repeat(200)), Some(hostile.clone())))
        .collect();
    let json = serde_json::to_string(&overview(&fleet)).unwrap();
    assert!(json.len() < 64 * 1024, "{}", json.len());
    assert!(!json.contains("\\u001b"));
}

#[test]
fn rates_are_the_mean_of_ten_seconds_and_neither_a_restart_nor_a_departure_makes_them_jump() {
    let mut tracker = RateTracker::default();
    let second = Duration::from_secs;
    for n in 0..20_u64 {
        let fleet = [counting("a", 100 * n), counting("b", 20 * n)];
        tracker.note(second(2 * n), fleet.iter().map(|replica| (replica, second(0))));
    }
    assert_eq!(tracker.fleet().map(|rates| rates.solved), Some(60.0));
    assert_eq!(tracker.of("b").map(|rates| rates.solved), Some(10.0));
    // One is gone, the other has begun anew under the same id.
    let again = counting("a", 5);
    tracker.note(second(40), [(&again, second(0))]);
    assert_eq!((tracker.fleet(), tracker.of("b")), (None, None));
    let again = counting("a", 9);
    tracker.note(second(42), [(&again, second(0))]);
    assert_eq!(tracker.fleet().map(|rates| rates.solved), Some(2.0));
    assert!(tracker.history().len() <= HISTORY && tracker.history().iter().all(|rates| rates.solved <= 60.0));
}

#[test]
fn the_guard_tells_why_what_to_do_and_who_has_paused() {
    let mut state = State::unknown(3, Timestamp::from_millis(0));
    state.phase = Phase::Active;
    state.paused = Some(Paused {
        reason: Some("\u{1b}[2Jmaintenance".to_owned()),
        by: "ops".to_owned(),
        since: Timestamp::from_millis(0),
    });
    let guard = Guard::of(Some(&state), state.since);
    assert_eq!((&*guard.title(), guard.is_active()), ("paused", false));
    assert_eq!(guard.paused.and_then(|paused| paused.reason).as_deref(), Some("·[2Jmaintenance"));
    assert_eq!(guard.advice, ["run `captcha-worker resume` to continue"]);
    assert_eq!(Guard::of(None, state.since).title(), "unknown");
}

#[test]
fn the_counts_of_a_publisher_are_those_of_all_replicas_together_and_the_busiest_come_first() {
    let figures = |name: &str, hour| PublisherFigures { name: name.to_owned(), minute: 1, hour, delayed: 2 };
    let of = |publishers| Some(Detail { publishers, ..Detail::default() });
    let fleet = [
        presence("a", of(vec![figures("user a", 5), figures("app \u{1b}[2J", 9)])),
        presence("b", of(vec![figures("user a", 7)])),
        presence("c", None),
    ];
    let publishers = overview(&fleet).publishers;
    let seen: Vec<_> = publishers.iter().map(|row| (&*row.name, row.minute, row.hour, row.delayed)).collect();
    assert_eq!(seen, [("user a", 2, 12, 4), ("app ·[2J", 1, 9, 2)]);
}
