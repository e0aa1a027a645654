//! A replica fed with bodies of 10 MB, on every queue that it reads.

use std::time::Duration;

use captcha_worker::broker::Consumer;
use captcha_worker::broker::topology::Names;
use captcha_worker::domain::class::Class;
use captcha_worker::domain::job::MAX_MESSAGE;
use captcha_worker::domain::message::Message;
use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::memory::is_within_bound;
use crate::memory::namespace::{Ended, Ends, Namespace, ended, take};
use crate::support::fleet::{self, Process, Simulator};
use crate::support::rabbit::RabbitNode;

const BODY: usize = 10_000_000;
/// Bytes that wait on the broker at once: twice what a replica may take, and no more than a broker
/// should be made to hold.
const AHEAD: usize = 640_000_000;

/// Bytes between two rinses of the queues' logs.
const ROUND: usize = 3_000_000_000;
/// Entries after which a log is cut (RabbitMQ takes 4,096), and what they hold.
const ENTRIES: usize = 4_500;
const SMALL: &[u8] = b"x";
const RINSE: &str = "rinse";

/// How many bodies: a few in `make test`, 2,000 in `make memory`.
fn bodies() -> usize {
    let named = std::env::var("CAPTCHA_WORKER_TEST_BODIES").ok();
    named.map_or(100, |count| count.parse().expect("CAPTCHA_WORKER_TEST_BODIES is a number"))
}

/// A broker of its own, since such bodies slow down whoever shares it; and a replica beside it.
struct Scene {
    node: RabbitNode,
    namespace: Namespace,
    simulator: Simulator,
}

impl Scene {
    async fn set() -> Self {
        let node = RabbitNode::start().await;
        let namespace = Namespace::declare(&node.url()).await;
        Self { namespace, node, simulator: Simulator::start("").await }
    }

    fn replica(&self) -> Process {
        fleet::start(
            &self.node.url(),
            self.namespace.names.namespace(),
            &self.simulator.url,
            &[("LOG__LEVEL", "error")],
        )
    }

    /// Waits until the control queues, which are the only ones that are not under the namespace,
    /// hold nothing.
    async fn control_is_drained(&self) {
        let mut looks = tokio::time::interval(Duration::from_millis(500));
        timeout(Duration::from_secs(120), async {
            loop {
                looks.tick().await;
                let queues =
                    self.node.ctl(&["list_queues", "--quiet", "--no-table-headers", "messages", "name"]);
                let own = format!("\t{}.", self.namespace.names.namespace());
                if queues.lines().filter(|line| !line.contains(&own)).all(|line| line.starts_with("0\t")) {
                    return;
                }
            }
        })
        .await
        .expect("the control queue is drained");
    }

    /// What came before has been dealt with, and the replica goes on.
    async fn goes_on(&self) {
        let mut ends = Ends::of(&self.namespace).await;
        self.namespace.job("behind").await;
        let last = loop {
            let ended = ends.next().await;
            if ended.id != RINSE {
                break ended;
            }
        };
        assert_eq!(last, Ended { id: "behind".to_owned(), how: "solved".to_owned() });
    }
}

/// Feeds a queue with one body, and takes what comes out among the raw dead letters at the same
/// time.
async fn rejected_whole(queue: impl Fn(&Names) -> String, bytes: usize, under: &str) {
    let body = vec![b'x'; bytes];
    fed(queue, &body, Names::dead_raw, |message| assert_eq!(message.body, body, "kept whole"), under).await;
}

/// The same for bodies that are looked at, each of which ends in an outcome that holds it.
async fn kept_in_outcomes(queue: impl Fn(&Names) -> String, bytes: usize, code: &str, under: &str) {
    // Of all that is kept as text this grows most: each byte is written as two.
    let body = vec![b'"'; bytes];
    let check = |message: &Message| assert_eq!(ended(message).how, code);
    fed(queue, &body, |names| names.dead(Class::Malformed), check, under).await;
}

