use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::fingerprint::Fingerprint;
use crate::lane::{Lane, MAX_REMEMBERED};
use crate::time::Timestamp;

const START: Timestamp = Timestamp::from_millis(1_790_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn key() -> Fingerprint {
    Fingerprint::of_key("the fleet's key")
}

/// What the account behind the API is like.
#[derive(Debug, Clone, Copy)]
enum Account {
    Good,
    Refused(Reason),
    Down,
}

/// A leader, or rather a row of them, over an account; each call and when it was made.
struct Scene {
    state: State,
    rules: GuardRules,
    now: Timestamp,
    account: Account,
    calls: Vec<Timestamp>,
}

impl Scene {
    fn new(account: Account) -> Self {
        let state = State::unknown(0, START);
        Self { state, rules: GuardRules::default(), now: START, account, calls: Vec::new() }
    }

    fn learn(&mut self, news: GuardEvent<'_>) -> bool {
        let before = self.state.clone();
        let changed = self.state.learn(news, &self.rules, self.now);
        assert_eq!(changed, self.state != before);
        assert_eq!(
            changed,
            self.state.epoch > before.epoch,
            "a change is a later epoch, and nothing else is"
        );
        assert!(self.state.term >= before.term && self.state.term <= self.state.epoch);
        assert_eq!(State::read(&self.state.to_bytes()).as_ref(), Some(&self.state));
        changed
    }

    fn after(&mut self, span: Duration) {
        self.now = self.now.plus(span);
    }

    fn probe_end(&self) -> ProbeEnd {
        match self.account {
            Account::Good => ProbeEnd::Balance { text: "7.5".to_owned(), amount: Decimal::new(75, 1) },
            Account::Refused(reason) => ProbeEnd::Refused(reason),
            Account::Down => ProbeEnd::Down,
        }
    }

    fn canary_end(&self) -> CanaryEnd {
        match self.account {
            Account::Good => CanaryEnd::Passed,
            Account::Refused(reason) => CanaryEnd::Refused(reason),
            Account::Down => CanaryEnd::Down,
        }
    }

    /// The leader does what is due; `dies`: it does not live to see the end of its call.
    fn duty(&mut self, dies: bool) {
        if self.state.doubt_is_over(self.now) {
            self.learn(GuardEvent::DoubtfulTasks { lost: false });
        }
        if self.state.probe_due(&self.rules, Pressure::default(), self.now).is_some_and(|at| at <= self.now) {
            self.learn(GuardEvent::ProbeBegins);
            self.calls.push(self.now);
            if dies {
                self.learn(GuardEvent::TookOver);
                return;
            }
            let (key, end) = (key(), self.probe_end());
            self.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
        }
        if self.state.phase == Phase::Canary {
            let (key, end, term) = (key(), self.canary_end(), self.state.term);
            self.calls.push(self.now);
            self.learn(GuardEvent::Canary(end, term, &key));
        }
    }

    fn refused(&mut self, reason: Reason, term: u64) -> bool {
        let key = key();
        self.learn(GuardEvent::Refused { reason, key: &key, term, peers: false, since: None })
    }

    fn open() -> Self {
        let mut scene = Self::new(Account::Good);
        scene.duty(false);
        assert_eq!(scene.state.phase, Phase::Active);
        scene
    }

    fn most_calls_within(&self, span: Duration) -> usize {
        let within =
            |from: &Timestamp| self.calls.iter().filter(|at| **at >= *from && at.since(*from) < span).count();
        self.calls.iter().map(within).max().unwrap_or(0)
    }
}

#[test]
fn a_new_fleet_asks_for_the_balance_then_submits_one_job_and_then_all() {
    let mut scene = Scene::new(Account::Good);
    assert_eq!(Permit::under(&scene.state, true, &key()), Permit::NOTHING);
    scene.learn(GuardEvent::ProbeBegins);
    let (key, end) = (key(), scene.probe_end());
    scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
    assert_eq!(Permit::under(&scene.state, true, &key).jobs, Jobs::Canary);
    assert_eq!(Permit::under(&scene.state, false, &key).jobs, Jobs::None, "the leader alone");
    let term = scene.state.term;
    scene.learn(GuardEvent::Canary(CanaryEnd::Passed, term, &key));
    assert_eq!(Permit::under(&scene.state, false, &key), Permit::ALL);
}

#[test]
fn a_refusal_of_a_call_that_began_before_the_account_was_mended_is_old_news() {
    let mut scene = Scene::open();
    let old = scene.state.term;
    assert!(scene.refused(Reason::KeyInvalid, old));
    scene.learn(GuardEvent::Resume("1"));
    scene.after(MINUTE);
    scene.duty(false);
    assert_eq!(scene.state.phase, Phase::Active);
    assert!(!scene.refused(Reason::KeyInvalid, old));
}

#[test]
fn a_graver_reason_replaces_a_lighter_one_and_not_the_reverse() {
    let mut scene = Scene::open();
    let term = scene.state.term;
    scene.refused(Reason::NoFunds, term);
    let term = scene.state.term;
    scene.refused(Reason::KeyInvalid, term);
    assert_eq!(scene.state.reasons(), [Reason::KeyInvalid]);
    let term = scene.state.term;
    assert!(!scene.refused(Reason::NoFunds, term));
}

fn balance(text: &str) -> ProbeEnd {
    ProbeEnd::Balance { text: text.to_owned(), amount: crate::money::decimal(text).expect("an amount") }
}

#[test]
fn without_money_only_a_higher_balance_opens_the_account_again() {
    let mut scene = Scene::open();
    let term = scene.state.term;
    scene.refused(Reason::NoFunds, term);
    let key = key();
    let probe = |scene: &mut Scene, amount: &str| {
        scene.after(Duration::from_secs(700));
        scene.learn(GuardEvent::ProbeBegins);
        let end = balance(amount);
        scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
        scene.state.phase
    };
    assert_eq!(probe(&mut scene, "0.0"), Phase::Tripped);
    assert_eq!(probe(&mut scene, "0.0005"), Phase::Canary, "there is some now");
    let term = scene.state.term;
    scene.learn(GuardEvent::Canary(CanaryEnd::Refused(Reason::NoFunds), term, &Fingerprint::of_key("k")));
    assert_eq!(probe(&mut scene, "0.0005"), Phase::Tripped, "too little for a job, as has been seen");
    assert_eq!(probe(&mut scene, "2.0"), Phase::Canary);
}

#[test]
fn the_guard_trips_at_the_operators_bound_before_the_api_says_no() {
    let mut scene = Scene::open();
    scene.rules.min_balance = Decimal::from(8);
    scene.after(MINUTE);
    scene.duty(false);
    assert_eq!(scene.state.reasons(), [Reason::NoFunds]);
}

#[test]
fn the_balance_is_looked_at_sooner_while_it_runs_out() {
    let mut scene = Scene::open();
    let key = key();
    for amount in ["1000", "400", "160"] {
        scene.after(MINUTE);
        let end = balance(amount);
        scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
    }
    let due = scene.state.probe_due(&scene.rules, Pressure::default(), scene.now).expect("it is open");
    assert!((5..10).contains(&due.since(scene.now).as_secs()), "{due} at {}", scene.now);
}

#[test]
fn a_pause_stops_submissions_alone_and_what_is_found_out_meanwhile_stays() {
    let mut scene = Scene::open();
    let paused = Paused { reason: Some("why".to_owned()), by: "ops".to_owned(), since: scene.now };
    scene.learn(GuardEvent::Pause(paused, "1"));
    let permit = Permit::under(&scene.state, true, &key());
    assert_eq!((permit.jobs, permit.polls), (Jobs::None, Polls::All));
    let term = scene.state.term;
    scene.refused(Reason::KeyInvalid, term);
    assert_eq!(scene.state.reasons(), [Reason::KeyInvalid, Reason::Operator]);
    scene.learn(GuardEvent::Resume("2"));
    assert_eq!(scene.state.reasons(), [Reason::KeyInvalid]);
}

#[test]
fn a_second_pause_without_a_reason_keeps_the_first_one() {
    let mut scene = Scene::open();
    for (reason, by, kept) in [
        (Some("moving"), "ann", ("moving", "ann")),
        (None, "bob", ("moving", "ann")),
        (Some("moved on"), "bob", ("moved on", "bob")),
    ] {
        let paused = Paused { reason: reason.map(str::to_owned), by: by.to_owned(), since: scene.now };
        scene.learn(GuardEvent::Pause(paused, by));
        let paused = scene.state.paused.clone().expect("it is paused");
        assert_eq!((paused.reason.as_deref().unwrap_or(""), &*paused.by), kept);
    }
}

#[test]
fn a_key_refused_to_one_replica_while_others_work_concerns_that_replica_alone() {
    let mut scene = Scene::open();
    let (good, odd, term) = (key(), Fingerprint::of_key("another"), scene.state.term);
    scene.learn(GuardEvent::Refused {
        reason: Reason::KeyInvalid,
        key: &odd,
        term,
        peers: true,
        since: None,
    });
    assert_eq!(scene.state.phase, Phase::Active);
    assert_eq!(Permit::under(&scene.state, false, &odd), Permit::NOTHING);
    assert_eq!(Permit::under(&scene.state, false, &good), Permit::ALL);
}

#[test]
fn tasks_in_doubt_are_asked_for_by_the_leader_alone_and_by_nobody_once_they_are_lost() {
    let mut scene = Scene::open();
    let tripped_at = scene.now;
    let term = scene.state.term;
    scene.refused(Reason::WrongIds, term);
    scene.after(MINUTE);
    scene.learn(GuardEvent::ProbeBegins);
    let (key, end) = (key(), scene.probe_end());
    scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
    let polls = |leads| Permit::under(&scene.state, leads, &key).polls;
    assert_eq!((polls(true), polls(false)), (Polls::All, Polls::Since(tripped_at)));
    assert!(polls(false).allow(scene.now));
    let term = scene.state.term;
    scene.learn(GuardEvent::Canary(CanaryEnd::Passed, term, &key));
    assert!(scene.state.doubts(START) || tripped_at == START, "work goes on, and they are still in doubt");
    let mut cleared = scene.state.clone();
    scene.learn(GuardEvent::DoubtfulTasks { lost: true });
    let polls = |leads| Permit::under(&scene.state, leads, &key).polls;
    assert_eq!((polls(true), polls(false)), (Polls::Since(tripped_at), Polls::Since(tripped_at)));
    cleared.learn(GuardEvent::DoubtfulTasks { lost: false }, &scene.rules, scene.now);
    assert_eq!(Permit::under(&cleared, false, &key), Permit::ALL);
}

#[test]
fn a_key_that_is_refused_once_among_good_answers_is_looked_at_within_seconds_and_then_ever_more_seldom() {
    for reason in [Reason::KeyInvalid, Reason::IpNotAllowed] {
        let mut flash = Scene::open();
        let term = flash.state.term;
        flash.after(Duration::from_secs(2));
        flash.refused(reason, term);
        (0..10).for_each(|_| {
            flash.after(Duration::from_secs(1));
            flash.duty(false);
        });
        assert_eq!(flash.state.phase, Phase::Active, "{reason}");

        let mut revoked = Scene::open();
        let term = revoked.state.term;
        revoked.refused(reason, term);
        revoked.account = Account::Refused(reason);
        revoked.calls.clear();
        (0..180).for_each(|_| {
            revoked.after(Duration::from_secs(1));
            revoked.duty(false);
        });
        assert_eq!(revoked.calls.len(), 2, "{:?}", revoked.calls);
    }
}

#[test]
fn a_firewalls_word_makes_the_leader_look_at_once_and_stops_nobody() {
    let mut scene = Scene::open();
    scene.after(Duration::from_secs(10));
    scene.duty(false);
    scene.after(Duration::from_secs(6));
    let doubted = Pressure { doubted: true, ..Pressure::default() };
    let due = |scene: &Scene, pressure| scene.state.probe_due(&scene.rules, pressure, scene.now);
    assert!(due(&scene, doubted).is_some_and(|at| at <= scene.now));
    assert!(due(&scene, Pressure::default()).is_some_and(|at| at > scene.now));
    assert_eq!(Permit::under(&scene.state, false, &key()), Permit::ALL);
}

#[test]
fn an_api_that_told_a_balance_before_and_answers_nonsense_now_is_down() {
    let mut scene = Scene::open();
    let (key, end) = (key(), ProbeEnd::Unsupported);
    scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: true, peers: false });
    assert_eq!(scene.state.reasons(), [Reason::ProviderDown]);
}

