//! The operator's commands: pause, resume and status.

use std::path::PathBuf;
use std::time::Duration;

use captcha_worker::domain::money::{Decimal, decimal};
use serde::Deserialize;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::process;

/// The commands have time-outs of their own, below this.
const WITHIN: Duration = Duration::from_secs(60);
/// How often an operator says it again, where a lead that changes hands has not heard it.
const TRIES: u32 = 4;

/// Where an operator of one namespace stands.
#[derive(Debug, Clone)]
pub(crate) struct Operator {
    pub(crate) amqp: String,
    pub(crate) namespace: String,
    pub(crate) folder: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) succeeded: bool,
    pub(crate) took: Duration,
    pub(crate) text: String,
}

/// What pause and resume report, as far as trials look at it.
#[derive(Debug, Deserialize)]
struct Following {
    following: usize,
    replicas: usize,
}

/// What `status --json` reports, as far as trials look at it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) guard: Guard,
    pub(crate) leader: Option<String>,
    pub(crate) replicas: Vec<Replica>,
}

/// The account's state as the fleet knows it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Guard {
    pub(crate) state: String,
    pub(crate) reasons: Vec<String>,
    pub(crate) paused: Option<Value>,
}

/// A replica that the fleet knows of.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Replica {
    pub(crate) name: String,
}

impl Answer {
    /// Whether it succeeded and reports that so many follow, and that there are no more.
    pub(crate) fn all_follow(&self, replicas: usize) -> bool {
        let reply: Option<Following> = serde_json::from_str(&self.text).ok();
        self.succeeded && reply.is_some_and(|reply| reply.following == replicas && reply.replicas == replicas)
    }

    pub(crate) fn summary(&self) -> String {
        let ended = if self.succeeded { "exit 0" } else { "failed" };
        let said = match serde_json::from_str::<Following>(&self.text) {
            Ok(reply) => format!("{} of {} follow", reply.following, reply.replicas),
            Err(_) => self.text.lines().next().unwrap_or_default().to_owned(),
        };
        format!("{said}, {ended} after {} ms", self.took.as_millis())
    }
}

impl Operator {
    /// Stops submissions, fleet-wide.
    pub(crate) async fn pause(&self, reason: &str) -> Answer {
        self.call(&["pause", "--reason", reason]).await
    }

    /// Ends a pause, or has the account looked at now.
    pub(crate) async fn resume(&self) -> Answer {
        self.call(&["resume"]).await
    }

    /// The same, said again until it is followed.
    pub(crate) async fn resume_at_last(&self) -> Answer {
        let mut answer = self.resume().await;
        for _ in 1..TRIES {
            if answer.succeeded {
                break;
            }
            answer = self.resume().await;
        }
        answer
    }

    /// The fleet as it sees itself; `None` where it does not say.
    pub(crate) async fn status(&self) -> Option<Status> {
        serde_json::from_str(&self.call(&["status", "--json"]).await.text).ok()
    }

    /// What the fleet has spent, by its books; `None` where it does not say.
    pub(crate) async fn spent(&self) -> Option<Decimal> {
        let spend: Value = serde_json::from_str(&self.call(&["spend", "--json"]).await.text).ok()?;
        decimal(spend["total"].as_str()?)
    }

    /// Raises the account's budget for an hour.
    pub(crate) async fn raise_budget(&self, by: &str) -> Answer {
        self.call(&["budget", "raise", "--by", by, "--for", "1h"]).await
    }

    async fn call(&self, arguments: &[&str]) -> Answer {
        let began = Instant::now();
        let mut command: Command = process::program(&self.folder, arguments);
        command
            .env("CAPTCHA_WORKER__BROKER__URL", &self.amqp)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &self.namespace);
        let output = timeout(WITHIN, command.output()).await;
        let took = began.elapsed();
        let Ok(output) = output else {
            return Answer { succeeded: false, took, text: "no answer".to_owned() };
        };
        let output = output.expect("the program starts");
        let said = if output.stdout.trim_ascii().is_empty() { output.stderr } else { output.stdout };
        let text = String::from_utf8_lossy(&said).into_owned();
        Answer { succeeded: output.status.success(), took, text }
    }
}
