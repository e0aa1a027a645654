//! The ledger of a scene: every job that was offered, and every outcome, with when and where.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Consumer, Delivery, Session};
use captcha_worker::domain::class::Class;
use captcha_worker::simulator::expected_solution;
use serde::Deserialize;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::load::Offered;
use crate::namespace::Namespace;
use crate::support::rabbit;
use crate::wait;

const PREFETCH: u16 = 500;
/// Where a solved job ends.
const RESULTS: &str = "results";

/// A job's end.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// The queue, without the namespace.
    pub(crate) queue: String,
}

/// A job.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) offered: Instant,
    /// Whether the trouble was aimed at this very job.
    pub(crate) hit: bool,
    pub(crate) end: Option<End>,
    solution: Option<Value>,
    outcomes: u32,
    wrong: bool,
}

impl Entry {
    pub(crate) fn is_solved(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.queue == RESULTS)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.end.as_ref().is_some_and(|end| end.queue != RESULTS)
    }

    /// From its being offered to its outcome.
    pub(crate) fn took(&self) -> Option<Duration> {
        Some(self.end.as_ref()?.at - self.offered)
    }
}

/// From a publish to its outcome, over many jobs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    pub(crate) jobs: usize,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
}

impl Latency {
    pub(crate) fn of<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Self {
        let mut all: Vec<Duration> = entries.into_iter().filter_map(Entry::took).collect();
        all.sort_unstable();
        // The least value that so large a share does not exceed.
        let quantile = |per_cent: usize| {
            all.get((all.len() * per_cent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { jobs: all.len(), p50: quantile(50), p99: quantile(99), max: quantile(100) }
    }
}

/// How many ended where.
pub(crate) fn places<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for entry in entries {
        let place = entry.end.as_ref().map_or("not at all", |end| &end.queue);
        *places.entry(place.to_owned()).or_default() += 1;
    }
    places
}

#[derive(Debug, Default)]
struct Pages {
    entries: BTreeMap<String, Entry>,
    strangers: BTreeSet<String>,
}

type Shared = Arc<Mutex<Pages>>;

/// Takes outcomes as they come.
pub(crate) struct Ledger {
    pages: Shared,
    _consumers: JoinSet<()>,
    _session: Session,
}

#[derive(Deserialize)]
struct Outcome {
    status: String,
    solution: Option<Value>,
}

impl Ledger {
    /// Begins to consume results, every dead-letter queue, and what no queue was bound for.
    pub(crate) async fn open(namespace: &Namespace) -> Self {
        let names = namespace.names();
        let mut queues = vec![names.results(), names.dead_raw(), names.unrouted()];
        queues.extend(Class::finals().map(|class| names.dead(class)));
        let session = rabbit::connect(namespace.amqp()).await;
        let pages = Shared::default();
        let mut consumers = JoinSet::new();
        for queue in queues {
            let tag = format!("{queue}.interference");
            let spec = ConsumeSpec { queue: queue.clone(), prefetch: PREFETCH, tag };
            let consumer = session.link().consume(spec).await.expect("outcomes can be consumed");
            let short = queue.trim_start_matches(names.namespace()).trim_start_matches('.').to_owned();
            consumers.spawn(take(consumer, short, Arc::clone(&pages)));
        }
        Self { pages, _consumers: consumers, _session: session }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock()
    }

    /// Before it is published, so that no outcome can come first.
    pub(crate) fn offered(&self, job: &Offered) {
        let entry = Entry {
            offered: Instant::now(),
            hit: job.hit,
            end: None,
            solution: expected_solution(&job.task),
            outcomes: 0,
            wrong: false,
        };
        self.pages().entries.insert(job.id.clone(), entry);
    }

    /// The jobs whose ids begin so.
    pub(crate) fn entries(&self, prefix: &str) -> Vec<Entry> {
        let pages = self.pages();
        pages
            .entries
            .iter()
            .filter(|(id, _)| id.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect()
    }

    /// Jobs whose ids begin so that have not ended, of those that a condition picks.
    fn open_jobs(&self, prefix: &str, picks: impl Fn(&Entry) -> bool) -> usize {
        let pages = self.pages();
        let open =
            |(id, entry): &(&String, &Entry)| id.starts_with(prefix) && entry.end.is_none() && picks(entry);
        pages.entries.iter().filter(open).count()
    }

    /// Whether all jobs whose ids begin so have ended.
    pub(crate) fn is_finished(&self, prefix: &str) -> bool {
        self.open_jobs(prefix, |_| true) == 0
    }

    /// Waits until all jobs of a prefix have ended, the hit ones included where that is wanted;
    /// whether they did in time.
    pub(crate) async fn finish(&self, prefix: &str, with_hit: bool, within: Duration) -> bool {
        let all = async || self.open_jobs(prefix, |entry| with_hit || !entry.hit) == 0;
        wait::comes_true(within, all).await
    }

    /// Jobs solved in a span of time.
    pub(crate) fn solved(&self, from: Instant, until: Instant) -> usize {
        let pages = self.pages();
        let within = |entry: &&Entry| {
            entry.end.as_ref().is_some_and(|end| end.queue == RESULTS && from <= end.at && end.at < until)
        };
        pages.entries.values().filter(within).count()
    }

    /// What must not be, in words: answers of another job, and outcomes of unknown ids.
    pub(crate) fn faults(&self) -> Vec<String> {
        let pages = self.pages();
        let wrong = pages.entries.values().filter(|entry| entry.wrong).count();
        let said = [(wrong, "answers of another job"), (pages.strangers.len(), "outcomes of unknown ids")];
        said.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what}: {count}"))
            .collect()
    }

    /// Outcomes of jobs that had one already.
    pub(crate) fn repeated(&self) -> u32 {
        self.pages().entries.values().map(|entry| entry.outcomes.saturating_sub(1)).sum()
    }

    /// Leaves the whole account beside the logs: every id, when it was offered, where it ended and
    /// after how long.
    pub(crate) fn keep(&self, folder: &Path, began: Instant) {
        use std::fmt::Write;

        let mut text = String::from("id,hit,offered_s,took_s,queue\n");
        for (id, entry) in &self.pages().entries {
            let took = entry.took().map_or_else(String::new, |took| format!("{:.3}", took.as_secs_f64()));
            let queue = entry.end.as_ref().map_or("", |end| &end.queue);
            let offered = (entry.offered - began).as_secs_f64();
            writeln!(text, "{id},{},{offered:.3},{took},{queue}", entry.hit).expect("a string takes it");
        }
        std::fs::write(folder.join("jobs.csv"), text).expect("the folder for logs is writable");
    }
}

async fn take(mut consumer: Consumer, queue: String, pages: Shared) {
    while let Some(delivery) = consumer.recv().await {
        note(&delivery, &queue, &mut pages.lock());
        // A stale receipt brings the outcome again; the first one counts.
        delivery.receipt.ack().ok();
    }
}

fn note(delivery: &Delivery, queue: &str, pages: &mut Pages) {
    let id = delivery.message.properties.message_id.clone().unwrap_or_default();
    let Some(entry) = pages.entries.get_mut(&id) else {
        pages.strangers.insert(id);
        return;
    };
    entry.outcomes += 1;
    entry.end.get_or_insert_with(|| End { at: Instant::now(), queue: queue.to_owned() });
    let outcome: Option<Outcome> = serde_json::from_slice(&delivery.message.body).ok();
    if let Some(outcome) = outcome.filter(|outcome| outcome.status == "solved") {
        entry.wrong |= outcome.solution != entry.solution;
    }
}
