//! What a seed means: the jobs, the faults, and when each comes.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use captcha_worker::domain::lane::{Lane, LaneRules};
use captcha_worker::domain::money::Decimal;
use captcha_worker::domain::poll_schedule::PollSchedule;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::fault::{Fault, draw_broker_end, draw_clock, draw_fault};
use crate::support::in_process::PANICKING_TYPE;

/// The last fault comes before this.
const FAULTS_WITHIN: u64 = 90_000;
/// The last job comes before this.
const JOBS_WITHIN: u64 = 60_000;
/// Jobs of a backlog, for each lane and replica.
const BACKLOG: usize = 40;
/// Clocks of replicas differ by so much from the true time at most.
pub(crate) const MAX_SKEW: Duration = Duration::from_secs(5);

/// How long a job without a free slot waits in the retry queues.
pub(crate) const CAPACITY_TIMEOUT: Duration = Duration::from_secs(600);
/// The same while the API fails.
pub(crate) const TRANSIENT_TIMEOUT: Duration = Duration::from_secs(300);
/// The same while createTask answers what nobody knows.
pub(crate) const UNKNOWN_TIMEOUT: Duration = Duration::from_secs(120);

/// One history before it happens.
#[derive(Debug)]
pub(crate) struct Plan {
    /// What it follows from.
    pub(crate) seed: u64,
    /// Clock skews of the replicas in ms; as many as there are replicas.
    pub(crate) skews: Vec<i64>,
    /// The pace of all types.
    pub(crate) schedule: PollSchedule,
    /// How long a task is asked for.
    pub(crate) timeout: Duration,
    /// This share of the tasks is forgotten by the API.
    pub(crate) losing: f64,
    /// Calls a second of the whole fleet, if bounded.
    pub(crate) calls_per_second: Option<u32>,
    /// Whether the API is asked for callbacks.
    pub(crate) callbacks: bool,
    /// Resubmissions of an unsolved job that the settings allow.
    pub(crate) max_resubmissions: u32,
    /// The broker is over a store, to which a batch takes so long.
    pub(crate) store: Option<Duration>,
    /// The lanes of the settings, the default one included; there are none in most histories.
    pub(crate) lanes: BTreeMap<Lane, PlannedLane>,
    /// What the fleet may spend in a day, until an operator raises it at the end.
    pub(crate) budget: Option<Decimal>,
    /// Jobs of one publisher that the fleet takes within a minute.
    pub(crate) per_publisher_per_minute: Option<NonZeroU32>,
    /// Tickets and submissions that one replica holds.
    pub(crate) max_in_flight: usize,
    /// Submissions of one replica that are under way at once.
    pub(crate) submit_concurrency: usize,
    /// What comes in.
    pub(crate) jobs: Vec<PlannedJob>,
    /// What goes wrong.
    pub(crate) faults: Vec<(Duration, Fault)>,
}

/// What the settings say of a lane.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlannedLane {
    /// Replicas from this place on have it in their settings.
    pub(crate) from: usize,
    pub(crate) rules: LaneRules,
    /// What may be spent in a day, until an operator raises it at the end.
    pub(crate) budget: Option<Decimal>,
}

/// One message for the job queue.
#[derive(Debug, Clone)]
pub(crate) struct PlannedJob {
    /// When it is published.
    pub(crate) at: Duration,
    /// Its id, also where it is no job.
    pub(crate) id: String,
    /// It comes by this lane.
    pub(crate) lane: Lane,
    /// The program that publishes it.
    pub(crate) publisher: &'static str,
    /// Its bytes.
    pub(crate) body: String,
    /// It has nothing against it: it must be solved, whatever happens to others and to the API, as
    /// long as budgets allow.
    pub(crate) innocent: bool,
}

fn ms(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.random_range(from..to))
}