#[test]
fn an_account_of_which_nobody_has_heard_for_long_is_looked_at_by_a_new_leader() {
    let mut scene = Scene::open();
    scene.after(MINUTE);
    assert!(!scene.learn(GuardEvent::TookOver));
    scene.after(MINUTE * 10);
    scene.learn(GuardEvent::TookOver);
    assert_eq!(scene.state.phase, Phase::Probing);
}

#[test]
fn a_look_that_began_before_the_account_tripped_opens_nothing() {
    let mut scene = Scene::open();
    let (key, before) = (key(), scene.state.term);
    scene.refused(Reason::KeyInvalid, before);
    let end = scene.probe_end();
    scene.learn(GuardEvent::Probed { key: &key, end, term: before, suspected: false, peers: false });
    assert_eq!(scene.state.reasons(), [Reason::KeyInvalid]);
}

#[test]
fn a_look_that_finds_something_else_has_the_last_word() {
    let mut scene = Scene::open();
    let (key, term) = (key(), scene.state.term);
    scene.refused(Reason::IpBanned, term);
    scene.after(scene.rules.ban_pause);
    let end = ProbeEnd::Refused(Reason::KeyInvalid);
    scene.learn(GuardEvent::Probed { key: &key, end, term: u64::MAX, suspected: false, peers: false });
    assert_eq!(scene.state.reasons(), [Reason::KeyInvalid], "the ban is over, and what earned it is not");
    let due = scene.state.probe_due(&scene.rules, Pressure::default(), scene.now).expect("it is tripped");
    assert!(due >= scene.now.plus(MINUTE));
}

