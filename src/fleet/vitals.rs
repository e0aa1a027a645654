//! What replicas report of their work for those who look at the fleet. Nothing here decides about
//! anything.
//!
//! Ids, types and codes are foreign text: they are made fit to be shown, and short, before they are
//! reported. No description, and no field of a task, is among them: those could hold a secret.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::callbacks::CallbackStatus;
use crate::domain::lane::Lane;
use crate::domain::learned_polls::LearnedPolls;
use crate::domain::publishers::PublisherFigures;
use crate::domain::sanitize::shown;
use crate::domain::time::Timestamp;

/// Types that a replica reports one by one; the others are reported together.
const MAX_TYPES: usize = 8;
/// Failures that a replica reports.
pub const MAX_FAILURES: usize = 10;
/// Stands for all types that are not reported one by one.
pub const OTHER_TYPES: &str = "(others)";
/// Characters of an id, of a type and of a code.
const ID: usize = 32;
const TYPE: usize = 40;
const CODE: usize = 40;
/// Longest reason of a failure, in characters.
const REASON: usize = 60;

/// A worker's figures.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Vitals {
    /// Whether it takes jobs, as far as the account is concerned and its own leaving.
    pub ready: bool,
    /// Tickets and submissions held.
    pub in_flight: usize,
    /// Calls that may be under way at once.
    pub window: usize,
    /// The same by task type, where it was narrowed.
    #[serde(default)]
    pub types: BTreeMap<String, usize>,
    /// The lanes that it takes jobs from; replicas of earlier versions report none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lanes: BTreeMap<Lane, LaneFigures>,
    /// Calls of the API since it runs.
    pub calls: u64,
    /// Accepted, and so paid, submissions since it runs.
    pub accepted: u64,
    /// Solved jobs since it runs.
    pub solved: u64,
    /// Failed jobs since it runs.
    pub failed: u64,
    /// Answers to polls since it runs.
    #[serde(default)]
    pub answered: u64,
    /// Those of them about task ids that the API did not know.
    #[serde(default)]
    pub wrong_ids: u64,
    /// How the API's callbacks stand; absent where it asks for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callbacks: Option<CallbackStatus>,
    /// What else it reports; replicas of earlier versions report none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Detail>,
}

/// A worker's figures by class and type, and what failed last.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// Failed jobs since it runs, by class.
    pub failed: BTreeMap<String, u64>,
    /// Work by task type.
    pub types: BTreeMap<String, TypeFigures>,
    /// The jobs that failed last, the latest first.
    pub failures: Vec<FailedJob>,
    /// The publishers with the most jobs.
    pub publishers: Vec<PublisherFigures>,
}

/// A worker's figures of one lane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LaneFigures {
    /// Its part of the work while other lanes have work too.
    pub weight: u32,
    /// No settings of this replica name it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_removed: bool,
    /// Tickets and submissions held.
    pub in_flight: usize,
    /// Jobs that have come by it since the replica runs. Not reported to others, as the two below.
    #[serde(skip)]
    pub taken: u64,
    /// Outcomes with a solution.
    #[serde(skip)]
    pub solved: u64,
    /// Outcomes without one.
    #[serde(skip)]
    pub failed: u64,
}

/// A worker's figures of one task type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TypeFigures {
    /// Tickets and submissions held.
    pub in_flight: usize,
    /// Submissions that may be under way at once.
    pub window: usize,
    /// Accepted, and so paid, submissions since it runs.
    pub accepted: u64,
    /// Answers since it runs.
    pub solved: u64,
    /// Failed jobs since it runs.
    pub failed: u64,
    /// What its polls are placed by, once enough answers are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedFigures>,
}

/// What was learned of one task type. Ages are since createTask, all in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LearnedFigures {
    /// Half of the tasks are ready by this age.
    pub median_ms: u64,
    /// 95 of 100 tasks are ready by this age.
    pub p95_ms: u64,
    /// The ages at the first polls.
    pub polls_ms: [u64; 3],
    /// How long a ready answer is expected to wait for its poll.
    pub mean_wait_ms: u64,
}

/// A job that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedJob {
    /// When.
    pub at: Timestamp,
    /// The job's id, shortened.
    pub id: String,
    /// The class.
    pub class: String,
    /// The code.
    pub code: String,
    /// The task type; `None` of what was no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_type: Option<String>,
    /// Why, shortened; `None` where only the outcome says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How many messages are ready in the queues of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depths {
    /// When it was looked.
    pub at: Timestamp,
    /// By the queues' names without the namespace.
    pub ready: BTreeMap<String, u64>,
    /// Queues that do not exist, by such names; leaders of earlier versions report none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub missing: BTreeSet<String>,
}

impl Vitals {
    /// The same, short enough to be said to all every other second, whatever publishers write.
    pub(super) fn bounded(mut self) -> Self {
        self.types =
            self.types.iter().take(MAX_TYPES).map(|(name, size)| (type_shown(name), *size)).collect();
        self
    }
}

impl Detail {
    /// The types with the most to report one by one, and the others together.
    #[must_use]
    pub fn fold(all: BTreeMap<String, TypeFigures>) -> BTreeMap<String, TypeFigures> {
        let mut ranked: Vec<_> = all.into_iter().collect();
        ranked.sort_by_key(|(_, figures)| {
            std::cmp::Reverse((figures.in_flight, figures.accepted, figures.failed))
        });
        let mut folded: BTreeMap<String, TypeFigures> = BTreeMap::new();
        for (place, (name, figures)) in ranked.into_iter().enumerate() {
            let name = if place < MAX_TYPES { type_shown(&name) } else { OTHER_TYPES.to_owned() };
            folded.entry(name).or_default().add(&figures);
        }
        folded
    }
}

