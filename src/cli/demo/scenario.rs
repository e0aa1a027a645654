//! One act of the demo: broker, simulator and worker in this process, on loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::jobs::{Goal, PANICKING_TYPE, Planned, SITE};
use super::{DemoError, Panicking};
use crate::broker::memory::MemoryBroker;
use crate::broker::topology::{Names, Topology};
use crate::broker::{Broker, BrokerError, ConsumeSpec, Consumer, Session};
use crate::cli::connect::USER_AGENT;
use crate::domain::api_code::Overrides;
use crate::domain::class::Class;
use crate::domain::guard;
use crate::domain::history::Ended;
use crate::domain::lifecycle::{Ambiguous, JobRules};
use crate::domain::message::{Message, Properties};
use crate::domain::money::Prices;
use crate::domain::policy::Policy;
use crate::domain::poll_schedule::{PollMode, PollSchedule, PollSchedules};
use crate::domain::solve_time::Reach;
use crate::domain::time::Timestamp;
use crate::fleet::Egress;
use crate::linger::Linger;
use crate::simulator::{Server, Simulator, SimulatorConfig};
use crate::solver::{HttpTransport, Solver, SolverOptions};
use crate::trace::Tracer;
use crate::worker::{Clock, Limits, Rng, Worker, WorkerHandle, WorkerOptions};

/// Unpaid jobs are given up after this long, so that nobody has to watch for ten minutes. They are
/// retried for 5 s once.
const UNPAID_BUDGET: Duration = Duration::from_secs(8);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CALLS: usize = 64;

/// What runs in an act.
pub(super) struct Environment {
    pub(super) session: Session,
    pub(super) names: Names,
    pub(super) simulator: Simulator,
    pub(super) broker: MemoryBroker,
    base_url: Url,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    closing: CancellationToken,
}

impl Environment {
    pub(super) async fn set() -> Result<Self, DemoError> {
        let broker = MemoryBroker::new();
        let names = Names::new("captcha");
        let session = Broker::Memory(broker.clone()).connect().await?;
        session.link().declare(&Topology::new(&names)).await?;
        let simulator = Simulator::new(SimulatorConfig::default())?;
        let server = Server::bind(([127, 0, 0, 1], 0).into(), simulator.clone()).await?;
        let base_url =
            Url::parse(&format!("http://{}", server.local_addr())).map_err(|_| DemoError::Stopped)?;
        let closing = CancellationToken::new();
        let server = tokio::spawn(server.run(closing.clone()));
        Ok(Self { session, names, simulator, broker, base_url, server, closing })
    }

    /// Publishes jobs as a publisher would, each confirmed.
    pub(super) async fn publish(&self, jobs: Vec<Planned>) -> Result<(), DemoError> {
        for planned in jobs {
            let properties =
                Properties { content_type: Some("application/json".to_owned()), ..Properties::default() };
            let message = Message { body: planned.body.into(), properties, transient: false };
            self.session.publish(&self.names.jobs(), "jobs", message).await?;
        }
        Ok(())
    }

    /// A worker with the key given.
    pub(super) fn worker(&self, key: &str) -> Result<(Worker, WorkerHandle), DemoError> {
        let options = SolverOptions {
            base_url: self.base_url.clone(),
            api_key: key.into(),
            proxy: None,
            tls_ca_file: None,
            connect_timeout: CALL_TIMEOUT / 2,
            request_timeout: CALL_TIMEOUT,
            max_connections: MAX_CALLS,
            idle_timeout: CALL_TIMEOUT,
            allow_plain_http: false,
            user_agent: USER_AGENT.to_owned(),
        };
        let transport = Arc::new(Panicking(HttpTransport::new(&options)?));
        let worker = Worker::new(WorkerOptions {
            linger: Linger::none(),
            broker: Broker::Memory(self.broker.clone()),
            solver: Solver::with_transport(options.api_key, transport),
            names: self.names.clone(),
            declare_topology: true,
            rules: rules()?,
            policy: Policy::try_new(&[SITE], &[PANICKING_TYPE]).map_err(|_| DemoError::Stopped)?,
            name: "demo".to_owned(),
            max_in_flight: 2_000,
            lanes: BTreeMap::new(),
            limits: Limits {
                per_publisher_per_minute: None,
                max_calls: MAX_CALLS,
                submit_concurrency: 16,
                max_calls_per_second: None,
                caps: BTreeMap::new(),
            },
            guard: guard::GuardRules::default(),
            egress: Egress::Shared,
            callbacks: None,
            operators: Vec::new(),
            deadlines: Reach { quantile: 0.0, least_answers: 1 },
            drain_timeout: CALL_TIMEOUT * 2,
            reply_to_prefix: String::new(),
            clock: Clock::System,
            rng: Rng::Thread,
            tracer: Tracer::off(),
        });
        let view = worker.view();
        Ok((worker, view))
    }