impl Plan {
    /// The plan of a seed.
    pub(crate) fn of(seed: u64) -> Self {
        let rng = &mut StdRng::seed_from_u64(seed);
        let replicas = *[1, 2, 2, 3, 3, 4].choose(rng).expect("not empty");
        let most = i64::try_from(MAX_SKEW.as_millis()).expect("fits");
        let skewed = rng.random_bool(0.5);
        let skew = |_| if skewed { rng.random_range(-most..=most) } else { 0 };
        let skews = (0..replicas).map(skew).collect();
        let second = Duration::from_secs;
        // Some are patient, so that the limits on polls come into sight.
        let patient = rng.random_bool(0.15);
        let timeout = second(if patient { 280 } else { 60 });
        let schedule = PollSchedule::try_new(second(1), second(2), timeout);
        let losing = if rng.random_bool(0.3) { rng.random_range(0.005..0.1) } else { 0.0 };
        let clocks_set = rng.random_bool(0.15);
        let jobs = rng.random_range(3..22);
        let deadlined = !skewed && !clocks_set;
        let mut jobs: Vec<_> = (0..jobs).map(|n| draw_job(rng, seed, n, patient, deadlined)).collect();
        let faults = rng.random_range(0..7);
        let mut faults: Vec<_> =
            (0..faults).map(|_| (ms(rng, 0, FAULTS_WITHIN), draw_fault(rng, replicas))).collect();
        if clocks_set {
            let set = |_| (ms(rng, 1_000, FAULTS_WITHIN), draw_clock(rng, replicas));
            faults.extend((0..2).map(set));
        }
        if patient {
            // While the long ones are under way.
            let late = |_| (ms(rng, 60_000, 270_000), draw_fault(rng, replicas));
            faults.extend((0..2).map(late));
        }
        // By generators of their own: the other histories stay as they are without them.
        let of_lanes = &mut StdRng::seed_from_u64(seed ^ 0x001A_4E50);
        // Seldom, because it takes as long as many others.
        let has_backlog = seed % 64 == 1;
        let lanes = if seed % 4 == 1 { draw_lanes(of_lanes, replicas, has_backlog) } else { BTreeMap::new() };
        let names: Vec<_> = lanes.keys().cloned().collect();
        for job in &mut jobs {
            job.lane = names.choose(of_lanes).cloned().unwrap_or_default();
            // One brings most of them.
            job.publisher = if of_lanes.random_bool(0.7) { "wild" } else { "quiet" };
        }
        let per_publisher_per_minute = (!has_backlog && of_lanes.random_bool(0.25))
            .then(|| of_lanes.random_range(2..9))
            .and_then(NonZeroU32::new);
        let backlog_at = ms(of_lanes, 0, 30_000);
        for lane in names.iter().filter(|_| has_backlog) {
            let (begin, count) = (jobs.len(), BACKLOG * replicas);
            jobs.extend(
                (begin..begin + count)
                    .map(|n| PlannedJob { lane: lane.clone(), ..image(seed, n, backlog_at) }),
            );
        }
        let of_store = &mut StdRng::seed_from_u64(seed ^ 0x0570_7E00);
        let store = of_store.random_bool(0.25).then(|| {
            let slow = of_store.random_bool(0.3);
            ms(of_store, 1, if slow { 500 } else { 20 })
        });
        if store.is_some() {
            let ends = of_store.random_range(1..4);
            faults.extend((0..ends).map(|_| (ms(of_store, 0, FAULTS_WITHIN), draw_broker_end(of_store))));
        }
        let of_budget = &mut StdRng::seed_from_u64(seed ^ 0x00B0_D6E7);
        let budget = of_budget.random_bool(0.25).then(|| draw_budget(of_budget)).filter(|_| !has_backlog);
        let calls_per_second = rng.random_bool(0.2).then(|| rng.random_range(5..60));
        Self {
            seed,
            skews,
            schedule: schedule.expect("within the limits"),
            timeout,
            losing,
            calls_per_second: if has_backlog {
                Some(of_lanes.random_range(10..40))
            } else {
                calls_per_second
            },
            callbacks: seed.is_multiple_of(3),
            max_resubmissions: rng.random_range(0..=2),
            store,
            lanes,
            budget,
            per_publisher_per_minute,
            // A backlog is to wait for both.
            max_in_flight: if has_backlog { of_lanes.random_range(8..13) } else { 1_000 },
            submit_concurrency: if has_backlog { 4 } else { 16 },
            jobs,
            faults,
        }
    }
}

fn draw_budget(rng: &mut StdRng) -> Decimal {
    Decimal::new(rng.random_range(2..25), 3)
}

/// Two or three lanes, the default one among them. Those of a backlog have weights alone, so that
/// nothing but the others' work can keep one waiting.
fn draw_lanes(rng: &mut StdRng, replicas: usize, has_backlog: bool) -> BTreeMap<Lane, PlannedLane> {
    let names = &["default", "urgent", "bulk"][..rng.random_range(2..=3)];
    let draw = |name: &&str| {
        let lane: Lane = name.parse().expect("a lane's name");
        let mut may = |share: f64| !has_backlog && rng.random_bool(share);
        let (held, rate, budget) = (may(0.2), may(0.2), may(0.2));
        let rules = LaneRules {
            weight: rng.random_range(1..=if has_backlog { 4 } else { 20 }),
            max_in_flight: held.then(|| rng.random_range(1..6)),
            max_calls_per_second: rate.then(|| rng.random_range(2..20)).and_then(NonZeroU32::new),
        };
        // The last replica has each of them, so that its jobs are taken.
        let from = if lane.is_default() { 0 } else { rng.random_range(0..replicas) };
        (lane, PlannedLane { from, rules, budget: budget.then(|| draw_budget(rng)) })
    };
    names.iter().map(draw).collect()
}

