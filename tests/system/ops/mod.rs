//! The ops server beside a worker that is, and is not, ready.

mod acts;
mod browser;
mod callbacks;
mod console;
mod exposition;
mod metrics;
mod readiness;
mod scene;
mod silence;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::Broker;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::Names;
use captcha_worker::domain::api_code::Overrides;
use captcha_worker::domain::guard;
use captcha_worker::domain::lifecycle::{Ambiguous, JobRules};
use captcha_worker::domain::money::{self, Budgets, Decimal, Prices};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::poll_schedule::{PollMode, PollSchedule, PollSchedules};
use captcha_worker::domain::solve_time::Reach;
use captcha_worker::fleet::{CallbackAddress, Egress};
use captcha_worker::linger::Linger;
use captcha_worker::ops::Server;
use captcha_worker::solver::{RawReply, Solver, Transport, TransportError};
use captcha_worker::trace::Tracer;
use captcha_worker::worker::{Clock, Limits, Rng, Worker, WorkerOptions};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// An account with funds, and no word about anything else.
pub(crate) struct Solvent;

impl Transport for Solvent {
    fn post<'a>(
        &'a self,
        _: &'static str,
        _: bytes::Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(async {
            Ok(RawReply { status: 200, retry_after: None, body: r#"{"errorId":0,"balance":7.5}"#.into() })
        })
    }
}

pub(crate) fn worker(
    broker: Broker,
    key: &str,
    api: Arc<dyn Transport>,
    policy: Policy,
    declare_topology: bool,
) -> Worker {
    let second = Duration::from_secs;
    let schedule = PollSchedule::try_new(second(1), second(2), second(60)).expect("within the limits");
    Worker::new(WorkerOptions {
        linger: Linger::none(),
        broker,
        solver: Solver::with_transport(key.into(), api),
        names: Names::new("captcha"),
        declare_topology,
        rules: JobRules {
            polling: PollSchedules {
                mode: PollMode::Learned,
                default: schedule,
                by_type: std::collections::BTreeMap::new(),
            },
            overrides: Overrides::default(),
            capacity_timeout: second(60),
            transient_timeout: second(60),
            unknown_timeout: second(60),
            max_resubmissions: 1,
            ambiguous: Ambiguous::Retry,
            prices: prices(),
        },
        policy,
        name: "replica".to_owned(),
        max_in_flight: 10,
        lanes: BTreeMap::new(),
        limits: Limits {
            per_publisher_per_minute: None,
            max_calls: 4,
            submit_concurrency: 2,
            max_calls_per_second: None,
            caps: std::collections::BTreeMap::new(),
        },
        guard: guard::GuardRules { budgets: budgets(), prices: prices(), ..guard::GuardRules::default() },
        egress: Egress::Shared,
        callbacks: Some(CallbackAddress::try_new("https://callbacks.test", "replica").expect("an address")),
        operators: Vec::new(),
        deadlines: Reach { quantile: 0.0, least_answers: 1 },
        drain_timeout: second(5),
        reply_to_prefix: String::new(),
        clock: Clock::System,
        rng: Rng::Thread,
        tracer: Tracer::off(),
    })
}

fn prices() -> Prices {
    Prices([("ImageToTextTask".to_owned(), Decimal::new(5, 4))].into())
}

fn budgets() -> Budgets {
    let account = money::Limits { per_hour: Some(Decimal::ONE_HUNDRED), per_day: None };
    Budgets { account, ..Budgets::default() }
}

async fn get(url: &str) -> (u16, Value) {
    rustls::crypto::ring::default_provider().install_default().ok();
    let reply = reqwest::get(url).await.expect("an answer");
    let status = reply.status().as_u16();
    (status, serde_json::from_str(&reply.text().await.expect("a body")).expect("JSON"))
}

#[tokio::test]
async fn a_replica_is_ready_only_while_it_has_a_session() {
    let broker = MemoryBroker::new();
    broker.set_reachable(false);
    let worker = worker(Broker::Memory(broker.clone()), "key", Arc::new(Solvent), Policy::default(), true);
    let (view, stop) = (worker.view(), CancellationToken::new());
    let server = Server::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let base = format!("http://{}", server.local_addr().expect("bound"));
    server.start(view.clone(), stop.clone()).expect("a thread");
    let running = tokio::spawn(worker.run(stop.clone()));

    let (status, body) = get(&format!("{base}/readyz")).await;
    assert_eq!((status, &body["reasons"][0]), (503, &json!("no session with the broker")));
    broker.set_reachable(true);
    readiness::wait_for_readyz(&base, "ready", |reply| {
        *reply == (200, json!({"ready": true, "reasons": []}))
    })
    .await;
    assert!(view.is_connected());
    let (_, status) = get(&format!("{base}/status")).await;
    assert_eq!((&status["guard"]["state"], &status["in_flight"]), (&json!("canary"), &json!(0)));

    assert_eq!(status["guard"]["balance"]["text"], "7.5");

    stop.cancel();
    running.await.expect("no panic").expect("drained");
}
