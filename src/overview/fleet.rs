//! What the replicas report, taken together.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::NAME;
use super::rates::{RateTracker, Rates};
use crate::domain::class::Class;
use crate::domain::lane::{Lane, MAX_REMEMBERED};
use crate::domain::publishers::{MAX_NAME, MAX_REPORTED, PublisherFigures};
use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;
use crate::fleet::{Depths, FailedJob, Heartbeat, MAX_FAILURES, OTHER_TYPES, TypeFigures, type_shown};

/// Replicas that are shown one by one; where there are more, those that are not ready come first.
const MAX_REPLICAS: usize = 100;
/// Types that are shown.
const MAX_TYPES: usize = 24;
/// Types that are taken from one replica, whatever it reports.
const MAX_TYPES_OF_ONE: usize = 32;
/// Stands for the class of jobs that replicas of earlier versions count without a class.
const NOT_REPORTED: &str = "(not reported)";
/// Failures that are shown.
const MAX_SHOWN: usize = 20;

/// A replica.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// Its name in outcomes.
    pub name: String,
    /// Whether it leads.
    pub leads: bool,
    /// Whether it takes jobs, as far as the account is concerned and its own leaving.
    pub ready: bool,
    /// What it has met itself and is held by.
    pub held: Option<String>,
    /// Tickets and submissions held.
    pub in_flight: usize,
    /// Calls that may be under way at once.
    pub window: usize,
    /// What it does in a second; `None` until it has been watched for a moment.
    pub rates: Option<Rates>,
    /// Solved jobs since it runs.
    pub solved: u64,
    /// Failed jobs since it runs.
    pub failed: u64,
    /// Since when it runs.
    pub started_at: Timestamp,
}

/// Jobs that ended in a class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassRow {
    /// The class.
    pub class: String,
    /// How many.
    pub jobs: u64,
}

/// Work of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeRow {
    /// The type.
    pub name: String,
    /// Whether its circuit breaker is open.
    pub shut: bool,
    /// The figures of all replicas together.
    #[serde(flatten)]
    pub figures: TypeFigures,
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRow {
    /// The replica that reported it.
    pub replica: String,
    /// What it reported.
    #[serde(flatten)]
    pub failure: FailedJob,
}

pub(super) fn replicas(
    heartbeats: &[&Heartbeat],
    leader_id: Option<&str>,
    tracker: &RateTracker,
) -> Vec<ReplicaRow> {
    let mut ordered = heartbeats.to_vec();
    ordered.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    if ordered.len() > MAX_REPLICAS {
        ordered.sort_by_key(|replica| replica.vitals.ready && replica.held.is_none());
    }
    let row = |replica: &&Heartbeat| {
        let vitals = &replica.vitals;
        ReplicaRow {
            name: shown(&replica.name, NAME),
            leads: leader_id == Some(&replica.id),
            ready: vitals.ready,
            held: replica.held.map(|reason| reason.name().to_owned()),
            in_flight: vitals.in_flight,
            window: vitals.window,
            rates: tracker.of(&replica.id),
            solved: vitals.solved,
            failed: vitals.failed,
            started_at: replica.started_at,
        }
    };
    ordered.iter().take(MAX_REPLICAS).map(row).collect()
}

/// Every class in which a job has failed, in the contract's order; names that this version does not
/// know stand last.
pub(super) fn classes(heartbeats: &[&Heartbeat]) -> Vec<ClassRow> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for detail in heartbeats.iter().filter_map(|replica| replica.vitals.detail.as_ref()) {
        for (class, jobs) in detail.failed.iter().take(2 * Class::ALL.len()) {
            let sum = counted.entry(shown(class, 20)).or_default();
            *sum = sum.saturating_add(*jobs);
        }
    }
    let mut rows = Vec::new();
    for class in Class::finals() {
        rows.extend(
            counted.remove(class.name()).map(|jobs| ClassRow { class: class.name().to_owned(), jobs }),
        );
    }
    let unknown = counted.into_iter().take(Class::ALL.len());
    rows.extend(unknown.map(|(class, jobs)| ClassRow { class, jobs }));
    let terse = heartbeats.iter().filter(|replica| replica.vitals.detail.is_none());
    let jobs = terse.map(|replica| replica.vitals.failed).fold(0, u64::saturating_add);
    rows.extend((jobs > 0).then(|| ClassRow { class: NOT_REPORTED.to_owned(), jobs }));
    rows
}

