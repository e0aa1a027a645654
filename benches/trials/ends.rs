//! Where each job ended: every queue that a job can end in, consumed, by id.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Consumer, Delivery, Session};
use captcha_worker::domain::class::Class;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::namespace::Namespace;
use crate::scene::Harness;
use crate::support::rabbit;
use crate::wait;

const PREFETCH: u16 = 500;
/// Between two progress lines, where there is progress.
const REPORT_EVERY: Duration = Duration::from_secs(10);

type ById = BTreeMap<String, Vec<String>>;

/// Takes outcomes as they come.
pub(crate) struct Ledger {
    seen: Arc<Mutex<ById>>,
    _consumers: JoinSet<()>,
    _session: Session,
}

impl Ledger {
    /// Begins to consume results, every dead-letter queue, and what no queue was bound for.
    pub(crate) async fn open(namespace: &Namespace) -> Self {
        let names = namespace.names();
        let mut queues = vec![names.results(), names.dead_raw(), names.unrouted()];
        queues.extend(Class::finals().map(|class| names.dead(class)));
        let session = rabbit::connect(namespace.amqp()).await;
        let seen = Arc::new(Mutex::new(ById::new()));
        let mut consumers = JoinSet::new();
        for queue in queues {
            let spec =
                ConsumeSpec { queue: queue.clone(), prefetch: PREFETCH, tag: format!("{queue}.trial") };
            let consumer = session.link().consume(spec).await.expect("outcomes can be consumed");
            let short = queue.trim_start_matches(names.namespace()).trim_start_matches('.').to_owned();
            consumers.spawn(take(consumer, short, Arc::clone(&seen)));
        }
        Self { seen, _consumers: consumers, _session: session }
    }

    /// Waits until all of these have ended, or the time is over.
    pub(crate) async fn finish(
        &self,
        harness: &Harness,
        wanted: &BTreeSet<String>,
        within: Duration,
    ) -> Ends {
        let began = Instant::now();
        let (mut reported, mut last) = (began, wanted.len());
        wait::comes_true(within, async || {
            let missing = self.missing(wanted);
            if missing > 0 && missing != last && reported.elapsed() >= REPORT_EVERY {
                (reported, last) = (Instant::now(), missing);
                harness.say(format_args!("{} of {} jobs have ended", wanted.len() - missing, wanted.len()));
            }
            missing == 0
        })
        .await;
        let ends = Ends { wanted: wanted.clone(), seen: self.snapshot(), took: began.elapsed() };
        ends.keep(harness.folder());
        ends
    }

    fn missing(&self, wanted: &BTreeSet<String>) -> usize {
        let seen = self.seen.lock();
        wanted.iter().filter(|id| !seen.contains_key(*id)).count()
    }

    fn snapshot(&self) -> ById {
        self.seen.lock().clone()
    }
}

async fn take(mut consumer: Consumer, queue: String, seen: Arc<Mutex<ById>>) {
    while let Some(delivery) = consumer.recv().await {
        let id = id_of(&delivery);
        seen.lock().entry(id).or_default().push(queue.clone());
        // A stale receipt brings the outcome again; an id that ended twice is counted, not refused.
        delivery.receipt.ack().ok();
    }
}

/// Outcomes carry the job's id as their message id, and so does what the broker has dead-lettered
/// whole.
fn id_of(delivery: &Delivery) -> String {
    delivery.message.properties.message_id.clone().unwrap_or_else(|| "(no id)".to_owned())
}

/// Every id with the queues it ended in, once for each time.
#[derive(Debug)]
pub(crate) struct Ends {
    wanted: BTreeSet<String>,
    seen: ById,
    took: Duration,
}

impl Ends {
    /// Whether each wanted id ended, and no other.
    pub(crate) fn are_all(&self) -> bool {
        self.missing() == 0 && self.strangers() == 0
    }

    /// Ids seen in a queue.
    pub(crate) fn in_queue(&self, queue: &str) -> usize {
        self.seen.values().filter(|queues| queues.iter().any(|seen| seen == queue)).count()
    }

    /// Ids seen anywhere but among the results.
    pub(crate) fn dead(&self) -> usize {
        self.seen.values().filter(|queues| queues.iter().any(|seen| seen != "results")).count()
    }

    fn missing(&self) -> usize {
        self.wanted.iter().filter(|id| !self.seen.contains_key(*id)).count()
    }

    fn strangers(&self) -> usize {
        self.seen.keys().filter(|id| !self.wanted.contains(*id)).count()
    }

    /// How many ids ended where, and what is wrong about it.
    pub(crate) fn summary(&self) -> String {
        let mut by_place: BTreeMap<String, usize> = BTreeMap::new();
        for queues in self.seen.values() {
            let distinct: BTreeSet<&str> = queues.iter().map(String::as_str).collect();
            *by_place.entry(distinct.into_iter().collect::<Vec<_>>().join(" and ")).or_default() += 1;
        }
        let places: Vec<String> = by_place.iter().map(|(place, count)| format!("{place} {count}")).collect();
        let mut text = format!("{} in {}", places.join(", "), wait::seconds(self.took));
        let repeated = self.seen.values().filter(|queues| queues.len() > 1).count();
        for (count, what) in
            [(repeated, "more than once"), (self.missing(), "not at all"), (self.strangers(), "unknown ids")]
        {
            if count > 0 {
                write!(text, "; {what}: {count}").expect("a string takes it");
            }
        }
        text
    }

    /// Leaves the whole account beside the logs.
    fn keep(&self, folder: &Path) {
        let missing: Vec<&String> = self.wanted.iter().filter(|id| !self.seen.contains_key(*id)).collect();
        let account = serde_json::json!({"ended": self.seen, "missing": missing});
        std::fs::write(folder.join("ends.json"), account.to_string())
            .expect("the trial's folder is writable");
    }
}
