//! The API's stand-in as a process: the one that judges.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use super::process::{self, Process};

const START_WITHIN: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Calls by endpoint, refused ones included.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Calls {
    pub(crate) create_task: u64,
    pub(crate) get_task_result: u64,
    pub(crate) get_balance: u64,
    pub(crate) other: u64,
}

impl Calls {
    /// Of every kind.
    pub(crate) fn all(&self) -> u64 {
        self.work() + self.get_balance + self.other
    }

    /// Those that bring jobs forward.
    pub(crate) fn work(&self) -> u64 {
        self.create_task + self.get_task_result
    }
}

/// Calls after the caller knew better, by reason.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Late {
    pub(crate) ban: u64,
}

/// The numbers that trials judge by; docs/SIMULATOR.md explains each.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Stats {
    pub(crate) calls: Calls,
    pub(crate) accepted_tasks: u64,
    pub(crate) repeated_submissions: u64,
    pub(crate) early_polls: u64,
    pub(crate) polls_past_limit: u64,
    pub(crate) answered_ready: u64,
    pub(crate) uncollected_tasks: u64,
    pub(crate) wrong_id_calls: u64,
    pub(crate) repeated_wrong_ids: u64,
    pub(crate) forgotten_tasks: u64,
    pub(crate) outage_calls: u64,
    pub(crate) refused: BTreeMap<String, u64>,
    pub(crate) storm_calls: u64,
    pub(crate) offences: u64,
    pub(crate) bans: u64,
    pub(crate) banned: bool,
    pub(crate) calls_while_banned: u64,
    pub(crate) late_calls: u64,
    pub(crate) late_by_reason: Late,
    pub(crate) tasks_open: u64,
    pub(crate) balance: f64,
}

impl Stats {
    /// Tasks whose answer was never handed out, once every job has ended.
    pub(crate) fn unfetched(&self) -> u64 {
        self.uncollected_tasks + self.tasks_open
    }

    /// How often a code was answered.
    pub(crate) fn refused(&self, code: &str) -> u64 {
        self.refused.get(code).copied().unwrap_or(0)
    }
}

/// A simulator of one trial's own.
#[derive(Debug)]
pub(crate) struct Simulator {
    process: Process,
    client: reqwest::Client,
    url: String,
    folder: PathBuf,
}

impl Simulator {
    /// Starts one on a free port, with a scenario in TOML.
    pub(crate) async fn start(folder: &Path, scenario: &str) -> Self {
        std::fs::write(folder.join("scenario.toml"), scenario).expect("the trial's folder is writable");
        let (process, url) = Self::launch(folder, "127.0.0.1:0").await;
        Self { process, client: client(), url, folder: folder.to_owned() }
    }

    /// SIGKILL, and a new one at the same address: it remembers nothing, and connections are
    /// refused in between.
    pub(crate) async fn restart(&mut self) {
        self.process.kill().await;
        let address = self.url.trim_start_matches("http://").to_owned();
        (self.process, _) = Self::launch(&self.folder, &address).await;
    }

    async fn launch(folder: &Path, listen: &str) -> (Process, String) {
        let arguments = ["simulate", "--listen", listen, "--json", "--scenario", "scenario.toml"];
        let mut command = process::program(folder, &arguments);
        command.stdout(Stdio::piped()).stderr(process::log(folder, "simulator"));
        let mut process = Process::start(&mut command);
        let mut lines = BufReader::new(process.child().stdout.take().expect("its output is piped"));
        let mut line = String::new();
        let reading = timeout(START_WITHIN, lines.read_line(&mut line)).await;
        reading.expect("the simulator starts in time").expect("its output is read");
        let hello: Value = serde_json::from_str(&line).expect("the simulator prints its address");
        let url = hello["listening"].as_str().expect("the simulator prints its address").to_owned();
        (process, url)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its process, for what it costs.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// `GET /_sim/stats`.
    pub(crate) async fn stats(&self) -> Stats {
        self.probe().stats().await.expect("the simulator answers")
    }

    /// Reads its numbers on somebody else's behalf.
    pub(crate) fn probe(&self) -> Probe {
        Probe { client: self.client.clone(), url: self.url.clone() }
    }

    /// `POST /_sim/control`.
    pub(crate) async fn control(&self, change: &Value) {
        let request = self.client.post(format!("{}/_sim/control", self.url)).body(change.to_string());
        let reply = request.send().await.expect("the simulator answers");
        assert!(reply.status().is_success(), "the simulator does not take {change}");
    }
}

/// Reads a simulator's numbers, over its restarts.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    client: reqwest::Client,
    url: String,
}

impl Probe {
    /// `GET /_sim/stats`; `None` where there is no answer.
    pub(crate) async fn stats(&self) -> Option<Stats> {
        let reply = self.client.get(format!("{}/_sim/stats", self.url)).send().await.ok()?;
        let body = reply.bytes().await.ok()?;
        Some(serde_json::from_slice(&body).expect("its numbers are read"))
    }
}

/// A client of plain HTTP on this machine.
pub(crate) fn client() -> reqwest::Client {
    // Refused where the broker's client has chosen its provider already, which is just as well.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().timeout(ANSWER_WITHIN).build().expect("a client of plain HTTP")
}
