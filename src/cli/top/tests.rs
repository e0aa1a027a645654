use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::json;

use super::ops::OpsStatus;
use super::poller::PollResult;
use super::*;
use crate::domain::guard::{Paused, State};
use crate::domain::time::Timestamp;
use crate::overview::Overview;

fn rates(solved: f64) -> serde_json::Value {
    json!({"solved": solved, "failed": 0.4, "paid": solved + 1.0, "calls": 60.0})
}

fn replica(name: &str, leads: bool) -> serde_json::Value {
    json!({
        "name": name, "leads": leads, "ready": true, "held": null, "in_flight": 21, "window": 40, "rates": rates(11.2),
        "solved": 12345, "failed": 67, "started_at": "2026-11-27T14:00:00.000Z",
    })
}

fn failure(number: usize) -> serde_json::Value {
    json!({
        "replica": "worker-birch", "at": format!("2026-11-27T16:00:{:02}.000Z", 59 - number), "id": format!("order-{number}"),
        "class": "proxy", "code": "ERROR_PROXY_CONNECT_TIMEOUT", "task_type": "HCaptchaTask",
        "reason": "the proxy did not answer",
    })
}

/// A fleet of four under load.
fn fleet() -> Overview {
    let history: Vec<_> = (0..60_u32).map(|n| rates(f64::from(40 + n % 7 * 3))).collect();
    let figures = |accepted: u64| json!({"in_flight": 40, "window": 64, "accepted": accepted, "solved": 30000, "failed": 12});
    let mut types = vec![figures(45000), figures(800)];
    for (row, (name, shut)) in types.iter_mut().zip([("ImageToTextTask", false), ("HCaptchaTask", true)]) {
        row["name"] = name.into();
        row["shut"] = shut.into();
    }
    let names = ["worker-amber", "worker-birch", "worker-cedar", "worker-dune"];
    serde_json::from_value(json!({
        "at": "2026-11-27T16:01:00.000Z", "namespace": "captcha",
        "guard": {
            "state": "active", "meaning": "the account may be used", "reasons": [], "since": "2026-11-27T14:00:02.000Z",
            "next_probe_at": null, "failed_probes": 0, "advice": [], "paused": null, "epoch": 3,
            "balance": {"text": "249.715", "amount": 249.715, "at": "2026-11-27T16:00:58.000Z", "per_hour": -2.5},
        },
        "leader": "worker-dune", "expected_replicas": 4, "heard_replicas": 4, "terse_replicas": 0,
        "replicas": names.map(|name| replica(name, name == "worker-dune")),
        "rates": rates(44.8), "history": history, "solved": 49380, "failed": 268,
        "classes": [{"class": "unsolved", "jobs": 12}, {"class": "proxy", "jobs": 256}],
        "types": types, "shut_types": ["HCaptchaTask"],
        "backlog": {
            "at": "2026-11-27T16:00:59.000Z", "jobs": 1203, "tickets": 2, "retry": 3, "results": 0,
            "dead": {"proxy": 256, "unsolved": 12}, "raw": 0, "unrouted": 0,
        },
        "latest_failures": (0..20).map(failure).collect::<Vec<_>>(),
    }))
    .unwrap()
}

fn shot(fleet: Overview) -> PollResult {
    let replica = json!({
        "name": "worker-amber", "ready": true, "reasons": [], "polls_overdue": 0,
        "buffers": {"deliveries": 1, "submissions": 2, "publishes": 0},
    });
    let status = OpsStatus {
        address: "127.0.0.1:9464".to_owned(),
        replica: Some(serde_json::from_value(replica).unwrap()),
        ..OpsStatus::default()
    };
    PollResult { fleet: Some(fleet), ops: vec![status], ..PollResult::default() }
}

fn tripped() -> PollResult {
    let mut fleet = fleet();
    fleet.guard.state = "tripped".to_owned();
    fleet.guard.meaning = "the account must not be used: jobs stay queued".to_owned();
    fleet.guard.reasons = vec!["key_invalid".to_owned()];
    fleet.guard.next_probe_at = fleet.guard.since;
    fleet.guard.failed_probes = 2;
    fleet.guard.advice = vec![crate::domain::guard::Reason::KeyInvalid.advice().to_owned()];
    for row in &mut fleet.replicas {
        (row.ready, row.held) = (false, Some("key_invalid".to_owned()));
    }
    shot(fleet)
}

