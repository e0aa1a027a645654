//! A budget that is used up while replicas and the leader are killed.

use std::sync::Arc;
use std::time::Duration;

use captcha_worker::domain::money::{Decimal, decimal};
use tokio::sync::Mutex;

use super::account::{FLEET_LIMIT, all_solved, no_ban};
use crate::ends::Ledger;
use crate::jobs;
use crate::killer::Killer;
use crate::scene::{Harness, REPLICAS, Scene};
use crate::wait;

const JOBS: usize = 900;
/// For 500 of them.
const BUDGET: &str = "0.5";
const PRICE: &str = "0.001";
const SCENARIO: &str = "[types.ImageToTextTask]\nsolve_ms = { fixed = 1500 }\n";
/// Submissions of one replica that are in flight at once.
const EACH: usize = 2;
/// For the day, since an hour may end during the trial.
const SETTINGS: [(&str, &str); 4] = [
    FLEET_LIMIT,
    ("PRICES__ImageToTextTask", PRICE),
    ("BUDGETS__PER_DAY", BUDGET),
    ("WORKER__SUBMIT_CONCURRENCY", "2"),
];
const USED_UP_WITHIN: Duration = Duration::from_secs(240);
const STOPPED_FOR: Duration = Duration::from_secs(20);
const QUIET_WITHIN: Duration = Duration::from_secs(60);
const FINISH_WITHIN: Duration = Duration::from_secs(180);

fn amount(text: &str) -> Decimal {
    decimal(text).expect("an amount")
}

/// What the simulator was paid, and what of it no replica can know: an acceptance that a replica
/// was killed over, whose job was then submitted again.
async fn paid(scene: &Scene) -> (Decimal, Decimal) {
    let stats = scene.simulator.stats().await;
    let of = |tasks: u64| amount(PRICE) * Decimal::from(tasks);
    (of(stats.accepted_tasks), of(stats.repeated_submissions))
}

/// Waits until the books say what the simulator was paid, and checks it.
async fn compare(harness: &Harness, scene: &Scene, when: &str) {
    let mut seen = (None, Decimal::ZERO, Decimal::ZERO);
    let right = wait::comes_true(QUIET_WITHIN, async || {
        let (paid, unknown) = paid(scene).await;
        let books = scene.operator().spent().await;
        seen = (books, paid, unknown);
        books.is_some_and(|books| books <= paid && paid - books <= unknown)
    })
    .await;
    let (books, paid, unknown) = seen;
    let books = books.map_or_else(|| "nothing".to_owned(), |books| books.to_string());
    let measured =
        format!("{books} of {paid}, {unknown} of it accepted by replicas that were killed over it");
    harness.check(format_args!("{when}: the books equal the simulator's ledger"), measured, right);
}

pub(crate) async fn run(harness: Arc<Harness>) {
    let scene = Scene::set(&harness, SCENARIO).await;
    let images = jobs::images("budget", JOBS);
    let ids = jobs::ids(&images);
    scene.namespace.publish(images).await;
    let fleet = Arc::new(Mutex::new(scene.fleet(&SETTINGS)));
    let ledger = Ledger::open(&scene.namespace).await;
    scene.ready(&harness, &mut *fleet.lock().await).await;
    let killer = Killer::begin(Arc::clone(&fleet), scene.operator(), harness.seed());

    let is_used_up = async || {
        let status = scene.operator().status().await;
        status.is_some_and(|status| status.guard.reasons.iter().any(|reason| reason == "budget"))
    };
    let used_up = wait::comes_true(USED_UP_WITHIN, is_used_up).await;
    harness.check("the budget is used up", used_up, used_up);
    // Kills go on: what dies now must not forget that it is.
    tokio::time::sleep(STOPPED_FOR).await;
    let count = killer.end().await;
    harness.check(
        "replicas were killed, the leader among them",
        format!("{} kills, {} of them the leader", count.kills, count.of_leader),
        count.of_leader > 0,
    );
    let (spent, unknown) = paid(&scene).await;
    let over = (spent - amount(BUDGET)).max(Decimal::ZERO) / amount(PRICE);
    harness.check(
        format_args!("beyond the budget: at most the {} calls in flight, kills included", EACH * REPLICAS),
        format!("{over} tasks"),
        over <= Decimal::from(EACH * REPLICAS),
    );
    harness.check(
        "of what the books can know, at most one task for each replica",
        format!("{spent} of {BUDGET}, of which {unknown} cannot be known"),
        spent <= amount(BUDGET) + unknown + amount(PRICE) * Decimal::from(REPLICAS),
    );
    harness.check("used to at least 98 %", spent, spent >= amount(BUDGET) * amount("0.98"));
    let waiting = scene.namespace.waiting().await;
    harness.note("jobs that wait for the next day", waiting.unpaid());
    compare(&harness, &scene, "used up").await;

    let raised = scene.operator().raise_budget("1").await;
    harness.check("the operator raises it", raised.summary(), raised.succeeded);
    all_solved(&harness, &ledger, &ids, FINISH_WITHIN).await;
    compare(&harness, &scene, "at the end").await;
    no_ban(&harness, &scene).await;
    scene.close(&harness, &mut *fleet.lock().await).await;
}
