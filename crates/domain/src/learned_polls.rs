//! When to poll for a kind of task, learned from when its answers were ready.
//!
//! A poll shows only that a task became ready after the poll before and no later than this one. So
//! the times themselves are never seen: their distribution is estimated from such intervals, by
//! expectation maximisation over bins that each are 1 % wider than the one before. From it, dynamic
//! programming finds for each age of a task when the next poll makes the expected wait least.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "bins, steps and milliseconds are whole numbers far below the limits of their types"
)]

use std::time::Duration;

use super::poll_schedule::PollSchedule;

/// Where the bins begin, and how much wider each is than the one before. The last ends past the age
/// at which the API forgets a task.
const FIRST_BIN: f64 = 0.1;
const RATIO: f64 = 1.01;
const BINS: usize = 810;
/// Rounds of expectation maximisation, and after how many of them the bins are smoothed. More
/// rounds fit the noise of a few hundred answers.
const ROUNDS: usize = 80;
const SMOOTH_EVERY: usize = 4;
/// How much wider than the answers the first guess is, so that it rules nothing out.
const WIDER: f64 = 1.3;
/// The width of the last smoothing, as a share of the answers' spread, and at most so many bins.
const BANDWIDTH: f64 = 0.37;
const MAX_BANDWIDTH: f64 = 7.5;
/// The share of tasks that are taken to be slower than any that was seen.
const SLOWER: f64 = 0.003;
/// The plan's resolution, in seconds.
const STEP: f64 = 0.1;
/// What one poll less is worth, in seconds of waiting. Without a price, the plan polls where it
/// gains next to nothing. A higher one makes it wait longer than the spacing where the estimate
/// says that few tasks become ready.
const POLL_PRICE: f64 = 0.03;
/// Where the number of polls is bounded, a poll becomes dearer, up to this: the state machine keeps
/// the bound anyway, and each price costs a plan.
const DEAREST: f64 = 100.0;
/// The first poll is moved by up to this much either way, and by at most this share of its age: so
/// tasks that were accepted together are not polled together, and their answers show more.
const SPREAD: f64 = 0.2;
const SPREAD_SHARE: f64 = 0.15;
/// Each later poll is moved by up to this much.
const LATER_SPREAD: f64 = 0.02;
/// Of the tasks that the first poll finds ready, this share is polled once at any time before,
/// since nothing else would show that the API has become faster.
const EXPLORED: f64 = 0.01;

/// Into how many equal shares the tasks are divided by what is kept of their times.
pub const QUANTILES: usize = 20;

/// When one task became ready, as two polls saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// Its age at the last poll that did not find it ready; zero where there was none.
    pub after: Duration,
    /// Its age at the poll that found it ready.
    pub by: Duration,
}

/// The polls of one kind of task.
#[derive(Debug, Clone, PartialEq)]
pub struct LearnedPolls {
    /// By the age at the last poll, in steps; at which step the next one is best.
    next: Vec<u16>,
    /// The share of tasks that the first poll finds ready.
    first_hits: f64,
    /// Between two polls, at the least.
    spacing: Duration,
    /// Equally many tasks are ready between each two of these ages.
    pub quantiles: [Duration; QUANTILES + 1],
    /// 98 of 100 tasks are ready by this age.
    pub nearly_all: Duration,
    /// How long a ready answer is expected to wait for its poll.
    pub mean_wait: Duration,
}

impl LearnedPolls {
    /// Learns from answers. The settings bound what is planned: the interval from below, the
    /// time-out and the number of polls from above.
    #[must_use]
    pub fn from_answers(answers: impl Iterator<Item = Answer>, bounds: &PollSchedule) -> Self {
        let density = density_of(answers);
        let times = Times::new(&density, bounds.timeout().as_secs_f64());
        let spacing = bounds.interval().as_secs_f64();
        // A dearer poll makes for fewer of them: as dear as it takes to keep within the number.
        let mut price = POLL_PRICE;
        let mut plan = times.plan(spacing, price, SPREAD);
        while plan.most_polls() > bounds.max_polls() && price < DEAREST {
            price *= 4.0;
            plan = times.plan(spacing, price, SPREAD);
        }
        let first_hits = times.ready_by(usize::from(plan.next.first().copied().unwrap_or_default()));
        let quantile = |n| Duration::from_secs_f64(times.quantile(n as f64 / QUANTILES as f64));
        Self {
            quantiles: std::array::from_fn(quantile),
            nearly_all: Duration::from_secs_f64(times.quantile(0.98)),
            mean_wait: Duration::from_secs_f64(plan.wait.max(0.0)),
            next: plan.next,
            spacing: bounds.interval(),
            first_hits,
        }
    }

