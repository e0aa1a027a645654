//! The ledger of a run: every job that was offered, and every outcome that arrived, with when.

use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use captcha_worker::simulator::expected_solution;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::jobs::Job;

/// What the publisher knows of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Written to the publisher, which has not said anything yet.
    Offered,
    Confirmed,
    /// The connection ended before the confirm came: the broker may have it.
    Unknown,
    /// Not taken by the broker.
    Refused,
}

#[derive(Debug)]
struct Entry {
    fate: Fate,
    solution: Option<Value>,
}

/// An outcome as the foreign consumer reports it.
#[derive(Debug, Deserialize)]
pub(crate) struct ListedOutcome {
    queue: String,
    id: Option<String>,
    digest: String,
    redelivered: bool,
    outcome: Option<Value>,
}

#[derive(Debug)]
struct Arrival {
    at: Instant,
    listed: ListedOutcome,
    /// The broker's repetition of a message that had arrived before, since its ack was lost.
    again: bool,
}

/// What happened in a span of time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) confirmed: usize,
    pub(crate) outcomes: usize,
    pub(crate) repeated: usize,
    /// The longest time without an outcome.
    pub(crate) gap: Duration,
}

/// What is wrong with the outcomes, by ids; nothing, as it should be.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lost: BTreeSet<String>,
    /// Outcomes of one id that was paid once, and that do not agree.
    pub(crate) disagreeing: BTreeSet<String>,
    /// Answers that belong to another job.
    pub(crate) wrong: BTreeSet<String>,
    /// Ids that nobody has offered.
    pub(crate) strangers: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Pages {
    entries: BTreeMap<String, Entry>,
    settled: Vec<(Instant, Fate)>,
    arrivals: Vec<Arrival>,
    by_id: BTreeMap<String, Vec<usize>>,
}

impl Pages {
    fn gap(&self, from: Instant, until: Instant) -> Duration {
        let fresh = self.arrivals.iter().filter(|arrival| !arrival.again).map(|arrival| arrival.at);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in fresh.filter(|at| from <= *at && *at < until).chain([until]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }
}

/// Shared by those who write and those who read it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Pages>>);

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow)]
    task: &'a RawValue,
}

