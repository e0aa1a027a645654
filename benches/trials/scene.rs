//! A trial's scene: a namespace, a simulator, and the fleet between them.

use std::path::PathBuf;
use std::time::Duration;

use crate::command::Operator;
use crate::fleet::{Fleet, FleetOptions};
use crate::namespace::Namespace;
use crate::simulator::Simulator;
use crate::wait;

pub(crate) use crate::report::Harness;

/// Replicas of every fleet.
pub(crate) const REPLICAS: usize = 8;

/// A fleet takes jobs within seconds; on a crowded machine, and after a canary, within this.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A namespace and a simulator of a trial's own.
pub(crate) struct Scene {
    pub(crate) namespace: Namespace,
    pub(crate) simulator: Simulator,
    folder: PathBuf,
}

impl Scene {
    /// On the broker that all trials share, with a scenario in TOML.
    pub(crate) async fn set(harness: &Harness, scenario: &str) -> Self {
        Self::set_on(harness.amqp(), harness.folder().to_owned(), scenario).await
    }

    /// On a certain broker and in a certain folder.
    pub(crate) async fn set_on(amqp: &str, folder: PathBuf, scenario: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("the trial's folder is writable");
        let simulator = Simulator::start(&folder, scenario).await;
        Self { namespace: Namespace::declare(amqp).await, simulator, folder }
    }

    /// Starts a fleet in this scene.
    pub(crate) fn fleet(&self, settings: &[(&'static str, &str)]) -> Fleet {
        Fleet::start(FleetOptions {
            amqp: self.namespace.amqp().to_owned(),
            namespace: self.namespace.names().namespace().to_owned(),
            api: self.simulator.url().to_owned(),
            folder: self.folder.clone(),
            replicas: REPLICAS,
            ops_ports: Vec::new(),
            settings: settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        })
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator {
            amqp: self.namespace.amqp().to_owned(),
            namespace: self.namespace.names().namespace().to_owned(),
            folder: self.folder.clone(),
        }
    }

    /// Waits until every replica takes jobs. One that has ended by itself ends the trial.
    pub(crate) async fn ready(&self, harness: &Harness, fleet: &mut Fleet) {
        let all = wait::comes_true(READY_WITHIN, async || {
            let fallen = fleet.fallen();
            assert!(fallen.is_empty(), "ended by itself: {}; logs: {}", fallen[0], self.folder.display());
            self.namespace.takers().await >= REPLICAS as u64
        })
        .await;
        let takers = self.namespace.takers().await;
        harness.say(format_args!("{takers} replicas take jobs{}", if all { "" } else { ", not all" }));
    }

    /// What every trial must show at its end: the API's rules were kept, and no replica fell.
    pub(crate) async fn close(&self, harness: &Harness, fleet: &mut Fleet) {
        let stats = self.simulator.stats().await;
        let (early, late) = (stats.early_polls, stats.polls_past_limit);
        harness.check(
            "polls too early, and past the limit: 0",
            format!("{early} and {late}"),
            early + late == 0,
        );
        harness.note(
            "accepted twice; unknown task ids",
            format!("{}; {}", stats.repeated_submissions, stats.wrong_id_calls),
        );
        let fallen = fleet.fallen();
        let measured = if fallen.is_empty() { "none".to_owned() } else { fallen.join(", ") };
        harness.check("replicas that ended by themselves: none", measured, fallen.is_empty());
    }
}
