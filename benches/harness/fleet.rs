//! Replicas as processes, each with a name of its own.

use std::path::PathBuf;
use std::time::Duration;

use super::process::{self, Process};

/// What replicas of one fleet share.
#[derive(Debug, Clone)]
pub(crate) struct FleetOptions {
    pub(crate) amqp: String,
    pub(crate) namespace: String,
    pub(crate) api: String,
    pub(crate) folder: PathBuf,
    pub(crate) replicas: usize,
    /// Ports for what each reports of itself, by its place; none where nobody asks.
    pub(crate) ops_ports: Vec<u16>,
    /// Settings by their name in the environment, without the prefix.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// The replicas. Dropped, they are killed.
#[derive(Debug)]
pub(crate) struct Fleet {
    options: FleetOptions,
    replicas: Vec<Process>,
}

/// The name of a replica by its place.
pub(crate) fn name(place: usize) -> String {
    format!("replica-{}", place + 1)
}

impl FleetOptions {
    fn start(&self, place: usize) -> Process {
        let name = name(place);
        let mut command = process::program(&self.folder, &["run"]);
        command
            .env("CAPTCHA_WORKER__BROKER__URL", &self.amqp)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &self.namespace)
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", &self.api)
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__WORKER__NAME", &name)
            .env("CAPTCHA_WORKER__LOG__LEVEL", "info")
            .envs(self.settings.iter().map(|(key, value)| (format!("CAPTCHA_WORKER__{key}"), value)))
            .stdout(process::log(&self.folder, &name))
            .stderr(process::log(&self.folder, &name));
        if let Some(port) = self.ops_ports.get(place) {
            command.env("CAPTCHA_WORKER__OPS__LISTEN", format!("127.0.0.1:{port}"));
        }
        Process::start(&mut command)
    }
}

impl Fleet {
    /// Starts all of them.
    pub(crate) fn start(options: FleetOptions) -> Self {
        let replicas = (0..options.replicas).map(|place| options.start(place)).collect();
        Self { options, replicas }
    }

    /// SIGKILL to one.
    pub(crate) async fn kill(&mut self, place: usize) {
        self.replicas[place].kill().await;
    }

    /// SIGSTOP, SIGCONT or another signal to one.
    pub(crate) async fn signal(&self, place: usize, name: &str) {
        self.replicas[place].signal(name).await;
    }

    /// SIGTERM to one, and its exit code; `None` where it did not leave in time or was killed.
    pub(crate) async fn dismiss(&mut self, place: usize, within: Duration) -> Option<i32> {
        self.replicas[place].ask_to_leave().await;
        self.replicas[place].end(within).await?.code()
    }

    /// Starts a killed one again.
    pub(crate) fn start_again(&mut self, place: usize) {
        self.replicas[place] = self.options.start(place);
    }

    /// SIGTERM to all, then waits for each; names those that did not leave in time, which are
    /// killed.
    pub(crate) async fn leave(&mut self, within: Duration) -> Vec<String> {
        for replica in &self.replicas {
            replica.ask_to_leave().await;
        }
        let mut stuck = Vec::new();
        for (place, replica) in self.replicas.iter_mut().enumerate() {
            if replica.end(within).await.is_none() {
                replica.kill().await;
                stuck.push(name(place));
            }
        }
        stuck
    }

    /// Starts all again, after they have left.
    pub(crate) fn come_back(&mut self) {
        for place in 0..self.replicas.len() {
            self.start_again(place);
        }
    }

    /// Replicas that have ended by themselves, with how.
    pub(crate) fn fallen(&mut self) -> Vec<String> {
        let ended = |(place, replica): (usize, &mut Process)| {
            replica.ended().map(|status| format!("{} ({status})", name(place)))
        };
        self.replicas.iter_mut().enumerate().filter_map(ended).collect()
    }
}
