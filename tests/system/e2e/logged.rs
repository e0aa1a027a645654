//! Replicas whose logs and answers are looked at.

use std::fs::File;
use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::domain::message::{Message, Properties};
use serde_json::Value;
use tempfile::NamedTempFile;
use tokio::time::{Instant, interval};

use crate::support::fleet::{Process, Replica, client};

/// How long anything may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

/// Publishes a job.
pub(crate) async fn publish(session: &Session, namespace: &str, body: Vec<u8>) {
    let message = Message { body: body.into(), properties: Properties::default(), transient: false };
    session.publish("", &format!("{namespace}.jobs"), message).await.expect("published");
}

/// Waits until so many messages are in a queue.
pub(crate) async fn arrived(session: &Session, queue: &str, wanted: u64) {
    let deadline = Instant::now() + TIMEOUT;
    let mut looks = interval(Duration::from_millis(100));
    loop {
        looks.tick().await;
        let ready = session.link().depth(queue).await.expect("the broker answers").ready;
        if ready == wanted {
            return;
        }
        assert!(Instant::now() < deadline, "{ready} of {wanted} are in {queue}");
    }
}

/// A replica that logs everything into a file.
pub(crate) struct LoggedReplica {
    pub(crate) process: Process,
    log: NamedTempFile,
}

impl LoggedReplica {
    pub(crate) fn start(replica: &Replica<'_>) -> Self {
        let log = NamedTempFile::new().expect("a temporary file");
        let process = replica.start_logging_to(File::create(log.path()).expect("written").into());
        Self { process, log }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("its log")
    }

    /// Waits until it has logged this.
    pub(crate) async fn wait_for_line(&self, text: &str) -> String {
        let deadline = Instant::now() + TIMEOUT;
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "not logged: {text}\n{}", self.log());
        }
    }

    /// The address that it serves its health on. Its log has to be JSON.
    pub(crate) async fn serves(&self) -> String {
        let line: Value = serde_json::from_str(&self.wait_for_line("serving /healthz").await).expect("JSON");
        line["address"].as_str().expect("its address").to_owned()
    }
}

/// What a replica answers.
pub(crate) async fn get(address: &str, path: &str) -> String {
    let reply = client().get(format!("http://{address}{path}")).send().await.expect("answered");
    String::from_utf8_lossy(&reply.bytes().await.expect("read")).into_owned()
}