impl Ledger {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.0.lock()
    }

    /// Before it is given to the publisher, so that no outcome can come first.
    pub(crate) fn offered(&self, job: &Job) {
        let body: Body<'_> = serde_json::from_slice(&job.body).expect("a job is JSON");
        let solution = expected_solution(body.task.get().as_bytes());
        self.pages().entries.insert(job.id.clone(), Entry { fate: Fate::Offered, solution });
    }

    pub(crate) fn settled(&self, id: &str, fate: Fate) {
        let mut pages = self.pages();
        pages.entries.get_mut(id).expect("the publisher names what it was given").fate = fate;
        pages.settled.push((Instant::now(), fate));
    }

    pub(crate) fn arrived(&self, listed: ListedOutcome) {
        let mut pages = self.pages();
        let id = listed.id.clone().unwrap_or_default();
        let before = pages.by_id.get(&id).into_iter().flatten();
        let again = listed.redelivered
            && before.into_iter().any(|place| pages.arrivals[*place].listed.digest == listed.digest);
        let place = pages.arrivals.len();
        pages.by_id.entry(id).or_default().push(place);
        pages.arrivals.push(Arrival { at: Instant::now(), listed, again });
    }

    /// Jobs of which the publisher has said this.
    pub(crate) fn count(&self, fate: Fate) -> usize {
        self.pages().entries.values().filter(|entry| entry.fate == fate).count()
    }

    /// Confirmed jobs without an outcome.
    pub(crate) fn open(&self) -> usize {
        let pages = self.pages();
        let open =
            |(id, entry): &(&String, &Entry)| entry.fate == Fate::Confirmed && !pages.by_id.contains_key(*id);
        pages.entries.iter().filter(open).count()
    }

    /// When the first outcome after a moment came that is no repetition by the broker.
    pub(crate) fn first_after(&self, moment: Instant) -> Option<Instant> {
        let pages = self.pages();
        let fresh = pages.arrivals.iter().filter(|arrival| !arrival.again && arrival.at > moment);
        fresh.map(|arrival| arrival.at).next()
    }

    pub(crate) fn span(&self, from: Instant, until: Instant) -> Span {
        let pages = self.pages();
        let within = |at: Instant| from <= at && at < until;
        let confirmed =
            pages.settled.iter().filter(|(at, fate)| within(*at) && *fate == Fate::Confirmed).count();
        let mut span = Span { confirmed, outcomes: 0, repeated: 0, gap: pages.gap(from, until) };
        for places in pages.by_id.values() {
            let outcomes =
                places.iter().map(|place| &pages.arrivals[*place]).filter(|arrival| !arrival.again);
            for (nth, _) in outcomes.enumerate().filter(|(_, arrival)| within(arrival.at)) {
                span.outcomes += 1;
                span.repeated += usize::from(nth > 0);
            }
        }
        span
    }

    /// Outcomes by the queue they came from.
    pub(crate) fn places(&self) -> BTreeMap<String, usize> {
        let pages = self.pages();
        let mut places = BTreeMap::new();
        for arrival in pages.arrivals.iter().filter(|arrival| !arrival.again) {
            *places.entry(arrival.listed.queue.clone()).or_default() += 1;
        }
        places
    }

    /// Every outcome of the ids that had more than one, beside the logs.
    pub(crate) fn keep_repeated(&self, file: &Path, began: Instant) {
        let pages = self.pages();
        let mut text = String::new();
        for (id, places) in pages.by_id.iter().filter(|(_, places)| places.len() > 1) {
            for arrival in places.iter().map(|place| &pages.arrivals[*place]) {
                let (listed, seconds) = (&arrival.listed, (arrival.at - began).as_secs_f64());
                let from = listed.outcome.as_ref().map(|outcome| &outcome["worker"]);
                let line = json!({"id": id, "seconds": seconds, "queue": listed.queue, "digest": listed.digest,
                    "redelivered": listed.redelivered, "again": arrival.again, "worker": from,
                    "attempts": listed.outcome.as_ref().map(|outcome| &outcome["attempts"])});
                text.push_str(&format!("{line}\n"));
            }
        }
        std::fs::write(file, text).expect("the folder for logs is writable");
    }

    /// Judged once all have had the time to end.
    pub(crate) fn faults(&self) -> Faults {
        let pages = self.pages();
        let mut faults = Faults::default();
        for (id, entry) in &pages.entries {
            let Some(places) = pages.by_id.get(id) else {
                if entry.fate == Fate::Confirmed {
                    faults.lost.insert(id.clone());
                }
                continue;
            };
            let outcomes: Vec<&Value> =
                places.iter().filter_map(|place| pages.arrivals[*place].listed.outcome.as_ref()).collect();
            if !agree(&outcomes) {
                faults.disagreeing.insert(id.clone());
            }
            if outcomes.iter().any(|outcome| is_wrong(outcome, entry.solution.as_ref())) {
                faults.wrong.insert(id.clone());
            }
        }
        faults.strangers =
            pages.by_id.keys().filter(|id| !pages.entries.contains_key(*id)).cloned().collect();
        faults
    }
}

fn is_wrong(outcome: &Value, expected: Option<&Value>) -> bool {
    outcome["status"] == "solved" && Some(&outcome["solution"]) != expected
}

/// Whether outcomes of one id say the same, or report more than one payment.
fn agree(outcomes: &[&Value]) -> bool {
    let ends = outcomes.iter().map(|outcome| (&outcome["status"], &outcome["solution"]));
    let mut ends = ends;
    let Some(first) = ends.next() else { return true };
    ends.all(|end| end == first) || paid(outcomes) > 1
}

/// Submissions of a job that were, or may have been, paid.
fn paid(outcomes: &[&Value]) -> usize {
    let attempts = outcomes.iter().filter_map(|outcome| outcome["attempts"].as_array()).flatten();
    let submitted: BTreeSet<String> = attempts.map(|attempt| attempt["submitted_at"].to_string()).collect();
    submitted.len()
}
