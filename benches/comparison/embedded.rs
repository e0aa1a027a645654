//! The same work through the embedded broker and through RabbitMQ: jobs a second, and what worker
//! and broker cost together. Then the file's own bounds: idle, and with a backlog.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::amqp::{AmqpOptions, Connector};
use captcha_worker::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use captcha_worker::broker::topology::{Names, Topology};
use captcha_worker::broker::{Broker, ConsumeSpec, Session};
use captcha_worker::domain::message::Message;
use captcha_worker::linger::Linger;
use captcha_worker::tls::TlsFiles;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::harness::command::Operator;
use crate::harness::jobs::{self, Job};
use crate::harness::process::{self, Process};
use crate::machine;
use crate::setup::Setup;
use crate::simulator::Simulator;
use crate::wait;

const IN_FLIGHT: usize = 1_000;
const ROUNDS: usize = 3;
/// Publishes that wait for their confirms.
const UNCONFIRMED: usize = 500;
const BACKLOG: usize = 50_000;
const IDLE: Duration = Duration::from_secs(20);
const START_WITHIN: Duration = Duration::from_secs(60);
const FINISH_WITHIN: Duration = Duration::from_secs(600);
/// The answer is there at the first poll.
const SCENARIO: &str = "\
balance = 1000000.0
[types.ImageToTextTask]
solve_ms = { uniform = { min = 300, max = 900 } }
slots = 100000
";

/// The bounds: of CPU per job and of jobs a second, as multiples of RabbitMQ's; of idle CPU in ms a
/// second; of memory with a backlog in MiB.
const MOST_CPU: f64 = 0.6;
const LEAST_SPEED: f64 = 0.9;
const MOST_IDLE: f64 = 2.0;
const MOST_MEMORY: f64 = 200.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RabbitMq,
    Sqlite,
}

/// What one run has shown.
#[derive(Debug, Clone, Copy)]
struct Measured {
    jobs_per_second: f64,
    cpu_us_per_job: f64,
    idle_ms_per_second: f64,
}

