//! The environment of one history: the broker, the API's stand-in, and places where replicas come
//! and go.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::{Names, RETRY_DELAYS, Topology};
use captcha_worker::broker::{Broker, Session};
use captcha_worker::domain::api_code::Overrides;
use captcha_worker::domain::guard;
use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::lifecycle::{Ambiguous, JobRules};
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::money::{self, Budgets, Decimal, Prices, Spent};
use captcha_worker::domain::policy::Policy;
use captcha_worker::domain::poll_schedule::{PollMode, PollSchedules};
use captcha_worker::domain::solve_time::Reach;
use captcha_worker::domain::time::Timestamp;
use captcha_worker::fleet::{CallbackAddress, Client, Egress, Order};
use captcha_worker::linger::Linger;
use captcha_worker::simulator::{Control, Simulator, SimulatorConfig};
use captcha_worker::solver::Solver;
use captcha_worker::trace::Tracer;
use captcha_worker::worker::{Clock, Drained, Limits, Rng, Worker, WorkerHandle, WorkerOptions};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::{self, FaultyTransport};
use super::callbacks::CallbackNetwork;
use super::chronicle::Chronicle;
use super::ledger::Ledger;
use super::plan::{CAPACITY_TIMEOUT, Plan, PlannedJob, PlannedLane, TRANSIENT_TIMEOUT, UNKNOWN_TIMEOUT};
use super::steps::Snares;
use super::weather::Weather;
use super::witness::{Books, BrokerWitness, open};
use crate::support::in_process::PANICKING_TYPE;

/// The time at which every history begins.
pub(crate) const EPOCH: Timestamp = Timestamp::from_millis(1_790_000_000_000);
/// The broker's name among those whom faults hit.
pub(crate) const BROKER: &str = "the broker";
/// After which a publisher tries again.
const PUBLISH_AGAIN: Duration = Duration::from_millis(500);
/// How long a replica may take to leave.
pub(crate) const DRAIN: Duration = Duration::from_secs(45);

/// As by default: what waits together is a history of its own.
const LINGER: Duration = Duration::from_millis(10);

/// A replica under way.
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) view: WorkerHandle,
    pub(crate) transport: Arc<FaultyTransport>,
    pub(crate) drain: CancellationToken,
    pub(crate) handle: JoinHandle<Drained>,
}

impl Replica {
    /// Deliveries, and places for calls.
    pub(crate) fn holds(&self) -> (usize, usize) {
        (self.view.in_flight(), self.view.places_held())
    }
}

/// The environment.
pub(crate) struct World {
    pub(crate) broker: MemoryBroker,
    pub(crate) names: Names,
    pub(crate) simulator: Simulator,
    pub(crate) weather: Weather,
    pub(crate) books: Books,
    pub(crate) snares: Snares,
    pub(crate) chronicle: Chronicle,
    callbacks: CallbackNetwork,
    pub(crate) places: Vec<Option<Replica>>,
    /// Of the places' machines, with how far off each is while nobody sets it.
    clocks: Vec<(Clock, i64)>,
    topology: Topology,
    lanes: Vec<Lane>,
    publisher: Arc<tokio::sync::Mutex<Session>>,
    /// How long the broker stays away after its end at a batch that is yet to come.
    pub(crate) broker_down_for: Option<Duration>,
    broker_can_end: bool,
    started: Vec<u32>,
    /// The operator gives one order after another.
    operator: Arc<tokio::sync::Mutex<()>>,
}

