use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use captcha_worker::broker::memory::{BrokerEvent, DeliveryId, MessageFate, Observer};
use captcha_worker::broker::{ConsumeSpec, Consumer};
use captcha_worker::domain::guard::{Phase, Reason, State};
use captcha_worker::domain::message::Properties;
use captcha_worker::domain::time::Timestamp;
use captcha_worker::fleet::{Egress, Order};
use captcha_worker::simulator::{Control, SimulatorConfig, Storm};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until, timeout};

use crate::worker::scene::{Running, Scene, drain_all, image, within};

const TIMEOUT: Duration = Duration::from_secs(10);

fn pause(reason: &str) -> Order {
    Order::Pause { reason: Some(reason.to_owned()) }
}

fn calls(scene: &Scene) -> u64 {
    let calls = scene.simulator.stats().calls;
    calls.create_task + calls.get_task_result + calls.get_balance
}

fn leaders(fleet: &[Running]) -> usize {
    fleet.iter().filter(|running| running.leads()).count()
}

/// The state message itself, once nobody holds it.
fn stored(scene: &Scene) -> Vec<State> {
    let messages = scene.broker.snapshot(&scene.names.guard());
    messages.iter().map(|message| State::read(&message.body).expect("a state")).collect()
}

#[tokio::test(start_paused = true)]
async fn eight_replicas_with_a_wrong_key_make_two_calls_in_the_first_minute_and_one_in_each_after() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.simulator.set_key_valid(false);
    scene.publish_images(500, &json!({})).await;
    let began = Instant::now();
    let fleet = scene.start_fleet(8).await;
    let mut before = 0;
    for minute in 1..=5_u64 {
        sleep_until(began + Duration::from_secs(60 * minute)).await;
        let now = calls(&scene);
        assert!(now - before <= if minute == 1 { 2 } else { 1 }, "minute {minute}: {} calls", now - before);
        before = now;
    }
    assert!(fleet.iter().all(|running| running.reason() == Some(Reason::KeyInvalid)));
    assert_eq!(scene.broker.queue_len(&scene.names.jobs()), 500);
    assert_eq!(scene.simulator.stats().calls.create_task, 0);

    scene.simulator.set_key_valid(true);
    let answer = within(20, scene.client().await.order(Order::Resume, TIMEOUT)).await.expect("a session");
    assert!(answer.carried_out);
    scene.wait_for(&scene.names.results(), 500).await;
    drain_all(fleet).await;
    assert_eq!(scene.simulator.stats().bans, 0);
    scene.assert_rules_kept(0);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_crash_all_the_time_keep_to_the_same_budget() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.simulator.set_key_valid(false);
    scene.publish_images(50, &json!({})).await;
    let began = Instant::now();
    let mut fleet = scene.start_fleet(4).await;
    let mut before = 0;
    for second in 1..=180_u64 {
        sleep_until(began + Duration::from_secs(second)).await;
        // Each second another one is lost, without a word, and started again.
        fleet.remove(0).crash(&scene);
        fleet.push(scene.join().await);
        if second.is_multiple_of(60) {
            let now = calls(&scene);
            assert!(now - before <= if second == 60 { 2 } else { 1 }, "by second {second}: {}", now - before);
            before = now;
        }
    }
    drain_all(fleet).await;
    assert_eq!(scene.simulator.stats().bans, 0);
}

