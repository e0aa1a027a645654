//! The scenes: which candidates do what, and how often.

use std::time::Duration;

use crate::candidate::Candidate;
use crate::load::Load;

/// What every candidate but Celery is offered.
const PER_SECOND: u32 = 500;
/// One job in so many is given to those who are far from deciding anything: what one costs does not
/// hang on their number.
const FOREIGN_SHARE: usize = 4;
/// What two cores can carry of Celery, with room to spare.
const CELERY_PER_SECOND: u32 = 100;
const CELERY_SHARE: usize = 10;
const LARGE_JOBS: usize = 2_000;
const LARGE_BYTES: usize = 50_000;
const LARGE_PER_SECOND: u32 = 100;
/// All jobs of `deep` are in flight at once. A poll every 2 s of each would be 25,000 calls a
/// second, more than simulator and broker leave room for on two cores; so they are asked for every
/// 20 s, three times.
const DEEP_SOLVE: Duration = Duration::from_secs(60);
const DEEP_POLL: Duration = Duration::from_secs(20);
/// What `worker.max_in_flight` can be at most.
const MOST_IN_FLIGHT: usize = 60_000;
/// Replicas of `replicas`, and what each of them may hold.
const REPLICAS: [usize; 3] = [1, 2, 4];
const REPLICA_IN_FLIGHT: u32 = 100;
const REPLICA_SOLVE: Duration = Duration::from_millis(2_500);
/// Few, so that none still holds jobs which the others could have begun.
const REPLICA_SUBMISSIONS: u32 = 16;
const START_JOBS: usize = 200;
/// Who plays where the others have nothing to report.
const OURS_AND_MEASURE: [Candidate; 2] = [Candidate::Ticket, Candidate::Ours];

/// With fewer, the smallest load of `growth` would be none.
pub(crate) const FEWEST_JOBS: usize = 200;

/// How many jobs and rounds were asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) jobs: usize,
    pub(crate) rounds: usize,
}

/// A row of runs that are shown in one table.
pub(crate) struct Scene {
    pub(crate) name: &'static str,
    pub(crate) shows: &'static str,
    /// One of so many rounds is played: scenes that take minutes would take hours.
    one_round_in: usize,
    cases: fn(usize) -> Vec<Case>,
}

/// One column of the table.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) label: String,
    pub(crate) candidate: Candidate,
    pub(crate) task: Task,
}

/// What is done in it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Task {
    /// All jobs, to their results.
    Work(Load),
    /// A start on waiting jobs with the account's state unknown, and one with it known.
    Start(Load),
}

/// All of them, in the order in which they run.
pub(crate) const SCENES: [Scene; 8] = [
    Scene {
        name: "steady",
        shows: "jobs offered at 500 a second (Node and Python: a quarter of them; Celery: a tenth, at 100 a second)",
        one_round_in: 1,
        cases: steady,
    },
    Scene {
        name: "fast",
        shows: "all jobs queued before, and worked off as fast as it goes",
        one_round_in: 1,
        cases: fast,
    },
    Scene {
        name: "large",
        shows: "images of 50,000 bytes, the API's largest: 2,000 jobs at 100 a second",
        one_round_in: 3,
        cases: large,
    },
    Scene {
        name: "deep",
        shows: "50,000 in flight, answered after 60 s and asked for every 20 s",
        one_round_in: 7,
        cases: deep,
    },
    Scene {
        name: "growth",
        shows: "ours alone, as the queue grows and as more is in flight at one rate",
        one_round_in: 3,
        cases: growth,
    },
    Scene {
        name: "replicas",
        shows: "ours alone, bound by the answer time: 100 in flight a replica, answered after 2.5 s",
        one_round_in: 3,
        cases: replicas,
    },
    Scene {
        name: "lanes",
        shows: "ours alone: all jobs queued in one lane, and spread over three of weights 1, 2 and 3",
        one_round_in: 1,
        cases: lanes,
    },
    Scene {
        name: "start",
        shows: "from the broker's handshake to the first job, where jobs wait",
        one_round_in: 1,
        cases: start,
    },
];

impl Scene {
    pub(crate) fn rounds(&self, terms: &Terms) -> usize {
        terms.rounds.div_ceil(self.one_round_in)
    }

    /// Its cases among these candidates.
    pub(crate) fn cases(&self, terms: &Terms, candidates: &[Candidate]) -> Vec<Case> {
        let mut cases = (self.cases)(terms.jobs);
        cases.retain(|case| candidates.contains(&case.candidate));
        cases
    }
}

