//! A namespace of one run's own on the broker: made, looked at, read out and removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::domain::lane::Lane;
use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeleteOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};
use serde::Deserialize;
use tokio::time::timeout;

use crate::candidate::Candidate;
use crate::feed::Feed;
use crate::load::Load;
use crate::process;

const PREFETCH: u16 = 2_000;
/// Results between two acks.
const ACK_EACH: usize = 500;
/// Longest silence while results are read out.
const NEXT_RESULT_WITHIN: Duration = Duration::from_secs(10);

/// The namespace.
pub(crate) struct Namespace {
    names: Names,
    candidate: Candidate,
    further_lanes: Vec<Lane>,
    connection: Connection,
    channel: Channel,
}

/// What a queue holds and who consumes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth {
    pub(crate) ready: usize,
    pub(crate) consumers: u32,
}

/// As far as all candidates' results agree.
#[derive(Deserialize)]
struct Outcome {
    id: String,
    status: String,
}

impl Namespace {
    /// Declares a fresh one by the program's own command.
    pub(crate) async fn declare(
        amqp: &str,
        scene: &str,
        folder: &Path,
        candidate: Candidate,
        load: &Load,
    ) -> Self {
        let run = &uuid::Uuid::new_v4().simple().to_string()[..12];
        let names = Names::new(&format!("bench-{scene}-{run}"));
        let mut command = process::program(folder, &["topology", "declare"]);
        command
            .env("CAPTCHA_WORKER__BROKER__URL", amqp)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", names.namespace())
            .envs(load.for_ours())
            .stdout(process::log(folder, "topology"))
            .stderr(process::log(folder, "topology"));
        let declared = command.status().await.expect("the program starts");
        assert!(declared.success(), "the topology could not be declared; see {}", folder.display());
        let connection = Connection::connect(amqp, ConnectionProperties::default()).await;
        let connection = connection.expect("the broker takes a connection");
        let channel = connection.create_channel().await.expect("the broker opens a channel");
        let further_lanes = load.further_lanes.iter().map(|name| name.parse().expect("a lane's name"));
        let namespace =
            Self { names, candidate, further_lanes: further_lanes.collect(), connection, channel };
        // The others' queues are part of the topology. These are declared as Celery declares them,
        // so that they are there before it is.
        for queue in candidate.queues_of_its_own(namespace.names()) {
            let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
            let declared =
                namespace.channel.queue_declare(queue.into(), durable, FieldTable::default()).await;
            declared.expect("the broker declares a queue");
        }
        namespace
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    /// A publisher of this load.
    pub(crate) async fn feed(&self, load: &Load) -> Feed {
        let own = self.candidate.jobs(&self.names);
        let further = self.further_lanes.iter().map(|namespace| self.names.jobs_of(namespace));
        let queues = std::iter::once(own).chain(further).collect();
        Feed::open(&self.connection, self.candidate, queues, load).await
    }

    /// Processes that take jobs.
    pub(crate) async fn takers(&self) -> u32 {
        self.depth(&self.candidate.jobs(&self.names)).await.consumers
    }

    /// Results that are there.
    pub(crate) async fn results(&self) -> usize {
        self.depth(&self.names.results()).await.ready
    }

    async fn depth(&self, queue: &str) -> Depth {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let declared = self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
        let declared = declared.expect("the queue is there");
        Depth { ready: declared.message_count() as usize, consumers: declared.consumer_count() }
    }

    /// Reads all results out; what is wrong about them, or nothing.
    pub(crate) async fn faults(&self, jobs: usize) -> Result<(), String> {
        let channel = self.connection.create_channel().await.expect("the broker opens a channel");
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.expect("the broker sets a prefetch");
        let (queue, options) = (self.names.results(), BasicConsumeOptions::default());
        let consumer =
            channel.basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default());
        let mut results = consumer.await.expect("results can be consumed");
        let mut ids = BTreeSet::new();
        for number in 1..=jobs {
            let next = timeout(NEXT_RESULT_WITHIN, results.next()).await;
            let Ok(Some(Ok(delivery))) = next else {
                return Err(format!("only {} of {jobs} results can be read", number - 1));
            };
            ids.insert(solved(&delivery)?);
            if number % ACK_EACH == 0 || number == jobs {
                let all_so_far = BasicAckOptions { multiple: true };
                delivery.ack(all_so_far).await.expect("the broker takes an ack");
            }
        }
        let more = self.results().await;
        match jobs - ids.len() + more {
            0 => Ok(()),
            _ => Err(format!("{} distinct results of {jobs} jobs, and {more} more", ids.len())),
        }
    }

    /// Removes it from the broker. What is not there, or not any more, need not be removed.
    pub(crate) async fn remove(&self) {
        let topology = Topology::with_lanes(&self.names, &self.further_lanes);
        let own = self.candidate.queues_of_its_own(&self.names);
        for queue in topology.queues.iter().map(|queue| &queue.name).chain(&own) {
            self.channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.ok();
        }
        for exchange in &topology.exchanges {
            let name = exchange.name.as_str();
            self.channel.exchange_delete(name.into(), ExchangeDeleteOptions::default()).await.ok();
        }
        self.connection.close(200, "done".into()).await.ok();
    }
}

/// The id of a job that was solved.
fn solved(delivery: &Delivery) -> Result<String, String> {
    let text = || String::from_utf8_lossy(&delivery.data).into_owned();
    match serde_json::from_slice::<Outcome>(&delivery.data) {
        Ok(outcome) if outcome.status == "solved" => Ok(outcome.id),
        _ => Err(format!("not a solved job: {}", text())),
    }
}