async fn fed(
    queue: impl Fn(&Names) -> String,
    body: &[u8],
    into: impl Fn(&Names) -> String,
    check: impl Fn(&Message),
    under: &str,
) {
    let scene = Scene::set().await;
    let (namespace, queue) = (&scene.namespace, queue(&scene.namespace.names));
    let mut dead = namespace.consume(into(&namespace.names)).await;
    let feed = async |n: usize| namespace.publish("", &queue, &n.to_string(), body.to_vec()).await;
    // As many as the broker may hold are there before the replica: that is when most come at once.
    let all = bodies();
    let ahead = all.min(AHEAD / body.len());
    let mut fed = ahead;
    for n in 0..fed {
        feed(n).await;
    }
    let mut worker = scene.replica();
    let mut taken = 0;
    while taken < all {
        let until = all.min(fed.max(taken + (ROUND / body.len()).max(1)));
        let room = Semaphore::new(ahead + taken - fed);
        let feeding = async {
            for n in fed..until {
                room.acquire().await.expect("it is never closed").forget();
                feed(n).await;
            }
        };
        let taking = async {
            for _ in taken..until {
                check(&take_large(&mut dead).await);
                room.add_permits(1);
            }
        };
        tokio::join!(feeding, taking);
        (fed, taken) = (until, until);
        if taken < all {
            rinse(namespace, &queue).await;
        }
    }
    scene.goes_on().await;
    is_within_bound(&worker, under);
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));
}

/// The next message that is none of [`rinse`]'s.
async fn take_large(consumer: &mut Consumer) -> Message {
    loop {
        let message = take(consumer).await;
        if message.body != SMALL {
            return message;
        }
    }
}

/// A quorum queue's log gives back its disk only after thousands of entries, whatever they hold.
/// These are small ones.
async fn rinse(namespace: &Namespace, queue: &str) {
    for queue in [queue, &namespace.names.dead_raw()] {
        let publish = |_| namespace.publish("", queue, RINSE, SMALL.to_vec());
        stream::iter(0..ENTRIES).map(publish).buffer_unordered(256).collect::<()>().await;
    }
}

#[tokio::test]
async fn large_bodies_on_the_job_queue_are_rejected_whole_within_the_bound() {
    rejected_whole(Names::jobs, BODY, "bodies of 10 MB on the job queue").await;
}

#[tokio::test]
async fn large_bodies_on_the_ticket_queue_are_rejected_whole_within_the_bound() {
    rejected_whole(Names::tickets, BODY, "bodies of 10 MB on the ticket queue").await;
}

#[tokio::test]
async fn large_bodies_on_the_guards_queue_are_rejected_whole_within_the_bound() {
    rejected_whole(Names::guard, BODY, "bodies of 10 MB on the guard's queue").await;
}

#[tokio::test]
async fn the_largest_bodies_that_admission_reads_are_kept_in_outcomes_within_the_bound() {
    kept_in_outcomes(Names::jobs, MAX_MESSAGE, "NOT_JSON", "bodies of 1 MiB on the job queue").await;
}

#[tokio::test]
async fn bodies_of_a_tickets_size_that_are_none_are_rejected_whole_within_the_bound() {
    rejected_whole(Names::tickets, MAX_MESSAGE, "bodies of 1 MiB on the ticket queue").await;
}

#[tokio::test]
async fn small_bodies_on_the_ticket_queue_are_kept_in_outcomes_within_the_bound() {
    kept_in_outcomes(Names::tickets, 8 * 1024, "NOT_A_TICKET", "bodies of 8 KiB on the ticket queue").await;
}

#[tokio::test]
async fn large_bodies_on_the_control_exchange_are_dropped_within_the_bound() {
    let scene = Scene::set().await;
    let mut worker = scene.replica();
    // It listens to control messages before it takes a job.
    scene.goes_on().await;
    for n in 0..bodies() {
        scene.namespace.publish(&scene.namespace.names.control(), "", &n.to_string(), vec![b'x'; BODY]).await;
    }
    scene.control_is_drained().await;
    scene.goes_on().await;
    is_within_bound(&worker, "bodies of 10 MB on the control exchange");
    assert_eq!(worker.terminate(Duration::from_secs(30)).await, Some(0));
}
