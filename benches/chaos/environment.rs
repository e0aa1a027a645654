//! What a run is played with: a broker, the API's stand-in, relays before both, four replicas, and
//! a foreign publisher and consumer.

use std::net::SocketAddr;
use std::time::Duration;

use captcha_worker::broker::topology::{Names, Topology};
use tokio::time::Instant;

use crate::foreign::{Consumer, Publisher};
use crate::gauges::{Gauges, Letters};
use crate::harness::fleet::{Fleet, FleetOptions};
use crate::harness::jobs::SITE;
use crate::harness::simulator::{Simulator, Stats};
use crate::ledger::{Fate, Ledger};
use crate::relay::Relay;
use crate::report::Harness;
use crate::support::rabbit;
use crate::wait;

/// Replicas of the fleet.
pub(crate) const REPLICAS: usize = 4;
/// Jobs that one of them holds unacked at most: the default of `worker.submit_concurrency`.
pub(crate) const HELD_JOBS: u64 = 16;
/// A call of the API that takes longer is given up.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
const PER_SECOND: u32 = 40;
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Twice a heartbeat of 5 s ends a silent connection.
const SETTINGS: [(&str, &str); 9] = [
    ("BROKER__HEARTBEAT", "5s"),
    ("BROKER__CONNECT_TIMEOUT", "5s"),
    ("BROKER__CALL_TIMEOUT", "5s"),
    ("BROKER__CONFIRM_TIMEOUT", "5s"),
    ("SOLVER__CONNECT_TIMEOUT", "2s"),
    ("SOLVER__REQUEST_TIMEOUT", "5s"),
    ("WORKER__DRAIN_TIMEOUT", "20s"),
    ("WORKER__MAX_IN_FLIGHT", "500"),
    ("POLICY__ALLOWED_DOMAINS", SITE),
];
/// Pictures are answered within two polls, site-bound tasks are open long enough to be met by a
/// fault.
const SCENARIO: &str = "\
balance = 100000.0
[types.FunCaptchaTask]
solve_ms = { lognormal = { median = 5000, p99 = 12000 } }
";

/// Everything but the broker itself. Dropped, all of its processes end.
pub(crate) struct Environment {
    pub(crate) names: Names,
    /// The broker's address for those who are not treated badly.
    pub(crate) amqp: String,
    pub(crate) broker: Relay,
    pub(crate) api: Relay,
    pub(crate) simulator: Simulator,
    pub(crate) fleet: Fleet,
    pub(crate) gauges: Gauges,
    pub(crate) ledger: Ledger,
    pub(crate) publisher: Publisher,
    pub(crate) consumer: Consumer,
}

/// The numbers at a moment.
#[derive(Debug, Clone)]
pub(crate) struct Fingerprint {
    pub(crate) at: Instant,
    pub(crate) stats: Stats,
    pub(crate) letters: Letters,
}

/// A node's log-in at an address.
pub(crate) fn url(address: SocketAddr) -> String {
    format!("amqp://guest:guest@{address}/%2f")
}

impl Environment {
    /// Opens it: the topology is declared, replicas work, jobs come.
    pub(crate) async fn open(harness: &Harness, nodes: Vec<SocketAddr>, foreign: String) -> Self {
        let names = Names::new("chaos");
        let simulator = Simulator::start(harness.folder(), SCENARIO).await;
        let session = rabbit::connect(&foreign).await;
        session.link().declare(&Topology::new(&names)).await.expect("the topology is declared");
        session.link().close().await;
        let broker = Relay::to(nodes).await;
        let target = simulator.url().trim_start_matches("http://").parse().expect("an address");
        let api = Relay::to(vec![target]).await;
        let gauges = Gauges::start(REPLICAS);
        let fleet = Fleet::start(FleetOptions {
            amqp: url(broker.address()),
            namespace: names.namespace().to_owned(),
            api: format!("http://{}", api.address()),
            folder: harness.folder().to_owned(),
            replicas: REPLICAS,
            ops_ports: gauges.ports().to_vec(),
            settings: SETTINGS.map(|(key, value)| (key, value.to_owned())).into(),
        });
        let ledger = Ledger::default();
        let consumer = Consumer::start(&foreign, names.namespace(), &ledger);
        let publisher = Publisher::start(&foreign, names.namespace(), &ledger, PER_SECOND);
        let environment =
            Self { names, amqp: foreign, broker, api, simulator, fleet, gauges, ledger, publisher, consumer };
        assert!(environment.all_work().await, "the replicas work; logs: {}", harness.folder().display());
        environment
    }

    /// Waits until every replica works.
    pub(crate) async fn all_work(&self) -> bool {
        wait::comes_true(READY_WITHIN, async || self.gauges.working() == REPLICAS).await
    }

    /// Starts those again that have ended by themselves, and names them.
    pub(crate) fn raise(&mut self) -> Vec<String> {
        let fallen = self.fleet.fallen();
        for place in 0..REPLICAS {
            let name = crate::harness::fleet::name(place);
            if fallen.iter().any(|fallen_name| fallen_name.starts_with(&format!("{name} "))) {
                self.fleet.start_again(place);
            }
        }
        fallen
    }

    pub(crate) async fn mark(&self) -> Fingerprint {
        Fingerprint {
            at: Instant::now(),
            stats: self.simulator.stats().await,
            letters: self.gauges.letters(),
        }
    }

    /// Offers no more, and waits until all that was confirmed has ended.
    pub(crate) async fn settle(&self, within: Duration) -> bool {
        let answered = self.publisher.hold(within).await;
        answered && wait::comes_true(within, async || self.ledger.open() == 0).await
    }

    /// SIGTERM to one replica after another, each started again at once; returns how those ended
    /// that did not end well.
    pub(crate) async fn roll(&mut self) -> Vec<String> {
        let mut bad = Vec::new();
        for place in 0..REPLICAS {
            let code = self.fleet.dismiss(place, DRAIN_TIMEOUT + Duration::from_secs(5)).await;
            if code != Some(0) {
                bad.push(format!("{}: {code:?}", crate::harness::fleet::name(place)));
                self.fleet.kill(place).await;
            }
            self.fleet.start_again(place);
            self.all_work().await;
        }
        bad
    }

    /// Jobs by what became of publishing them.
    pub(crate) fn published(&self) -> String {
        format!(
            "{} confirmed, {} without a confirm, {} refused",
            self.ledger.count(Fate::Confirmed),
            self.ledger.count(Fate::Unknown) + self.ledger.count(Fate::Offered),
            self.ledger.count(Fate::Refused)
        )
    }
}
