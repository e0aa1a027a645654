//! One worker on paused time, between the in-memory broker and the simulator: how long answers that
//! are ready wait until a consumer of the results has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::Names;
use captcha_worker::broker::{Broker, ConsumeSpec};
use captcha_worker::domain::api_code::Overrides;
use captcha_worker::domain::callback::CallbackToken;
use captcha_worker::domain::guard;
use captcha_worker::domain::lifecycle::{Ambiguous, JobRules};
use captcha_worker::domain::message::Message;
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::poll_schedule::{PollMode, PollSchedule, PollSchedules};
use captcha_worker::domain::solve_time::Reach;
use captcha_worker::domain::time::Timestamp;
use captcha_worker::fleet::{CallbackAddress, Egress};
use captcha_worker::linger::Linger;
use captcha_worker::simulator::{Distribution, Simulator, SimulatorConfig};
use captcha_worker::solver::{RawReply, Solver, Transport, TransportError};
use captcha_worker::trace::Tracer;
use captcha_worker::worker::{Clock, Limits, Rng, Worker, WorkerOptions};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::distributions::Arrival;

#[path = "../../tests/support/in_process.rs"]
#[expect(dead_code, reason = "tests use the rest of it")]
mod in_process;

const EPOCH: Timestamp = Timestamp::from_millis(1_790_000_000_000);
/// Between two jobs that come evenly, and between two batches.
const APART: Duration = Duration::from_millis(50);
const BATCHES_APART: Duration = Duration::from_secs(60);

/// How tasks are polled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Polling {
    pub(crate) table: PollSchedule,
    pub(crate) mode: PollMode,
    /// The API is asked for callbacks, and sends one for one in so many tasks.
    pub(crate) callbacks: Option<usize>,
}

/// Where the API sends its callbacks.
const URL: &str = "https://callbacks.test";

/// How one task went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// From the moment when its answer was ready to that when the consumer had it, in seconds.
    pub(crate) wait: f64,
    pub(crate) polls: f64,
}

/// How all went, in the order of their submission, and how many polls came too early.
pub(crate) struct Run {
    pub(crate) ends: Vec<Ended>,
    pub(crate) early_polls: u64,
}

struct InProcess(Simulator);

impl Transport for InProcess {
    fn post<'a>(
        &'a self,
        path: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(
            async move { in_process::read(self.0.call(path.trim_start_matches('/'), &body).await).await },
        )
    }
}

/// Has a worker solve tasks that take these times, in ms.
pub(crate) fn run(solve_ms: &[u32], arrival: Arrival, polling: Polling, seed: u64) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run_on_paused_time(solve_ms, arrival, polling, seed))
}

