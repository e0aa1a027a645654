//! A whole worker on paused time: the in-process broker, and the simulator behind the solver's
//! transport.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::{Arguments, Names, Queue, Topology};
use captcha_worker::broker::{Broker, ConsumeSpec, Consumer, Session};
use captcha_worker::domain::api_code::Overrides;
use captcha_worker::domain::guard::{self, Phase, Reason};
use captcha_worker::domain::lane::{Lane, LaneRules};
use captcha_worker::domain::lifecycle::{Ambiguous, JobRules};
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::poll_schedule::{PollMode, PollSchedule, PollSchedules};
use captcha_worker::domain::solve_time::Reach;
use captcha_worker::domain::time::Timestamp;
use captcha_worker::fleet::{CallbackAddress, Client, Egress};
use captcha_worker::linger::Linger;
use captcha_worker::simulator::{Simulator, SimulatorConfig};
use captcha_worker::solver::{RawReply, Solver, Transport, TransportError};
use captcha_worker::trace::Tracer;
use captcha_worker::worker::{Clock, Drained, Limits, Rng, Worker, WorkerHandle, WorkerOptions};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::support::in_process::{PANICKING_TYPE, panics, read, within_time};
const EPOCH_SECS: u64 = 1_790_000_000;

/// The simulator as a transport; getBalance can be down while everything else answers.
struct InProcess {
    simulator: Simulator,
    without_balance: Arc<AtomicBool>,
}

impl Transport for InProcess {
    fn post<'a>(
        &'a self,
        path: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(async move {
            assert!(!panics(&body), "as a bug would");
            if path.ends_with("getBalance") && self.without_balance.load(Ordering::Relaxed) {
                return Ok(RawReply {
                    status: 502,
                    retry_after: None,
                    body: Bytes::from_static(b"bad gateway"),
                });
            }
            let call = self.simulator.call(path.trim_start_matches('/'), &body);
            within_time(async { read(call.await).await }).await
        })
    }
}

pub(crate) struct Scene {
    pub(crate) broker: MemoryBroker,
    pub(crate) names: Names,
    pub(crate) simulator: Simulator,
    pub(crate) session: Session,
    pub(crate) rules: JobRules,
    pub(crate) key: &'static str,
    pub(crate) limits: Limits,
    pub(crate) max_in_flight: usize,
    pub(crate) lanes: BTreeMap<Lane, LaneRules>,
    pub(crate) guard: guard::GuardRules,
    pub(crate) egress: Egress,
    /// The address that replicas have the API call; none by default.
    pub(crate) callbacks: Option<&'static str>,
    pub(crate) deadlines: Reach,
    pub(crate) without_balance: Arc<AtomicBool>,
    started: AtomicUsize,
    clock: Clock,
}

/// A worker under way.
pub(crate) struct Running {
    pub(crate) view: WorkerHandle,
    drain: CancellationToken,
    handle: JoinHandle<Drained>,
    session: Option<u64>,
}

impl Running {
    /// Why the account is not used now, as this replica knows it.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let state = self.view.seen().state.filter(|state| state.phase != Phase::Canary);
        state.and_then(|state| state.reasons().first().copied())
    }

    pub(crate) fn phase(&self) -> Option<Phase> {
        self.view.seen().state.map(|state| state.phase)
    }

    pub(crate) fn leads(&self) -> bool {
        self.view.seen().leads
    }

    /// Ends it in the middle of whatever it does, without a word to anybody.
    pub(crate) fn crash(self, scene: &Scene) {
        self.handle.abort();
        scene.broker.drop_session(self.session.expect("it was started by `join`"));
    }

    /// Asks it to leave.
    pub(crate) fn leave(&self) {
        self.drain.cancel();
    }

    pub(crate) async fn drain(self) -> Drained {
        self.leave();
        within(60, self.handle).await.expect("no panic")
    }
}

/// Drains a whole fleet.
pub(crate) async fn drain_all(fleet: Vec<Running>) {
    for running in fleet {
        assert_eq!(running.drain().await.unfinished, 0);
    }
}

/// Awaits something that must come.
pub(crate) async fn within<F: Future>(seconds: u64, future: F) -> F::Output {
    timeout(Duration::from_secs(seconds), future).await.expect("in time")
}

impl Scene {
    pub(crate) async fn new(config: SimulatorConfig) -> Self {
        Self::on(Topology::new(&Names::new("captcha")), config).await
    }

