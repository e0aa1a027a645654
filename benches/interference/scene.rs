//! A scene: a namespace, a stand-in, replicas between them, and who watches.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::topology::Topology;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::environment::Environment;
use crate::harness::fleet::{Fleet, FleetOptions};
use crate::ledger::Ledger;
use crate::load::{Publisher, pictures};
use crate::namespace::Namespace;
use crate::row::Row;
use crate::series::Series;
use crate::simulator::Simulator;
use crate::wait;
use crate::watch::Watch;

/// Replicas of a fleet, where a case does not say otherwise.
pub(crate) const REPLICAS: usize = 2;
/// Jobs offered a second, where a case does not say otherwise.
pub(crate) const PER_SECOND: u32 = 50;
/// A call of the API that takes longer is given up.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A fleet takes jobs within seconds; on a crowded machine, and after a canary, within this.
const READY_WITHIN: Duration = Duration::from_secs(60);
const WARM_UP: usize = 20;
const LEAVE_WITHIN: Duration = Duration::from_secs(20);
/// With the default of 30 s a hanging API would only make the run longer.
const SETTINGS: [(&str, &str); 3] =
    [("SOLVER__REQUEST_TIMEOUT", "5s"), ("SOLVER__CONNECT_TIMEOUT", "2s"), ("WORKER__DRAIN_TIMEOUT", "15s")];
/// Every answer is there at the first poll, so that a job's way takes as long as the worker takes,
/// and a second: delays show. Ids are never given out twice, not even by a stand-in that has
/// forgotten everything.
const SCENARIO: &str = "\
balance = 100000.0
task_ids = \"uuid\"
[types.ImageToTextTask]
solve_ms = { uniform = { min = 200, max = 800 } }
";

/// What differs from the usual.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) replicas: Option<usize>,
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// Dropped, all of its processes end.
pub(crate) struct Scene {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) publisher: Publisher,
    pub(crate) simulator: Simulator,
    pub(crate) series: Series,
    pub(crate) watch: Watch,
    fleet: Fleet,
    namespace: Namespace,
    folder: PathBuf,
    began: Instant,
}

impl Scene {
    /// A namespace, a stand-in and a fleet of their own; waits until all replicas take jobs.
    pub(crate) async fn open(environment: &Environment, name: &str, setup: Setup) -> Self {
        let folder = environment.folder(name);
        let scenario = format!("seed = {}\n{SCENARIO}", environment.seed);
        let simulator = Simulator::start(&folder, &scenario).await;
        let namespace = Namespace::declare(&environment.amqp).await;
        let replicas = setup.replicas.unwrap_or(REPLICAS);
        let watch = Watch::start(replicas);
        let usual = SETTINGS.map(|(key, value)| (key, value.to_owned()));
        let fleet = Fleet::start(FleetOptions {
            amqp: environment.amqp.clone(),
            namespace: namespace.names().namespace().to_owned(),
            api: simulator.url().to_owned(),
            folder: folder.clone(),
            replicas,
            ops_ports: watch.ports().to_vec(),
            settings: usual.into_iter().chain(setup.settings).collect(),
        });
        let scene = Self {
            ledger: Arc::new(Ledger::open(&namespace).await),
            publisher: Publisher::open(&environment.amqp, namespace.names()).await,
            series: Series::start(simulator.probe()),
            simulator,
            watch,
            fleet,
            namespace,
            folder,
            began: Instant::now(),
        };
        // A guard that knows nothing yet opens by a job.
        scene.publisher.offer(&scene.ledger, pictures("warm-up.").take(WARM_UP), PER_SECOND).finished().await;
        let all = wait::comes_true(READY_WITHIN, async || {
            scene.watch.all_open()
                && scene.namespace.takers().await >= replicas as u64
                && scene.ledger.is_finished("warm-up.")
        });
        assert!(all.await, "the replicas take jobs; logs: {}", scene.folder.display());
        scene
    }

    /// Calls of a kind are answered so for a while from now on.
    pub(crate) async fn outage(&self, of: &str, answer: Value, span: Duration) {
        let outage = json!({"of": of, "answer": answer, "for_ms": span.as_millis()});
        self.simulator.control(&json!({"outages": [outage]})).await;
    }

    /// The next calls of a kind, so many, are answered so.
    pub(crate) async fn flash(&self, of: &str, answer: Value, calls: u32) {
        let flash = json!({"of": of, "answer": answer, "calls": calls});
        self.simulator.control(&json!({"flash": flash})).await;
    }

    /// Judges what no case may break, and clears away. The stand-in's rules hold for polls in any
    /// trouble.
    pub(crate) async fn close(mut self, row: &mut Row) {
        row.note_load();
        self.ledger.keep(&self.folder, self.began);
        let stats = self.simulator.stats().await;
        row.at_most("polls too early", stats.early_polls, 0);
        row.at_most("polls past the limit", stats.polls_past_limit, 0);
        row.at_most("ids asked for again that were answered as unknown", stats.repeated_wrong_ids, 0);
        for fault in self.ledger.faults() {
            row.bound(fault, false);
        }
        let repeated = self.ledger.repeated();
        if repeated > 0 {
            row.note(format_args!("{repeated} outcomes repeated"));
        }
        for fallen in self.fleet.fallen() {
            row.bound(format_args!("{fallen} ended by itself"), false);
        }
        let stuck = self.fleet.leave(LEAVE_WITHIN).await;
        if !stuck.is_empty() {
            row.note(format_args!("did not leave in time: {}", stuck.join(", ")));
        }
        self.remove().await;
    }

    /// So that the broker does not keep dozens of queues for every case.
    async fn remove(&self) {
        let connection = Connection::connect(self.namespace.amqp(), ConnectionProperties::default()).await;
        let connection = connection.expect("the broker takes a connection");
        let channel = connection.create_channel().await.expect("the broker opens a channel");
        let topology = Topology::new(self.namespace.names());
        for queue in topology.queues {
            let name = queue.name.as_str().into();
            channel.queue_delete(name, QueueDeleteOptions::default()).await.expect("a queue is deleted");
        }
        for exchange in topology.exchanges {
            let name = exchange.name.as_str().into();
            channel
                .exchange_delete(name, ExchangeDeleteOptions::default())
                .await
                .expect("an exchange is deleted");
        }
    }
}
