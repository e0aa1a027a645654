//! A million jobs through one queue file, as a worker's messages: each job becomes a ticket, the
//! ticket an outcome, and somebody takes the outcome. Half of them wait in the file at first. How
//! large does the file get, and what is left of it? No API and no worker: they would not change it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{Confirm, ConsumeSpec, Delivery, Receipt, Session};
use captcha_worker::domain::message::Message;
use captcha_worker::linger::Linger;
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};

use crate::harness::{jobs, wait};

const JOBS: usize = 1_000_000;
/// Queued before the first one is taken.
const BACKLOG: usize = JOBS / 2;
/// Jobs that are made at once, of bytes of their own.
const CHUNK: usize = 10_000;
/// Messages on their way from one queue to the next.
const IN_FLIGHT: u16 = 1_000;
const TIME_OUT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Unchanged for so long, the file is as it stays.
const AT_REST: Duration = Duration::from_secs(5);
/// Of the file and its log together, in bytes.
const MOST_LEFT: u64 = 100_000_000;

/// The file's size and its log's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sizes {
    file: u64,
    log: u64,
}

impl Sizes {
    fn of(path: &Path) -> Self {
        let size = |path: PathBuf| std::fs::metadata(path).map_or(0, |file| file.len());
        Self { file: size(path.to_owned()), log: size(path.with_extension("db-wal")) }
    }

    fn or_more(self, other: Self) -> Self {
        Self { file: self.file.max(other.file), log: self.log.max(other.log) }
    }

    fn shown(self) -> String {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        format!("{:.1} MB, and {:.1} MB of its log", megabytes(self.file), megabytes(self.log))
    }
}

pub(crate) async fn pass() -> ExitCode {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("million");
    // Absent, as a rule.
    std::fs::remove_dir_all(&folder).ok();
    std::fs::create_dir_all(&folder).expect("the target folder is writable");
    let path = folder.join("queue.db");
    let names = Names::new("captcha");
    let broker = SqliteBroker::new(SqliteOptions {
        path: path.clone(),
        if_missing: IfMissing::Make,
        topology: Some(Topology::new(&names)),
        connect_timeout: TIME_OUT,
        call_timeout: TIME_OUT,
        confirm_timeout: TIME_OUT,
        heartbeat: TIME_OUT,
        connection_name: "bench".to_owned(),
        linger: Linger::every(Duration::from_millis(20)),
    });
    let session = broker.connect().await.expect("a session");
    let began = Instant::now();
    publish(&session, &names, 0..BACKLOG).await;
    let backlog = Sizes::of(&path);
    println!("{}: {BACKLOG} jobs wait: {}", wait::seconds(began.elapsed()), backlog.shown());
    let mut most = backlog;
    {
        let (jobs, tickets, results) = (names.jobs(), names.tickets(), names.results());
        let mut work = std::pin::pin!(async {
            tokio::join!(
                publish(&session, &names, BACKLOG..JOBS),
                pass_on(&session, &jobs, ("", &tickets)),
                pass_on(&session, &tickets, ("", &results)),
                take(&session, &results),
            )
        });
        let mut looks = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = &mut work => break,
                _ = looks.tick() => most = most.or_more(Sizes::of(&path)),
            }
        }
    }
    let left = Sizes::of(&path);
    println!("{}: all are through: {}", wait::seconds(began.elapsed()), left.shown());
    let mut left = (left, Instant::now());
    let mut looks = interval(LOOK_EVERY);
    while left.1.elapsed() < AT_REST {
        looks.tick().await;
        let now = Sizes::of(&path);
        if now != left.0 {
            left = (now, Instant::now());
        }
    }
    let left = left.0;
    println!("at most: {}", most.shown());
    let holds = left.file + left.log < MOST_LEFT;
    println!(
        "left of {JOBS} jobs: {} (bound {} MB): {}",
        left.shown(),
        MOST_LEFT / 1_000_000,
        if holds { "holds" } else { "MISSED" }
    );
    drop(session);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Publishes jobs, with a bounded number of confirms outstanding.
async fn publish(session: &Session, names: &Names, numbers: std::ops::Range<usize>) {
    let (sent, confirms) = mpsc::channel(IN_FLIGHT.into());
    let queue = names.jobs();
    let sending = async move {
        for first in numbers.step_by(CHUNK) {
            for job in jobs::images(&format!("job-{first}"), CHUNK) {
                let mut message = Message { body: job.body.into(), ..Message::default() };
                message.properties.message_id = Some(job.id);
                send(session, ("", &queue), message, None, &sent).await;
            }
        }
    };
    tokio::join!(sending, confirmed(confirms));
}

/// Publishes each message of a queue to the next place, and acks it once that has it.
async fn pass_on(session: &Session, from: &str, to: (&str, &str)) {
    let (sent, confirms) = mpsc::channel(IN_FLIGHT.into());
    let passing = async move {
        let mut consumer = consume(session, from).await;
        for _ in 0..JOBS {
            let Delivery { message, receipt, .. } = next(&mut consumer).await;
            send(session, to, message, Some(receipt), &sent).await;
        }
        // Whoever waits for the last confirms still settles on this channel.
        drop(sent);
        consumer
    };
    let (consumer, ()) = tokio::join!(passing, confirmed(confirms));
    consumer.close().await;
}

async fn take(session: &Session, from: &str) {
    let mut consumer = consume(session, from).await;
    for _ in 0..JOBS {
        next(&mut consumer).await.receipt.ack_batched().expect("a live channel");
    }
    consumer.close().await;
}

async fn consume(session: &Session, queue: &str) -> captcha_worker::broker::Consumer {
    let spec = ConsumeSpec { queue: queue.to_owned(), prefetch: IN_FLIGHT, tag: "bench".to_owned() };
    session.link().consume(spec).await.expect("a consumer")
}

async fn next(consumer: &mut captcha_worker::broker::Consumer) -> Delivery {
    timeout(TIME_OUT, consumer.recv()).await.expect("in time").expect("a live consumer")
}

type Sent = (Confirm, Option<Receipt>);

async fn send(
    session: &Session,
    (exchange, key): (&str, &str),
    message: Message,
    receipt: Option<Receipt>,
    sent: &mpsc::Sender<Sent>,
) {
    let confirm = session.publisher().send(exchange, key, true, Arc::new(message)).await;
    sent.send((confirm.expect("it is sent"), receipt)).await.expect("somebody waits for it");
}

async fn confirmed(mut confirms: mpsc::Receiver<Sent>) {
    while let Some((confirm, receipt)) = confirms.recv().await {
        confirm.answered().await.expect("it is confirmed");
        if let Some(receipt) = receipt {
            receipt.ack().expect("a live channel");
        }
    }
}
