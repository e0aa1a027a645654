//! One seed, one history: the whole worker, its fleet and its guard, against a broker and an API on
//! which everything goes wrong that can, on paused time; and the promises, judged at each step and
//! at the end.

mod account;
mod answers;
mod api;
mod callbacks;
mod chronicle;
mod fault;
mod harness;
mod judge;
mod lanes;
mod ledger;
mod money;
mod plan;
mod publishers;
mod reasons;
mod records;
mod said;
mod steps;
mod strike;
pub(crate) mod sweep;
mod weather;
mod witness;
mod world;

use captcha_worker::failpoint::Failpoint;
use chronicle::Chronicle;
use harness::Harness;
use judge::judge;
use plan::Plan;
use steps::Snares;
use world::World;

/// What has come of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Broken promises; none in a good one.
    pub(crate) broken: Vec<String>,
    /// What was counted.
    pub(crate) counts: Counts,
    /// What happened, where it was wanted.
    pub(crate) chronicle: String,
}

/// What was counted, over one history or many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) jobs: u64,
    /// Those with nothing against them, and of these the ones that were not solved for a reason
    /// that the rules know.
    pub(crate) innocent: u64,
    pub(crate) innocent_dead: u64,
    pub(crate) outcomes: u64,
    /// Outcomes beyond the first of each job.
    pub(crate) repeated: u64,
    /// Jobs with outcomes that differ: two copies of one, each with an end of its own.
    pub(crate) differing: u64,
    pub(crate) payments: u64,
    /// Payments beyond the first of each job, without resubmissions by rule.
    pub(crate) paid_again: u64,
    /// Copies of jobs that windows have made.
    pub(crate) copies: u64,
    pub(crate) ambiguous: u64,
    pub(crate) resubmissions: u64,
    pub(crate) polls: u64,
    pub(crate) bans: u64,
    /// Wrong ids within a minute in which they were most of what came back, at most.
    pub(crate) wrong_ids: u64,
    pub(crate) simulated_seconds: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.jobs += other.jobs;
        self.innocent += other.innocent;
        self.innocent_dead += other.innocent_dead;
        self.outcomes += other.outcomes;
        self.repeated += other.repeated;
        self.differing += other.differing;
        self.payments += other.payments;
        self.paid_again += other.paid_again;
        self.copies += other.copies;
        self.ambiguous += other.ambiguous;
        self.resubmissions += other.resubmissions;
        self.polls += other.polls;
        self.bans += other.bans;
        self.wrong_ids = self.wrong_ids.max(other.wrong_ids);
        self.simulated_seconds += other.simulated_seconds;
    }
}

/// The same with a deliberate fault in the worker.
pub(crate) fn play_broken(seed: u64, in_words: bool, failpoint: Option<Failpoint>) -> Verdict {
    put_in_force(failpoint);
    let verdict = play(seed, in_words);
    put_in_force(None);
    verdict
}

#[cfg(feature = "failpoints")]
fn put_in_force(failpoint: Option<Failpoint>) {
    Failpoint::put_in_force(failpoint);
}

#[cfg(not(feature = "failpoints"))]
fn put_in_force(failpoint: Option<Failpoint>) {
    assert!(failpoint.is_none(), "built without the feature `failpoints`");
}

/// Plays the history of a seed; with `in_words`, in words too.
pub(crate) fn play(seed: u64, in_words: bool) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O").block_on(async {
        let plan = Plan::of(seed);
        let chronicle = Chronicle::new(in_words);
        let (snares, killed) = Snares::new();
        let world = World::new(&plan, snares, chronicle.clone()).await;
        let mut harness = Harness::new(world, &plan, killed);
        harness.play().await;
        harness.end().await;
        let (broken, counts) = judge(&harness.world, &plan);
        Verdict { broken, counts, chronicle: chronicle.text() }
    })
}
