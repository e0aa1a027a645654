//! Worker replicas and the simulator as processes of their own.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval, timeout};

const BINARY: &str = env!("CARGO_BIN_EXE_captcha-worker");

/// A process that ends with its owner.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.expect("killed");
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// A signal by its name.
    pub(crate) async fn signal(&self, name: &str) {
        let pid = self.id().to_string();
        assert!(
            Command::new("kill").args([&format!("-{name}"), &pid]).status().await.expect("kill").success()
        );
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn terminate(&mut self, within: Duration) -> Option<i32> {
        self.signal("TERM").await;
        self.end(within).await
    }

    /// Its exit code, once it has ended.
    pub(crate) async fn end(&mut self, within: Duration) -> Option<i32> {
        let left = timeout(within, self.child.wait()).await;
        left.unwrap_or_else(|_| panic!("the worker did not leave within {within:?}")).expect("wait").code()
    }
}

/// The simulator, and a way to read its numbers.
pub(crate) struct Simulator {
    _process: Process,
    pub(crate) url: String,
}

impl Simulator {
    /// Starts one on a free port, with a scenario in TOML.
    pub(crate) async fn start(scenario: &str) -> Self {
        let file = tempfile::Builder::new().suffix(".toml").tempfile().expect("a temporary file");
        std::fs::write(file.path(), scenario).expect("the scenario is written");
        let mut child = Command::new(BINARY)
            .args(["simulate", "--listen", "127.0.0.1:0", "--json", "--scenario"])
            .arg(file.path())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the simulator starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).await.expect("its first line");
        let hello: Value = serde_json::from_str(&line).expect("its first line is JSON");
        let url = hello["listening"].as_str().expect("it names its address").to_owned();
        Self { _process: Process { child }, url }
    }

    /// `GET /_sim/stats`.
    pub(crate) async fn stats(&self) -> Value {
        let reply =
            client().get(format!("{}/_sim/stats", self.url)).send().await.expect("stats are answered");
        serde_json::from_slice(&reply.bytes().await.expect("stats are read")).expect("stats are JSON")
    }

    /// Waits until the numbers satisfy a condition.
    pub(crate) async fn wait_for(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + within;
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            let stats = self.stats().await;
            if condition(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "not within {within:?}: {what}; the simulator counts {stats}");
        }
    }
}

pub(crate) fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a client")
}

/// Settings of a replica.
pub(crate) struct Replica<'a> {
    pub(crate) amqp: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) simulator: &'a Simulator,
    pub(crate) settings: &'a [(&'a str, &'a str)],
}

impl Replica<'_> {
    /// Starts one. It logs to this test's output.
    pub(crate) fn start(&self) -> Process {
        start(self.amqp, self.namespace, &self.simulator.url, self.settings)
    }

    /// The same with a log of its own.
    pub(crate) fn start_logging_to(&self, log: Stdio) -> Process {
        self.start_with(&[], log)
    }

    /// The same with variables that are not settings.
    pub(crate) fn start_with(&self, variables: &[(&str, &str)], log: Stdio) -> Process {
        let mut command = command(self.amqp, self.namespace, &self.simulator.url, self.settings);
        spawn(command.envs(variables.iter().copied()).stderr(log))
    }
}

/// Starts a replica against any API.
pub(crate) fn start(amqp: &str, namespace: &str, api: &str, settings: &[(&str, &str)]) -> Process {
    spawn(&mut command(amqp, namespace, api, settings))
}

fn spawn(command: &mut Command) -> Process {
    Process { child: command.spawn().expect("the worker starts") }
}

fn command(amqp: &str, namespace: &str, api: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .arg("run")
        .current_dir(std::env::temp_dir())
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .env("CAPTCHA_WORKER__SOLVER__BASE_URL", api)
        .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
        .env("CAPTCHA_WORKER__LOG__LEVEL", "warn")
        .envs(settings.iter().map(|(key, value)| (format!("CAPTCHA_WORKER__{key}"), *value)))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Declares a namespace's topology, so that a publisher may begin before any worker.
pub(crate) async fn declare(amqp: &str, namespace: &str) {
    let status = Command::new(BINARY)
        .args(["topology", "declare"])
        .current_dir(std::env::temp_dir())
        .env("CAPTCHA_WORKER__BROKER__URL", amqp)
        .env("CAPTCHA_WORKER__BROKER__NAMESPACE", namespace)
        .stdout(Stdio::null())
        .status()
        .await
        .expect("the topology is declared");
    assert!(status.success());
}

/// The private node that `scripts/with-rabbitmq` has started.
pub(crate) fn amqp() -> String {
    std::env::var("CAPTCHA_WORKER_TEST_AMQP")
        .expect("run this by `make test`, or under scripts/with-rabbitmq")
}
