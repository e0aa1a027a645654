//! The worker: takes jobs and tickets off the broker, and sees each to its end.
//!
//! [`Worker::run`] makes a session, serves it until it ends, and makes the next, until it is asked
//! to drain. The pure core, `domain::lifecycle`, decides about a job; `executor` carries that out,
//! and `settlement` alone acks.

mod api_calls;
mod api_health;
mod context;
mod dedup;
mod drain;
mod executor;
mod handle;
mod job_index;
mod job_log;
mod lanes;
mod limits;
mod queue_monitor;
mod rate;
mod serve;
mod settlement;
mod stats;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::broker::topology::{Names, Topology};
use crate::broker::{Broker, BrokerError, Session};
use crate::domain::guard;
use crate::domain::lane::{Lane, LaneRules};
use crate::domain::lifecycle::JobRules;
use crate::domain::money::Budgets;
use crate::domain::policy::Policy;
use crate::domain::solve_time::{Reach as DeadlineReach, SolveTimes};
use crate::failpoint::Failpoint;
use crate::fleet::{CallbackAddress, Egress, Fleet, FleetOptions};
use crate::linger::Linger;
use crate::solver::Solver;
use crate::trace::Tracer;

pub use crate::clock::{Backoff, Clock, Reconnect, Rng};
pub use drain::Drained;
pub use handle::{Buffers, WorkerHandle};
pub use limits::Limits;
pub use stats::counters::{Counters, FailedByCode, Reading, Spent};
pub use stats::histograms::Durations;

use api_health::ApiHealth;
use context::{Consumers, Context, Live};
use dedup::Memory;
use lanes::Lanes;
use limits::CallLimits;
use limits::in_flight::InFlight;
use limits::waiting::Waiting;
use queue_monitor::QueueMonitor;
use serve::SessionEnd;
use watchdog::Watchdog;

/// With a session that has lived this long, the broker was there: what follows is another outage.
const REACHED: Duration = Duration::from_secs(5);
/// A session that has lived this long was a good one.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a session takes no jobs after one that was none, at first and at most. Each end of a
/// session returns the jobs in flight, and charges them for it: sessions that die at once, for want
/// of a right or an exchange, would use up what the broker allows each job.
const WITHOUT_JOBS: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(15));
/// Tickets whose copies wait for the broker's confirm at one time.
const HANDED_OVER_AT_ONCE: usize = 128;
/// The largest prefetch AMQP can express.
const MAX_PREFETCH: usize = 65_535;

/// What a worker is made of.
pub struct WorkerOptions {
    /// The broker.
    pub broker: Broker,
    /// The API.
    pub solver: Solver,
    /// Names of everything on the broker.
    pub names: Names,
    /// Whether the topology is declared on every new session.
    pub declare_topology: bool,
    /// What decides about jobs.
    pub rules: JobRules,
    /// Which sites may be automated.
    pub policy: Policy,
    /// This replica's name, as outcomes show it.
    pub name: String,
    /// Tickets and submissions held at once.
    pub max_in_flight: usize,
    /// Bounds on calls of the API.
    pub limits: Limits,
    /// The lanes beside the default one, and the default one where it has rules of its own.
    pub lanes: BTreeMap<Lane, LaneRules>,
    /// What decides about the account.
    pub guard: guard::GuardRules,
    /// Whose address the API sees.
    pub egress: Egress,
    /// Where the API sends its callbacks; `None`: it is asked for none.
    pub callbacks: Option<CallbackAddress>,
    /// Users of the broker, beside its own, who may pause and resume.
    pub operators: Vec<String>,
    /// When a job's deadline is out of reach.
    pub deadlines: DeadlineReach,
    /// The moments at which polls that are due are made together.
    pub linger: Linger,
    /// How long a drain may take.
    pub drain_timeout: Duration,
    /// Queues beside the direct reply-to that copies of outcomes may go to; empty: none.
    pub reply_to_prefix: String,
    /// Where the time comes from.
    pub clock: Clock,
    /// Where randomness comes from.
    pub rng: Rng,
    /// What makes spans.
    pub tracer: Tracer,
}

/// A replica.
pub struct Worker {
    broker: Broker,
    topology: Option<Topology>,
    ctx: Arc<Context>,
    runs: TaskTracker,
    job_prefetch: u16,
    ticket_prefetch: u16,
    drain_timeout: Duration,
    finishes_tickets: bool,
}

fn prefetch(deliveries: usize) -> u16 {
    u16::try_from(deliveries.clamp(1, MAX_PREFETCH)).unwrap_or(u16::MAX)
}

fn fleet(options: &WorkerOptions) -> Fleet {
    let mut rules = options.guard.clone();
    if Failpoint::BudgetIgnored.in_force() {
        rules.budgets = Budgets::default();
    }
    if Failpoint::CountedWrongIds.in_force() {
        rules.wrong_ids_per_minute = 3;
    }
    Fleet::new(FleetOptions {
        names: options.names.clone(),
        name: options.name.clone(),
        user: options.broker.user().to_owned(),
        operators: options.operators.clone(),
        rules,
        overrides: options.rules.overrides.clone(),
        egress: options.egress,
        callbacks: options.callbacks.clone(),
        solver: options.solver.clone(),
        clock: options.clock.clone(),
        rng: options.rng.clone(),
        solve_times: SolveTimes::new(options.deadlines, options.rules.polling.learnable()),
    })
}