    /// At which age a task that was not polled yet is polled first. `jitter` in `[0, 1)`.
    #[must_use]
    pub fn first(&self, jitter: f64) -> Duration {
        let Some(planned) = self.after(0.0) else { return Duration::ZERO };
        let explored = EXPLORED * self.first_hits;
        let age = if jitter < explored {
            // If there is room, early enough that the planned poll is not put off by it.
            let spacing = self.spacing.as_secs_f64();
            let until = if planned > 2.0 * spacing { planned - spacing } else { planned };
            until * jitter / explored
        } else {
            planned + spread_of_first(planned, SPREAD) * (2.0 * (jitter - explored) / (1.0 - explored) - 1.0)
        };
        Duration::from_secs_f64(age.max(0.0))
    }

    /// How long after a poll at this age the next one is best; `None` past the ages that are
    /// planned for.
    #[must_use]
    pub fn wait_after(&self, age: Duration, jitter: f64) -> Option<Duration> {
        let age = age.as_secs_f64();
        let next = self.after(age)?;
        Some(Duration::from_secs_f64((next - age).max(0.0) + LATER_SPREAD * jitter).max(self.spacing))
    }

    /// The share of tasks that are ready by this age.
    #[must_use]
    pub fn ready_by(&self, age: Duration) -> f64 {
        let next = self.quantiles.partition_point(|quantile| *quantile <= age);
        if next == 0 || next > QUANTILES {
            return if next == 0 { 0.0 } else { 1.0 };
        }
        let (from, to) = (self.quantiles[next - 1], self.quantiles[next]);
        (next as f64 - 1.0 + (age - from).div_duration_f64(to - from)) / QUANTILES as f64
    }

    /// Half of the tasks are ready by this age.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.quantiles[QUANTILES / 2]
    }

    /// 95 of 100 tasks are ready by this age.
    #[must_use]
    pub fn p95(&self) -> Duration {
        self.quantiles[QUANTILES * 95 / 100]
    }

    /// The ages of the first polls, without jitter.
    pub fn ages(&self) -> impl Iterator<Item = Duration> {
        let next = |age: &f64| self.after(*age).filter(|next| next > age);
        std::iter::successors(self.after(0.0), next).map(Duration::from_secs_f64)
    }

    /// Between the steps, the wait is that of the nearest one.
    fn after(&self, age: f64) -> Option<f64> {
        let step = (age / STEP).round();
        let next = self.next.get(step as usize)?;
        Some(age + (f64::from(*next) - step) * STEP)
    }
}

/// By how much the first poll is moved either way, if it is planned at this age.
fn spread_of_first(planned: f64, spread: f64) -> f64 {
    spread.min(SPREAD_SHARE * planned)
}

/// The end of a bin, which begins at the end of the one before.
fn end_of(bin: usize) -> f64 {
    FIRST_BIN * RATIO.powf(bin as f64 + 1.0)
}

fn bin_of(seconds: f64) -> usize {
    let place = (seconds / FIRST_BIN).ln() / RATIO.ln();
    (place.ceil() as usize).saturating_sub(1).min(BINS - 1)
}

/// The probability of each bin.
fn density_of(answers: impl Iterator<Item = Answer>) -> Vec<f64> {
    let seen: Vec<(f64, f64)> =
        answers.map(|answer| (answer.after.as_secs_f64(), answer.by.as_secs_f64())).collect();
    let mut density = first_guess(&seen);
    if seen.is_empty() {
        return density;
    }
    let bins: Vec<(usize, usize)> = seen
        .iter()
        .map(|(after, by)| {
            let last = bin_of(*by);
            let first = if *after > 0.0 { bin_of(*after) + 1 } else { 0 };
            (first.min(last), last)
        })
        .collect();
    for round in 0..ROUNDS {
        let sums = sums_of(&density);
        // Each answer spreads its weight over its bins, in the proportions found so far. `starts`
        // holds where such a weight begins and ends.
        let mut starts = vec![0.0; BINS + 1];
        for (first, last) in &bins {
            let weight = 1.0 / (sums[last + 1] - sums[*first]).max(1e-12);
            starts[*first] += weight;
            starts[last + 1] -= weight;
        }
        let mut weight = 0.0;
        for (share, start) in density.iter_mut().zip(&starts) {
            weight += start;
            *share *= weight / bins.len() as f64;
        }
        if round % SMOOTH_EVERY == 0 {
            smooth(&mut density);
        }
    }
    let spread = spread_of(&density);
    let passes = 2.0 * (BANDWIDTH * spread).min(MAX_BANDWIDTH).powi(2);
    (0..passes.round() as usize).for_each(|_| smooth(&mut density));
    density
}