#[tokio::test(start_paused = true)]
async fn a_replica_calls_nothing_before_it_knows_the_state() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    // Somebody holds the lead and says nothing.
    let spec = ConsumeSpec { queue: scene.names.guard(), prefetch: 1, tag: "silent".to_owned() };
    let mut silent = within(5, scene.session.link().consume(spec)).await.expect("a consumer");
    scene.publish_images(20, &json!({})).await;
    let fleet = scene.start_fleet(3).await;
    let taken = within(30, silent.recv()).await.expect("a state message: they think it lost");
    assert_eq!((calls(&scene), scene.broker.queue_len(&scene.names.jobs())), (0, 20));
    drop(taken);
    silent.close().await;
    scene.wait_for(&scene.names.results(), 20).await;
    assert_eq!(leaders(&fleet), 1);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_leader_is_followed_by_another_and_the_work_goes_on() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = scene.start_fleet(3).await;
    scene.publish_images(300, &json!({})).await;
    for _ in 0..2 {
        scene.wait_until(30, "there is one leader", || leaders(&fleet) == 1).await;
        let accepted = scene.simulator.stats().accepted_tasks;
        let leader = fleet.iter().position(Running::leads).expect("checked");
        fleet.remove(leader).crash(&scene);
        scene
            .wait_until(30, "work goes on", || scene.simulator.stats().accepted_tasks > accepted.min(298))
            .await;
    }
    scene.wait_for(&scene.names.results(), 300).await;
    assert_eq!(fleet[0].phase(), Some(Phase::Active));
    drain_all(fleet).await;
    assert_eq!(stored(&scene).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_gives_the_lead_away_before_its_work_is_done() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = scene.start_fleet(2).await;
    scene.publish_images(4, &json!({})).await;
    scene.wait_for(&scene.names.results(), 4).await;
    let leader = fleet.iter().position(Running::leads).expect("somebody leads");
    let leaving = fleet.remove(leader);
    // A call that takes its whole time-out holds the drain up.
    for n in 0..4 {
        scene.publish(image(&format!("slow-{n}"), &json!({"create": ["hang"]})), Properties::default()).await;
    }
    scene.wait_until(5, "both are busy", || leaving.view.in_flight() > 0).await;
    let view = leaving.view.clone();
    let draining = tokio::spawn(leaving.drain());
    scene.wait_until(3, "the other leads", || fleet[0].leads()).await;
    assert!(view.in_flight() > 0, "while the first is still busy");
    assert_eq!(within(60, draining).await.expect("no panic").unfinished, 0);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_state_is_made_anew_and_nothing_is_taken_for_granted() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(5, &json!({})).await;
    let mut fleet = scene.start_fleet(1).await;
    scene.wait_for(&scene.names.results(), 5).await;
    let epoch = fleet[0].view.seen().epoch();
    // Next in the row of those who may lead is somebody who loses the message.
    let spec = ConsumeSpec { queue: scene.names.guard(), prefetch: 1, tag: "careless".to_owned() };
    let mut careless = within(5, scene.session.link().consume(spec)).await.expect("a consumer");
    fleet.push(scene.join().await);
    scene.wait_until(10, "the second follows", || fleet[1].view.seen().epoch() == epoch).await;
    fleet.remove(0).crash(&scene);
    within(5, careless.recv()).await.expect("the state").receipt.ack().expect("live");
    careless.close().await;

    let probes = scene.simulator.stats().calls.get_balance;
    scene.wait_until(30, "the second leads", || fleet[0].leads()).await;
    assert!(fleet[0].view.seen().epoch() > epoch, "later than what anybody remembers");
    scene.wait_until(30, "it looks first", || scene.simulator.stats().calls.get_balance > probes).await;
    scene.publish_images(5, &json!({})).await;
    scene.wait_for(&scene.names.results(), 10).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn of_two_states_the_later_is_in_force_and_the_other_goes() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    drain_all(scene.start_fleet(1).await).await;
    let state = |epoch: u64| {
        let mut state = State::unknown(epoch - 1, Timestamp::from_millis(0));
        state.last_command = Some(format!("epoch {epoch}"));
        state
    };
    for epoch in [40, 50, 45] {
        let properties = Properties {
            user_id: Some("guest".to_owned()),
            kind: Some("captcha.guard.v1".to_owned()),
            ..Properties::default()
        };
        scene.publish_to(&scene.names.guard(), state(epoch).to_bytes(), properties).await;
    }
    // One that no replica wrote: no user is named.
    scene.publish_to(&scene.names.guard(), state(99).to_bytes(), Properties::default()).await;
    let fleet = scene.start_fleet(2).await;
    scene.wait_until(10, "somebody leads", || leaders(&fleet) == 1).await;
    let known = fleet[0].view.seen().state.expect("known");
    assert_eq!(known.last_command.as_deref(), Some("epoch 50"));
    drain_all(fleet).await;
    assert_eq!(stored(&scene).len(), 1);
    assert_eq!(scene.broker.queue_len(&scene.names.dead_raw()), 1, "the forged one is set aside");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_followed_by_all_and_outlives_the_whole_fleet() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(400, &json!({"solve_ms": 3_000})).await;
    let fleet = scene.start_fleet(4).await;
    scene.wait_until(30, "work is under way", || scene.simulator.stats().accepted_tasks > 50).await;
    let mut client = scene.client().await;
    let began = Instant::now();
    let answer = within(20, client.order(pause("a trial"), TIMEOUT)).await.expect("a session");
    assert!(answer.carried_out && began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!((answer.survey.following(), answer.survey.expected()), (4, 4));
    let paid = scene.simulator.stats().accepted_tasks;
    scene.wait_until(60, "what is paid is finished", || scene.simulator.stats().tasks_open == 0).await;
    assert_eq!(scene.simulator.stats().accepted_tasks, paid, "nothing more is submitted");
    drain_all(fleet).await;

    let fleet = scene.start_fleet(4).await;
    let survey = within(20, client.survey(TIMEOUT)).await.expect("a session");
    let state = survey.leader.expect("somebody leads").state;
    assert_eq!(state.paused.and_then(|paused| paused.reason).as_deref(), Some("a trial"));
    assert_eq!(scene.simulator.stats().accepted_tasks, paid);
    within(20, client.order(Order::Resume, TIMEOUT)).await.expect("a session");
    scene.wait_for(&scene.names.results(), 400).await;
    drain_all(fleet).await;
    scene.assert_rules_kept(0);
}

/// How often replicas have said that they are there, as far as it has come to this consumer.
async fn presences(control: &mut Consumer) -> usize {
    let mut said = 0;
    while let Ok(Some(delivery)) = timeout(Duration::from_millis(1), control.recv()).await {
        let message: Value = serde_json::from_slice(&delivery.message.body).expect("JSON");
        said += usize::from(message["say"] == "replica");
        let _ = delivery.receipt.ack();
    }
    said
}

#[tokio::test(start_paused = true)]
async fn however_many_ask_who_is_there_all_are_answered_in_time_and_the_fleet_says_little() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = scene.start_fleet(4).await;
    let mut client = scene.client().await;
    let began = Instant::now();
    within(20, client.survey(TIMEOUT)).await.expect("a session");
    sleep_until(began + Duration::from_secs(10)).await;
    let mut control = scene.session.link().subscribe(&scene.names.control()).await.expect("subscribed");
    let asking = (0..16).map(|n| {
        let scene = &scene;
        async move {
            let mut client = scene.client().await;
            tokio::time::sleep(Duration::from_millis(50 * n)).await;
            let survey = within(20, client.survey(Duration::from_millis(2_500))).await.expect("a session");
            assert_eq!((survey.following(), survey.expected()), (4, 4));
        }
    });
    futures_util::future::join_all(asking).await;
    let said = presences(&mut control).await;
    // 16 answers of each of them, were each question answered by itself.
    assert!(said <= 4 * 4, "{said}");
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn who_looks_on_hears_the_fleet_without_asking_and_forgets_who_is_gone() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let mut fleet = scene.start_fleet(3).await;
    scene.wait_until(20, "somebody leads", || leaders(&fleet) == 1).await;
    let mut client = scene.client().await;
    let look = Duration::from_secs(10);
    client.listen_until(Instant::now() + look).await.expect("a session");
    assert_eq!((client.heard().count(), client.leader().map(|leader| leader.replicas)), (3, Some(3)));
    let one = fleet.iter().position(|running| !running.leads()).expect("one that follows");
    fleet.remove(one).crash(&scene);
    client.listen_until(Instant::now() + look).await.expect("a session");
    assert_eq!((client.heard().count(), client.leader().is_some()), (2, true));
    drain_all(fleet).await;
    client.listen_until(Instant::now() + look).await.expect("a session");
    assert_eq!((client.heard().count(), client.leader().is_some()), (0, false));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_leaves_does_not_report_that_it_takes_jobs() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(4, &json!({"solve_ms": 8_000})).await;
    let running = scene.start();
    scene.wait_until(30, "all are accepted", || scene.simulator.stats().accepted_tasks == 4).await;
    let view = running.view.clone();
    assert!(view.vitals().ready);
    let leaving = async {
        scene.wait_until(5, "it leaves", || view.is_leaving()).await;
        assert!(!view.vitals().ready);
    };
    let (drained, ()) = tokio::join!(running.drain(), leaving);
    assert_eq!(drained.unfinished, 0);
}