impl Case {
    /// A candidate by its own name.
    fn of(candidate: Candidate, load: Load) -> Self {
        Self { label: candidate.name().to_owned(), candidate, task: Task::Work(load) }
    }

    /// Ours, compared with itself.
    fn of_ours(label: String, load: Load) -> Self {
        Self { label, candidate: Candidate::Ours, task: Task::Work(load) }
    }
}

fn steady(jobs: usize) -> Vec<Case> {
    let load = |candidate| match candidate {
        Candidate::Celery => Load::of(jobs.div_ceil(CELERY_SHARE)).offered(CELERY_PER_SECOND),
        Candidate::Node | Candidate::Python => Load::of(jobs.div_ceil(FOREIGN_SHARE)).offered(PER_SECOND),
        _ => Load::of(jobs).offered(PER_SECOND),
    };
    Candidate::ALL.into_iter().map(|candidate| Case::of(candidate, load(candidate))).collect()
}

fn fast(jobs: usize) -> Vec<Case> {
    let takers = Candidate::ALL.into_iter().filter(|candidate| *candidate != Candidate::Celery);
    takers.map(|candidate| Case::of(candidate, Load::of(jobs))).collect()
}

fn large(jobs: usize) -> Vec<Case> {
    let load = Load { image_bytes: LARGE_BYTES, ..Load::of(jobs.min(LARGE_JOBS)).offered(LARGE_PER_SECOND) };
    OURS_AND_MEASURE.into_iter().map(|candidate| Case::of(candidate, load)).collect()
}

fn deep(jobs: usize) -> Vec<Case> {
    let jobs = (jobs * 5 / 2).min(MOST_IN_FLIGHT);
    let load = Load {
        in_flight: jobs as u32,
        solve: DEEP_SOLVE,
        first_poll: DEEP_POLL,
        next_poll: DEEP_POLL,
        ..Load::of(jobs)
    };
    OURS_AND_MEASURE.into_iter().map(|candidate| Case::of(candidate, load)).collect()
}

fn growth(jobs: usize) -> Vec<Case> {
    growth_of_queue(jobs).into_iter().chain(growth_in_flight(jobs)).collect()
}

/// 1,000, 10,000 and 100,000 jobs queued, of the default number of jobs.
pub(crate) fn growth_of_queue(jobs: usize) -> [Case; 3] {
    [jobs / 20, jobs / 2, jobs * 5].map(|queued| Case::of_ours(format!("{queued} queued"), Load::of(queued)))
}

/// 100, 2,000 and 20,000 in flight, of the default number of jobs; held by the span from acceptance
/// to the first poll.
pub(crate) fn growth_in_flight(jobs: usize) -> [Case; 3] {
    [jobs / 200, jobs / 10, jobs].map(|in_flight| {
        let load = Load {
            in_flight: 2 * in_flight as u32,
            first_poll: Duration::from_secs(in_flight as u64) / PER_SECOND,
            ..Load::of(in_flight.max(jobs / 2)).offered(PER_SECOND)
        };
        Case::of_ours(format!("{in_flight} in flight"), load)
    })
}

fn replicas(jobs: usize) -> Vec<Case> {
    let load = |replicas| Load {
        in_flight: REPLICA_IN_FLIGHT,
        submissions: REPLICA_SUBMISSIONS,
        replicas,
        solve: REPLICA_SOLVE,
        ..Load::of(jobs / 20 * replicas)
    };
    REPLICAS.into_iter().map(|replicas| Case::of_ours(replicas_label(replicas), load(replicas))).collect()
}

/// A case of `replicas` by their number.
pub(crate) fn replicas_label(replicas: usize) -> String {
    format!("{replicas} replica{}", if replicas == 1 { "" } else { "s" })
}

pub(crate) const ONE_LANE: &str = "1 lane";
pub(crate) const THREE_LANES: &str = "3 lanes";

fn lanes(jobs: usize) -> Vec<Case> {
    let three = Load { further_lanes: &["second", "third"], ..Load::of(jobs) };
    vec![Case::of_ours(ONE_LANE.to_owned(), Load::of(jobs)), Case::of_ours(THREE_LANES.to_owned(), three)]
}

fn start(jobs: usize) -> Vec<Case> {
    let task = Task::Start(Load::of(jobs.min(START_JOBS)));
    vec![Case { label: Candidate::Ours.name().to_owned(), candidate: Candidate::Ours, task }]
}