impl From<&LearnedPolls> for LearnedFigures {
    fn from(learned: &LearnedPolls) -> Self {
        let millis = |age: Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let mut polls = learned.ages();
        Self {
            median_ms: millis(learned.median()),
            p95_ms: millis(learned.p95()),
            polls_ms: std::array::from_fn(|_| polls.next().map(millis).unwrap_or_default()),
            mean_wait_ms: millis(learned.mean_wait),
        }
    }
}

impl TypeFigures {
    /// Counts another's figures in.
    pub fn add(&mut self, other: &Self) {
        self.in_flight = self.in_flight.saturating_add(other.in_flight);
        self.window = self.window.saturating_add(other.window);
        self.accepted = self.accepted.saturating_add(other.accepted);
        self.solved = self.solved.saturating_add(other.solved);
        self.failed = self.failed.saturating_add(other.failed);
        // All replicas learn from the same answers.
        self.learned = self.learned.or(other.learned);
    }
}

impl FailedJob {
    /// As it is reported.
    #[must_use]
    pub fn new(at: Timestamp, id: &str, class: &str, code: &str, task_type: Option<&str>) -> Self {
        let task_type = task_type.map(type_shown);
        Self {
            at,
            id: shown(id, ID),
            class: class.to_owned(),
            code: shown(code, CODE),
            task_type,
            reason: None,
        }
    }

    /// The same with its reason. Each character is one byte, in JSON too: a heartbeat has ten.
    #[must_use]
    pub fn because(self, reason: Option<&str>) -> Self {
        let plain = |c: char| if matches!(c, ' '..='~') && !matches!(c, '"' | '\\') { c } else { '?' };
        Self { reason: reason.map(|reason| reason.chars().take(REASON).map(plain).collect()), ..self }
    }
}

/// A task type as it is reported.
#[must_use]
pub fn type_shown(task_type: &str) -> String {
    shown(task_type, TYPE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Properties;
    use crate::domain::publishers::{MAX_REPORTED, publisher};

    fn hostile(number: usize) -> String {
        format!("{number}{}", "\u{1b}\"🦀".repeat(40))
    }

    fn worst() -> Vitals {
        let most = 280_000;
        let learned =
            Some(LearnedFigures { median_ms: most, p95_ms: most, polls_ms: [most; 3], mean_wait_ms: most });
        let figures = TypeFigures {
            accepted: u64::MAX,
            solved: u64::MAX,
            failed: u64::MAX,
            learned,
            ..Default::default()
        };
        let failed = crate::domain::class::Class::finals().map(|class| (class.name().to_owned(), u64::MAX));
        let failure = |number| {
            let (id, task_type) = (hostile(number), hostile(number));
            let job = FailedJob::new(
                Timestamp::from_millis(0),
                &id,
                "malformed",
                &"X".repeat(99),
                Some(&task_type),
            );
            job.because(Some(&hostile(number)))
        };
        let publisher = |number: usize| PublisherFigures {
            name: publisher(&Properties { app_id: Some(hostile(number)), ..Properties::default() }),
            minute: u32::MAX,
            hour: u32::MAX,
            delayed: u32::MAX,
        };
        let detail = Detail {
            failed: failed.collect(),
            types: Detail::fold((0..65).map(|number| (hostile(number), figures)).collect()),
            failures: (0..MAX_FAILURES).map(failure).collect(),
            publishers: (0..MAX_REPORTED).map(publisher).collect(),
        };
        let types = (0..65).map(|number| (hostile(number), 1)).collect();
        Vitals { types, detail: Some(detail), ..Vitals::default() }.bounded()
    }

    #[test]
    fn what_a_replica_says_every_other_second_stays_below_10_kib_whatever_publishers_write() {
        let json = serde_json::to_string(&worst()).unwrap();
        assert!(json.len() < 10 * 1024, "{}", json.len());
        assert!(!json.contains("\\u001b"), "{json}");
    }

    #[test]
    fn types_beyond_the_bound_are_reported_together_and_none_is_lost() {
        let of = |number: u64| TypeFigures { in_flight: 1, accepted: number, ..Default::default() };
        let folded = Detail::fold((0..20).map(|number| (format!("Type{number:02}"), of(number))).collect());
        assert_eq!(folded.len(), MAX_TYPES + 1);
        assert_eq!((folded["Type19"].accepted, folded[OTHER_TYPES].in_flight), (19, 12));
        assert_eq!(folded.values().map(|figures| figures.accepted).sum::<u64>(), 190);
    }

    #[test]
    fn a_replica_of_an_earlier_version_is_understood_and_understands_this_one() {
        #[derive(Deserialize)]
        struct Before {
            solved: u64,
        }
        let earlier = r#"{"ready":true,"in_flight":1,"window":2,"types":{},"calls":3,"accepted":4,"solved":5,"failed":6}"#;
        let read: Vitals = serde_json::from_str(earlier).unwrap();
        assert_eq!((read.solved, read.detail), (5, None));
        let json = serde_json::to_string(&Vitals { solved: 7, ..worst() }).unwrap();
        assert_eq!(serde_json::from_str::<Before>(&json).unwrap().solved, 7);
        // What a later version might leave out, or add.
        let later: Detail = serde_json::from_str(r#"{"failed":{"proxy":1},"new":[]}"#).unwrap();
        assert_eq!(later.failed["proxy"], 1);
    }
}