    /// A result queue that refuses more than so many messages.
    pub(crate) async fn with_room_for_results(config: SimulatorConfig, room: i64) -> Self {
        let names = Names::new("captcha");
        let mut topology = Topology::new(&names);
        let results =
            topology.queues.iter_mut().find(|queue| queue.name == names.results()).expect("declared");
        results.arguments.insert("x-max-length".to_owned(), room.into());
        Self::on(topology, config).await
    }

    /// With lanes of these weights.
    pub(crate) async fn with_lanes(config: SimulatorConfig, weights: &[(&str, u32)]) -> Self {
        let rules = |weight: u32| LaneRules { weight, ..LaneRules::default() };
        let lanes: BTreeMap<Lane, LaneRules> =
            weights.iter().map(|(name, weight)| (name.parse().expect("a name"), rules(*weight))).collect();
        let topology = Topology::with_lanes(&Names::new("captcha"), lanes.keys());
        Self { lanes, ..Self::on(topology, config).await }
    }

    async fn on(topology: Topology, config: SimulatorConfig) -> Self {
        let broker = MemoryBroker::starting_at(EPOCH_SECS);
        let names = Names::new("captcha");
        let session = Broker::Memory(broker.clone()).connect().await.expect("a session");
        session.link().declare(&topology).await.expect("declared");
        let second = Duration::from_secs;
        let schedule = PollSchedule::try_new(second(1), second(2), second(60)).expect("within the limits");
        Self {
            broker,
            names,
            simulator: Simulator::new(config).expect("a sound scenario"),
            session,
            rules: JobRules {
                polling: PollSchedules {
                    mode: PollMode::Learned,
                    default: schedule,
                    by_type: BTreeMap::new(),
                },
                overrides: Overrides::default(),
                capacity_timeout: second(600),
                transient_timeout: second(300),
                unknown_timeout: second(120),
                max_resubmissions: 1,
                ambiguous: Ambiguous::Retry,
                prices: captcha_worker::domain::money::Prices::default(),
            },
            key: "simulator-key",
            limits: Limits {
                per_publisher_per_minute: None,
                max_calls: 64,
                submit_concurrency: 16,
                max_calls_per_second: None,
                caps: BTreeMap::new(),
            },
            max_in_flight: 1_000,
            lanes: BTreeMap::new(),
            guard: guard::GuardRules::default(),
            egress: Egress::Shared,
            callbacks: None,
            deadlines: Reach { quantile: 0.05, least_answers: 50 },
            without_balance: Arc::default(),
            started: AtomicUsize::new(0),
            clock: Clock::runtime(Timestamp::from_millis(i64::try_from(EPOCH_SECS).expect("fits") * 1_000)),
        }
    }

    /// An operator's connection to the fleet.
    pub(crate) async fn client(&self) -> Client {
        let broker = Broker::Memory(self.broker.clone());
        within(10, Client::connect(&broker, &self.names, Rng::Thread)).await.expect("a session")
    }

    /// Starts so many replicas, each of which can crash.
    pub(crate) async fn start_fleet(&self, replicas: usize) -> Vec<Running> {
        let mut fleet = Vec::new();
        for _ in 0..replicas {
            fleet.push(self.join().await);
        }
        fleet
    }

    /// Starts a replica, and waits for its session.
    pub(crate) async fn join(&self) -> Running {
        let before = self.broker.sessions();
        let running = self.start();
        let new = || self.broker.sessions().into_iter().find(|session| !before.contains(session));
        self.wait_until(10, "a session", || new().is_some()).await;
        Running { session: new(), ..running }
    }

    /// The time, as replicas see it.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Starts a replica; the first is `replica-0`.
    pub(crate) fn start(&self) -> Running {
        self.start_with_key(self.key)
    }