fn drawn(screen: &Screen, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| layout::draw(frame, screen)).unwrap().buffer.clone()
}

fn text(buffer: &Buffer) -> String {
    let lines = buffer.content().chunks(usize::from(buffer.area.width));
    let line = |cells: &[ratatui::buffer::Cell]| -> String {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect::<String>().trim_end().to_owned()
    };
    lines.map(line).collect::<Vec<_>>().join("\n")
}

fn screen(shot: PollResult) -> Screen {
    let mut screen = Screen::new(true);
    screen.take(shot);
    screen
}

fn press(screen: &mut Screen, code: KeyCode) -> bool {
    screen.on_event(&Event::Key(KeyEvent::new(code, KeyModifiers::NONE))).is_break()
}

#[test]
fn a_fleet_under_load_on_a_roomy_terminal() {
    insta::assert_snapshot!(text(&drawn(&screen(shot(fleet())), 120, 40)));
}

#[test]
fn the_same_on_the_least_terminal_that_shows_all() {
    insta::assert_snapshot!(text(&drawn(&screen(shot(fleet())), 80, 24)));
}

#[test]
fn a_tripped_guard_says_why_and_what_to_do() {
    insta::assert_snapshot!(text(&drawn(&screen(tripped()), 80, 24)));
}

#[test]
fn a_picture_without_a_terminal_is_as_long_as_it_needs_to_be_and_speaks_of_no_keys() {
    let mut shot = shot(fleet());
    shot.broker = Some("cannot reach the broker; trying again in 4 s".to_owned());
    shot.told_by = Some("127.0.0.1:9464".to_owned());
    insta::assert_snapshot!(plain(&Screen::still(shot), 100).unwrap());
}

#[test]
fn nothing_known_yet_and_nobody_there_is_said_in_words() {
    let asking = text(&drawn(&Screen::new(true), 80, 24));
    assert!(asking.contains("Asking the replicas"), "{asking}");
    let status = OpsStatus {
        address: "127.0.0.1:9464".to_owned(),
        error: Some("nobody listens there".to_owned()),
        ..OpsStatus::default()
    };
    let lost =
        PollResult { broker: Some("no broker".to_owned()), ops: vec![status], ..PollResult::default() };
    let lost = text(&drawn(&screen(lost), 80, 24));
    assert!(
        lost.contains("The broker does not answer: no broker") && lost.contains("nobody listens there"),
        "{lost}"
    );
}