/// A bell over the logarithms of the times, with heavy tails. Within an interval that no poll has
/// divided, the shape of this guess stays.
fn first_guess(seen: &[(f64, f64)]) -> Vec<f64> {
    let middles: Vec<f64> = seen
        .iter()
        .map(|(after, by)| if *after > 0.0 { f64::midpoint(*after, *by) } else { 0.75 * by })
        .map(|middle| middle.max(FIRST_BIN).ln())
        .collect();
    let count = middles.len().max(1) as f64;
    let mean = middles.iter().sum::<f64>() / count;
    let variance = middles.iter().map(|middle| (middle - mean).powi(2)).sum::<f64>() / count;
    let width = variance.sqrt().max(0.02) * WIDER;
    let bell = |bin| {
        let from_mean = ((end_of(bin) / RATIO.sqrt()).ln() - mean) / width;
        (1.0 + from_mean.powi(2) / 4.0).powf(-2.5) + 1e-9
    };
    let shares: Vec<f64> = (0..BINS).map(bell).collect();
    let all: f64 = shares.iter().sum();
    shares.iter().map(|share| share / all).collect()
}

/// The sum of all bins before each, and of all.
fn sums_of(density: &[f64]) -> Vec<f64> {
    let mut sums = Vec::with_capacity(density.len() + 1);
    let mut sum = 0.0;
    sums.push(sum);
    for share in density {
        sum += share;
        sums.push(sum);
    }
    sums
}

/// Averages each bin with its neighbours, which adds half a bin to the variance.
fn smooth(density: &mut [f64]) {
    let mut before = density.first().copied().unwrap_or_default();
    for bin in 0..density.len() {
        let here = density[bin];
        let after = density.get(bin + 1).copied().unwrap_or(here);
        density[bin] = 0.25 * before + 0.5 * here + 0.25 * after;
        before = here;
    }
}

/// The standard deviation, in bins.
fn spread_of(density: &[f64]) -> f64 {
    let mean: f64 = density.iter().enumerate().map(|(bin, share)| bin as f64 * share).sum();
    let squares = density.iter().enumerate().map(|(bin, share)| (bin as f64 - mean).powi(2) * share);
    squares.sum::<f64>().sqrt()
}

/// The distribution of the times at each step until the time-out.
struct Times {
    /// The share of tasks that are ready by each step.
    ready: Vec<f64>,
    /// The sum of their times, each weighted with its share.
    time: Vec<f64>,
}

impl Times {
    fn new(density: &[f64], timeout: f64) -> Self {
        let steps = ((timeout / STEP).round() as usize).max(1);
        let sums = sums_of(density);
        let all = sums.last().copied().unwrap_or(1.0);
        let slowest = density.iter().rposition(|share| *share > 1e-6).unwrap_or_default();
        let slowest = end_of(slowest).min(0.9 * timeout);
        let (mut ready, mut time) = (vec![0.0; steps + 1], vec![0.0; steps + 1]);
        for step in 1..=steps {
            let at = step as f64 * STEP;
            let bin = bin_of(at);
            let begins = if bin == 0 { 0.0 } else { end_of(bin - 1) };
            let part = ((at - begins) / (end_of(bin) - begins)).clamp(0.0, 1.0);
            let seen = (sums[bin] + density[bin] * part) / all;
            let slower = ((at / slowest).ln() / (timeout / slowest).ln()).clamp(0.0, 1.0);
            ready[step] = (seen * (1.0 - SLOWER) + slower * SLOWER).max(ready[step - 1]);
            time[step] = time[step - 1] + (ready[step] - ready[step - 1]) * (at - STEP / 2.0);
        }
        Self { ready, time }
    }

    fn ready_by(&self, step: usize) -> f64 {
        self.ready.get(step).copied().unwrap_or(1.0)
    }

    /// Between two steps the time is divided evenly, so that what is recalled from quantiles is not
    /// all on the steps.
    fn quantile(&self, share: f64) -> f64 {
        let step = self.ready.partition_point(|ready| *ready < share).clamp(1, self.ready.len() - 1);
        let (before, by) = (self.ready[step - 1], self.ready[step]);
        let part = if by > before { ((share - before) / (by - before)).clamp(0.0, 1.0) } else { 1.0 };
        ((step - 1) as f64 + part) * STEP
    }

