//! What polls were answered: whether wrong task ids are most of what comes back, or single ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Answers further apart are not looked at together.
const SPAN: Duration = Duration::from_secs(60);
/// A guard whose leader was out of reach trips later than it should.
const LATE: Duration = Duration::from_secs(300);
/// Fewer are single ones.
const LEAST: usize = 3;
/// Of so many answers one must be a wrong id, so that they can be called most of them: the guard's
/// bound of a fifth, exceeded beyond chance.
const ONE_IN: usize = 3;

/// All of them, and those of each replica.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// The empty name: the whole fleet's.
    by_replica: BTreeMap<String, VecDeque<(Instant, bool)>>,
    many_at: Option<Instant>,
    /// The most wrong ids within a minute in which they were most of what came back.
    pub(crate) worst: usize,
}

impl Answers {
    /// The API has said something about a task, or that it knows none of that id.
    /// `all_forgotten`: the API has forgotten this task with all others of its time. Tasks that it
    /// has accepted since are known, and do not speak for those.
    pub(crate) fn note(&mut self, replica: &str, wrong_id: bool, all_forgotten: bool, now: Instant) {
        for name in ["", replica] {
            let answers = self.by_replica.entry(name.to_owned()).or_default();
            while answers.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
                answers.pop_front();
            }
            answers.push_back((now, wrong_id));
            let wrong = answers.iter().filter(|(_, wrong)| *wrong).count();
            if wrong_id && name.is_empty() && 2 * wrong > answers.len() {
                self.worst = self.worst.max(wrong);
            }
            if wrong_id && (are_many(answers) || all_forgotten && wrong >= LEAST) {
                self.many_at = Some(now);
            }
        }
    }

    /// Whether there was reason of late to stop for wrong ids.
    pub(crate) fn were_mostly_wrong(&self, now: Instant) -> bool {
        self.many_at.is_some_and(|at| now.duration_since(at) < LATE)
    }
}

/// Whether the last answers, however many of them, were wrong ids for a good part.
fn are_many(answers: &VecDeque<(Instant, bool)>) -> bool {
    let mut wrong = 0;
    answers.iter().rev().enumerate().any(|(before, (_, is_wrong))| {
        wrong += usize::from(*is_wrong);
        wrong >= LEAST && wrong * ONE_IN > before
    })
}