/// A job of a backlog: nothing is wrong with it, and it is solved soon.
fn image(seed: u64, n: usize, at: Duration) -> PlannedJob {
    let id = format!("job-{seed}-{n}");
    let body = STANDARD.encode(id.repeat(120 / id.len() + 1));
    let task = json!({"type": "ImageToTextTask", "body": body, "job": id, "_sim": {"solve_ms": 500}});
    let body = json!({"id": id, "task": task}).to_string();
    PlannedJob { at, id, lane: Lane::default(), publisher: "wild", body, innocent: true }
}

fn draw_job(rng: &mut StdRng, seed: u64, n: usize, patient: bool, deadlined: bool) -> PlannedJob {
    let id = format!("job-{seed}-{n}");
    let at = ms(rng, 0, JOBS_WITHIN);
    if rng.random_bool(0.03) {
        let garbage = ["not json", "{}", "[1,2]", r#"{"task":{"type":"ImageToTextTask"},"colour":1}"#];
        let body = (*garbage.choose(rng).expect("not empty")).to_owned();
        return PlannedJob { at, id, lane: Lane::default(), publisher: "wild", body, innocent: false };
    }
    let script = draw_script(rng, patient);
    let mut task = match rng.random_range(0..10) {
        0 => json!({"type": PANICKING_TYPE}),
        1..=3 => json!({"type": "TurnstileTask", "websiteURL": "https://example.com/", "websiteKey": id}),
        _ => json!({"type": "ImageToTextTask", "body": STANDARD.encode(id.repeat(120 / id.len() + 1))}),
    };
    let plain = script.get("create").is_none() && script.get("result").is_none();
    // The slowest of the patient ones take more than 120 polls.
    let in_time = script["solve_ms"].as_u64() < Some(if patient { 220_000 } else { 50_000 });
    let mut innocent = plain && in_time && task["type"] != PANICKING_TYPE;
    task["_sim"] = script;
    task["job"] = json!(id);
    let mut job = json!({"id": id, "task": task});
    if deadlined && rng.random_bool(0.12) {
        let deadline = super::world::EPOCH.plus(at + ms(rng, 1_000, 60_000));
        job["deadline"] = json!(deadline.to_string());
        innocent = false;
    }
    PlannedJob { at, id, lane: Lane::default(), publisher: "wild", body: job.to_string(), innocent }
}

fn draw_script(rng: &mut StdRng, patient: bool) -> Value {
    let longest = if patient { 275_000 } else { 50_000 };
    let solve_ms = if rng.random_bool(0.15) || patient && rng.random_bool(0.5) {
        rng.random_range(6_000..longest)
    } else {
        rng.random_range(200..6_000)
    };
    let create = [
        json!(["ok"]),
        json!(["accepted_then_cut", "ok"]),
        json!(["accepted_then_cut", "accepted_then_cut", "accepted_then_cut", "ok"]),
        json!(["accepted_then_hang", "ok"]),
        json!(["ERROR_NO_SLOT_AVAILABLE", "ok"]),
        json!([{"http": 503}, "cut", "ok"]),
        json!(["ERROR_TOO_MUCH_REQUESTS", "ok"]),
        json!(["ERROR_TASK_ABSENT"]),
        json!(["ERROR_DOMAIN_NOT_ALLOWED"]),
        json!(["ERROR_SOMETHING_NEW"]),
    ];
    let result = [
        json!([]),
        json!(["ERROR_CAPTCHA_UNSOLVABLE"]),
        json!(["processing", "ERROR_CAPTCHA_UNSOLVABLE"]),
        json!(["ERROR_NO_SUCH_CAPCHA_ID"]),
        json!([{"http": 502}, "cut", "empty", "ok"]),
        json!(["no_status", "truncated", "ok"]),
        json!(["ERROR_TOKEN_EXPIRED"]),
        json!(["ERROR_TOO_MUCH_REQUESTS", "ok"]),
        json!(["hang", "ok"]),
        json!(["processing"]),
    ];
    let mut script = json!({"solve_ms": solve_ms});
    if rng.random_bool(0.25) {
        script["create"] = create.choose(rng).expect("not empty").clone();
    }
    if rng.random_bool(0.25) {
        script["result"] = result.choose(rng).expect("not empty").clone();
    }
    script
}