async fn run_on_paused_time(solve_ms: &[u32], arrival: Arrival, polling: Polling, seed: u64) -> Run {
    let broker = MemoryBroker::starting_at(EPOCH.as_millis().unsigned_abs() / 1_000);
    let (names, clock) = (Names::new("captcha"), Clock::runtime(EPOCH));
    let config = SimulatorConfig {
        balance: 1_000_000.0,
        latency_ms: Distribution::Uniform { min: 5, max: 20 },
        ..SimulatorConfig::default()
    };
    let simulator = Simulator::new(config).expect("a sound scenario");
    let worker = Worker::new(WorkerOptions {
        linger: Linger::every(Duration::from_millis(20)),
        broker: Broker::Memory(broker.clone()),
        solver: Solver::with_transport("simulator-key".into(), Arc::new(InProcess(simulator.clone()))),
        names: names.clone(),
        declare_topology: true,
        rules: JobRules {
            polling: PollSchedules { mode: polling.mode, default: polling.table, by_type: BTreeMap::new() },
            overrides: Overrides::default(),
            capacity_timeout: Duration::from_secs(600),
            transient_timeout: Duration::from_secs(300),
            unknown_timeout: Duration::from_secs(120),
            max_resubmissions: 1,
            ambiguous: Ambiguous::Retry,
            prices: captcha_worker::domain::money::Prices::default(),
        },
        policy: Policy::try_new::<&str>(&[], &[]).expect("a sound policy"),
        name: "replica".to_owned(),
        max_in_flight: 10_000,
        lanes: BTreeMap::new(),
        limits: Limits {
            per_publisher_per_minute: None,
            max_calls: 512,
            submit_concurrency: 64,
            max_calls_per_second: None,
            caps: BTreeMap::new(),
        },
        guard: guard::GuardRules::default(),
        egress: Egress::Shared,
        operators: Vec::new(),
        callbacks: polling.callbacks.map(|_| CallbackAddress::try_new(URL, "replica").expect("an address")),
        deadlines: Reach { quantile: 0.05, least_answers: 50 },
        drain_timeout: Duration::from_secs(45),
        reply_to_prefix: String::new(),
        clock: clock.clone(),
        rng: Rng::seeded(seed),
        tracer: Tracer::off(),
    });
    let (view, drain) = (worker.view(), CancellationToken::new());
    let called = worker.view();
    simulator.on_callback(Box::new(move |callback| {
        called.callbacks().receive(callback.url.rsplit('/').next().and_then(CallbackToken::parse));
        Box::pin(std::future::ready(true))
    }));
    let running = tokio::spawn({
        let drain = drain.clone();
        async move { worker.run(drain).await.expect("a broker that lets everybody in") }
    });
    while !view.vitals().ready {
        tokio::time::sleep(APART).await;
    }
    let session = Broker::Memory(broker.clone()).connect().await.expect("a session");
    let spec = ConsumeSpec { queue: names.results(), prefetch: 100, tag: "bench".to_owned() };
    let mut results = session.link().consume(spec).await.expect("a consumer");
    let publishing = async {
        let (apart, together) = match arrival {
            Arrival::Evenly => (APART, 1),
            Arrival::Batches(of) => (BATCHES_APART, of),
        };
        let mut due = tokio::time::interval(apart);
        for (n, solve_ms) in solve_ms.iter().enumerate() {
            if n % together == 0 {
                due.tick().await;
            }
            let message = Message { body: job(n, *solve_ms, polling.callbacks).into(), ..Message::default() };
            session.publish(&names.jobs(), "jobs", message).await.expect("confirmed");
        }
    };
    let consuming = async {
        let mut ends = vec![None; solve_ms.len()];
        for _ in solve_ms {
            let delivery = results.recv().await.expect("a result");
            let outcome: Value = serde_json::from_slice(&delivery.message.body).expect("JSON");
            let (number, end) = end_of(&outcome, solve_ms, clock.now());
            ends[number] = Some(end);
            let _ = delivery.receipt.ack();
        }
        ends
    };
    let ((), ends) = tokio::join!(publishing, consuming);
    drain.cancel();
    let drained = running.await.expect("no panic");
    assert_eq!(drained.unfinished, 0);
    Run { ends: ends.into_iter().flatten().collect(), early_polls: simulator.stats().early_polls }
}

fn job(number: usize, solve_ms: u32, callbacks: Option<usize>) -> String {
    let callback =
        if callbacks.is_some_and(|one_in| number.is_multiple_of(one_in)) { "once" } else { "never" };
    let picture = STANDARD.encode(format!("{number:0>100}"));
    let task = json!({"type": "ImageToTextTask", "body": picture, "_sim": {"solve_ms": solve_ms, "callback": callback}});
    json!({"id": number.to_string(), "task": task}).to_string()
}

fn end_of(outcome: &Value, solve_ms: &[u32], now: Timestamp) -> (usize, Ended) {
    let number: usize = outcome["id"].as_str().and_then(|id| id.parse().ok()).expect("a job of ours");
    let attempt = &outcome["attempts"][0];
    let submitted_at = attempt["submitted_at"].as_str().and_then(Timestamp::parse).expect("a time");
    let age = now.since(submitted_at).as_secs_f64();
    let polls = attempt["polls"].as_f64().expect("a number");
    (number, Ended { wait: age - f64::from(solve_ms[number]) / 1_000.0, polls })
}