impl World {
    pub(crate) async fn new(plan: &Plan, snares: Snares, chronicle: Chronicle) -> Self {
        let names = Names::new("captcha");
        // The lanes' queues stay as the operator has made them, whichever replicas run.
        let topology = Topology::with_lanes(&names, plan.lanes.keys());
        let config = SimulatorConfig { seed: plan.seed, ..SimulatorConfig::default() };
        let books = Arc::new(parking_lot::Mutex::new(Ledger::new(names.clone(), plan, chronicle.began())));
        let witness =
            BrokerWitness { books: Arc::clone(&books), snares: snares.clone(), chronicle: chronicle.clone() };
        let broker = match plan.store {
            Some(takes) => {
                let witness = witness.clone();
                MemoryBroker::over_store(1_790_000_000, LINGER, takes, move || witness.batch())
            }
            None => MemoryBroker::starting_at(1_790_000_000),
        };
        broker.set_observer(Arc::new(witness));
        let publisher = broker.named("publisher").connect().await.expect("a session");
        publisher.link().declare(&topology).await.expect("declared");
        let clock = |skew: &i64| {
            let epoch = Timestamp::from_millis(EPOCH.as_millis() + skew);
            (Clock::runtime_since(epoch, chronicle.began()), *skew)
        };
        let simulator = Simulator::new(config).expect("a sound scenario");
        let world = Self {
            clocks: plan.skews.iter().map(clock).collect(),
            callbacks: CallbackNetwork::of(&simulator, plan.seed, chronicle.clone()),
            simulator,
            weather: Weather::new(StdRng::seed_from_u64(plan.seed ^ 0x00F0_0D5E), plan.losing),
            places: plan.skews.iter().map(|_| None).collect(),
            started: vec![0; plan.skews.len()],
            broker,
            names,
            books,
            snares,
            chronicle,
            topology,
            lanes: plan.lanes.keys().cloned().collect(),
            publisher: Arc::new(tokio::sync::Mutex::new(publisher)),
            broker_down_for: None,
            broker_can_end: plan.store.is_some(),
            operator: Arc::default(),
        };
        (0..plan.skews.len()).for_each(|place| world.set_clock(place, 0));
        world
    }

    /// Starts the next replica in a place that is free.
    pub(crate) fn start(&mut self, plan: &Plan, place: usize) {
        if self.places[place].is_some() {
            return;
        }
        self.started[place] += 1;
        let name = format!("replica-{place}.{}", self.started[place]);
        self.chronicle.record(|| format!("{name} starts"));
        open(&self.books).started.insert(name.clone());
        let transport = Arc::new(FaultyTransport {
            replica: name.clone(),
            simulator: self.simulator.clone(),
            broker: self.broker.clone(),
            weather: self.weather.clone(),
            books: Arc::clone(&self.books),
            snares: self.snares.clone(),
            chronicle: self.chronicle.clone(),
            view: OnceLock::new(),
            dead: AtomicBool::new(false),
        });
        self.callbacks.add(&transport);
        let worker = Worker::new(self.options(plan, place, &name, &transport));
        let (view, drain) = (worker.view(), CancellationToken::new());
        // Its first and only setting.
        drop(transport.view.set(view.clone()));
        let handle = tokio::spawn({
            let drain = drain.clone();
            async move { worker.run(drain).await.expect("a broker that lets everybody in") }
        });
        self.places[place] = Some(Replica { name, view, transport, drain, handle });
    }

    fn options(
        &self,
        plan: &Plan,
        place: usize,
        name: &str,
        transport: &Arc<FaultyTransport>,
    ) -> WorkerOptions {
        let rng = plan.seed.wrapping_mul(64).wrapping_add(place as u64 * 8 + u64::from(self.started[place]));
        WorkerOptions {
            linger: Linger::every(LINGER),
            broker: Broker::Memory(self.broker.named(name)),
            solver: Solver::with_transport("simulator-key".into(), Arc::clone(transport) as _),
            names: self.names.clone(),
            declare_topology: true,
            rules: JobRules {
                polling: PollSchedules {
                    mode: PollMode::Learned,
                    default: plan.schedule,
                    by_type: BTreeMap::new(),
                },
                overrides: Overrides::default(),
                capacity_timeout: CAPACITY_TIMEOUT,
                transient_timeout: TRANSIENT_TIMEOUT,
                unknown_timeout: UNKNOWN_TIMEOUT,
                max_resubmissions: plan.max_resubmissions,
                ambiguous: Ambiguous::Retry,
                prices: prices(),
            },
            policy: Policy::try_new(&["example.com"], &[PANICKING_TYPE]).expect("a sound policy"),
            name: name.to_owned(),
            max_in_flight: plan.max_in_flight,
            lanes: plan
                .lanes
                .iter()
                .filter(|(_, planned)| place >= planned.from)
                .map(|(lane, planned)| (lane.clone(), planned.rules))
                .collect(),
            limits: Limits {
                per_publisher_per_minute: plan.per_publisher_per_minute,
                max_calls: 64,
                submit_concurrency: plan.submit_concurrency,
                max_calls_per_second: plan.calls_per_second.and_then(NonZeroU32::new),
                caps: BTreeMap::new(),
            },
            guard: guard::GuardRules {
                budgets: budgets(plan),
                prices: prices(),
                ..guard::GuardRules::default()
            },
            egress: Egress::Shared,
            callbacks: plan
                .callbacks
                .then(|| CallbackAddress::try_new("https://callbacks.test", name).expect("an address")),
            operators: Vec::new(),
            deadlines: Reach { quantile: 0.05, least_answers: 50 },
            drain_timeout: DRAIN,
            reply_to_prefix: String::new(),
            clock: self.clocks[place].0.clone(),
            rng: Rng::seeded(rng),
            tracer: Tracer::off(),
        }
    }