    /// For each step of a last poll, from the end back, the next poll with the least expected cost.
    fn plan(&self, spacing: f64, price: f64, spread: f64) -> Plan {
        let last = self.ready.len() - 1;
        let spacing = (spacing / STEP).ceil() as usize;
        let wait = |from: usize, to: usize| {
            to as f64 * STEP * (self.ready[to] - self.ready[from]) - (self.time[to] - self.time[from])
        };
        let mut next = vec![last as u16; last + 1];
        let (mut cost, mut waits) = (vec![0.0; last + 1], vec![0.0; last + 1]);
        for from in (1..last).rev() {
            let open = 1.0 - self.ready[from];
            let mut best = (f64::INFINITY, last);
            for (to, later) in cost.iter().enumerate().skip((from + spacing).min(last)) {
                let waited = wait(from, to);
                if waited >= best.0 {
                    break;
                }
                let total = waited + price * open + later;
                if total < best.0 {
                    best = (total, to);
                }
            }
            let (least, to) = best;
            cost[from] = least;
            next[from] = to as u16;
            waits[from] = wait(from, to) + waits[to];
        }
        // The first poll comes a little before or after its planned age. Where nearly all tasks are
        // ready within a short time, a poll just before its end is dearer than one just after it.
        let moved = |of: &dyn Fn(usize) -> f64, to: usize| {
            let spread = spread_of_first(to as f64 * STEP, spread) / STEP;
            let at = |share: f64| {
                let step = (to as f64 + share * spread).clamp(1.0, last as f64);
                let (before, part) = (step.floor() as usize, step.fract());
                of(before) * (1.0 - part) + of((before + 1).min(last)) * part
            };
            (at(-0.9) + at(-0.6) + at(-0.3) + at(0.0) + at(0.3) + at(0.6) + at(0.9)) / 7.0
        };
        let total = |to: usize| wait(0, to) + cost[to];
        let totals = (1..=last).map(|to| (to, moved(&total, to)));
        let first = totals.min_by(|a, b| a.1.total_cmp(&b.1)).map_or(last, |(to, _)| to);
        next[0] = first as u16;
        Plan { wait: moved(&|to| wait(0, to) + waits[to], first), next }
    }
}

struct Plan {
    next: Vec<u16>,
    wait: f64,
}

impl Plan {
    /// The polls of a task that is never ready.
    fn most_polls(&self) -> u32 {
        self.steps().count() as u32
    }

