//! A namespace with a simulator and, where wanted, a replica; letters put into it; and the command.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::Duration;

use captcha_worker::broker::Session;
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::replay::Replayed;
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval};

use crate::support::either::EitherBroker;
use crate::support::fleet::{Process, Replica, Simulator, declare};

/// How long a test waits for something before it has failed.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Namespace {
    broker: EitherBroker,
    pub(crate) session: Session,
    pub(crate) simulator: Simulator,
}

impl Namespace {
    pub(crate) async fn new(broker: EitherBroker, scenario: &str) -> Self {
        declare(&broker.url, &broker.namespace).await;
        let session = broker.session().await;
        Self { simulator: Simulator::start(scenario).await, broker, session }
    }

    /// A replica that takes jobs, once it does: the first job has been solved.
    pub(crate) async fn working(&self) -> Process {
        let settings = [("OPS__LISTEN", "")];
        let replica = Replica {
            amqp: &self.broker.url,
            namespace: &self.broker.namespace,
            simulator: &self.simulator,
            settings: &settings,
        };
        let process = replica.start();
        self.publish(&crate::support::jobs::image("canary", &json!({})), Properties::default()).await;
        self.until("results", 1).await;
        assert_eq!(self.take("results").await.len(), 1);
        process
    }

    pub(crate) fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.broker.namespace)
    }

    pub(crate) async fn publish(&self, body: &str, properties: Properties) {
        let message = Message { body: body.to_owned().into(), properties, transient: false };
        self.session.publish("", &self.queue("jobs"), message).await.expect("published");
    }

    /// A failed job's outcome in its class's queue, as a worker writes it.
    pub(crate) async fn dead(&self, class: &str, id: &str, code: &str, job: &str) {
        let job: Value = serde_json::from_str(job).expect("a job");
        let body = json!({
            "version": 1, "id": id, "status": "failed", "task_type": "ImageToTextTask", "job": job, "attempts": [], "worker": "w",
            "failure": {"class": class, "code": code, "description": "why", "stage": "poll"},
            "times": {"received_at": "2026-11-23T10:00:00Z", "finished_at": "2026-11-23T10:00:01Z"},
        });
        let properties = Properties {
            message_id: Some(id.to_owned()),
            kind: Some("captcha.outcome.v1".to_owned()),
            ..Properties::default()
        };
        let message = Message { body: body.to_string().into(), properties, transient: false };
        let queue = self.queue(&format!("dead.{class}"));
        self.session.publish("", &queue, message).await.expect("published");
    }

    /// Waits until so many messages are ready.
    pub(crate) async fn until(&self, queue: &str, count: u64) {
        let deadline = Instant::now() + TIMEOUT;
        let mut looks = interval(Duration::from_millis(50));
        loop {
            looks.tick().await;
            let ready = self.ready(queue).await;
            if ready == count {
                return;
            }
            assert!(Instant::now() < deadline, "{queue} holds {ready} messages, not {count}");
        }
    }

    pub(crate) async fn ready(&self, queue: &str) -> u64 {
        self.session.link().depth(&self.queue(queue)).await.expect("depth").ready
    }

    /// Takes all that is ready.
    pub(crate) async fn take(&self, queue: &str) -> Vec<Message> {
        let mut taken = Vec::new();
        while let Some(delivery) = self.session.link().get(&self.queue(queue)).await.expect("get") {
            delivery.receipt.ack().expect("live");
            taken.push(delivery.message);
        }
        taken
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_captcha-worker"));
        command
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .env("CAPTCHA_WORKER__BROKER__URL", &self.broker.url)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &self.broker.namespace)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// A command under way, its output thrown away.
    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        self.command(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    /// A command that ends.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let running = self.command(arguments).output();
        tokio::time::timeout(TIMEOUT, running).await.expect("it ends in time").expect("it runs")
    }

    /// The report of one that ends well.
    pub(crate) async fn report(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", printed(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", printed(&output)))
    }
}

pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

pub(crate) fn id(message: &Message) -> String {
    message.properties.message_id.clone().unwrap_or_default()
}

/// How often each replay's id came.
pub(crate) fn marks(outcomes: &[Message]) -> BTreeMap<String, usize> {
    let mut marks = BTreeMap::new();
    for outcome in outcomes {
        let mark = Replayed::of(&outcome.properties.headers).expect("each was replayed");
        *marks.entry(mark.id).or_default() += 1;
    }
    marks
}