#[test]
fn a_ban_that_calls_under_way_have_earned_is_no_old_news() {
    let mut scene = Scene::open();
    let term = scene.state.term;
    scene.refused(Reason::NoFunds, term);
    scene.refused(Reason::IpBanned, term);
    assert_eq!(scene.state.reasons(), [Reason::IpBanned]);
}

#[test]
fn an_unknown_key_is_not_tried_before_its_time_where_another_reason_stands() {
    let mut scene = Scene::new(Account::Refused(Reason::IpNotAllowed));
    scene.duty(false);
    assert!(scene.state.proof_due(&scene.rules, scene.now) >= scene.now.plus(MINUTE));
}

#[test]
fn one_unanswered_look_stops_nothing_until_replicas_find_the_same() {
    let mut scene = Scene::open();
    let key = key();
    for (suspected, phase) in [(false, Phase::Active), (true, Phase::Tripped)] {
        scene.learn(GuardEvent::Probed {
            key: &key,
            end: ProbeEnd::Down,
            term: u64::MAX,
            suspected,
            peers: false,
        });
        assert_eq!(scene.state.phase, phase);
    }
    assert_eq!(scene.state.reasons(), [Reason::ProviderDown]);
}

#[derive(Debug, Clone)]
enum Event {
    Wait(u64),
    Duty { dies: bool },
    TookOver,
    Met(Reason),
    Resume,
    Pause,
}

