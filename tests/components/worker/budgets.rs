//! Books and budgets of a fleet, held against the simulator's own ledger.

use std::time::Duration;

use captcha_worker::domain::class::Class;
use captcha_worker::domain::guard::Reason;
use captcha_worker::domain::message::Properties;
use captcha_worker::domain::money::{Budgets, Decimal, Limits, Ordered, Prices, Window, decimal};
use captcha_worker::fleet::Order;
use captcha_worker::simulator::SimulatorConfig;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep_until};

use crate::worker::scene::{Running, Scene, drain_all, image, within};

fn d(text: &str) -> Decimal {
    decimal(text).expect("a decimal")
}

/// A fleet to be whose images cost what the simulator charges for them, with a budget for the hour.
async fn scene(per_hour: Option<&str>) -> Scene {
    priced(Scene::new(SimulatorConfig::default()).await, per_hour)
}

fn priced(mut scene: Scene, per_hour: Option<&str>) -> Scene {
    let prices = Prices([("ImageToTextTask".to_owned(), d("0.001"))].into());
    (scene.rules.prices, scene.guard.prices) = (prices.clone(), prices);
    let account = Limits { per_hour: per_hour.map(d), per_day: None };
    scene.guard.budgets = Budgets { account, ..Budgets::default() };
    scene
}

fn paid(scene: &Scene) -> Decimal {
    d(&scene.simulator.stats().paid.to_string())
}

/// What a replica knows of the fleet's spending today.
fn books(running: &Running) -> Decimal {
    let (money, now) = running.view.money();
    money.books.spent(Window::Day, None, now)
}

fn reason(fleet: &[Running]) -> Option<Reason> {
    fleet.iter().find_map(Running::reason)
}

async fn used_up(scene: &Scene, fleet: &[Running]) {
    scene.wait_until(60, "the budget is used up", || reason(fleet) == Some(Reason::Budget)).await;
}

