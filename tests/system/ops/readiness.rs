//! What keeps a replica from being ready, or from being healthy.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use captcha_worker::broker::Broker;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::domain::policy::Policy;
use captcha_worker::ops::Server;
use serde_json::Value;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::ops::scene::Harness;
use crate::ops::{Solvent, get, worker};

/// Waits until `/readyz` answers as wanted, and returns its first reason.
pub(crate) async fn wait_for_readyz(
    base: &str,
    what: &str,
    wanted: impl Fn(&(u16, Value)) -> bool,
) -> String {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut looks = interval(Duration::from_millis(20));
    loop {
        let reply = get(&format!("{base}/readyz")).await;
        if wanted(&reply) {
            return reply.1["reasons"][0].as_str().unwrap_or("").to_owned();
        }
        assert!(Instant::now() < deadline, "not in time: {what}; {reply:?}");
        looks.tick().await;
    }
}

fn says(reply: &(u16, Value), text: &str) -> bool {
    let mut reasons = reply.1["reasons"].as_array().into_iter().flatten().filter_map(Value::as_str);
    reply.0 == 503 && reasons.any(|reason| reason.contains(text))
}

#[tokio::test]
async fn outcomes_that_no_queue_was_bound_for_and_a_missing_queue_of_results_are_reported() {
    let harness = Harness::set(|_| true).await;
    harness.put(&harness.names.unrouted(), "an outcome".into()).await;
    let scene = harness.enter(Arc::new(Solvent), false);
    wait_for_readyz(&scene.url, "what stands there", |reply| says(reply, "1 stand in 'captcha.unrouted'"))
        .await;

    let scene = Harness::set(|queue| queue != "captcha.results").await.enter(Arc::new(Solvent), false);
    wait_for_readyz(&scene.url, "it is missing", |reply| {
        says(reply, "queue 'captcha.results' does not exist")
    })
    .await;
}

#[tokio::test]
async fn a_replica_that_leaves_says_so_first() {
    let scene = Harness::set(|_| true).await.enter(Arc::new(Solvent), false);
    wait_for_readyz(&scene.url, "it is ready", |reply| reply.0 == 200).await;
    scene.leave.cancel();
    let first = wait_for_readyz(&scene.url, "it leaves", |reply| reply.0 == 503).await;
    assert_eq!(first, "this replica is leaving: it takes no more jobs");
}

#[tokio::test]
async fn a_runtime_that_is_stuck_is_seen_from_outside_and_heals_when_it_goes_on() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let worker =
        worker(Broker::Memory(MemoryBroker::new()), "key", Arc::new(Solvent), Policy::default(), true);
    let (leave, over) = (CancellationToken::new(), CancellationToken::new());
    let server = Server::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let url = format!("http://{}/healthz", server.local_addr().expect("bound"));
    server.start(worker.view(), over.clone()).expect("a thread");
    let (stick, stuck) = mpsc::channel::<()>();
    let (gone_on, goes_on) = mpsc::channel();
    let left = leave.clone();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            tokio::spawn(async move {
                // Blocks the only thread there is.
                let _ = stuck.recv();
                gone_on.send(()).expect("somebody waits");
            });
            worker.run(left).await.expect("it leaves in order");
        });
    });

    let health = |url: String| async move {
        let reply = reqwest::get(url).await.expect("an answer");
        (reply.status().as_u16(), reply.text().await.expect("a body"))
    };
    let (status, text) = health(url.clone()).await;
    assert!(status == 503 && text.contains("has not answered for 5s"), "{status} {text}");
    stick.send(()).expect("it is stuck");
    goes_on.recv_timeout(Duration::from_secs(5)).expect("it goes on");
    assert_eq!(health(url).await, (200, "ok\n".to_owned()));
    leave.cancel();
    thread.join().expect("no panic");
    over.cancel();
}
