//! An urgent lane beside a bulk backlog, in a fleet that is bound by its calls; then three lanes
//! that all have a backlog. One fleet after the other, so that none slows another down.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use captcha_worker::broker::topology::Topology;
use captcha_worker::broker::{ConsumeSpec, Session};
use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::time::Timestamp;
use futures_util::{StreamExt, stream};
use serde_json::Value;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use crate::fleet::Fleet;
use crate::jobs::{self, Job};
use crate::scene::{Harness, Scene};
use crate::support::rabbit;

const URGENT_PER_SECOND: u32 = 5;
const BULK: usize = 50_000;
/// How long each fleet is watched, and how long before it has found its pace.
const WINDOW: Duration = Duration::from_secs(40);
const SETTLING: Duration = Duration::from_secs(10);
const SETTINGS: [(&str, &str); 4] = [
    ("SOLVER__MAX_CALLS_PER_SECOND", "100"),
    ("LANES__URGENT__WEIGHT", "6"),
    ("LANES__TEAM__WEIGHT", "3"),
    ("LANES__DEFAULT__WEIGHT", "1"),
];
const WEIGHTS: [(&str, u32); 3] = [("urgent", 6), ("team", 3), ("default", 1)];

pub(crate) async fn run(harness: Arc<Harness>) {
    let idle = watched(&harness, "idle", true, &[]).await;
    let bulk = watched(&harness, "bulk", false, &[("default", BULK)]).await;
    let both = watched(&harness, "both", true, &[("default", BULK)]).await;
    for (what, end) in
        [("accepted", Accepted::at as fn(&Accepted) -> Timestamp), ("answered", Accepted::ended)]
    {
        let (alone, beside) = (idle.p99(end), both.p99(end));
        harness.check(
            format_args!("99 of 100 urgent jobs beside the backlog are {what} within 1.5 times as long as alone, and 0.3 s"),
            format!("{beside:?}, alone {alone:?}"),
            beside <= alone.mul_f64(1.5) + Duration::from_millis(300),
        );
    }
    // In calls, which are what the fleet is bound by.
    let rest = bulk.calls("default").saturating_sub(both.calls("urgent"));
    let (calls, jobs) = (both.calls("default"), both.count("default"));
    let share = calls as f64 / rest.max(1) as f64;
    harness.check(
        "the calls of bulk jobs are >= 95 % of what urgent jobs leave",
        format!("{calls} of {rest}: {:.1} %; {jobs} jobs, {} alone", share * 100.0, bulk.count("default")),
        share >= 0.95,
    );
    let three = watched(&harness, "three", false, &WEIGHTS.map(|(lane, _)| (lane, 6_000))).await;
    let (all, weights) = (three.accepted.len() as f64, WEIGHTS.iter().map(|(_, weight)| weight).sum::<u32>());
    for (lane, weight) in WEIGHTS {
        let expected = all * f64::from(weight) / f64::from(weights);
        let count = three.count(lane) as f64;
        harness.check(
            format_args!("lane {lane} of three backlogged ones: its weight, +-5 %"),
            format!("{count} of {expected:.0}: {:+.1} %", (count / expected - 1.0) * 100.0),
            (count - expected).abs() <= 0.05 * expected,
        );
    }
}

/// What the API accepted within the window.
struct Watched {
    accepted: Vec<Accepted>,
    published: BTreeMap<String, i64>,
}

struct Accepted {
    lane: String,
    id: String,
    at: Timestamp,
    ended: Timestamp,
    /// Of createTask and of getTaskResult.
    calls: u64,
}

impl Accepted {
    fn at(&self) -> Timestamp {
        self.at
    }

    fn ended(&self) -> Timestamp {
        self.ended
    }
}

impl Watched {
    fn count(&self, lane: &str) -> usize {
        self.accepted.iter().filter(|job| job.lane == lane).count()
    }

    fn calls(&self, lane: &str) -> u64 {
        self.accepted.iter().filter(|job| job.lane == lane).map(|job| job.calls).sum()
    }

    /// Of the urgent jobs, from the publish to this end.
    fn p99(&self, end: fn(&Accepted) -> Timestamp) -> Duration {
        let waits = self.accepted.iter().filter_map(|job| {
            let wait = end(job).as_millis() - self.published.get(&job.id)?;
            Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0)))
        });
        let mut waits: Vec<Duration> = waits.collect();
        waits.sort_unstable();
        waits.get(waits.len() * 99 / 100).copied().unwrap_or(Duration::MAX)
    }
}

