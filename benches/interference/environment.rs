//! What all cases share: the broker, the calm run that they are judged by, and whose turn it is to
//! load the machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::ledger::Latency;

/// Spans that make a run whole or a part of one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lengths {
    /// Of a calm run, and of the load under one fault.
    pub(crate) window: Duration,
    /// Of the load with lost tasks.
    pub(crate) lost: Duration,
    pub(crate) outage: Duration,
    /// Calls for one job that a fault meets before it passes.
    pub(crate) calls: usize,
    /// How long jobs that were hit may take to their end: those that are retried again and again
    /// come back after minutes.
    pub(crate) hit_end: Duration,
}

impl Lengths {
    pub(crate) const WHOLE: Self = Self {
        window: Duration::from_secs(12),
        lost: Duration::from_secs(40),
        outage: Duration::from_secs(20),
        calls: 2,
        hit_end: Duration::from_secs(240),
    };
    pub(crate) const PART: Self = Self {
        window: Duration::from_secs(8),
        lost: Duration::from_secs(15),
        outage: Duration::from_secs(10),
        calls: 1,
        hit_end: Duration::from_secs(60),
    };
}

/// Shared by all cases.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) amqp: String,
    pub(crate) seed: u64,
    pub(crate) lanes: usize,
    pub(crate) lengths: Lengths,
    folder: PathBuf,
    began: Instant,
    turns: Semaphore,
    calm: OnceCell<Latency>,
}

impl Environment {
    pub(crate) fn new(amqp: String, seed: u64, lanes: usize, lengths: Lengths) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interference");
        let (turns, calm) = (Semaphore::new(lanes), OnceCell::new());
        Self { amqp, seed, lanes, lengths, folder, began: Instant::now(), turns, calm }
    }

    /// A line of progress.
    pub(crate) fn say(&self, case: &str, what: impl std::fmt::Display) {
        println!("{:>7.1} s  {case}: {what}", self.began.elapsed().as_secs_f64());
    }

    /// An empty folder for the logs of a scene.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter } else { '-' };
        let folder = self.folder.join(name.chars().map(plain).collect::<String>());
        // Of an earlier run, and absent as a rule.
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        folder
    }

    /// Waits until this case may load the machine. What only waits for retried jobs to come back
    /// needs no turn.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("turns are never closed")
    }

    /// What the calm run has taken, which is played where it was not yet.
    pub(crate) async fn calm(&self) -> Latency {
        *self.calm.get_or_init(|| crate::cases::calm::measure(self)).await
    }
}