#[tokio::test(start_paused = true)]
async fn an_order_of_somebody_the_broker_does_not_vouch_for_is_not_followed() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = scene.start_fleet(1).await;
    scene.wait_until(10, "it leads", || fleet[0].leads()).await;
    let order = json!({"say": "command", "id": "x", "order": {"do": "pause"}}).to_string();
    let properties = Properties { kind: Some("captcha.control.v1".to_owned()), ..Properties::default() };
    let message = captcha_worker::domain::message::Message {
        body: order.into(),
        properties: properties.clone(),
        transient: true,
    };
    within(5, scene.session.publish(&scene.names.control(), "", message.clone())).await.expect("confirmed");
    let vouched = Properties { user_id: Some("guest".to_owned()), ..properties };
    scene.publish_images(1, &json!({})).await;
    scene.wait_for(&scene.names.results(), 1).await;
    assert_eq!(fleet[0].reason(), None);
    let message = captcha_worker::domain::message::Message { properties: vouched, ..message };
    within(5, scene.session.publish(&scene.names.control(), "", message)).await.expect("confirmed");
    scene.wait_until(5, "the same, vouched for", || fleet[0].reason() == Some(Reason::Operator)).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_with_a_wrong_key_of_its_own_stops_alone_after_one_call() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    scene.publish_images(100, &json!({})).await;
    let mut fleet = scene.start_fleet(2).await;
    scene.wait_until(30, "the key is proved", || fleet[0].phase() == Some(Phase::Active)).await;
    fleet.push(scene.start_with_key("not-the-key"));
    scene.wait_for(&scene.names.results(), 100).await;
    scene.wait_until(60, "its key is tried", || scene.simulator.stats().bad_key_calls == 1).await;
    scene.publish_images(100, &json!({})).await;
    scene.wait_for(&scene.names.results(), 200).await;
    assert_eq!(scene.simulator.stats().bad_key_calls, 1);
    assert!(fleet.iter().all(|running| running.phase() == Some(Phase::Active)));
    // The lead does not stay with it either, should it come to it.
    fleet.remove(0).crash(&scene);
    fleet.remove(0).crash(&scene);
    let joined = scene.join().await;
    scene.publish_images(5, &json!({})).await;
    scene.wait_for(&scene.names.results(), 205).await;
    assert!(scene.simulator.stats().bad_key_calls <= 2);
    fleet.push(joined);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_revoked_under_load_is_known_to_all_at_once() {
    let scene = {
        let mut scene = Scene::new(SimulatorConfig::default()).await;
        scene.limits.max_calls_per_second = std::num::NonZeroU32::new(30);
        scene
    };
    scene.publish_images(300, &json!({"solve_ms": 30_000})).await;
    let fleet = scene.start_fleet(4).await;
    scene.wait_until(60, "many are open", || scene.simulator.stats().tasks_open > 150).await;
    scene.simulator.set_key_valid(false);
    scene.wait_until(10, "all know", || fleet.iter().all(|r| r.reason() == Some(Reason::KeyInvalid))).await;
    let offences = scene.simulator.stats().offences;
    assert!(offences < 5, "{offences} calls were under way together");
    scene.wait_until(70, "it was looked at", || scene.simulator.stats().late_calls == 1).await;
    assert_eq!(scene.simulator.stats().bans, 0);
    scene.simulator.set_key_valid(true);
    within(20, scene.client().await.order(Order::Resume, TIMEOUT)).await.expect("a session");
    let ended = || {
        scene.broker.queue_len(&scene.names.results())
            + scene.broker.queue_len(&scene.names.dead(captcha_worker::domain::class::Class::Account))
    };
    scene.wait_until(600, "every job ends", || ended() == 300).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_storm_stops_the_calls_and_they_are_back_soon_after_it() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let fleet = scene.start_fleet(2).await;
    let began = Instant::now();
    let at = |seconds: u64| sleep_until(began + Duration::from_secs(seconds));
    let offering = async {
        for n in 0..4_000_u64 {
            sleep_until(began + Duration::from_millis(20 * n)).await;
            scene.publish(image(&format!("job-{n}"), &json!({})), Properties::default()).await;
        }
    };
    let watching = async {
        at(5).await;
        let before = calls(&scene);
        at(10).await;
        let normal = (calls(&scene) - before) as f64 / 5.0;
        let storm = Storm { status: 503, until_seconds: 60, retry_after: None };
        scene.simulator.control(&Control { storm: Some(storm), ..Control::default() }).expect("applied");
        at(15).await;
        let before = calls(&scene);
        at(70).await;
        let stormy = (calls(&scene) - before) as f64 / 55.0;
        assert!(stormy < 0.05 * normal, "{stormy} of {normal} calls a second");
        at(75).await;
        let before = calls(&scene);
        at(80).await;
        let after = (calls(&scene) - before) as f64 / 5.0;
        assert!(after > 0.8 * normal, "{after} of {normal} calls a second");
    };
    tokio::join!(offering, watching);
    scene.wait_for(&scene.names.results(), 4_000).await;
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn with_an_address_of_its_own_a_banned_replica_stops_alone() {
    let mut scene = Scene::new(SimulatorConfig::default()).await;
    scene.egress = Egress::Own;
    let fleet = scene.start_fleet(2).await;
    scene.publish_images(10, &json!({})).await;
    scene.wait_for(&scene.names.results(), 10).await;
    scene
        .publish(image("banned", &json!({"create": ["ERROR_IP_BANNED", "ok"]})), Properties::default())
        .await;
    let held = || fleet.iter().filter(|running| running.view.seen().held() == Some(Reason::IpBanned)).count();
    scene.wait_until(10, "one is held", || held() == 1).await;
    assert!(fleet.iter().all(|running| running.phase() == Some(Phase::Active)));
    scene.publish_images(50, &json!({})).await;
    scene.wait_for(&scene.names.results(), 61).await;
    assert_eq!(held(), 1, "it is left alone for 10 minutes");
    drain_all(fleet).await;
}

/// How long deliveries off the guard's queue were in hand, at the most.
#[derive(Default)]
struct RecordsInHand(Mutex<(HashMap<DeliveryId, Instant>, Duration)>);

impl Observer for RecordsInHand {
    fn saw(&self, event: &BrokerEvent<'_>) -> MessageFate {
        let mut seen = self.0.lock().expect("no panic");
        match event {
            BrokerEvent::Delivered { queue: "captcha.guard", delivery, .. } => {
                seen.0.insert(*delivery, Instant::now());
            }
            BrokerEvent::Settled { delivery, .. } => {
                if let Some(since) = seen.0.remove(delivery) {
                    seen.1 = seen.1.max(since.elapsed());
                }
            }
            _ => {}
        }
        MessageFate::Usual
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_leader_holds_its_record_for_less_than_the_shortest_consumer_time_out_in_use() {
    let scene = Scene::new(SimulatorConfig::default()).await;
    let records = Arc::new(RecordsInHand::default());
    scene.broker.set_observer(records.clone());
    let fleet = scene.start_fleet(2).await;
    sleep_until(Instant::now() + Duration::from_secs(900)).await;
    let (in_hand, longest) = {
        let seen = records.0.lock().expect("no panic");
        (seen.0.len(), seen.1)
    };
    assert_eq!(in_hand, 1, "the leader has one");
    assert!(longest > Duration::from_secs(10) && longest < Duration::from_secs(60), "{longest:?}");
    drain_all(fleet).await;
}
