//! The solve times that are tried, and what can be computed from them without a worker.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::scene::Ended;

/// The API lets a task be polled once in so many ms.
const SPACING: usize = 2_000;
/// No task takes longer, in ms: it would be beyond its type's time-out.
const SLOWEST: f64 = 55_000.0;
/// The resolution of hindsight, in ms.
const STEP: usize = 50;
/// What one poll less is worth to hindsight, in seconds of waiting, as in the learned schedule.
const POLL_PRICE: f64 = 0.03;

pub(crate) struct Distribution {
    pub(crate) name: &'static str,
    /// One time in seconds; the second argument is how far the run is, from 0 to 1.
    draw: fn(&mut StdRng, f64) -> f64,
    /// First delay and time-out of our table, in seconds.
    pub(crate) table: (u64, u64),
    /// First delay and interval of the official client, in ms.
    pub(crate) official: (usize, usize),
    pub(crate) arrival: Arrival,
}

/// When jobs come.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arrival {
    /// One every 50 ms.
    Evenly,
    /// So many at once each minute.
    Batches(usize),
}

const SITE: ((u64, u64), (usize, usize)) = ((3, 180), (1_000, 3_000));

const fn site(name: &'static str, draw: fn(&mut StdRng, f64) -> f64) -> Distribution {
    Distribution { name, draw, table: SITE.0, official: SITE.1, arrival: Arrival::Evenly }
}

pub(crate) const DISTRIBUTIONS: &[Distribution] = &[
    Distribution {
        name: "images: log-normal, median 0.5 s, p99 2.5 s",
        draw: |rng, _| lognormal(rng, 0.5, 2.5),
        table: (1, 60),
        official: (350, 200),
        arrival: Arrival::Evenly,
    },
    site("log-normal, 2 and 6 s", |rng, _| lognormal(rng, 2.0, 6.0)),
    site("log-normal, 8 and 40 s", |rng, _| lognormal(rng, 8.0, 40.0)),
    site("peaked, 8 and 10 s", |rng, _| lognormal(rng, 8.0, 10.0)),
    site("peaked, 20 and 21 s", |rng, _| lognormal(rng, 20.0, 21.0)),
    site("two humps, at 4 and 15 s", two_humps),
    site("heavy tail: Pareto from 3 s, index 1.5", |rng, _| {
        3.0 * (1.0 - rng.random::<f64>()).powf(-1.0 / 1.5)
    }),
    site("12 s, half-way 5 s", |rng, run| match run {
        run if run < 0.5 => lognormal(rng, 12.0, 20.0),
        _ => lognormal(rng, 5.0, 8.0),
    }),
    site("6 s, evenly up to 12 s", |rng, run| {
        let median = 6.0 + 6.0 * run;
        lognormal(rng, median, 1.5 * median)
    }),
    Distribution {
        arrival: Arrival::Batches(250),
        ..site("log-normal, 8 and 40 s, 250 at once each minute", |rng, _| lognormal(rng, 8.0, 40.0))
    },
    Distribution { arrival: Arrival::Batches(50), ..site("two humps, 50 at once each minute", two_humps) },
];

fn two_humps(rng: &mut StdRng, _: f64) -> f64 {
    if rng.random::<f64>() < 0.6 { lognormal(rng, 4.0, 6.0) } else { lognormal(rng, 15.0, 20.0) }
}

fn lognormal(rng: &mut StdRng, median: f64, p99: f64) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
    median * ((p99 / median).ln() / 2.326 * normal).exp()
}

impl Distribution {
    /// So many times, in ms.
    pub(crate) fn draw(&self, count: usize, seed: u64) -> Vec<u32> {
        let mut rng = StdRng::seed_from_u64(seed);
        (0..count)
            .map(|n| (1_000.0 * (self.draw)(&mut rng, n as f64 / count as f64)).clamp(50.0, SLOWEST) as u32)
            .collect()
    }
}

/// Solve times in ms, the shortest first.
pub(crate) struct Times(Vec<usize>);

impl Times {
    pub(crate) fn new(solve_ms: &[u32]) -> Self {
        let mut times: Vec<usize> = solve_ms.iter().map(|ms| *ms as usize).collect();
        times.sort_unstable();
        Self(times)
    }

    /// Polls after a delay, and then at an even interval.
    pub(crate) fn polled_at(&self, (first, interval): (usize, usize)) -> Vec<Ended> {
        self.polled(std::iter::successors(Some(first), |at| Some(at + interval)))
    }

    fn polled(&self, polls: impl Iterator<Item = usize> + Clone) -> Vec<Ended> {
        let end = |time: &usize| {
            let before = polls.clone().take_while(|at| at < time).count();
            let at = polls.clone().nth(before).expect("polls go on for longer than any task");
            Ended { wait: (at - time) as f64 / 1_000.0, polls: before as f64 + 1.0 }
        };
        self.0.iter().map(end).collect()
    }

    /// The schedule with the least sum of the waits and of the polls' price, found from its end
    /// back: for each moment of a last poll, the best next one.
    pub(crate) fn hindsight(&self) -> Vec<Ended> {
        let last = SLOWEST as usize / STEP;
        let ready: Vec<usize> =
            (0..=last).map(|step| self.0.partition_point(|time| *time <= step * STEP)).collect();
        let mut sums = vec![0.0];
        self.0.iter().for_each(|time| sums.push(sums[sums.len() - 1] + *time as f64));
        let wait = |from: usize, to: usize| {
            let polled = ready[to] - ready[from];
            (polled as f64 * (to * STEP) as f64 - (sums[ready[to]] - sums[ready[from]])) / 1_000.0
        };
        let mut best = vec![(0.0, last); last + 1];
        for from in (0..last).rev() {
            let open = self.0.len() - ready[from];
            let earliest = if from == 0 { 1 } else { from + SPACING / STEP };
            let cost = |to: usize| wait(from, to) + POLL_PRICE * open as f64 + best[to].0;
            let least = (earliest.min(last)..=last).map(|to| (cost(to), to));
            best[from] = least.min_by(|one, other| one.0.total_cmp(&other.0)).expect("the last is one");
        }
        let next = |from: &usize| (*from < last).then(|| best[*from].1);
        let polls: Vec<usize> = std::iter::successors(next(&0), next).map(|step| step * STEP).collect();
        self.polled(polls.into_iter())
    }
}
