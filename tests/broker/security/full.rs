//! A queue that was full, and has room again.

use std::time::Duration;

use captcha_worker::broker::ConsumeSpec;
use captcha_worker::domain::message::{Message, Properties};
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use crate::support::fleet::{Replica, Simulator, declare};
use crate::support::jobs;
use crate::support::rabbit::RabbitNode;
use crate::within;

const JOBS: usize = 6;

/// RabbitMQ 3.10 goes on refusing what a channel brings to such a queue, for as long as that
/// channel is open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outcomes_arrive_once_a_limit_on_their_queue_is_lifted() {
    let node = RabbitNode::start().await;
    let (amqp, namespace) = (node.url(), "full");
    let simulator = Simulator::start("balance = 1000.0\n").await;
    declare(&amqp, namespace).await;
    node.ctl(&["set_policy", "limit", "^full\\.results$", r#"{"max-length": 1}"#, "--apply-to", "queues"]);
    let replica = Replica { amqp: &amqp, namespace, simulator: &simulator, settings: &[("OPS__LISTEN", "")] };
    let mut worker = replica.start();
    let session = node.session().await;
    for n in 0..JOBS {
        let body = jobs::image(&format!("job-{n}"), &json!({"solve_ms": 300})).into();
        let message = Message { body, properties: Properties::default(), transient: false };
        session.publish("full.jobs", "jobs", message).await.unwrap();
    }
    // All solved, and the queue full: what is left is refused again and again.
    simulator
        .wait_for("all are solved", Duration::from_secs(60), |stats| stats["answered_ready"] == json!(JOBS))
        .await;
    within("a full queue", async {
        while session.link().depth("full.results").await.unwrap().ready == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.ctl(&["clear_policy", "limit"]);

    let lifted = Instant::now();
    let spec = ConsumeSpec { queue: "full.results".to_owned(), prefetch: 100, tag: "test".to_owned() };
    let mut results = session.link().consume(spec).await.unwrap();
    let mut came = std::collections::BTreeMap::<String, usize>::new();
    while came.len() < JOBS {
        let next = timeout_at(lifted + Duration::from_secs(30), results.recv()).await;
        let Ok(Some(delivery)) = next else { panic!("only {came:?} within 30 s") };
        *came.entry(delivery.message.properties.message_id.clone().unwrap()).or_default() += 1;
        delivery.receipt.ack().unwrap();
    }
    println!("{came:?} after {:?}", lifted.elapsed());
    let stats = simulator.stats().await;
    assert_eq!(stats["calls"]["create_task"], json!(JOBS), "none was paid twice");
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));
}
