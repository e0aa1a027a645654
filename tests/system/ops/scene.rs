//! A worker with its ops server, on the broker in process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{Broker, Session};
use captcha_worker::cli::ConsoleCommands;
use captcha_worker::domain::guard::State;
use captcha_worker::domain::message::{Message, Properties};
use captcha_worker::domain::policy::Policy;
use captcha_worker::ops::Server;
use captcha_worker::solver::Transport;
use captcha_worker::worker::{Clock, WorkerHandle};
use serde_json::json;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::ops::worker;

pub(crate) const KEY: &str = "pl4nted-key-0123456789abcdef";
/// Of the console.
pub(crate) const TOKEN: &str = "pl4nted-token-0123456789abcdef";

/// A broker before the worker comes.
pub(crate) struct Harness {
    broker: MemoryBroker,
    pub(crate) names: Names,
    session: Session,
}

impl Harness {
    /// With those queues that are wanted, by their names.
    pub(crate) async fn set(wanted: impl Fn(&str) -> bool) -> Self {
        let (broker, names) = (MemoryBroker::new(), Names::new("captcha"));
        let session = Broker::Memory(broker.clone()).connect().await.expect("a session");
        let mut topology = Topology::new(&names);
        topology.queues.retain(|queue| wanted(&queue.name));
        topology.bindings.retain(|binding| wanted(&binding.queue));
        session.link().declare(&topology).await.expect("declared");
        Self { broker, names, session }
    }

    /// A message of the worker's own user.
    pub(crate) async fn put(&self, queue: &str, body: Bytes) {
        let user_id = Some(self.broker.user().to_owned());
        let properties = Properties { user_id, ..Properties::default() };
        let message = Message { body, properties, transient: false };
        self.session.publish("", queue, message).await.expect("confirmed");
    }

    pub(crate) fn enter(self, api: Arc<dyn Transport>, acting: bool) -> Scene {
        rustls::crypto::ring::default_provider().install_default().ok();
        let Self { broker, names, session } = self;
        let policy = Policy::try_new(&["example.com"], &["ScarceTask", "DearTask", "Odd\\", "Odd\\\\"])
            .expect("sound");
        let worker = worker(Broker::Memory(broker.clone()), KEY, api, policy, false);
        let (view, leave, over) = (worker.view(), CancellationToken::new(), CancellationToken::new());
        let server = Server::bind(([127, 0, 0, 1], 0).into()).expect("a port");
        let url = format!("http://{}", server.local_addr().expect("bound"));
        let commands = ConsoleCommands {
            broker: Broker::Memory(broker.clone()),
            names: names.clone(),
            stop: CancellationToken::new(),
        };
        let server = if acting { server.acting(TOKEN.into(), Arc::new(commands)) } else { server };
        server.start(view.clone(), over.clone()).expect("a thread");
        tokio::spawn(worker.run(leave.clone()));
        Scene { broker, names, session, view, url, leave, over }
    }
}

/// A worker under way, with its ops server.
pub(crate) struct Scene {
    pub(crate) broker: MemoryBroker,
    pub(crate) names: Names,
    pub(crate) session: Session,
    pub(crate) view: WorkerHandle,
    pub(crate) url: String,
    /// Asks the worker to leave. The server stays until the scene is over.
    pub(crate) leave: CancellationToken,
    over: CancellationToken,
}

impl Scene {
    /// On a whole broker. The fleet before this one has left a state behind, if any.
    pub(crate) async fn start(api: Arc<dyn Transport>, left_behind: Option<State>) -> Self {
        let harness = Harness::set(|_| true).await;
        if let Some(state) = left_behind {
            harness.put(&harness.names.guard(), state.to_bytes().into()).await;
        }
        harness.enter(api, false)
    }

    /// The same on a new broker, with a console that acts.
    pub(crate) async fn acting(api: Arc<dyn Transport>) -> Self {
        Harness::set(|_| true).await.enter(api, true)
    }

    pub(crate) async fn publish(&self, task: serde_json::Value) {
        let body = json!({"task": task}).to_string().into_bytes();
        // As publishers set it who want to know how long their jobs wait.
        let timestamp =
            (task["type"] == "ImageToTextTask").then(|| Clock::System.now().as_millis() as u64 / 1_000);
        let properties = Properties { timestamp, ..Properties::default() };
        let message = Message { body: body.into(), properties, transient: false };
        self.session.publish(&self.names.jobs(), "jobs", message).await.expect("confirmed");
    }

    pub(crate) async fn wait_until(&self, what: &str, holds: impl Fn(&WorkerHandle) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut looks = interval(Duration::from_millis(20));
        while !holds(&self.view) {
            looks.tick().await;
            assert!(Instant::now() < deadline, "not in time: {what}; {:?}", self.view.reading());
        }
    }

    pub(crate) async fn metrics(&self) -> String {
        let reply = reqwest::get(format!("{}/metrics", self.url)).await.expect("an answer");
        assert_eq!(reply.status().as_u16(), 200);
        assert_eq!(reply.headers()["content-type"], "text/plain; version=0.0.4");
        reply.text().await.expect("a body")
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.leave.cancel();
        self.over.cancel();
    }
}