async fn next_hour(scene: &Scene) {
    let left = Window::Hour.ends(scene.now()).since(scene.now());
    sleep_until(Instant::now() + left + Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_fleet_spends_its_budget_and_no_more_and_goes_on_in_the_next_hour() {
    let scene = scene(Some("0.05")).await;
    scene.publish_images(120, &json!({})).await;
    let fleet = scene.start_fleet(4).await;
    scene.wait_until(120, "the budget is used up", || reason(&fleet) == Some(Reason::Budget)).await;
    assert_eq!(paid(&scene), d("0.05"));
    scene.wait_for(&scene.names.results(), 50).await;
    let waiting = || {
        let retry = ["5s", "30s", "2m", "10m"].map(|delay| format!("{}{delay}", scene.names.retry_prefix()));
        let retried: usize = retry.iter().map(|queue| scene.broker.queue_len(queue)).sum();
        retried + scene.broker.queue_len(&scene.names.jobs())
    };
    scene.wait_until(60, "the others wait in their queue", || waiting() == 70).await;

    next_hour(&scene).await;
    scene.wait_for(&scene.names.results(), 100).await;
    used_up(&scene, &fleet).await;
    assert_eq!(paid(&scene), d("0.1"));
    scene.wait_until(5, "the books are right", || fleet.iter().all(|it| books(it) == d("0.1"))).await;
    assert_eq!(scene.simulator.stats().repeated_submissions, 0);
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn replicas_that_are_killed_leave_the_books_right_and_the_budget_kept() {
    let mut scene = scene(Some("0.3")).await;
    scene.limits.max_calls_per_second = std::num::NonZeroU32::new(60);
    scene.publish_images(400, &json!({"solve_ms": 4_000})).await;
    let mut fleet = scene.start_fleet(8).await;
    for second in 1..=6_u64 {
        sleep_until(Instant::now() + Duration::from_millis(500 + second * 37)).await;
        // The leader among them, and a replica in the middle of its reports.
        let victim = fleet.iter().position(Running::leads).filter(|_| second % 2 == 0).unwrap_or(0);
        fleet.remove(victim).crash(&scene);
        fleet.push(scene.join().await);
    }
    scene.wait_until(180, "the budget is used up", || reason(&fleet) == Some(Reason::Budget)).await;
    // What a killed replica had accepted and put on no ticket cannot be known; each such job is
    // paid for again.
    let unknown = |scene: &Scene| d("0.001") * Decimal::from(scene.simulator.stats().repeated_submissions);
    scene
        .wait_until(60, "the books are right", || {
            let books = books(&fleet[0]);
            books <= paid(&scene) && books >= paid(&scene) - unknown(&scene)
        })
        .await;
    assert!(
        paid(&scene) <= d("0.3") + unknown(&scene),
        "{} paid, {:?}",
        paid(&scene),
        scene.simulator.stats()
    );

    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_whole_fleet_forgets_no_spending() {
    let scene = scene(Some("0.05")).await;
    scene.publish_images(200, &json!({})).await;
    let fleet = scene.start_fleet(3).await;
    used_up(&scene, &fleet).await;
    fleet.into_iter().for_each(|running| running.crash(&scene));
    let fleet = scene.start_fleet(3).await;
    used_up(&scene, &fleet).await;
    scene.wait_for(&scene.names.results(), 50).await;
    assert_eq!((paid(&scene), books(&fleet[0])), (d("0.05"), d("0.05")));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn an_operator_raises_a_budget_for_a_while_and_it_is_written_down_who() {
    let scene = scene(Some("0.01")).await;
    scene.publish_images(100, &json!({})).await;
    let fleet = scene.start_fleet(2).await;
    used_up(&scene, &fleet).await;
    let raise = Ordered { lane: None, by: d("0.02"), for_ms: 600_000 };
    let mut client = scene.client().await;
    let order = client.order(Order::RaiseBudget(raise), Duration::from_secs(10));
    let answer = within(20, order).await.expect("a session");
    assert!(answer.carried_out);
    let raises = answer.survey.leader.expect("a leader").state.money.raises;
    assert_eq!((raises.len(), raises[0].amount), (1, d("0.02")));
    assert_eq!(raises[0].until.since(raises[0].since), Duration::from_secs(600));
    scene.wait_for(&scene.names.results(), 30).await;
    scene.wait_until(60, "that is used up, too", || reason(&fleet) == Some(Reason::Budget)).await;
    assert_eq!(paid(&scene), d("0.03"));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_budget_is_used_up_leaves_its_jobs_queued_and_the_others_go_on() {
    let mut scene = priced(Scene::with_lanes(SimulatorConfig::default(), &[("bulk", 1)]).await, None);
    let limits = Limits { per_hour: None, per_day: Some(d("0.02")) };
    scene.guard.budgets.lanes = [("bulk".to_owned(), limits)].into();
    for n in 0..60 {
        scene.publish_in("bulk", image(&format!("bulk-{n}"), &json!({})), Properties::default()).await;
    }
    let fleet = scene.start_fleet(3).await;
    let used_up =
        |running: &Running| running.view.seen().state.is_some_and(|state| state.money.stops("bulk"));
    scene.wait_until(60, "the lane's budget is used up", || fleet.iter().all(used_up)).await;
    let queued = || scene.broker.queue_len(&format!("{}.bulk", scene.names.jobs()));
    scene.wait_until(60, "its jobs are back in its queue", || queued() == 40).await;
    scene.publish_images(30, &json!({})).await;
    scene.wait_for(&scene.names.results(), 50).await;
    assert_eq!((paid(&scene), reason(&fleet), queued()), (d("0.05"), None, 40));
    drain_all(fleet).await;
}

#[tokio::test(start_paused = true)]
async fn outcomes_say_what_each_attempt_cost_and_whether_that_is_estimated() {
    let scene = scene(None).await;
    let running = scene.start();
    scene.publish(image("good", &json!({})), Properties::default()).await;
    scene
        .publish(
            image("again", &json!({"result": ["ERROR_CAPTCHA_UNSOLVABLE"], "submissions": 1})),
            Properties::default(),
        )
        .await;
    scene
        .publish(
            image("cut", &json!({"create": ["accepted_then_cut", "accepted_then_cut"]})),
            Properties::default(),
        )
        .await;
    let solved = scene.wait_for(&scene.names.results(), 2).await;
    let of = |id: &str| solved.iter().find(|outcome| outcome["id"] == id).cloned().expect("solved");
    let (good, again) = (of("good"), of("again"));
    assert_eq!((&good["cost"], &good["estimated"]), (&json!("0.001"), &Value::Null), "{good}");
    assert_eq!((&again["cost"], &again["estimated"]), (&json!("0.002"), &json!(true)), "{again}");
    assert_eq!(again["attempts"][0]["estimated"], true);
    assert_eq!(
        (&again["attempts"][1]["cost"], &again["attempts"][1]["estimated"]),
        (&json!("0.001"), &Value::Null)
    );
    let cut = scene.wait_for(&scene.names.dead(Class::Transient), 1).await;
    assert_eq!((&cut[0]["cost"], &cut[0]["estimated"]), (&json!("0.002"), &json!(true)), "{cut:?}");
    scene.wait_until(10, "the books are right", || books(&running) == paid(&scene)).await;
    let (money, now) = running.view.money();
    let today = money.books.today(now);
    assert_eq!((today.wasted, today.doubtful, today.repeated), (d("0.001"), d("0.002"), d("0.002")));
    running.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_balance_that_falls_beyond_the_books_shows_as_drift() {
    let scene = scene(None).await;
    let running = scene.start();
    scene.publish_images(10, &json!({})).await;
    scene.wait_for(&scene.names.results(), 10).await;
    let drift = || {
        let (money, now) = running.view.money();
        money.books.drift(now)
    };
    let looked = || running.view.seen().state.and_then(|state| state.funds.clone()).map(|funds| funds.at);
    let before = looked();
    scene.wait_until(180, "the balance is looked at", || looked() != before).await;
    scene.wait_until(5, "no drift", || drift() == Decimal::ZERO).await;
    let balance = scene.simulator.stats().balance;
    scene.simulator.set_balance(balance - 0.5).expect("an amount");
    scene.wait_until(180, "somebody else has used the key", || drift() == d("0.5")).await;
    running.drain().await;
}