    /// Ends a process: whatever is left of it in this one reaches nobody any more.
    pub(crate) fn end_process(&self, replica: &Replica) {
        replica.transport.dead.store(true, Ordering::Relaxed);
        replica.handle.abort();
        self.broker.drop_connection(&replica.name);
    }

    /// Publishes a job. The publisher's own connection is no part of the trial.
    pub(crate) async fn publish(&self, job: &PlannedJob) {
        let deadline = serde_json::from_str::<serde_json::Value>(&job.body)
            .ok()
            .and_then(|job| job.get("deadline")?.as_str().and_then(Timestamp::parse))
            .map(|at| self.chronicle.began() + at.since(EPOCH));
        open(&self.books).open_account(job, deadline);
        let (message_id, app_id) = (Some(job.id.clone()), Some(job.publisher.to_owned()));
        let properties = Properties { message_id, app_id, ..Properties::default() };
        let message = Message { body: job.body.clone().into(), properties, transient: false };
        let (publisher, broker) = (Arc::clone(&self.publisher), self.broker.named("publisher"));
        let (books, jobs, id) = (Arc::clone(&self.books), self.names.jobs(), job.id.clone());
        let key = self.names.jobs_of(&job.lane);
        let publishing = async move {
            loop {
                let mut session = publisher.lock().await;
                reconnect(&broker, &mut session).await;
                let published = session.publish(&jobs, &key, message.clone()).await;
                // It does not repeat what the broker has stored.
                if published.is_ok() || open(&books).accounts[&id].published {
                    return;
                }
                drop(session);
                tokio::time::sleep(PUBLISH_AGAIN).await;
            }
        };
        if self.broker_can_end {
            tokio::spawn(publishing);
        } else {
            publishing.await;
        }
    }

    /// An operator's order to the fleet, given in the background.
    pub(crate) fn order(&self, order: Order, seed: u64) {
        let (broker, names) = (Broker::Memory(self.broker.named("operator")), self.names.clone());
        let (chronicle, operator) = (self.chronicle.clone(), Arc::clone(&self.operator));
        tokio::spawn(async move {
            let _turn = operator.lock().await;
            // As a person does: again, until it is done.
            for attempt in 0..20 {
                let Ok(mut client) = Client::connect(&broker, &names, Rng::seeded(seed + attempt)).await
                else {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    continue;
                };
                let answer = client.order(order.clone(), Duration::from_secs(20)).await;
                let done = answer.is_ok_and(|answer| answer.carried_out);
                chronicle.record(|| format!("the operator's {order:?} is carried out: {done}"));
                if done {
                    return;
                }
            }
        });
    }

