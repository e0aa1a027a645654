//! Replicas whose broker goes and comes back: how soon each has a session again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captcha_worker::broker::Broker;
use captcha_worker::broker::amqp::Connector;
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::domain::policy::Policy;
use captcha_worker::worker::WorkerHandle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::ops::{Solvent, worker};
use crate::support::rabbit::{RabbitNode, options};

/// A session, from when the broker takes connections.
const WITHIN: Duration = Duration::from_secs(2);
/// As many as this machine can start and serve beside the broker.
const MANY: usize = 100;

/// Replicas on a node of their own.
struct Fleet {
    views: Vec<WorkerHandle>,
    leave: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Fleet {
    async fn start(node: &RabbitNode, replicas: usize) -> Self {
        // The broker (3.10) fails with an internal error where many declare a queue at one moment.
        let topology = Topology::new(&Names::new("captcha"));
        node.session().await.link().declare(&topology).await.expect("declared");
        let leave = CancellationToken::new();
        let (mut views, mut running) = (Vec::new(), Vec::new());
        for _ in 0..replicas {
            let broker = Broker::Amqp(Connector::new(options(&node.url())).expect("a sound URL"));
            let worker = worker(broker, "key", Arc::new(Solvent), Policy::default(), true);
            views.push(worker.view());
            let leave = leave.clone();
            running.push(tokio::spawn(async move {
                worker.run(leave).await.expect("a session");
            }));
        }
        let fleet = Self { views, leave, running };
        fleet.connected(true, Duration::from_secs(120)).await;
        fleet
    }

    /// Waits until all have a session, or none; when each of them was seen so first.
    async fn connected(&self, wanted: bool, within: Duration) -> Vec<Instant> {
        let deadline = Instant::now() + within;
        let mut looks = interval(Duration::from_millis(10));
        let mut seen = vec![None; self.views.len()];
        loop {
            let now = Instant::now();
            for (at, view) in seen.iter_mut().zip(&self.views) {
                if view.is_connected() == wanted {
                    at.get_or_insert(now);
                }
            }
            let all: Option<Vec<Instant>> = seen.iter().copied().collect();
            if let Some(all) = all {
                return all;
            }
            let missing = seen.iter().filter(|at| at.is_none()).count();
            assert!(now < deadline, "{missing} of {} are not connected: {wanted}", seen.len());
            looks.tick().await;
        }
    }

    /// Waits until its first replica has lost so many sessions; when that was seen, and the command
    /// that ended the session, if that still runs. A machine under load takes many seconds to start
    /// it, and a replica may be back between two looks.
    async fn lost(
        &self,
        sessions: u64,
        mut closing: JoinHandle<String>,
    ) -> (Instant, Option<JoinHandle<String>>) {
        let mut looks = interval(Duration::from_millis(10));
        let mut deadline = None;
        let first = &self.views[0];
        while first.is_connected() && first.reading().sessions_lost < sessions {
            tokio::select! {
                closed = &mut closing, if deadline.is_none() => {
                    closed.expect("rabbitmqctl runs");
                    deadline = Some(Instant::now() + Duration::from_secs(10));
                }
                _ = looks.tick() => {}
            }
            assert!(deadline.is_none_or(|deadline| Instant::now() < deadline), "the session goes on");
        }
        (Instant::now(), deadline.is_none().then_some(closing))
    }

    async fn leave(self) {
        self.leave.cancel();
        for running in self.running {
            running.await.expect("no panic");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_has_a_session_two_seconds_after_its_broker_whatever_has_happened_before() {
    let node = Arc::new(RabbitNode::start().await);
    let fleet = Fleet::start(&node, 1).await;
    node.stop_app();
    fleet.connected(false, Duration::from_secs(10)).await;
    let starting = Arc::clone(&node);
    let answers = spawn_blocking(move || starting.start_app());
    let back = fleet.connected(true, Duration::from_secs(60)).await[0];
    let took = back.saturating_duration_since(answers.await.expect("it starts"));
    println!("a session {took:?} after the broker takes connections");
    assert!(took <= WITHIN, "{took:?}");
    // Two short sessions in a row.
    for flap in 1..=2 {
        let flapping = Arc::clone(&node);
        let closing = spawn_blocking(move || flapping.ctl(&["close_all_connections", "a flap"]));
        let (lost, closing) = fleet.lost(1 + flap, closing).await;
        let took = fleet.connected(true, Duration::from_secs(60)).await[0] - lost;
        if let Some(closing) = closing {
            closing.await.expect("rabbitmqctl runs");
        }
        println!("a session {took:?} after a flap");
        assert!(took <= WITHIN, "{took:?}");
    }
    fleet.leave().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_replicas_that_reconnect_at_once_do_not_knock_their_broker_over() {
    let node = Arc::new(RabbitNode::start().await);
    let fleet = Fleet::start(&node, MANY).await;
    node.stop_app();
    fleet.connected(false, Duration::from_secs(30)).await;
    let starting = Arc::clone(&node);
    let answers = spawn_blocking(move || starting.start_app());
    let back = fleet.connected(true, Duration::from_secs(60)).await;
    let answers = answers.await.expect("it starts");
    let mut took: Vec<Duration> = back.iter().map(|at| at.saturating_duration_since(answers)).collect();
    took.sort_unstable();
    let (median, last) = (took[MANY / 2], took[MANY - 1]);
    println!("{MANY} replicas after the broker takes connections: half {median:?}, all {last:?}");
    assert!(last <= WITHIN * 5, "{last:?}");
    let lost: Vec<u64> = fleet.views.iter().map(|view| view.reading().sessions_lost).collect();
    assert!(lost.iter().all(|lost| *lost == 1), "no session ends for the crowd's sake: {lost:?}");
    fleet.leave().await;
}