impl Worker {
    /// A worker that has not begun yet.
    #[must_use]
    pub fn new(mut options: WorkerOptions) -> Self {
        if Failpoint::UnknownIsFinal.in_force() {
            options.rules.unknown_timeout = Duration::ZERO;
        }
        let fleet = fleet(&options);
        let topology =
            options.declare_topology.then(|| Topology::with_lanes(&options.names, options.lanes.keys()));
        let lanes = Lanes::new(options.lanes, options.clock.clone());
        let ctx = Context {
            solver: options.solver,
            rules: options.rules,
            policy: options.policy,
            limits: CallLimits::new(options.limits.clone(), options.clock.clone()),
            per_publisher_per_minute: options.limits.per_publisher_per_minute,
            publishers: Mutex::default(),
            clock: options.clock,
            rng: options.rng,
            linger: options.linger,
            tracer: options.tracer,
            fleet,
            counters: Arc::default(),
            in_flight: InFlight::new(options.max_in_flight),
            lanes,
            api_health: ApiHealth::default(),
            dedup: Memory::default(),
            live: Live::default(),
            consumers: Consumers::default(),
            queue_monitor: QueueMonitor::default(),
            handing_over: Semaphore::new(HANDED_OVER_AT_ONCE),
            waiting: Waiting::default(),
            meter: Arc::default(),
            watchdog: Watchdog::default(),
            job_index: Arc::default(),
            leaving: AtomicBool::new(false),
            worker: options.name,
            reply_to_prefix: options.reply_to_prefix,
            names: options.names,
        };
        Self {
            broker: options.broker,
            topology,
            runs: TaskTracker::new(),
            job_prefetch: prefetch(options.limits.submit_concurrency),
            // Twice what is held on purpose, since the tickets of a replica that died land here
            // too.
            ticket_prefetch: prefetch(options.max_in_flight.saturating_mul(2)),
            drain_timeout: options.drain_timeout,
            finishes_tickets: false,
            ctx: Arc::new(ctx),
        }
    }

    /// The same worker, which finishes its paid tasks while it drains, as far as the drain's time
    /// allows: for one that has no other replica to hand them to.
    #[must_use]
    pub fn finishing_tickets(mut self) -> Self {
        self.finishes_tickets = true;
        self
    }

    /// A view of it, for as long as wanted.
    #[must_use]
    pub fn view(&self) -> WorkerHandle {
        WorkerHandle { ctx: Arc::clone(&self.ctx) }
    }

    /// Works until `drain` is cancelled, and then leaves in order.
    ///
    /// # Errors
    /// Where the broker refuses the very first session for a reason that waiting cannot fix
    /// (log-in, virtual host, a queue with other arguments).
    pub async fn run(self, drain: CancellationToken) -> Result<Drained, BrokerError> {
        let ctx = Arc::clone(&self.ctx);
        let _pulse = AbortOnDropHandle::new(tokio::spawn(async move { ctx.watchdog.beat().await }));
        let mut served_before = false;
        let mut reconnect = Reconnect::default();
        let mut lost_at = None;
        let (mut jobs_backoff, mut without_jobs) =
            (Backoff::new(WITHOUT_JOBS.0, WITHOUT_JOBS.1), Duration::ZERO);
        loop {
            let error = match self.begin(&drain, without_jobs).await {
                Ok(None) => return Ok(self.drain_unconnected(self.drain_timeout).await),
                Ok(Some(serving)) => {
                    served_before = true;
                    if let Some(lost_at) = lost_at.take() {
                        let outage_ms = Instant::now().duration_since(lost_at).as_millis();
                        tracing::info!(outage_ms, "connected to the broker again");
                    }
                    let began = Instant::now();
                    let end = self.serve(serving, &drain).await;
                    if began.elapsed() >= REACHED {
                        reconnect.reset();
                    }
                    if began.elapsed() >= SETTLED {
                        jobs_backoff.reset();
                        without_jobs = Duration::ZERO;
                    } else {
                        without_jobs = jobs_backoff.jittered(self.ctx.rng.jitter());
                    }
                    match end {
                        SessionEnd::Drained(drained) => return Ok(drained),
                        SessionEnd::Lost(reason) => {
                            self.ctx.counters.session_lost();
                            BrokerError::Lost(reason)
                        }
                    }
                }
                Err(error) if served_before || error.is_passing() => error,
                Err(error) => return Err(error),
            };
            lost_at.get_or_insert_with(Instant::now);
            self.ctx.live.set(None);
            self.ctx.consumers.forget();
            self.ctx.queue_monitor.forget();
            let wait = reconnect.wait(self.ctx.rng.jitter()) * self.ctx.fleet.slower();
            tracing::warn!(%error, retry_in_ms = wait.as_millis(), "no session with the broker that broker.url names; trying again");
            tokio::select! {
                biased;
                () = drain.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Makes a session with its consumers; `None` where the worker is to drain first.
    async fn begin(
        &self,
        drain: &CancellationToken,
        without_jobs: Duration,
    ) -> Result<Option<serve::Serving>, BrokerError> {
        tokio::select! {
            biased;
            () = drain.cancelled() => Ok(None),
            session = self.connect() => Ok(Some(serve::Serving::open(self, session?, without_jobs))),
        }
    }

    async fn connect(&self) -> Result<Session, BrokerError> {
        let session = self.broker.connect().await?.metered(&self.ctx.meter);
        if let Some(topology) = &self.topology
            && let Err(error) = session.link().declare(topology).await
        {
            session.link().close().await;
            return Err(error);
        }
        Ok(session)
    }
}