fn events(with_resume: bool) -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (0_u64..40).prop_map(Event::Wait),
        4 => any::<bool>().prop_map(|dies| Event::Duty { dies }),
        1 => Just(Event::TookOver),
        1 => prop::sample::select(Reason::ALL[1..].to_vec()).prop_map(Event::Met),
        u32::from(with_resume) => Just(Event::Resume),
        u32::from(with_resume) => Just(Event::Pause),
    ];
    prop::collection::vec(event, 1..120)
}

impl Scene {
    fn happen(&mut self, event: &Event) {
        match event {
            Event::Wait(seconds) => self.after(Duration::from_secs(*seconds)),
            Event::Duty { dies } => self.duty(*dies),
            Event::TookOver => drop(self.learn(GuardEvent::TookOver)),
            Event::Met(reason) => {
                let term = self.state.term;
                self.refused(*reason, term);
            }
            Event::Resume => drop(self.learn(GuardEvent::Resume("r"))),
            Event::Pause => {
                let paused = Paused { reason: None, by: "ops".to_owned(), since: self.now };
                self.learn(GuardEvent::Pause(paused, "p"));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_wrong_key_costs_two_calls_in_a_minute_at_most_however_many_leaders_die_over_it(
        events in prop::collection::vec(
            prop_oneof![(0_u64..40).prop_map(Event::Wait), any::<bool>().prop_map(|dies| Event::Duty { dies }), Just(Event::TookOver)],
            1..200,
        )
    ) {
        let mut scene = Scene::new(Account::Refused(Reason::KeyInvalid));
        events.iter().for_each(|event| scene.happen(event));
        prop_assert!(scene.most_calls_within(MINUTE) <= 1, "{:?}", scene.calls);
    }

    #[test]
    fn an_impatient_operator_earns_no_ban_either(
        events in events(true),
        reason in prop::sample::select(vec![Reason::KeyInvalid, Reason::NoFunds, Reason::IpNotAllowed]),
    ) {
        let mut scene = Scene::new(Account::Refused(reason));
        let events = events.iter().filter(|event| !matches!(event, Event::Met(_) | Event::Duty { dies: true }));
        events.for_each(|event| scene.happen(event));
        prop_assert!(scene.most_calls_within(MINUTE) <= 4, "{:?}", scene.calls);
    }

    #[test]
    fn nothing_is_called_while_a_ban_lasts(events in events(true)) {
        let mut scene = Scene::open();
        scene.calls.clear();
        let term = scene.state.term;
        scene.refused(Reason::IpBanned, term);
        let until = scene.now.plus(scene.rules.ban_pause);
        for event in &events {
            if scene.now >= until { break; }
            scene.happen(event);
            let permit = Permit::under(&scene.state, true, &key());
            prop_assert!(scene.now >= until || (permit.jobs == Jobs::None && permit.polls == Polls::None));
            prop_assert!(scene.now >= until || scene.state.proof_due(&scene.rules, scene.now) >= until);
        }
        prop_assert!(scene.calls.iter().all(|at| *at >= until), "{:?}", scene.calls);
    }

    #[test]
    fn whatever_happened_a_fixed_account_is_used_again(
        events in events(true),
        account in prop::sample::select(vec![
            Account::Good, Account::Down, Account::Refused(Reason::KeyInvalid), Account::Refused(Reason::NoFunds),
            Account::Refused(Reason::IpBanned), Account::Refused(Reason::IpNotAllowed),
        ]),
    ) {
        let mut scene = Scene::new(account);
        events.iter().for_each(|event| scene.happen(event));
        scene.account = Account::Good;
        scene.learn(GuardEvent::Resume("fixed"));
        // The longest of all waits: a ban that was found still there again and again.
        for _ in 0..3_700 {
            scene.after(Duration::from_secs(1));
            scene.duty(false);
        }
        prop_assert_eq!(scene.state.phase, Phase::Active);
        prop_assert_eq!(Permit::under(&scene.state, false, &key()), Permit::ALL);
    }
}

#[test]
fn the_record_remembers_each_lane_until_no_settings_name_it_and_its_queue_is_gone() {
    let lanes = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<BTreeSet<Lane>>();
    let mut state = State::unknown(0, START);
    let mut learn = |named: &[&str], gone: &[&str]| {
        let (named, gone) = (lanes(named), lanes(gone));
        let is_news =
            state.learn(GuardEvent::Lanes { named: &named, gone: &gone }, &GuardRules::default(), START);
        let read = State::read(&state.to_bytes()).expect("a record");
        (is_news, read.lanes)
    };
    assert_eq!(learn(&["urgent", "team", "default"], &[]), (true, lanes(&["urgent", "team"])));
    assert_eq!(learn(&["team"], &["team"]), (false, lanes(&["urgent", "team"])));
    assert_eq!(learn(&["team"], &["urgent"]), (true, lanes(&["team"])));
    let many: Vec<String> = (0..40).map(|number| format!("lane-{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(learn(&many, &[]).1.len(), MAX_REMEMBERED);
}