async fn watched(harness: &Harness, name: &str, urgent: bool, backlog: &[(&str, usize)]) -> Watched {
    let scene = Scene::set_on(harness.amqp(), harness.folder().join(name), "").await;
    let session = rabbit::connect(harness.amqp()).await;
    let lanes: Vec<Lane> = WEIGHTS.iter().map(|(lane, _)| lane.parse().expect("a lane")).collect();
    session.link().declare(&Topology::with_lanes(scene.namespace.names(), &lanes)).await.expect("declared");
    for (lane, count) in backlog {
        let publish = |job| publish(&session, &scene, lane, job);
        stream::iter(jobs::images(lane, *count)).map(publish).buffer_unordered(256).collect::<()>().await;
    }
    // Without a job no canary passes, and only the leader takes jobs.
    publish(&session, &scene, "default", jobs::images("first", 1).remove(0)).await;
    let accepted = accepted(&scene, &session).await;
    let mut fleet: Fleet = scene.fleet(&SETTINGS);
    scene.ready(harness, &mut fleet).await;
    let from = Instant::now() + SETTLING;
    let mut published = BTreeMap::new();
    if urgent {
        let mut due = interval(Duration::from_secs(1) / URGENT_PER_SECOND);
        let seconds = u32::try_from((SETTLING + WINDOW).as_secs()).expect("minutes");
        for job in jobs::images("urgent", (URGENT_PER_SECOND * seconds) as usize) {
            due.tick().await;
            published.insert(job.id.clone(), now_ms());
            publish(&session, &scene, "urgent", job).await;
        }
    }
    sleep_until(from + WINDOW).await;
    let until = now_ms();
    // The answers to what was accepted within the window.
    sleep_until(Instant::now() + Duration::from_secs(15)).await;
    let from = until - i64::try_from(WINDOW.as_millis()).expect("minutes");
    let mut accepted = std::mem::take(&mut *accepted.0.lock());
    accepted.retain(|job| (from..until).contains(&job.at.as_millis()));
    harness.say(format_args!("{name}: {} jobs accepted in {WINDOW:?}", accepted.len()));
    scene.close(harness, &mut fleet).await;
    Watched { accepted, published }
}

async fn publish(session: &Session, scene: &Scene, lane: &str, job: Job) {
    let properties = Properties { message_id: Some(job.id), ..Properties::default() };
    let message = Message { body: job.body.into(), properties, transient: false };
    let queue = scene.namespace.names().jobs_of(&lane.parse().expect("a lane"));
    session.publish("", &queue, message).await.expect("the broker confirms a job");
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the end of time")
}

/// Results as they come.
struct Results(
    Arc<Mutex<Vec<Accepted>>>,
    #[expect(dead_code, reason = "it ends with this")] AbortOnDropHandle<()>,
);

async fn accepted(scene: &Scene, session: &Session) -> Results {
    let queue = scene.namespace.names().results();
    let spec = ConsumeSpec { tag: format!("{queue}.trial"), queue, prefetch: 500 };
    let mut consumer = session.link().consume(spec).await.expect("outcomes can be consumed");
    let seen: Arc<Mutex<Vec<Accepted>>> = Arc::default();
    let taking = {
        let seen = Arc::clone(&seen);
        async move {
            while let Some(delivery) = consumer.recv().await {
                let outcome: Value = serde_json::from_slice(&delivery.message.body).expect("an outcome");
                let at = outcome["attempts"].as_array().and_then(|all| all.last()?["submitted_at"].as_str());
                let ended = outcome["times"]["finished_at"].as_str().and_then(Timestamp::parse);
                let attempts = outcome["attempts"].as_array().into_iter().flatten();
                let calls = attempts.map(|attempt| 1 + attempt["polls"].as_u64().unwrap_or(0)).sum();
                let text = |name: &str| outcome[name].as_str().map(str::to_owned);
                let job = Accepted {
                    lane: text("lane").unwrap_or_else(|| "default".to_owned()),
                    id: text("id").expect("an id"),
                    at: at.and_then(Timestamp::parse).expect("a solved job was submitted"),
                    ended: ended.expect("it has ended"),
                    calls,
                };
                seen.lock().push(job);
                delivery.receipt.ack().ok();
            }
        }
    };
    Results(seen, AbortOnDropHandle::new(tokio::spawn(taking)))
}
