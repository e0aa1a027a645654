//! What a replica has done so far, in plain counters.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::super::limits::by_type::ByType;
use super::failures::Failures;
use super::histograms::{Durations, Histograms};
use crate::domain::api_code::Code;
use crate::domain::class::Class;
use crate::domain::lifecycle::DoublePaymentRisk;
use crate::domain::local_code;
use crate::domain::money::{Cost, Decimal};

/// Stands for every code that this version does not know: an API could make up any number of them.
const OTHER_CODE: &str = "(other)";

/// Counters since the start. Each only grows.
#[derive(Debug, Default)]
pub struct Counters {
    jobs_taken: AtomicU64,
    tickets_taken: AtomicU64,
    submissions: AtomicU64,
    accepted: AtomicU64,
    polls: AtomicU64,
    solved: AtomicU64,
    retried: AtomicU64,
    delayed: AtomicU64,
    failed: [AtomicU64; Class::ALL.len()],
    wasted: [AtomicU64; Class::ALL.len()],
    ambiguous: AtomicU64,
    resubmitted: AtomicU64,
    stale_jobs: AtomicU64,
    stale_retried: AtomicU64,
    stale_tickets: AtomicU64,
    stale_outcomes: AtomicU64,
    recognised: AtomicU64,
    reply_failures: AtomicU64,
    sessions_lost: AtomicU64,
    codes: Mutex<BTreeMap<(Class, &'static str), u64>>,
    by_type: ByType<Spent>,
    pub(crate) failures: Failures,
    pub(crate) times: Histograms,
}

/// What a task type has cost.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Spent {
    /// Submissions that the API accepted.
    pub accepted: u64,
    /// What those that have ended cost, in the account's currency, by lane and whether that is
    /// estimated.
    #[serde(skip)]
    pub costs: BTreeMap<(String, bool), Decimal>,
}

impl Spent {
    /// The sum.
    #[must_use]
    pub fn cost(&self) -> Decimal {
        self.costs.values().sum()
    }
}

/// A delivery whose channel was gone when it was to be settled: the broker delivers it again,
/// beside its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StaleDelivery {
    /// (c): a job whose ticket is confirmed.
    Job,
    /// (d): a job whose retried copy is, or may be, stored.
    Retried,
    /// (e): a ticket whose successor is confirmed.
    Ticket,
    /// An outcome that is repeated, or fetched again; nothing is paid for that.
    Outcome,
}

/// A reading of the counters.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Reading {
    /// Deliveries off the job queue.
    pub jobs_taken: u64,
    /// Deliveries off the ticket queue.
    pub tickets_taken: u64,
    /// Calls of createTask.
    pub submissions: u64,
    /// Submissions that the API accepted, and so was paid for.
    pub accepted: u64,
    /// Calls of getTaskResult.
    pub polls: u64,
    /// Outcomes published with a solution.
    pub solved: u64,
    /// Outcomes published without one.
    pub failed: u64,
    /// The same by class.
    pub failed_by_class: BTreeMap<&'static str, u64>,
    /// Jobs retried in a retry queue.
    pub retried: u64,
    /// How often a job was delayed because its publisher was over the limit.
    pub delayed: u64,
    /// Paid submissions that brought no solution, by the class they ended in.
    pub wasted: BTreeMap<&'static str, u64>,
    /// Submissions that may have been paid for a second time, by the window's letter: (a) not
    /// answered, (c) to (e) not acked in time, (g) repeated by rule. Of (b) and (f) no worker
    /// learns.
    pub paid_twice_possible: BTreeMap<&'static str, u64>,
    /// Outcomes whose delivery was gone when they were published: repeated, or asked for again.
    pub stale_outcomes: u64,
    /// Deliveries that were known again: handled already, and not handled twice.
    pub recognised: u64,
    /// Copies of outcomes that could not be sent to `reply_to`.
    pub reply_failures: u64,
    /// Sessions with the broker that were lost.
    pub sessions_lost: u64,
    /// Outcomes published without a solution, by class and code; codes that are not known together.
    pub failed_by_code: Vec<FailedByCode>,
    /// How long things took.
    pub times: Durations,
    /// Payments by task type.
    pub spent: BTreeMap<String, Spent>,
}

/// How often jobs ended in a class by a code.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FailedByCode {
    /// The class.
    pub class: &'static str,
    /// The code.
    pub code: &'static str,
    /// How often.
    pub count: u64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The counters by class that are not 0.
