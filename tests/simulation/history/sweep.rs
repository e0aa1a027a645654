//! Many histories, on as many threads as the machine has cores.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use captcha_worker::failpoint::Failpoint;

use super::{Counts, Verdict, play_broken};

/// A history that broke a promise.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) seed: u64,
    pub(crate) verdict: Verdict,
}

/// What has come of many.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sweep {
    pub(crate) played: u64,
    pub(crate) counts: Counts,
    /// That of the smallest seed.
    pub(crate) failure: Option<Failure>,
}

/// Plays the histories of these seeds, until one fails or the time is over.
pub(crate) fn sweep(seeds: Range<u64>, until: Option<Instant>, failpoint: Option<Failpoint>) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    // Seeds from here on need not be played any more.
    let end = AtomicU64::new(seeds.end);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let play_some = || {
        let mut own = Sweep::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end.load(Ordering::Relaxed) || until.is_some_and(|until| Instant::now() >= until) {
                return own;
            }
            let verdict = play_broken(seed, false, failpoint);
            own.played += 1;
            own.counts += verdict.counts;
            if !verdict.broken.is_empty() {
                end.fetch_min(seed, Ordering::Relaxed);
                own.failure = Some(Failure { seed, verdict });
                return own;
            }
        }
    };
    thread::scope(|scope| {
        let playing: Vec<_> = (0..cores).map(|_| scope.spawn(play_some)).collect();
        let mut all = Sweep::default();
        for part in playing {
            let part = part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            all.played += part.played;
            all.counts += part.counts;
            all.failure = match (all.failure, part.failure) {
                (Some(one), Some(other)) if one.seed < other.seed => Some(one),
                (one, other) => other.or(one),
            };
        }
        all
    })
}

/// A failed history in words: what was broken, how it came about, and how to see it again.
pub(crate) fn describe(failure: &Failure, failpoint: Option<Failpoint>) -> String {
    let Failure { seed, verdict } = failure;
    let again = play_broken(*seed, true, failpoint);
    format!(
        "{}\n\nseed {seed} breaks promises:\n  {}\n\nagain: make soak SOAK=\"--seed {seed}\"",
        again.chronicle,
        verdict.broken.join("\n  ")
    )
}