    pub(super) async fn clear(self) -> Result<(), DemoError> {
        self.session.link().close().await;
        self.closing.cancel();
        self.server.await.map_err(|_| DemoError::Stopped)??;
        Ok(())
    }
}

/// The defaults, but for the budget of unpaid jobs.
fn rules() -> Result<JobRules, DemoError> {
    let second = Duration::from_secs;
    // Tasks that nobody answers well are given up after 12 s, as unpaid jobs are after 8.
    let schedule = PollSchedule::try_new(second(1), second(2), second(12)).map_err(|_| DemoError::Stopped)?;
    Ok(JobRules {
        polling: PollSchedules { mode: PollMode::Learned, default: schedule, by_type: BTreeMap::new() },
        overrides: Overrides::default(),
        capacity_timeout: UNPAID_BUDGET,
        transient_timeout: UNPAID_BUDGET,
        unknown_timeout: UNPAID_BUDGET,
        max_resubmissions: 1,
        ambiguous: Ambiguous::Retry,
        prices: Prices::default(),
    })
}

const PREFETCH: u16 = 200;

/// What has arrived so far.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrivals {
    /// Outcomes by the queue that they were read from.
    pub(super) by_goal: BTreeMap<Goal, usize>,
    /// From the answer's reading to its delivery, for each solved job.
    pub(super) delivery: Vec<Duration>,
    /// What the outcomes record beyond the first submission of each job.
    pub(super) resubmissions: Resubmissions,
}

impl Arrivals {
    pub(super) fn total(&self) -> usize {
        self.by_goal.values().sum()
    }

    pub(super) fn solved(&self) -> usize {
        self.by_goal.get(&Goal::Solved).copied().unwrap_or(0)
    }
}

/// What outcomes record beyond the first submission of each job.
#[derive(Debug, Default, Clone)]
pub(super) struct Resubmissions {
    pub(super) recorded: u64,
    /// Of those recorded, the ones that no rule allows.
    pub(super) without_rule: u64,
    /// Jobs that ended lost or unsolved without one.
    pub(super) left_out: u64,
}

impl Resubmissions {
    /// A job that ended here, by how its submissions ended.
    fn note(&mut self, goal: Goal, attempts: &[Ended]) {
        let Some((_, resubmitted)) = attempts.split_last() else { return };
        // The rules allow one for each of these reasons.
        let mut allowed = vec![Ended::Ambiguous, Ended::Failed(Class::Lost), Ended::Failed(Class::Unsolved)];
        for ended in resubmitted {
            match allowed.iter().position(|one| one == ended) {
                Some(place) => drop(allowed.remove(place)),
                None => self.without_rule += 1,
            }
        }
        self.recorded += resubmitted.len() as u64;
        let is_scripted = matches!(goal, Goal::Dead(Class::Lost | Class::Unsolved));
        self.left_out += u64::from(is_scripted && resubmitted.is_empty());
    }
}

/// The consumers, and what they have seen.
#[derive(Default)]
pub(super) struct DemoConsumers {
    seen: Mutex<Arrivals>,
    arrived: Notify,
    consumers: TaskTracker,
}

/// The part of an outcome that the demo reads.
#[derive(Deserialize)]
struct DemoOutcome {
    times: OutcomeTimes,
    attempts: Vec<DemoAttempt>,
}

#[derive(Deserialize)]
struct DemoAttempt {
    ended: Ended,
}

