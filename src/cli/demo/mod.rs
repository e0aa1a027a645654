//! `captcha-worker demo`: the whole road in one process, with nothing else installed.
//!
//! Act one: 1,000 jobs that cover every class. Act two: a key that the API refuses, which must stop
//! the worker after one call.

mod jobs;
mod report;
mod scenario;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::broker::{BrokerError, PublishError};
use crate::domain::class::Class;
use crate::simulator::{ScenarioError, Stats};
use crate::solver::{HttpTransport, RawReply, SolverConfigError, Transport, TransportError};
use crate::worker::WorkerHandle;
use jobs::{Goal, PANICKING_TYPE, Planned};
use report::{AccountAct, DemoReport};
use scenario::{Arrivals, DemoConsumers, Environment};

/// How long act one may take. A demo that takes longer has found something.
const TIMEOUT: Duration = Duration::from_secs(55);
/// The same for act two.
const SHORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Makes the demo the same each time.
const SEED: u64 = 17;
const ACCOUNT_JOBS: usize = 20;

/// Why the demo could not be held.
#[derive(Debug, thiserror::Error)]
pub(super) enum DemoError {
    /// The in-process broker.
    #[error("the in-process broker: {0}")]
    Broker(#[from] BrokerError),
    /// A job could not be published.
    #[error("a job could not be published: {0}")]
    Publish(#[from] PublishError),
    /// The simulator's settings.
    #[error(transparent)]
    Simulator(#[from] ScenarioError),
    /// The simulator's socket.
    #[error("the simulator: {0}")]
    Socket(#[from] std::io::Error),
    /// The API client.
    #[error(transparent)]
    Solver(#[from] SolverConfigError),
    /// A part ended that should not have.
    #[error("a part of the demo stopped early")]
    Stopped,
}

/// Holds the demo.
pub(super) async fn run() -> Result<DemoReport, DemoError> {
    let began = Instant::now();
    hush();
    let (arrived, stats, expected) = every_class().await?;
    let account = refused_key().await?;
    Ok(DemoReport::new(expected, arrived, stats, account, began.elapsed()))
}

async fn every_class() -> Result<(Arrivals, Stats, BTreeMap<Goal, usize>), DemoError> {
    let environment = Environment::set().await?;
    let planned = jobs::all(SEED);
    let total = planned.len();
    let expected = count(&planned);
    let consumers = DemoConsumers::start(&environment.session, &environment.names).await?;
    let (worker, view) = environment.worker("simulator-key")?;
    let drain = CancellationToken::new();
    let running = tokio::spawn(worker.run(drain.clone()));
    environment.publish(planned).await?;

    let bar = progress_bar(total);
    let deadline = Instant::now() + TIMEOUT;
    consumers.wait_for(total, deadline, |seen| show(&bar, seen, &view)).await;
    bar.finish_and_clear();
    drain.cancel();
    running.await.map_err(|_| DemoError::Stopped)??;
    let (arrived, stats) = (consumers.arrivals(), environment.simulator.stats());
    environment.clear().await?;
    Ok((arrived, stats, expected))
}

async fn refused_key() -> Result<AccountAct, DemoError> {
    let environment = Environment::set().await?;
    let consumers = DemoConsumers::start(&environment.session, &environment.names).await?;
    let (worker, view) = environment.worker("a-key-that-nobody-issued")?;
    environment.publish(jobs::plain(ACCOUNT_JOBS, SEED)).await?;
    let drain = CancellationToken::new();
    let running = tokio::spawn(worker.run(drain.clone()));

    let deadline = Instant::now() + SHORT_TIMEOUT;
    let mut seen = view.watch();
    let refused = seen.wait_for(|seen| seen.state.as_ref().is_some_and(|state| state.tripped().is_some()));
    let tripped = timeout_at(deadline, refused).await.is_ok_and(|seen| seen.is_ok());
    let queued = environment.broker.queue_len(&environment.names.jobs());
    drain.cancel();
    running.await.map_err(|_| DemoError::Stopped)??;
    let dead = consumers.arrivals().by_goal.get(&Goal::Dead(Class::Account)).copied().unwrap_or(0);
    let account = AccountAct {
        jobs: ACCOUNT_JOBS,
        dead,
        queued,
        tripped,
        bad_key_calls: environment.simulator.stats().bad_key_calls,
    };
    environment.clear().await?;
    Ok(account)
}

fn count(planned: &[Planned]) -> BTreeMap<Goal, usize> {
    let mut count = BTreeMap::new();
    for job in planned {
        *count.entry(job.goal).or_default() += 1;
    }
    count
}

fn progress_bar(total: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(u64::try_from(total).unwrap_or(u64::MAX));
    // A template that is wrong leaves the default one, which shows the count all the same.
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len}  {msg}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, seen: &Arrivals, view: &WorkerHandle) {
    bar.set_position(u64::try_from(seen.total()).unwrap_or(u64::MAX));
    let (solved, failed) = (seen.solved(), seen.total() - seen.solved());
    bar.set_message(format!("solved {solved} · failed {failed} · in flight {}", view.in_flight()));
}

/// HTTP, until a task of the type that makes it panic.
pub(super) struct Panicking(pub(super) HttpTransport);

impl Transport for Panicking {
    fn post<'a>(
        &'a self,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        let marked = body.windows(PANICKING_TYPE.len()).any(|part| part == PANICKING_TYPE.as_bytes());
        assert!(!marked, "the demo's bug on purpose");
        self.0.post(method, body)
    }
}

/// Keeps the panics that the demo causes itself off the screen; any other is shown as ever.
fn hush() {
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or_default();
        if text != "the demo's bug on purpose" {
            shown(info);
        }
    }));
}
