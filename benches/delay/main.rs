//! How long an answer that is ready waits until its consumer has it, and how many polls that takes:
//! by the distribution of solve times, and by the schedule of polls.
//!
//! The worker is whole, on paused time. The official clients' schedule and the best one of
//! hindsight are computed from the same solve times, without a worker, its calls and its batches.

mod distributions;
mod scene;

use std::time::Duration;

use captcha_worker::domain::poll_schedule::{PollMode, PollSchedule};

use distributions::{DISTRIBUTIONS, Distribution, Times};
use scene::{Ended, Polling};

/// Tasks of a run, and how many of the first are left out: what is learned is not known yet.
const TASKS: usize = 5_000;
const LEARNING: usize = 500;
/// What is asked of the learned schedule, against hindsight.
const MOST_WAIT: f64 = 1.05;
const MOST_POLLS: f64 = 1.1;
/// The same with callbacks, in seconds and polls of a task.
const CALLED_WAIT: f64 = 0.05;
const CALLED_POLLS: f64 = 1.05;
/// What hindsight does not have: the calls, and the moments at which polls and outcomes of a worker
/// go together.
const TRIP: f64 = 0.05;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let seed = arguments.first().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("{TASKS} tasks each, the first {LEARNING} left out; seed {seed}\n");
    println!("| solve times | schedule | mean wait, s | p50 | p99 | polls a task | early polls |");
    println!("|---|---|---|---|---|---|---|");
    let mut missed = Vec::new();
    for distribution in DISTRIBUTIONS {
        missed.extend(compare(distribution, seed));
    }
    println!();
    let (early, goals): (Vec<_>, Vec<_>) = missed.into_iter().partition(|bound| bound.is_rule);
    goals.iter().for_each(|goal| println!("goal not met: {}", goal.text));
    early.iter().for_each(|rule| println!("rule broken: {}", rule.text));
    println!("{} goals not met, {} rules broken", goals.len(), early.len());
    std::process::exit(i32::from(!early.is_empty()));
}

/// What was not kept: a rule of the API, or a goal of ours.
struct Missed {
    text: String,
    is_rule: bool,
}

/// Prints the rows of a distribution, and returns what it does not keep.
fn compare(distribution: &Distribution, seed: u64) -> Vec<Missed> {
    let solve_ms = distribution.draw(TASKS, seed);
    let times = Times::new(&solve_ms[LEARNING..]);
    let official = times.polled_at(distribution.official);
    let best = times.hindsight();
    let (first_delay, timeout) = distribution.table;
    let secs = Duration::from_secs;
    let table = PollSchedule::try_new(secs(first_delay), secs(2), secs(timeout)).expect("within the limits");
    let worker = |mode, callbacks| {
        scene::run(&solve_ms, distribution.arrival, Polling { table, mode, callbacks }, seed)
    };
    let (fixed, learned) = (worker(PollMode::Fixed, None), worker(PollMode::Learned, None));
    let (called, half_called) = (worker(PollMode::Learned, Some(1)), worker(PollMode::Learned, Some(2)));
    let official_mean = row(distribution.name, "official client", &official, None);
    row(distribution.name, "fixed", &fixed.ends[LEARNING..], Some(fixed.early_polls));
    let learned_mean =
        row(distribution.name, "learned", &learned.ends[LEARNING..], Some(learned.early_polls));
    let called_mean = row(distribution.name, "callbacks", &called.ends[LEARNING..], Some(called.early_polls));
    let half_ends = &half_called.ends[LEARNING..];
    let half_mean = row(distribution.name, "every other callback", half_ends, Some(half_called.early_polls));
    let best_mean = row(distribution.name, "hindsight", &best, None);
    // The learned schedule is worse where it is worse in both.
    let against_official =
        (learned_mean.wait / official_mean.wait).min(learned_mean.polls / official_mean.polls);
    let bounds = [
        ("wait of hindsight's", (learned_mean.wait - TRIP) / best_mean.wait, MOST_WAIT),
        ("polls of hindsight's", learned_mean.polls / best_mean.polls, MOST_POLLS),
        ("official client's wait and polls, the better of both", against_official, 1.0),
        ("allowed wait with callbacks", called_mean.wait / (CALLED_WAIT + TRIP), 1.0),
        ("polls of a task with callbacks", called_mean.polls, CALLED_POLLS),
        ("learned wait, with every other callback", half_mean.wait / learned_mean.wait, 1.0),
    ];
    let early: u64 = [&fixed, &learned, &called, &half_called].iter().map(|run| run.early_polls).sum();
    let mut missed: Vec<Missed> = bounds
        .into_iter()
        .filter(|(_, ratio, most)| ratio > most)
        .map(|(what, ratio, most)| {
            let text = format!("{}: {ratio:.3} × the {what}, at most {most}", distribution.name);
            Missed { text, is_rule: false }
        })
        .collect();
    missed.extend(
        (early > 0)
            .then(|| Missed { text: format!("{}: {early} early polls", distribution.name), is_rule: true }),
    );
    missed
}

fn row(distribution: &str, schedule: &str, ends: &[Ended], early_polls: Option<u64>) -> Ended {
    let mut waits: Vec<f64> = ends.iter().map(|end| end.wait).collect();
    waits.sort_by(f64::total_cmp);
    let count = ends.len() as f64;
    let mean = Ended {
        wait: waits.iter().sum::<f64>() / count,
        polls: ends.iter().map(|end| end.polls).sum::<f64>() / count,
    };
    let (p50, p99) = (waits[ends.len() / 2], waits[ends.len() * 99 / 100]);
    let early = early_polls.map_or_else(|| "–".to_owned(), |early| early.to_string());
    let Ended { wait, polls } = mean;
    println!("| {distribution} | {schedule} | {wait:.3} | {p50:.2} | {p99:.2} | {polls:.2} | {early} |");
    mean
}