#[derive(Deserialize)]
struct OutcomeTimes {
    solved_at: Option<Timestamp>,
}

impl DemoConsumers {
    /// Consumes from every queue that a job can end in.
    pub(super) async fn start(session: &Session, names: &Names) -> Result<Arc<Self>, BrokerError> {
        let consumers = Arc::new(Self::default());
        let dead = Class::finals().map(|class| (names.dead(class), Goal::Dead(class)));
        for (queue, goal) in dead.chain([(names.results(), Goal::Solved), (names.dead_raw(), Goal::Raw)]) {
            let tag = format!("demo {queue}");
            let consumer = session.link().consume(ConsumeSpec { queue, prefetch: PREFETCH, tag }).await?;
            let listener = Arc::clone(&consumers);
            consumers.consumers.spawn(async move { listener.listen(consumer, goal).await });
        }
        Ok(consumers)
    }

    async fn listen(&self, mut consumer: Consumer, goal: Goal) {
        while let Some(delivery) = consumer.recv().await {
            let now = Clock::System.now();
            let outcome = serde_json::from_slice::<DemoOutcome>(&delivery.message.body).ok();
            self.note(goal, outcome, now);
            // A lost session would bring it again, and the count would show it.
            let _ = delivery.receipt.ack();
        }
    }

    /// What the broker itself dead-lettered is no outcome.
    fn note(&self, goal: Goal, outcome: Option<DemoOutcome>, now: Timestamp) {
        let mut seen = self.seen.lock();
        *seen.by_goal.entry(goal).or_default() += 1;
        if let Some(DemoOutcome { times, attempts }) = outcome {
            seen.delivery.extend(times.solved_at.map(|at| now.since(at)));
            let attempts: Vec<Ended> = attempts.into_iter().map(|attempt| attempt.ended).collect();
            seen.resubmissions.note(goal, &attempts);
        }
        drop(seen);
        self.arrived.notify_one();
    }

    pub(super) fn arrivals(&self) -> Arrivals {
        self.seen.lock().clone()
    }

    /// Waits until so many have arrived, or the time is over; calls `each` on every arrival.
    pub(super) async fn wait_for(&self, total: usize, deadline: Instant, mut each: impl FnMut(&Arrivals)) {
        loop {
            let seen = self.arrivals();
            each(&seen);
            if seen.total() >= total || timeout_at(deadline, self.arrived.notified()).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resubmission_follows_a_rule_once_for_each_reason() {
        use Ended::{Ambiguous, Failed, Ready};
        let (lost, unsolved) = (Failed(Class::Lost), Failed(Class::Unsolved));
        let noted = |goal, attempts: &[Ended]| {
            let mut seen = Resubmissions::default();
            seen.note(goal, attempts);
            (seen.recorded, seen.without_rule, seen.left_out)
        };
        assert_eq!(noted(Goal::Dead(Class::Malformed), &[]), (0, 0, 0));
        assert_eq!(noted(Goal::Solved, &[Ready]), (0, 0, 0));
        assert_eq!(noted(Goal::Solved, &[Ambiguous, lost, unsolved, Ready]), (3, 0, 0));
        assert_eq!(noted(Goal::Solved, &[unsolved, unsolved, Ready]), (2, 1, 0));
        assert_eq!(noted(Goal::Dead(Class::Transient), &[Failed(Class::Transient), lost]), (1, 1, 0));
        assert_eq!(noted(Goal::Dead(Class::Unsolved), &[unsolved, unsolved]), (1, 0, 0));
        assert_eq!(noted(Goal::Dead(Class::Lost), &[lost]), (0, 0, 1));
    }

    #[test]
    fn what_an_outcome_records_is_read_from_its_attempts() {
        let body = r#"{"times":{},"attempts":[{"ended":"unsolved","polls":5},{"ended":"ready"}]}"#;
        let consumers = DemoConsumers::default();
        let outcome = serde_json::from_str(body).unwrap();
        consumers.note(Goal::Solved, Some(outcome), Timestamp::from_millis(0));
        assert_eq!(consumers.arrivals().resubmissions.recorded, 1);
    }
}
