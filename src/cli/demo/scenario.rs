//! One act of the demo: broker, simulator and worker in this process, on loopback.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;

use super::DemoError;
use super::jobs::{PANICKING_TYPE, Planned, SITE};
use super::panicking::Panicking;
use crate::broker::memory::MemoryBroker;
use crate::broker::topology::{Names, Topology};
use crate::broker::{Broker, Session};
use crate::cli::connect::USER_AGENT;
use crate::domain::api_code::Overrides;
use crate::domain::guard;
use crate::domain::lifecycle::{Ambiguous, Rules};
use crate::domain::message::{Message, Properties};
use crate::domain::policy::Policy;
use crate::domain::poll_schedule::{PollSchedule, PollSchedules};
use crate::domain::solve_time::Reach;
use crate::fleet::Egress;
use crate::linger::Linger;
use crate::simulator::{Server, Simulator, SimulatorConfig};
use crate::solver::{HttpTransport, Solver, SolverOptions};
use crate::trace::Tracer;
use crate::worker::{Clock, Limits, Rng, Worker, WorkerHandle, WorkerOptions};

/// Unpaid jobs are given up after this long, so that nobody has to watch for ten minutes. They are parked for 5 s once.
const UNPAID_BUDGET: Duration = Duration::from_secs(8);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_CALLS: usize = 64;

/// What runs in an act.
pub(super) struct Stage {
    pub(super) session: Session,
    pub(super) names: Names,
    pub(super) simulator: Simulator,
    pub(super) broker: MemoryBroker,
    base_url: Url,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
    closing: CancellationToken,
}

impl Stage {
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
            limits: Limits {
                max_calls: MAX_CALLS,
                submit_concurrency: 16,
                max_calls_per_second: None,
                caps: BTreeMap::new(),
            },
            guard: guard::Rules::default(),
            egress: Egress::Shared,
            operators: Vec::new(),
            deadlines: Reach { quantile: 0.0, least_answers: 1 },
            drain_timeout: CALL_TIMEOUT * 2,
            reply_to_prefix: String::new(),
            clock: Clock::System,
            dice: Rng::Thread,
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
fn rules() -> Result<Rules, DemoError> {
    let second = Duration::from_secs;
    // Tasks that nobody answers well are given up after 12 s, as unpaid jobs are after 8.
    let pacing = PollSchedule::try_new(second(1), second(2), second(12)).map_err(|_| DemoError::Stopped)?;
    Ok(Rules {
        pacing: PollSchedules { default: pacing, by_type: BTreeMap::new() },
        overrides: Overrides::default(),
        capacity_timeout: UNPAID_BUDGET,
        transient_timeout: UNPAID_BUDGET,
        unknown_timeout: UNPAID_BUDGET,
        max_resubmissions: 1,
        ambiguous: Ambiguous::Retry,
    })
}