/// A lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    /// Its name.
    pub name: String,
    /// Its part of the work while other lanes have work too; the largest that a replica reports.
    pub weight: u32,
    /// No replica's settings name it.
    pub is_removed: bool,
    /// Tickets and submissions held.
    pub in_flight: usize,
    /// Jobs that nobody has taken; `None` while unknown.
    pub ready: Option<u64>,
}

/// The lanes by name.
pub(super) fn lanes(heartbeats: &[&Heartbeat], queues: Option<&Depths>) -> Vec<LaneRow> {
    let mut rows: BTreeMap<&Lane, LaneRow> = BTreeMap::new();
    for (lane, figures) in heartbeats.iter().flat_map(|replica| &replica.vitals.lanes) {
        let queue = if lane.is_default() { "jobs".to_owned() } else { format!("jobs.{lane}") };
        let row = rows.entry(lane).or_insert_with(|| LaneRow {
            name: lane.to_string(),
            weight: 0,
            is_removed: true,
            in_flight: 0,
            ready: queues.and_then(|queues| queues.ready.get(&queue)).copied(),
        });
        row.weight = row.weight.max(figures.weight);
        row.is_removed &= figures.is_removed;
        row.in_flight = row.in_flight.saturating_add(figures.in_flight);
    }
    rows.into_values().take(MAX_REMEMBERED + 1).collect()
}

/// The types with the most work first.
pub(super) fn types(heartbeats: &[&Heartbeat], shut: &[String]) -> Vec<TypeRow> {
    let mut counted: BTreeMap<String, TypeFigures> = BTreeMap::new();
    for detail in heartbeats.iter().filter_map(|replica| replica.vitals.detail.as_ref()) {
        for (name, figures) in detail.types.iter().take(MAX_TYPES_OF_ONE) {
            counted.entry(type_shown(name)).or_default().add(figures);
        }
    }
    let shut = self::shut(shut);
    for name in &shut {
        counted.entry(name.clone()).or_default();
    }
    let row = |(name, figures): (String, TypeFigures)| {
        let shut = shut.contains(&name);
        TypeRow { name, shut, figures }
    };
    let mut rows: Vec<TypeRow> = counted.into_iter().map(row).collect();
    rows.sort_by_key(|row| {
        let work = (row.figures.accepted, row.figures.in_flight, row.figures.failed);
        (row.name == OTHER_TYPES, Reverse(work))
    });
    rows.truncate(MAX_TYPES);
    rows
}

/// The types whose circuit breaker is open, as they are shown.
pub(super) fn shut(shut: &[String]) -> Vec<String> {
    shut.iter().take(MAX_TYPES).map(|name| type_shown(name)).collect()
}

/// All replicas' counts of each publisher together, the most jobs of the hour first.
pub(super) fn publishers(heartbeats: &[&Heartbeat]) -> Vec<PublisherFigures> {
    let mut counted: BTreeMap<String, PublisherFigures> = BTreeMap::new();
    for detail in heartbeats.iter().filter_map(|replica| replica.vitals.detail.as_ref()) {
        for figures in detail.publishers.iter().take(MAX_REPORTED) {
            let name = shown(&figures.name, MAX_NAME);
            let sum = counted.entry(name.clone()).or_default();
            sum.name = name;
            sum.minute = sum.minute.saturating_add(figures.minute);
            sum.hour = sum.hour.saturating_add(figures.hour);
            sum.delayed = sum.delayed.saturating_add(figures.delayed);
        }
    }
    let mut rows: Vec<_> = counted.into_values().collect();
    rows.sort_by_key(|row| Reverse((row.hour, row.delayed)));
    rows.truncate(MAX_REPORTED);
    rows
}

/// The latest of all replicas' latest.
pub(super) fn failures(heartbeats: &[&Heartbeat]) -> Vec<FailureRow> {
    let mut rows = Vec::new();
    for replica in heartbeats {
        let Some(detail) = &replica.vitals.detail else { continue };
        for failure in detail.failures.iter().take(MAX_FAILURES) {
            let FailedJob { at, id, class, code, task_type, reason } = failure;
            let failure = FailedJob::new(*at, id, &shown(class, 20), code, task_type.as_deref())
                .because(reason.as_deref());
            rows.push(FailureRow { replica: shown(&replica.name, NAME), failure });
        }
    }
    rows.sort_by_key(|row| Reverse(row.failure.at));
    rows.truncate(MAX_SHOWN);
    rows
}
