//! The tasks the API knows at a moment, and the submissions it remembers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Deserialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::script::Script;

/// The shape of task ids. Clients must keep them opaque, so all three must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskIds {
    /// JSON integers from `first_task_id` up.
    Integer,
    /// JSON integers from `first_task_id` + 2^33 up, which do not fit in 32 bits.
    WideInteger,
    /// JSON strings: random UUIDs.
    Uuid,
}

/// A task's id, in the JSON type it is given out in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum TaskId {
    Number(u64),
    Text(Uuid),
}

impl fmt::Display for TaskId {
    /// As JSON.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(out, "{number}"),
            Self::Text(uuid) => write!(out, "\"{uuid}\""),
        }
    }
}

/// An accepted task.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) kind: usize,
    pub(super) answer: u64,
    pub(super) proxy: Option<u64>,
    pub(super) script: Option<Arc<Script>>,
    pub(super) ready_at: Instant,
    /// Steps of the script that polls have taken.
    pub(super) steps_taken: u32,
    /// The answer or a final error was handed out.
    pub(super) ended: bool,
    /// The answer was handed out.
    pub(super) answered: bool,
    polls: u32,
    last_poll: Option<Instant>,
}

impl Task {
    pub(super) fn new(kind: usize, answer: u64, ready_at: Instant) -> Self {
        let (polls, steps_taken, last_poll) = (0, 0, None);
        let (proxy, script) = (None, None);
        Self {
            kind,
            answer,
            proxy,
            script,
            ready_at,
            steps_taken,
            ended: false,
            answered: false,
            polls,
            last_poll,
        }
    }

    /// Notes a poll; how long after the last one it came, and the how-many-th it is.
    pub(super) fn note_poll(&mut self, now: Instant) -> (Option<Duration>, u32) {
        self.polls = self.polls.saturating_add(1);
        let spacing = self.last_poll.replace(now).map(|last| now.saturating_duration_since(last));
        (spacing, self.polls)
    }
}

/// The tasks known now. Every task is kept equally long, so upload order is the order of
/// forgetting.
#[derive(Debug)]
pub(super) struct TaskStore {
    tasks: HashMap<TaskId, Task>,
    forgetting: VecDeque<(Instant, TaskId)>,
    retention: Duration,
    capacity: usize,
    ids: TaskIds,
    next_number: u64,
}

/// What wide ids start above.
const WIDE: u64 = 1 << 33;

impl TaskStore {
    pub(super) fn new(retention: Duration, capacity: usize, ids: TaskIds, first: u64) -> Self {
        let next_number = if ids == TaskIds::WideInteger { WIDE + first } else { first };
        Self { tasks: HashMap::new(), forgetting: VecDeque::new(), retention, capacity, ids, next_number }
    }

    pub(super) fn is_full(&self) -> bool {
        self.tasks.len() >= self.capacity
    }

    pub(super) fn add(&mut self, task: Task, now: Instant, rng: &mut StdRng) -> TaskId {
        let id = match self.ids {
            TaskIds::Integer | TaskIds::WideInteger => TaskId::Number(self.next_number),
            TaskIds::Uuid => TaskId::Text(uuid::Builder::from_random_bytes(rng.random()).into_uuid()),
        };
        self.next_number += 1;
        self.forgetting.push_back((now + self.retention, id));
        self.tasks.insert(id, task);
        id
    }

    pub(super) fn get_mut(&mut self, id: TaskId) -> Option<&mut Task> {
        self.tasks.get_mut(&id)
    }

    /// Forgets a task before its time.
    pub(super) fn forget(&mut self, id: TaskId) -> Option<Task> {
        self.tasks.remove(&id)
    }

    /// Forgets every task; how many there were, and how many of them had not ended.
    pub(super) fn forget_all(&mut self) -> (u64, u64) {
        self.forgetting.clear();
        let forgotten = self.tasks.len() as u64;
        let unended = self.tasks.drain().filter(|(_, task)| !task.ended).count() as u64;
        (forgotten, unended)
    }

    /// Forgets what is past its time; how many of them had not ended.
    pub(super) fn forget_expired(&mut self, now: Instant) -> u64 {
        let mut unended = 0;
        while let Some(&(_, id)) = self.forgetting.front().filter(|(at, _)| *at <= now) {
            self.forgetting.pop_front();
            unended += u64::from(self.tasks.remove(&id).is_some_and(|task| !task.ended));
        }
        unended
    }
}

/// How often a task's JSON was submitted, and accepted.
#[derive(Clone, Copy, Debug, Default)]
struct SubmissionCounts {
    submissions: u32,
    accepted: u32,
}

/// Submissions by digest, up to a bound.
#[derive(Debug)]
pub(super) struct Submissions {
    seen: HashMap<u64, SubmissionCounts>,
    capacity: usize,
}

/// What an acceptance was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceptance {
    First,
    Repeated,
    /// The bound was reached before this task came.
    NotRemembered,
}

impl Submissions {
    pub(super) fn new(capacity: usize) -> Self {
        Self { seen: HashMap::new(), capacity }
    }

    /// Notes a submission; how many came before it.
    pub(super) fn note(&mut self, digest: u64) -> u32 {
        let full = self.seen.len() >= self.capacity;
        match self.seen.get_mut(&digest) {
            Some(seen) => {
                let before = seen.submissions;
                seen.submissions = before.saturating_add(1);
                before
            }
            None if full => 0,
            None => {
                self.seen.insert(digest, SubmissionCounts { submissions: 1, accepted: 0 });
                0
            }
        }
    }

    /// Notes that the submission noted last was accepted.
    pub(super) fn accept(&mut self, digest: u64) -> Acceptance {
        let Some(seen) = self.seen.get_mut(&digest) else {
            return Acceptance::NotRemembered;
        };
        seen.accepted = seen.accepted.saturating_add(1);
        if seen.accepted == 1 { Acceptance::First } else { Acceptance::Repeated }
    }
}

/// The servers of one task type: how many there are, and until when each is busy.
#[derive(Debug)]
pub(super) struct Slots {
    /// `None` means no limit.
    pub(super) limit: Option<u32>,
    busy: BinaryHeap<Reverse<Instant>>,
}

impl Slots {
    pub(super) fn new(limit: Option<u32>) -> Self {
        Self { limit, busy: BinaryHeap::new() }
    }

    pub(super) fn are_free(&mut self, now: Instant) -> bool {
        while self.busy.peek().is_some_and(|Reverse(until)| *until <= now) {
            self.busy.pop();
        }
        self.limit.is_none_or(|limit| self.busy.len() < limit as usize)
    }

    pub(super) fn take(&mut self, until: Instant) {
        self.busy.push(Reverse(until));
    }
}
