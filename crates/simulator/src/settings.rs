//! What a simulator is made from: defaults that follow the vendor's documents, and scenario files
//! in TOML.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::account::{BanRule, is_money};
use super::control::{Outage, outage_faults};
use super::distribution::Distribution;
use super::kinds;
use super::script::Rule;
use super::tasks::TaskIds;

/// All settings of a simulator. Every field has a default, so a scenario names only what it
/// changes.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimulatorConfig {
    /// Seed of the one random source. With it, an in-process run on paused time is repeatable.
    pub seed: u64,
    /// Keys that are let in. A call may append `__` and anything to a key.
    pub keys: Vec<String>,
    /// Balance at the start, in the account's currency.
    pub balance: f64,
    /// The shape of task ids.
    pub task_ids: TaskIds,
    /// The first task id, where ids are integers.
    pub first_task_id: u64,
    /// Shortest time between two polls of one task, in ms, arrival to arrival. [documented: 2,000]
    pub spacing_ms: u32,
    /// Polls of one task that are answered. [documented: 120]
    pub max_polls: u32,
    /// How long a task is known, in ms from its upload. [documented: 300,000]
    pub retention_ms: u32,
    /// Time from a call's arrival to its answer, in ms.
    pub latency_ms: Distribution,
    /// When an account is banned.
    pub ban: BanRule,
    /// Price, speed and slots of single types, by the value of `type`.
    pub types: BTreeMap<String, TypeConfig>,
    /// Whether a task may carry a script of its own in the field `_sim`.
    pub script_in_task: bool,
    /// Scripts for kinds and shares of tasks.
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    /// Times in which calls fail, counted from the simulator's start.
    #[serde(rename = "outage")]
    pub outages: Vec<Outage>,
    /// Most tasks known at one time; above it `ERROR_NO_SLOT_AVAILABLE`. Bounds the memory (about
    /// 200 bytes a task).
    pub max_tasks: usize,
    /// Most task digests remembered to identify repeated submissions (about 35 bytes each). Later
    /// tasks count as new ones, and are counted in `digests_not_remembered`.
    pub max_digests: usize,
}

/// What may differ by task type.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TypeConfig {
    /// Price of an accepted task, in the account's currency.
    pub cost: Option<f64>,
    /// Time from acceptance to the answer, in ms.
    pub solve_ms: Option<Distribution>,
    /// Most unsolved tasks at a time, above it `ERROR_NO_SLOT_AVAILABLE`; absent means no limit.
    pub slots: Option<u32>,
}

/// Shows what was set without the keys: a scenario may hold a real one.
impl fmt::Debug for SimulatorConfig {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("SimulatorConfig")
            .field("seed", &self.seed)
            .field("keys", &format_args!("[{} masked]", self.keys.len()))
            .field("balance", &self.balance)
            .field("task_ids", &self.task_ids)
            .field("latency_ms", &self.latency_ms)
            .field("ban", &self.ban)
            .field("types", &self.types)
            .field("rules", &self.rules)
            .field("outages", &self.outages)
            .finish_non_exhaustive()
    }
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            seed: 1,
            keys: vec!["simulator-key".to_owned()],
            balance: 1_000.0,
            task_ids: TaskIds::Integer,
            first_task_id: 7_000_001,
            spacing_ms: 2_000,
            max_polls: 120,
            retention_ms: 300_000,
            latency_ms: Distribution::Uniform { min: 5, max: 20 },
            ban: BanRule::default(),
            types: BTreeMap::new(),
            script_in_task: true,
            rules: Vec::new(),
            outages: Vec::new(),
            max_tasks: 1_000_000,
            max_digests: 1_000_000,
        }
    }
}

/// Why a scenario cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The file could not be read.
    #[error("cannot read the scenario {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Not TOML, or not this shape: names the key.
    #[error("the scenario is not understood: {0}")]
    Shape(String),
    /// The values contradict the rules; all of them at once.
    #[error("the scenario cannot be used: {}", .0.join("; "))]
    Values(Vec<String>),
}

impl SimulatorConfig {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// The file cannot be read, is not a scenario, or its values are faulty.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text)
    }

    /// Reads a scenario from TOML text.
    ///
    /// # Errors
    /// The text is not a scenario, or its values are faulty.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = ::config::Config::builder()
            .add_source(::config::File::from_str(text, ::config::FileFormat::Toml))
            .build()
            .and_then(::config::Config::try_deserialize)
            .map_err(|error| ScenarioError::Shape(error.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// Whether the values can be used; every fault at once.
    ///
    /// # Errors
    /// Names each faulty value.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let mut faults: Vec<String> = [
            (self.keys.is_empty(), "keys: at least one is needed"),
            (self.keys.iter().any(String::is_empty), "keys: an empty key"),
            (!is_money(self.balance), "balance: not an amount of 0 to 1,000,000,000"),
            (self.first_task_id > u64::from(u32::MAX), "first_task_id: above 4,294,967,295"),
            (self.max_polls == 0, "max_polls: must be at least 1"),
            (self.retention_ms == 0, "retention_ms: must be at least 1"),
            (self.max_tasks == 0, "max_tasks: must be at least 1"),
            (!(0.0..=1.0).contains(&self.ban.wrong_id_share), "ban.wrong_id_share: not a share of 0 to 1"),
        ]
        .into_iter()
        .filter(|(wrong, _)| *wrong)
        .map(|(_, fault)| fault.to_owned())
        .collect();
        if let Some(fault) = self.latency_ms.fault() {
            faults.push(format!("latency_ms: {fault}"));
        }
        self.types.iter().for_each(|(name, of_type)| type_faults(name, of_type, &mut faults));
        self.rules.iter().enumerate().for_each(|(at, rule)| rule_faults(at + 1, rule, &mut faults));
        faults.extend(outage_faults(&self.outages));
        if faults.is_empty() { Ok(()) } else { Err(ScenarioError::Values(faults)) }
    }
}

fn type_faults(name: &str, of_type: &TypeConfig, faults: &mut Vec<String>) {
    if kinds::index_of(name).is_none() {
        faults.push(format!("types.{name}: no such task type"));
    }
    if of_type.cost.is_some_and(|cost| !is_money(cost)) {
        faults.push(format!("types.{name}.cost: not an amount of 0 to 1,000,000,000"));
    }
    if let Some(fault) = of_type.solve_ms.and_then(|solve| solve.fault()) {
        faults.push(format!("types.{name}.solve_ms: {fault}"));
    }
}

fn rule_faults(number: usize, rule: &Rule, faults: &mut Vec<String>) {
    if let Some(kind) = rule.when.kind.as_deref().filter(|kind| kinds::index_of(kind).is_none()) {
        faults.push(format!("rule {number}: when.type: no such task type: {kind}"));
    }
    if rule.when.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        faults.push(format!("rule {number}: when.share: not a share of 0 to 1"));
    }
    if let Some(fault) = rule.script().fault() {
        faults.push(format!("rule {number}: {fault}"));
    }
}