    /// The steps at which such a task is polled.
    fn steps(&self) -> impl Iterator<Item = usize> {
        let last = self.next.len() - 1;
        let after =
            move |step: &usize| self.next.get(*step).map(|next| usize::from(*next)).filter(|_| *step < last);
        std::iter::successors(after(&0), after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    type Draw = fn(&mut StdRng) -> f64;

    fn lognormal(rng: &mut StdRng, median: f64, p99: f64) -> f64 {
        let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * rng.random::<f64>()).cos();
        median * ((p99 / median).ln() / 2.326 * normal).exp()
    }

    fn bounds() -> PollSchedule {
        let secs = Duration::from_secs;
        PollSchedule::try_new(secs(3), secs(2), secs(120)).unwrap()
    }

    /// Polls tasks, learns anew from every 20 answers, and returns the wait and the polls of each.
    fn run(rng: &mut StdRng, tasks: usize, answers: &mut Vec<Answer>, draw: Draw) -> Vec<(f64, u32)> {
        let mut learned = None::<LearnedPolls>;
        (0..tasks)
            .map(|task| {
                if task % 20 == 0 && answers.len() >= 40 {
                    let latest = answers.len().saturating_sub(400);
                    learned = Some(LearnedPolls::from_answers(answers[latest..].iter().copied(), &bounds()));
                }
                let ready = draw(rng).clamp(0.05, 110.0);
                let (mut after, mut polls) = (Duration::ZERO, 1);
                let mut by =
                    learned.as_ref().map_or(Duration::from_secs(3), |learned| learned.first(rng.random()));
                while by.as_secs_f64() < ready {
                    after = by;
                    let wait = learned.as_ref().and_then(|learned| learned.wait_after(by, rng.random()));
                    by += wait.unwrap_or(Duration::from_secs(2));
                    polls += 1;
                }
                answers.push(Answer { after, by });
                (by.as_secs_f64() - ready, polls)
            })
            .collect()
    }

    fn mean(of: impl ExactSizeIterator<Item = f64>) -> f64 {
        let count = of.len() as f64;
        of.sum::<f64>() / count
    }

    /// The best schedule for exactly these times: the mean wait and the polls of a task.
    fn hindsight(times: &mut [f64]) -> (f64, f64) {
        times.sort_by(f64::total_cmp);
        let steps = (120.0 / STEP) as usize;
        let by = |step: usize| times.partition_point(|time| *time <= step as f64 * STEP);
        let count = times.len() as f64;
        let ready: Vec<f64> = (0..=steps).map(|step| by(step) as f64 / count).collect();
        let time = (0..=steps).map(|step| times[..by(step)].iter().sum::<f64>() / count).collect();
        let times = Times { ready, time };
        let plan = times.plan(2.0, POLL_PRICE, 0.0);
        let later_polls: f64 = plan.steps().map(|step| 1.0 - times.ready[step]).sum();
        (plan.wait, 1.0 + later_polls)
    }

    #[test]
    fn nothing_that_can_be_reported_or_set_makes_it_fail() {
        let millis = Duration::from_millis;
        let answers = [(0, 1), (0, 299_999), (5_000, u64::from(u32::MAX)), (59_999, 60_000)];
        for (first_delay, timeout) in [(0, 1), (100, 101), (3_000, 60_000), (3_000, 280_000)] {
            for max_polls in [2, 120] {
                let bounds =
                    PollSchedule::try_new(millis(first_delay), Duration::from_secs(2), millis(timeout))
                        .and_then(|bounds| bounds.with_max_polls(max_polls))
                        .unwrap();
                for count in 0..=answers.len() {
                    let answers = answers[..count].iter().cycle().take(count * 50);
                    let answers =
                        answers.map(|(after, by)| Answer { after: millis(*after), by: millis(*by) });
                    let learned = LearnedPolls::from_answers(answers, &bounds);
                    let ages: Vec<Duration> = learned.ages().collect();
                    assert!(ages.is_sorted(), "{timeout}: {ages:?}");
                    for jitter in [0.0, 0.5, 0.999] {
                        let first = learned.first(jitter);
                        assert!(first <= millis(timeout) + Duration::from_millis(300), "{first:?}");
                        assert!(
                            learned.wait_after(millis(timeout / 2), jitter) >= Some(Duration::from_secs(2))
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn a_poll_just_before_all_tasks_are_ready_is_not_taken_for_one_just_after() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut answers = Vec::new();
        let draw: Draw = |rng| rng.random_range(0.2..0.8);
        run(&mut rng, 400, &mut answers, draw);
        let ends = run(&mut rng, 4_000, &mut answers, draw);
        let late = ends.iter().filter(|end| end.0 > 1.0).count();
        assert!(late < 40, "{late} of 4,000 tasks waited for a second poll");
        assert!(mean(ends.iter().map(|end| end.0)) < 0.45);
    }

    #[test]
    fn what_is_learned_is_nearly_as_good_as_hindsight() {
        let draws: [(&str, Draw); 8] = [
            ("sites", |rng| lognormal(rng, 2.0, 6.0)),
            ("slow", |rng| lognormal(rng, 12.0, 60.0)),
            ("images", |rng| lognormal(rng, 0.5, 2.5)),
            ("peaked", |rng| lognormal(rng, 8.0, 10.0)),
            ("sharp", |rng| lognormal(rng, 20.0, 21.0)),
            ("middle", |rng| lognormal(rng, 8.0, 40.0)),
            ("heavy", |rng| 3.0 * (1.0 - rng.random::<f64>()).powf(-1.0 / 1.5)),
            ("two humps", |rng| {
                if rng.random::<f64>() < 0.6 { lognormal(rng, 4.0, 6.0) } else { lognormal(rng, 15.0, 20.0) }
            }),
        ];
        for (name, draw) in draws {
            let (mut rng, mut again) = (StdRng::seed_from_u64(7), StdRng::seed_from_u64(8));
            let mut answers = Vec::new();
            run(&mut rng, 400, &mut answers, draw);
            let ends = run(&mut rng, 4_000, &mut answers, draw);
            let wait = mean(ends.iter().map(|end| end.0));
            let polls = mean(ends.iter().map(|end| f64::from(end.1)));
            let mut times: Vec<f64> = (0..4_000).map(|_| draw(&mut again).clamp(0.05, 110.0)).collect();
            let (best_wait, best_polls) = hindsight(&mut times);
            let cost = (wait + POLL_PRICE * polls) / (best_wait + POLL_PRICE * best_polls);
            assert!(cost < 1.10, "{name}: {wait:.3} s in {polls:.2} polls");
        }
    }
}