    pub(crate) fn start_with_key(&self, key: &'static str) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let api = InProcess {
            simulator: self.simulator.clone(),
            without_balance: Arc::clone(&self.without_balance),
        };
        let worker = Worker::new(WorkerOptions {
            linger: Linger::none(),
            broker: Broker::Memory(self.broker.clone()),
            solver: Solver::with_transport(key.into(), Arc::new(api)),
            names: self.names.clone(),
            declare_topology: false,
            rules: self.rules.clone(),
            policy: Policy::try_new(&["example.com"], &[PANICKING_TYPE]).expect("a sound policy"),
            name: format!("replica-{number}"),
            max_in_flight: self.max_in_flight,
            lanes: self.lanes.clone(),
            limits: self.limits.clone(),
            guard: self.guard.clone(),
            egress: self.egress,
            callbacks: self
                .callbacks
                .map(|url| CallbackAddress::try_new(url, "replica").expect("an address")),
            operators: Vec::new(),
            deadlines: self.deadlines,
            drain_timeout: Duration::from_secs(45),
            reply_to_prefix: "replies.".to_owned(),
            clock: self.clock.clone(),
            rng: Rng::seeded(number as u64 + 1),
            tracer: Tracer::off(),
        });
        let (view, drain) = (worker.view(), CancellationToken::new());
        let handle = tokio::spawn({
            let drain = drain.clone();
            async move { worker.run(drain).await.expect("a session with the broker") }
        });
        Running { view, drain, handle, session: None }
    }

    /// A queue of somebody else's.
    pub(crate) async fn declare_queue(&self, name: &str) {
        let queue = Queue { name: name.to_owned(), arguments: Arguments::new() };
        let topology = Topology { exchanges: vec![], queues: vec![queue], bindings: vec![] };
        self.session.link().declare(&topology).await.expect("declared");
    }

    pub(crate) async fn consume(&self, queue: &str) -> Consumer {
        let spec = ConsumeSpec { queue: queue.to_owned(), prefetch: 10, tag: "test".to_owned() };
        self.session.link().consume(spec).await.expect("a consumer")
    }

    pub(crate) async fn publish(&self, body: impl Into<Vec<u8>>, properties: Properties) {
        let message = Message { body: body.into().into(), properties, transient: false };
        within(10, self.session.publish(&self.names.jobs(), "jobs", message)).await.expect("confirmed");
    }

    /// Straight to a queue, as the default exchange lets anybody with the right to.
    pub(crate) async fn publish_to(&self, queue: &str, body: impl Into<Vec<u8>>, properties: Properties) {
        let message = Message { body: body.into().into(), properties, transient: false };
        within(10, self.session.publish("", queue, message)).await.expect("confirmed");
    }

    /// By a lane, as its publishers do.
    pub(crate) async fn publish_in(&self, lane: &str, body: impl Into<Vec<u8>>, properties: Properties) {
        let message = Message { body: body.into().into(), properties, transient: false };
        let key = format!("jobs.{lane}");
        within(10, self.session.publish(&self.names.jobs(), &key, message)).await.expect("confirmed");
    }

    pub(crate) async fn publish_images(&self, count: usize, script: &Value) {
        for n in 0..count {
            self.publish(image(&format!("job-{n}"), script), Properties::default()).await;
        }
    }

    /// The messages of a queue, as JSON, once there are so many.
    pub(crate) async fn wait_for(&self, queue: &str, count: usize) -> Vec<Value> {
        self.wait_until(600, &format!("{count} in {queue}"), || self.broker.queue_len(queue) >= count).await;
        self.bodies(queue)
    }

    pub(crate) fn bodies(&self, queue: &str) -> Vec<Value> {
        self.broker
            .snapshot(queue)
            .iter()
            .map(|message| serde_json::from_slice(&message.body).expect("JSON"))
            .collect()
    }

    /// Looks, as simulated time goes by, until something holds.
    pub(crate) async fn wait_until(&self, seconds: u64, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut looks = interval(Duration::from_millis(50));
        while !holds() {
            looks.tick().await;
            assert!(
                Instant::now() < deadline,
                "not within {seconds} s: {what}; {:?}",
                self.simulator.stats()
            );
        }
    }

    /// No rule of the API was broken, and each task was paid as often as named.
    pub(crate) fn assert_rules_kept(&self, repeated_submissions: u64) {
        let stats = self.simulator.stats();
        let broken =
            (stats.early_polls, stats.polls_past_limit, stats.wrong_id_calls, stats.repeated_submissions);
        assert_eq!(broken, (0, 0, 0, repeated_submissions), "{stats:?}");
    }
}

/// An image job whose picture is its own, with a script for the simulator.
pub(crate) fn image(id: &str, script: &Value) -> String {
    let picture = id.repeat(200 / id.len() + 1);
    json!({"id": id, "task": {"type": "ImageToTextTask", "body": STANDARD.encode(picture), "_sim": script}})
        .to_string()
}