fn by_class(counters: &[AtomicU64; Class::ALL.len()]) -> BTreeMap<&'static str, u64> {
    let named = Class::ALL.iter().map(|class| (class.name(), read(&counters[*class as usize])));
    named.filter(|(_, count)| *count > 0).collect()
}

impl Counters {
    pub(crate) fn job_taken(&self) {
        add(&self.jobs_taken);
    }

    pub(crate) fn ticket_taken(&self) {
        add(&self.tickets_taken);
    }

    pub(crate) fn submitted(&self) {
        add(&self.submissions);
    }

    pub(crate) fn accepted(&self, task_type: &str) {
        add(&self.accepted);
        self.spend(task_type, |spent| spent.accepted += 1);
    }

    /// A submission has ended, and cost so much as far as that is known.
    pub(crate) fn cost(&self, (lane, task_type): (&str, &str), cost: Option<Cost>) {
        let Some(Cost { amount, estimated }) = cost else { return };
        self.spend(task_type, |spent| {
            *spent.costs.entry((lane.to_owned(), estimated)).or_default() += amount;
        });
    }

    fn spend(&self, task_type: &str, note: impl FnOnce(&mut Spent)) {
        self.by_type.with(task_type, |_| Spent::default(), note);
    }

    /// A poll begins, this long after it was due.
    pub(crate) fn polled(&self, late: Duration) {
        add(&self.polls);
        self.times.poll_lateness.note(late);
    }

    pub(crate) fn solved(&self) {
        add(&self.solved);
    }

    pub(crate) fn retried(&self) {
        add(&self.retried);
    }

    pub(crate) fn delayed(&self) {
        add(&self.delayed);
    }

    pub(crate) fn failed(&self, class: Class, code: &str) {
        add(&self.failed[class as usize]);
        let known = Code::parse(code).map(Code::name).or_else(|| local_code::known(code));
        let mut codes = self.codes.lock();
        *codes.entry((class, known.unwrap_or(OTHER_CODE))).or_default() += 1;
    }

    /// A session with the broker has ended unasked.
    pub(crate) fn session_lost(&self) {
        add(&self.sessions_lost);
    }

    pub(crate) fn wasted(&self, class: Class) {
        add(&self.wasted[class as usize]);
    }

    pub(crate) fn window(&self, window: DoublePaymentRisk) {
        add(match window {
            DoublePaymentRisk::AmbiguousSubmission => &self.ambiguous,
            DoublePaymentRisk::Resubmission => &self.resubmitted,
        });
    }

    pub(crate) fn stale(&self, what: StaleDelivery) {
        add(match what {
            StaleDelivery::Job => &self.stale_jobs,
            StaleDelivery::Retried => &self.stale_retried,
            StaleDelivery::Ticket => &self.stale_tickets,
            StaleDelivery::Outcome => &self.stale_outcomes,
        });
    }

    pub(crate) fn recognised(&self) {
        add(&self.recognised);
    }

    pub(crate) fn reply_failed(&self) {
        add(&self.reply_failures);
    }

    /// All counters now.
    #[must_use]
    pub fn read(&self) -> Reading {
        let windows = [
            ("a", &self.ambiguous),
            ("c", &self.stale_jobs),
            ("d", &self.stale_retried),
            ("e", &self.stale_tickets),
            ("g", &self.resubmitted),
        ];
        Reading {
            jobs_taken: read(&self.jobs_taken),
            tickets_taken: read(&self.tickets_taken),
            submissions: read(&self.submissions),
            accepted: read(&self.accepted),
            polls: read(&self.polls),
            solved: read(&self.solved),
            failed: self.failed.iter().map(read).sum(),
            failed_by_class: by_class(&self.failed),
            retried: read(&self.retried),
            delayed: read(&self.delayed),
            wasted: by_class(&self.wasted),
            paid_twice_possible: windows.map(|(letter, counter)| (letter, read(counter))).into(),
            stale_outcomes: read(&self.stale_outcomes),
            recognised: read(&self.recognised),
            reply_failures: read(&self.reply_failures),
            sessions_lost: read(&self.sessions_lost),
            failed_by_code: self.failed_by_code(),
            times: self.times.read(),
            spent: self.by_type.read(Spent::clone),
        }
    }

    fn failed_by_code(&self) -> Vec<FailedByCode> {
        let codes = self.codes.lock();
        let named = codes.iter();
        named
            .map(|((class, code), count)| FailedByCode { class: class.name(), code, count: *count })
            .collect()
    }
}