    /// Sets the clock of a place's machine forward or back, by so many ms.
    pub(crate) fn set_clock(&self, place: usize, millis: i64) {
        let (clock, _) = &self.clocks[place];
        clock.step(millis);
        let off = clock.now().as_millis() - EPOCH.as_millis();
        let elapsed = i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX);
        open(&self.books).set_clock(format!("replica-{place}"), off - elapsed);
    }

    pub(crate) fn control(&self, control: &Control) {
        self.simulator.control(control).expect("a control that can be applied");
    }

    /// Puts every binding back.
    pub(crate) async fn bind(&self) {
        let mut session = self.publisher.lock().await;
        reconnect(&self.broker.named("publisher"), &mut session).await;
        let declared = session.link().declare(&self.topology).await;
        // One that ends comes back with the bindings that it has stored.
        assert!(declared.is_ok() || self.broker_can_end, "{declared:?}");
    }

    /// Everything works again.
    pub(crate) async fn fix_all(&self) {
        self.chronicle.record(|| "everything works again".to_owned());
        self.broker.set_reachable(true);
        self.broker.set_full(&self.names.results(), false);
        self.broker.set_full(&self.names.tickets(), false);
        self.bind().await;
        self.weather.clear();
        for (place, (clock, skew)) in self.clocks.iter().enumerate() {
            let elapsed = i64::try_from(self.now().as_millis()).unwrap_or(i64::MAX);
            self.set_clock(place, EPOCH.as_millis() + elapsed + skew - clock.now().as_millis());
        }
        self.control(&Control {
            balance: Some(1_000.0),
            key_valid: Some(true),
            slots: BTreeMap::from([("ImageToTextTask".to_owned(), None)]),
            storm: Some(captcha_worker::simulator::Storm {
                status: 503,
                until_seconds: 0,
                retry_after: None,
            }),
            ..Control::default()
        });
    }

    /// Messages that are neither outcomes nor dead letters, whoever holds them.
    pub(crate) fn unfinished(&self) -> usize {
        let of_lane = |lane: &Lane| {
            let retried = RETRY_DELAYS.map(|delay| self.names.retry_of(delay, lane));
            [self.names.jobs_of(lane)].into_iter().chain(retried)
        };
        let default = Lane::default();
        let named = self.lanes.iter().filter(|lane| !lane.is_default());
        let jobs = [&default].into_iter().chain(named).flat_map(of_lane);
        jobs.chain([self.names.tickets()]).map(|queue| self.broker.queue_total(&queue)).sum()
    }

    /// Whether all is done: every queue is empty, every job has an end, and nobody holds anything
    /// any more.
    pub(crate) fn is_done(&self) -> bool {
        self.unfinished() == 0
            && open(&self.books).accounts.values().all(|account| account.outcomes > 0)
            && self.places.iter().flatten().all(|replica| replica.holds() == (0, 0))
    }

    /// What the API was paid, in a lane or in all, and what of it no replica may know: an
    /// acceptance that a replica did not live to write on a ticket, and of which its job is another
    /// copy now; a submission without an answer that a replica did not live to report, or that the
    /// last one to leave had; and what replicas that have left could report to nobody.
    pub(crate) fn paid(&self, lane: Option<&Lane>) -> (Decimal, Decimal) {
        let books = open(&self.books);
        let of_lane = books.accounts.values().filter(|account| lane.is_none_or(|lane| *lane == account.lane));
        let (mut paid, mut unknown) = (Decimal::ZERO, 0);
        for account in of_lane {
            paid += account.paid;
            unknown += account.copies - 1 + account.unanswered;
        }
        (paid, DEAREST * Decimal::from(unknown) + books.payments.unheard(lane))
    }

    /// How the fleet's books differ from what the API was paid, in a lane or in all, if they do.
    /// What was not answered stands in them, and may not be paid.
    pub(crate) fn wrong_books(&self) -> Option<String> {
        let views = self.places.iter().flatten().map(|replica| replica.view.money().0);
        let money = views.max_by_key(|money| money.books.version)?;
        let mut all = Spent::default();
        let long_ago = Timestamp::from_millis(0);
        money.books.hours(long_ago).for_each(|(_, hour)| all.add(&hour.spent));
        let ledger = api::paid(&self.simulator.stats());
        if self.paid(None).0 != ledger {
            return Some(format!("{ledger} were paid, and not {}", self.paid(None).0));
        }
        let scopes = [None].into_iter().chain(self.lanes.iter().map(Some));
        scopes.into_iter().find_map(|lane| {
            let ((paid, unknown), spent) = (self.paid(lane), all.of(lane.map(Lane::name)));
            let is_right = spent - all.doubtful <= paid && paid <= spent + unknown;
            (!is_right).then(|| {
                let (lane, doubtful) = (lane.map_or("all", Lane::name), all.doubtful);
                format!("the books say {spent} in lane {lane}, {doubtful} of all not answered; paid were {paid}, of which {unknown} cannot be known")
            })
        })
    }

    pub(crate) fn now(&self) -> Duration {
        Instant::now().duration_since(self.chronicle.began())
    }
}

/// What the simulator charges.
fn prices() -> Prices {
    let price = |kind: &str, price| (kind.to_owned(), Decimal::new(price, 3));
    Prices([price("ImageToTextTask", 1), price("TurnstileTask", 2)].into())
}

/// Beyond the price of any task.
pub(crate) const DEAREST: Decimal = Decimal::from_parts(2, 0, 0, false, 3);

fn budgets(plan: &Plan) -> Budgets {
    let limits = |per_day| money::Limits { per_hour: None, per_day };
    let of_lane = |(lane, planned): (&Lane, &PlannedLane)| {
        let budget = planned.budget?;
        Some((lane.name().to_owned(), limits(Some(budget))))
    };
    Budgets { account: limits(plan.budget), lanes: plan.lanes.iter().filter_map(of_lane).collect() }
}

/// A new session, where the broker has ended since and can be reached.
async fn reconnect(broker: &MemoryBroker, session: &mut Session) {
    if session.is_closed()
        && let Ok(new) = broker.connect().await
    {
        *session = new;
    }
}
