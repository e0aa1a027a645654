//! What a dead letter or a second submission needs as its reason, by the classes' rules of
//! docs/CONTRACT.md: no innocent is dead, and budgets stand still while nothing may be asked for.

use std::time::Duration;

use captcha_worker::domain::time::Timestamp;
use serde_json::Value;
use tokio::time::Instant;

use super::account::{Account, Task};
use super::ledger::Ledger;
use super::plan::{CAPACITY_TIMEOUT, TRANSIENT_TIMEOUT, UNKNOWN_TIMEOUT};
use super::said::Said;
use super::world::EPOCH;

/// The shortest wait in a retry queue: where less than it and its charge is left of a budget, that
/// cannot be used.
const SHORTEST_RETRY: Duration = Duration::from_secs(5);
/// What a retry is charged beside its wait.
pub(super) const HOP: Duration = Duration::from_secs(1);
/// A task is asked for no more when its time-out comes before the next poll could.
const LAST_POLL: Duration = Duration::from_secs(4);
/// How long a task may wait between polls as it is, so that a time in which nothing may be asked
/// for begins unnoticed; and what the news of its end takes.
const UNNOTICED: Duration = Duration::from_secs(10);
/// The same where the API has asked for fewer polls, or a callback is awaited.
const UNNOTICED_IF_SLOWER: Duration = Duration::from_secs(50);
/// The API keeps a result for 5 minutes; nobody asks in the last 20 s of them.
const MAX_AGE: Duration = Duration::from_secs(280);
/// From this age on the polls that earlier owners may have made are 120: 5 s of their lease and 10
/// s between clocks count as well.
const POLLS_USED_UP: Duration = Duration::from_secs(210);

impl Ledger {
    /// A job has ended; what is wrong with that, if anything.
    pub(super) fn unjustified(&self, job: &str, outcome: &Value, now: Instant) -> Option<String> {
        let (account, failure) = (self.accounts.get(job)?, &outcome["failure"]);
        let text = |name: &str| failure[name].as_str().unwrap_or_default();
        let (class, code, stage) = (text("class"), text("code"), text("stage"));
        let why = match (class, stage) {
            ("", _) => return None,
            ("account", _) => (account.met.key_refusals == 0)
                .then(|| "none of its submissions was refused for the key".to_owned()),
            ("lost", "poll") => {
                self.too_few(job, account, "were lost", 2, now, |task| self.is_gone(task, now))
            }
            ("unsolved", "poll") => {
                let ended = |task: &Task| task.unsolved || self.has_had_its_time(task, now);
                self.too_few(job, account, "were not solved", self.max_resubmissions + 1, now, ended)
            }
            ("transient" | "unknown", "poll") => {
                self.not_asked_for_enough(&outcome["task_id"].to_string(), now)
            }
            ("transient" | "unknown" | "capacity", "submit") => budget_left(account, class, now),
            _ if account.innocent => Some("nothing was wrong with it".to_owned()),
            _ => None,
        };
        why.map(|why| format!("{job} ended in dead.{class} ({code}, {stage}) although {why}"))
    }

    /// The holder of a task's ticket submits its job once more; what is wrong with that, if
    /// anything.
    pub(super) fn needless(&self, task: &Task, now: Instant) -> Option<String> {
        let due =
            task.wrong_id || task.unsolved || self.is_gone(task, now) || self.has_had_its_time(task, now);
        (!due).then(|| {
            let age = now.duration_since(task.accepted_at);
            format!("was submitted again needlessly: its task, {age:?} old, was neither lost nor unsolved")
        })
    }

    fn too_few(
        &self,
        job: &str,
        account: &Account,
        what: &str,
        least: u32,
        now: Instant,
        counts: impl Fn(&Task) -> bool,
    ) -> Option<String> {
        let number = self.tasks.values().filter(|task| task.job == job && counts(task)).count();
        let excused = account.deadline.is_some_and(|deadline| now >= deadline);
        (number < least as usize && !excused).then(|| format!("only {number} of its tasks {what}"))
    }

    /// Whether the API knows a task no more, or need not.
    fn is_gone(&self, task: &Task, now: Instant) -> bool {
        let age = now.duration_since(task.accepted_at);
        task.wrong_id || task.misdated || age + self.skew + HOP >= MAX_AGE
    }

    /// Whether a task could be asked for until its type's time-out, or as often as the API allows.
    fn has_had_its_time(&self, task: &Task, now: Instant) -> bool {
        let age = now.duration_since(task.accepted_at);
        task.misdated
            || task.polls >= 120
            || age >= POLLS_USED_UP
            || self.asked_for(task, now) >= self.timeout
    }

    /// For how long a task could be asked for, and some.
    fn asked_for(&self, task: &Task, now: Instant) -> Duration {
        let unnoticed = if task.slower || self.callbacks { UNNOTICED_IF_SLOWER } else { UNNOTICED };
        // A poll that was under way when the time began goes on through it. The answer to the
        // submission may take a while, and its owner dates the task by its arrival.
        let dated = self.dated(task).plus(HOP);
        let silence =
            self.records.silence(task.accepted_at, dated, now, unnoticed).saturating_sub(task.calling);
        (now.duration_since(task.accepted_at) + LAST_POLL).saturating_sub(silence)
    }

    /// When a task was accepted, by the clock of the replica that submitted it.
    fn dated(&self, task: &Task) -> Timestamp {
        let elapsed = task.accepted_at.duration_since(self.began);
        let clock = EPOCH.as_millis().saturating_add(task.clock);
        Timestamp::from_millis(clock).plus(elapsed)
    }

    fn not_asked_for_enough(&self, id: &str, now: Instant) -> Option<String> {
        let task = self.tasks.get(id).filter(|task| !self.has_had_its_time(task, now))?;
        let asked = self.asked_for(task, now);
        Some(format!("it could be asked for {asked:?} of its {:?} only", self.timeout))
    }
}

/// What is left of the budget that a job was given up for.
fn budget_left(account: &Account, class: &str, now: Instant) -> Option<String> {
    let met = &account.met;
    let left = |said: Said, budget: Duration| {
        let spent = met.spent.get(&said).copied().unwrap_or_default();
        budget.saturating_sub(spent)
    };
    let left = match class {
        "transient" if met.ambiguous >= 2 => return None,
        "unknown" => left(Said::Unknown, UNKNOWN_TIMEOUT),
        "capacity" => left(Said::Capacity, CAPACITY_TIMEOUT),
        // One whose calls were throttled ends as transient, by the budget of those without a slot.
        _ => left(Said::Transient, TRANSIENT_TIMEOUT).min(left(Said::Capacity, CAPACITY_TIMEOUT)),
    };
    // What a job is retried for must end before its deadline too. Which of two copies has spent how
    // much is not distinguished. And by a clock that is wrong the time that was spent is not known.
    let excused = account.doubled
        || met.misdated
        || account
            .deadline
            .is_some_and(|deadline| deadline.saturating_duration_since(now) < SHORTEST_RETRY + HOP);
    (left >= SHORTEST_RETRY + HOP && !excused)
        .then(|| format!("{left:?} of its budget are left, and {} submissions were ambiguous", met.ambiguous))
}