#[test]
fn no_size_of_a_terminal_breaks_the_picture_and_the_guard_is_seen_on_all_but_the_smallest() {
    for help in [false, true] {
        let mut screen = screen(tripped());
        screen.help = help;
        for width in [1, 9, 40, 80, 110, 200] {
            for height in (1..13).chain([16, 24, 36, 60]) {
                let picture = text(&drawn(&screen, width, height));
                assert!(
                    help || width < 40 || height < 4 || picture.contains("tripped"),
                    "{width}x{height}\n{picture}"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_picture_that_is_older_than_it_should_be_shows_its_age() {
    let mut screen = screen(shot(fleet())).every(Duration::from_secs(1));
    for (waited, age) in [(5, None), (1, Some("6 s old")), (60, Some("66 s old"))] {
        tokio::time::sleep(Duration::from_secs(waited)).await;
        let drawn = text(&drawn(&screen, 80, 24));
        assert_eq!(drawn.contains(" old"), age.is_some(), "{drawn}");
        assert!(age.is_none_or(|age| drawn.contains(age)), "{drawn}");
    }
    screen.take(shot(fleet()));
    assert!(!text(&drawn(&screen, 80, 24)).contains(" old"));
}

#[test]
fn of_a_replicas_obstacles_only_those_that_stand_with_the_guard_are_left_out() {
    let unroutable = "outcomes cannot be routed: 7 stand in 'captcha.unrouted', since no queue was bound for them on 'captcha.outcomes': bind one";
    let mut shot = shot(fleet());
    let Some(replica) = shot.ops.first_mut().and_then(|status| status.replica.as_mut()) else {
        panic!("one")
    };
    replica.reasons = vec![
        "no_funds since 2026-11-27T15:00:00.000Z, next probe at 2026-11-27T16:02:00.000Z: top up".to_owned(),
        "operator: paused since 2026-11-27T15:00:00.000Z by ops (why): go on".to_owned(),
        unroutable.to_owned(),
    ];
    let drawn = text(&drawn(&screen(shot), 200, 40));
    assert!(drawn.contains(unroutable), "{drawn}");
    assert!(!drawn.contains("no_funds since") && !drawn.contains("operator: paused"), "{drawn}");
}

#[test]
fn on_a_narrow_terminal_numbers_are_left_out_before_names() {
    for (width, wanted, unwanted) in
        [(80, "failed", "none"), (60, "solved/s", "calls/s"), (40, "window", "solved/s")]
    {
        let drawn = text(&drawn(&screen(shot(fleet())), width, 40));
        let head = drawn.lines().find(|line| line.starts_with("name ")).unwrap();
        assert!(head.contains(wanted) && !head.contains(unwanted), "{width}: {head}");
        assert!(drawn.contains("★ worker-dune ") && drawn.contains("  worker-amber"), "{drawn}");
    }
}

#[test]
fn a_failure_has_its_reason_and_the_commands_that_act_on_it() {
    let wide = text(&drawn(&screen(shot(fleet())), 120, 40));
    assert!(wide.contains("the proxy did not answer") && wide.contains("dead replay --id JOB"), "{wide}");
    let narrow = text(&drawn(&screen(shot(fleet())), 80, 24));
    assert!(narrow.contains("captcha-worker dead show JOB (1–2 of 20)"), "{narrow}");
}

#[test]
fn keys_hold_the_picture_move_the_tables_help_and_quit() {
    let mut screen = screen(shot(fleet()));
    press(&mut screen, KeyCode::Char('p'));
    screen.take(tripped());
    let held = text(&drawn(&screen, 120, 40));
    assert!(held.contains("FROZEN") && !held.contains("tripped"), "{held}");
    press(&mut screen, KeyCode::Char('p'));
    assert!(text(&drawn(&screen, 120, 40)).contains("tripped"));

    for _ in 0..3 {
        press(&mut screen, KeyCode::Down);
    }
    let moved = text(&drawn(&screen, 120, 40));
    assert!(moved.contains("order-3 ") && !moved.contains("order-2 "), "{moved}");
    press(&mut screen, KeyCode::Tab);
    assert!(text(&drawn(&screen, 120, 40)).contains("▸ Replicas"));

    press(&mut screen, KeyCode::Char('?'));
    assert!(text(&drawn(&screen, 80, 24)).contains("Keys and words"));
    assert!(!press(&mut screen, KeyCode::Esc), "the help ends first");
    assert!(press(&mut screen, KeyCode::Esc) && press(&mut screen, KeyCode::Char('q')));
    let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(screen.on_event(&Event::Key(interrupt)).is_break());
}

#[test]
fn without_colour_every_word_is_still_there() {
    let colours = |buffer: &Buffer| buffer.content().iter().any(|cell| cell.fg != Color::Reset);
    let mut plain = Screen::new(false);
    plain.take(tripped());
    let (plain, coloured) = (drawn(&plain, 120, 40), drawn(&screen(tripped()), 120, 40));
    assert!(colours(&coloured) && !colours(&plain));
    assert_eq!(text(&plain), text(&coloured));
}

#[test]
fn what_others_wrote_does_not_steer_the_terminal() {
    let now = Timestamp::from_millis(0);
    let mut state = State::unknown(0, now);
    let reason = Some("\u{1b}[2Jmoving\u{9b}31m".to_owned());
    state.paused = Some(Paused { reason, by: "o\u{1b}]0;x\u{7}ps".to_owned(), since: now });
    let lines = guard_lines(&Guard::of(Some(&state), now)).join("");
    assert!(!lines.contains(char::is_control) && lines.contains("by o·]0;x·ps: ·[2Jmoving·31m"), "{lines}");
}
