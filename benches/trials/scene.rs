//! A trial's stage, where it reports, and its scene: a namespace, a simulator, and the fleet between them.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::Operator;
use crate::fleet::{Crew, Fleet, REPLICAS};
use crate::lane::Lane;
use crate::patience;
use crate::report::{Finding, Verdict};
use crate::simulator::Simulator;

/// A fleet takes jobs within seconds; on a crowded machine, and after a canary, within this.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a trial gets, and where it reports.
#[derive(Debug)]
pub(crate) struct Stage {
    name: &'static str,
    amqp: String,
    seed: u64,
    folder: PathBuf,
    began: Instant,
    findings: Mutex<Vec<Finding>>,
}

impl Stage {
    /// A stage with an empty folder for logs and scenarios.
    pub(crate) fn new(name: &'static str, amqp: &str, seed: u64) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("trials").join(name);
        // Absent, as a rule.
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        Self { name, amqp: amqp.to_owned(), seed, folder, began: Instant::now(), findings: Mutex::default() }
    }

    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A progress line.
    pub(crate) fn say(&self, what: impl Display) {
        println!("{:>6.1} s  {}: {what}", self.began.elapsed().as_secs_f64(), self.name);
    }

    /// A requirement and whether it held.
    pub(crate) fn check(&self, must: impl Display, measured: impl Display, holds: bool) {
        self.add(must, measured, if holds { Verdict::Holds } else { Verdict::Broken });
    }

    /// The same for a count with a bound.
    pub(crate) fn at_most(&self, what: impl Display, measured: u64, most: u64) {
        self.check(format_args!("{what} <= {most}"), measured, measured <= most);
    }

    /// A number without a bound.
    pub(crate) fn note(&self, what: impl Display, measured: impl Display) {
        self.add(what, measured, Verdict::Noted);
    }

    fn add(&self, must: impl Display, measured: impl Display, verdict: Verdict) {
        let (must, measured) = (must.to_string(), measured.to_string());
        self.say(format_args!("{} [{must}]: {measured}", verdict.word()));
        let finding = Finding { trial: self.name.to_owned(), must, measured, verdict };
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).push(finding);
    }

    /// What was found so far.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A namespace and a simulator of a trial's own.
pub(crate) struct Scene {
    pub(crate) lane: Lane,
    pub(crate) simulator: Simulator,
    folder: PathBuf,
}

impl Scene {
    /// On the broker that all trials share, with a scenario in TOML.
    pub(crate) async fn set(stage: &Stage, scenario: &str) -> Self {
        Self::set_on(stage.amqp(), stage.folder().to_owned(), scenario).await
    }

    /// On a certain broker and in a certain folder.
    pub(crate) async fn set_on(amqp: &str, folder: PathBuf, scenario: &str) -> Self {
        std::fs::create_dir_all(&folder).expect("the trial's folder is writable");
        let simulator = Simulator::start(&folder, scenario).await;
        Self { lane: Lane::declare(amqp).await, simulator, folder }
    }

    /// Starts a fleet in this scene.
    pub(crate) fn fleet(&self, settings: &[(&'static str, &str)]) -> Fleet {
        Fleet::start(Crew {
            amqp: self.lane.amqp().to_owned(),
            namespace: self.lane.names().namespace().to_owned(),
            api: self.simulator.url().to_owned(),
            folder: self.folder.clone(),
            settings: settings.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        })
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator {
            amqp: self.lane.amqp().to_owned(),
            namespace: self.lane.names().namespace().to_owned(),
            folder: self.folder.clone(),
        }
    }

    /// Waits until every replica takes jobs. One that has ended by itself ends the trial.
    pub(crate) async fn ready(&self, stage: &Stage, fleet: &mut Fleet) {
        let all = patience::comes_true(READY_WITHIN, async || {
            let fallen = fleet.fallen();
            assert!(fallen.is_empty(), "ended by itself: {}; logs: {}", fallen[0], self.folder.display());
            self.lane.takers().await >= REPLICAS as u64
        })
        .await;
        let takers = self.lane.takers().await;
        stage.say(format_args!("{takers} replicas take jobs{}", if all { "" } else { ", not all" }));
    }

    /// What every trial must show at its end: the API's rules were kept, and no replica fell.
    pub(crate) async fn close(&self, stage: &Stage, fleet: &mut Fleet) {
        let stats = self.simulator.stats().await;
        let (early, late) = (stats.early_polls, stats.polls_past_limit);
        stage.check(
            "polls too early, and past the limit: 0",
            format!("{early} and {late}"),
            early + late == 0,
        );
        stage.note(
            "accepted twice; unknown task ids",
            format!("{}; {}", stats.repeated_submissions, stats.wrong_id_calls),
        );
        let fallen = fleet.fallen();
        let told = if fallen.is_empty() { "none".to_owned() } else { fallen.join(", ") };
        stage.check("replicas that ended by themselves: none", told, fallen.is_empty());
    }
}