pub(crate) async fn compare(setup: &Setup, jobs: usize) -> ExitCode {
    let mut measured: Vec<(Kind, Measured)> = Vec::new();
    for round in 1..=ROUNDS {
        for kind in [Kind::RabbitMq, Kind::Sqlite] {
            let run = Run::start(setup, kind, &format!("{kind:?}-{round}")).await;
            let figures = run.work(setup, jobs).await;
            println!(
                "round {round}, {kind:?}: {:.0} jobs/s, {:.0} us of CPU a job, idle {:.1} ms/s",
                figures.jobs_per_second, figures.cpu_us_per_job, figures.idle_ms_per_second
            );
            measured.push((kind, figures));
        }
    }
    let run = Run::start(setup, Kind::Sqlite, "backlog").await;
    let (memory, file) = run.backlog().await;
    println!(
        "{BACKLOG} jobs queued: {memory:.0} MiB in the process that has the file, {file:.0} MiB on the disk"
    );
    let median = |kind: Kind, figure: fn(&Measured) -> f64| {
        let mut all: Vec<f64> =
            measured.iter().filter(|(of, _)| *of == kind).map(|(_, figures)| figure(figures)).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let ratio = |figure: fn(&Measured) -> f64| median(Kind::Sqlite, figure) / median(Kind::RabbitMq, figure);
    let (cpu, speed) = (ratio(|run| run.cpu_us_per_job), ratio(|run| run.jobs_per_second));
    let idle = median(Kind::Sqlite, |run| run.idle_ms_per_second);
    let mut holds = true;
    for (what, value, bound, well) in [
        ("CPU per job, of RabbitMQ's", cpu, MOST_CPU, cpu <= MOST_CPU),
        ("jobs/s, of RabbitMQ's", speed, LEAST_SPEED, speed >= LEAST_SPEED),
        ("idle CPU, ms/s", idle, MOST_IDLE, idle <= MOST_IDLE),
        ("MiB with a backlog", memory, MOST_MEMORY, memory <= MOST_MEMORY),
    ] {
        println!("{what}: {value:.2} (bound {bound}): {}", if well { "holds" } else { "MISSED" });
        holds &= well;
    }
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One replica, its broker and its simulator.
struct Run {
    worker: Process,
    simulator: Simulator,
    session: Session,
    names: Names,
    folder: std::path::PathBuf,
    operator: Operator,
    /// The broker's process, where it is one of its own.
    broker: Option<u32>,
}

impl Run {
    async fn start(setup: &Setup, kind: Kind, place: &str) -> Self {
        let folder = setup.folder().join("embedded").join(place);
        // Absent, as a rule.
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        let simulator = Simulator::start(&folder, SCENARIO).await;
        let (url, namespace) = match kind {
            Kind::RabbitMq => (setup.amqp().to_owned(), format!("embedded-{}", Uuid::new_v4())),
            Kind::Sqlite => ("sqlite:queue.db".to_owned(), "captcha".to_owned()),
        };
        let mut command = process::program(&folder, &["run"]);
        command
            .env("CAPTCHA_WORKER__BROKER__URL", &url)
            .env("CAPTCHA_WORKER__BROKER__NAMESPACE", &namespace)
            .env("CAPTCHA_WORKER__SOLVER__BASE_URL", simulator.url())
            .env("CAPTCHA_WORKER__SOLVER__API_KEY", "simulator-key")
            .env("CAPTCHA_WORKER__WORKER__MAX_IN_FLIGHT", IN_FLIGHT.to_string())
            .env("CAPTCHA_WORKER__OPS__LISTEN", "")
            .env("CAPTCHA_WORKER__LOG__LEVEL", "warn")
            .stdout(process::log(&folder, "worker"))
            .stderr(process::log(&folder, "worker"));
        let worker = Process::start(&mut command);
        let operator = Operator { amqp: url, namespace: namespace.clone(), folder: folder.clone() };
        let ready = async || {
            operator
                .status()
                .await
                .is_some_and(|status| status.guard.state == "active" || status.guard.state == "canary")
        };
        assert!(wait::comes_true(START_WITHIN, ready).await, "the replica starts");
        let names = Names::new(&namespace);
        let broker = match kind {
            Kind::RabbitMq => amqp(setup.amqp()),
            Kind::Sqlite => file(&folder.join("queue.db")),
        };
        let session = broker.connect().await.expect("a session");
        session.link().declare(&Topology::new(&names)).await.expect("the topology is there");
        let broker = (kind == Kind::RabbitMq).then_some(setup.broker());
        Self { worker, simulator, session, names, folder, operator, broker }
    }

    /// Worker and broker.
    fn processes(&self) -> Vec<u32> {
        self.worker.id().into_iter().chain(self.broker).collect()
    }

    async fn work(self, setup: &Setup, count: usize) -> Measured {
        let spec = ConsumeSpec { queue: self.names.results(), prefetch: 1_000, tag: "bench".to_owned() };
        let mut results = self.session.link().consume(spec).await.expect("a consumer");
        let jobs = jobs::images("job", count);
        let before = machine::usage(&self.processes());
        let began = Instant::now();
        let publishing = publish(&self.session, &self.names, jobs);
        let consuming = async {
            for _ in 0..count {
                let delivery =
                    timeout(FINISH_WITHIN, results.recv()).await.expect("in time").expect("an outcome");
                delivery.receipt.ack_batched().expect("a live channel");
            }
        };
        tokio::join!(publishing, consuming);
        let took = began.elapsed();
        let cpu = machine::usage(&self.processes()).cpu.saturating_sub(before.cpu);
        let accepted = self.simulator.stats().await.accepted_tasks;
        assert!(accepted >= count as u64, "each job was submitted");
        setup.quiet(&self.processes()).await;
        let before = machine::usage(&self.processes()).cpu;
        sleep(IDLE).await;
        let idle = machine::usage(&self.processes()).cpu.saturating_sub(before);
        Measured {
            jobs_per_second: count as f64 / took.as_secs_f64(),
            cpu_us_per_job: cpu.as_secs_f64() * 1e6 / count as f64,
            idle_ms_per_second: idle.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
        }
    }

    /// Memory of the process that has the file, and the file's size, in MiB.
    async fn backlog(self) -> (f64, f64) {
        let paused = self.operator.pause("a backlog is measured").await;
        assert!(paused.succeeded, "{}", paused.text);
        publish(&self.session, &self.names, jobs::images("queued", BACKLOG)).await;
        let memory = machine::usage(&self.processes()).resident_kib;
        let size = |name: &str| std::fs::metadata(self.folder.join(name)).map_or(0, |file| file.len());
        (memory as f64 / 1024.0, (size("queue.db") + size("queue.db-wal")) as f64 / f64::from(1 << 20))
    }
}

/// Publishes in order, with a bounded number of confirms outstanding.
async fn publish(session: &Session, names: &Names, jobs: Vec<Job>) {
    let (sent, mut confirms) = mpsc::channel(UNCONFIRMED);
    let sending = async move {
        for job in jobs {
            let mut message = Message { body: job.body.into(), ..Message::default() };
            message.properties.message_id = Some(job.id);
            let publisher = session.publisher();
            let confirm = publisher.send(&names.jobs(), "jobs", true, Arc::new(message)).await;
            sent.send(confirm.expect("it is sent")).await.expect("somebody waits for it");
        }
    };
    let confirming = async {
        while let Some(confirm) = confirms.recv().await {
            confirm.answered().await.expect("it is confirmed");
        }
    };
    tokio::join!(sending, confirming);
}

fn amqp(url: &str) -> Broker {
    let options = AmqpOptions {
        url: url.to_owned().into(),
        tls: TlsFiles::default(),
        connect_timeout: START_WITHIN,
        call_timeout: START_WITHIN,
        confirm_timeout: START_WITHIN,
        heartbeat_secs: 30,
        connection_name: "bench".to_owned(),
        publish_depth: UNCONFIRMED,
        linger: Linger::none(),
    };
    Broker::Amqp(Connector::new(options).expect("an address"))
}

fn file(path: &Path) -> Broker {
    Broker::Sqlite(SqliteBroker::new(SqliteOptions {
        path: path.to_owned(),
        if_missing: IfMissing::Make,
        topology: None,
        connect_timeout: START_WITHIN,
        call_timeout: START_WITHIN,
        confirm_timeout: START_WITHIN,
        heartbeat: START_WITHIN,
        connection_name: "bench".to_owned(),
        linger: Linger::none(),
    }))
}
