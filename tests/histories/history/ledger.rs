//! The truth about a history, kept by the broker's and the API's witnesses, and the promises that are judged at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use captcha_worker::broker::local::{DeliveryId, Settled};
use captcha_worker::broker::topology::Names;
use captcha_worker::domain::envelope::Message;
use captcha_worker::domain::guard::State;
use serde_json::Value;
use tokio::time::Instant;

use super::account::{Account, Steps, Task, ticket_of};
use super::records::Records;

/// A delivery in hand.
#[derive(Debug)]
struct Hand {
    replica: String,
    job: String,
    is_ticket: bool,
    /// No other delivery of the job was in the same hands meanwhile, so that what they did is known to be for this one.
    alone: bool,
    before: Steps,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    names: Names,
    /// How far the clocks of two replicas can be apart.
    skew: Duration,
    pub(crate) accounts: BTreeMap<String, Account>,
    hands: BTreeMap<DeliveryId, Hand>,
    tasks: BTreeMap<String, Task>,
    /// Replicas that a fault has hit, or whose broker one has; the others must leave no window open.
    disturbed: BTreeSet<String>,
    records: Records,
    /// Epochs of those that are in hand.
    records_in_hand: BTreeMap<DeliveryId, u64>,
    /// Broken promises.
    pub(crate) broken: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(names: Names, skew: Duration) -> Self {
        Self {
            names,
            skew,
            accounts: BTreeMap::new(),
            hands: BTreeMap::new(),
            tasks: BTreeMap::new(),
            disturbed: BTreeSet::new(),
            records: Records::default(),
            records_in_hand: BTreeMap::new(),
            broken: Vec::new(),
        }
    }

    pub(crate) fn break_promise(&mut self, what: String) {
        self.broken.push(what);
    }

    /// A fault hits a replica; what its sessions leave half-done is a window from now on, and no mistake.
    pub(crate) fn disturb(&mut self, replica: &str) {
        self.disturbed.insert(replica.to_owned());
    }

    pub(crate) fn is_disturbed(&self, replica: &str) -> bool {
        self.disturbed.contains(replica)
    }

    pub(crate) fn open_account(&mut self, job: &str, deadline: Option<Instant>) {
        self.accounts.insert(job.to_owned(), Account { deadline, copies: 1, ..Account::default() });
    }

    fn steps(&mut self, replica: &str, job: &str) -> Option<&mut Steps> {
        let account = self.accounts.get_mut(job)?;
        Some(account.by_replica.entry(replica.to_owned()).or_default())
    }

    /// The broker has stored something of a replica's.
    pub(crate) fn stored(
        &mut self,
        replica: &str,
        exchange: &str,
        key: &str,
        message: &Message,
        is_confirmed: bool,
        now: Instant,
    ) {
        if exchange.is_empty() && key == self.names.guard() {
            let forgotten = State::read(&message.body).and_then(|state| self.records.stored(state, now));
            return self.broken.extend(forgotten);
        }
        let Some(job) = message.properties.message_id.clone().filter(|id| self.accounts.contains_key(id))
        else {
            return;
        };
        let is_outcome = exchange == self.names.outcomes();
        let is_kept = exchange.is_empty()
            && (key == self.names.tickets() || key.starts_with(&self.names.retry_prefix()));
        if let Some(steps) = self.steps(replica, &job).filter(|_| is_outcome || is_kept) {
            steps.stored += 1;
            steps.confirmed += u32::from(is_confirmed);
        }
        if key.starts_with(&self.names.retry_prefix()) {
            self.resubmitted(replica, &job, true);
        }
        if is_outcome {
            self.ended(&job, key, message);
        } else if let Some(task) = ticket_of(message).and_then(|id| self.tasks.get_mut(&id)) {
            task.tickets += 1;
            if task.tickets > 1 {
                // Published again since its confirm was never heard.
                self.another_copy(&job);
            }
        }
    }

    fn ended(&mut self, job: &str, key: &str, message: &Message) {
        let outcome: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let solution = outcome.get("solution").map(Value::to_string);
        if let Some(account) = self.accounts.get_mut(job) {
            account.outcomes += 1;
            account.ends.insert((key.to_owned(), solution));
        }
    }

    /// A message has gone to a replica; what it is, where that is known.
    pub(crate) fn delivered(
        &mut self,
        replica: &str,
        queue: &str,
        delivery: DeliveryId,
        message: &Message,
    ) -> Option<String> {
        if queue == self.names.guard() {
            let epoch = State::read(&message.body)?.epoch;
            self.records_in_hand.insert(delivery, epoch);
            return Some(format!("the guard's record {epoch}"));
        }
        let is_ticket = queue == self.names.tickets();
        if !is_ticket && queue != self.names.jobs() {
            return None;
        }
        let job = message.properties.message_id.clone()?;
        let before = *self.steps(replica, &job)?;
        let what = format!("the {} of {job} {delivery:?}", if is_ticket { "ticket" } else { "job" });
        let mut alone = true;
        for other in self.hands.values_mut().filter(|hand| hand.job == job && hand.replica == replica) {
            (alone, other.alone) = (false, false);
        }
        let hand = Hand { replica: replica.to_owned(), job, is_ticket, alone, before };
        self.hands.insert(delivery, hand);
        Some(what)
    }

    /// A delivery has ended; what it was, where that is known.
    pub(crate) fn settled(&mut self, delivery: DeliveryId, how: Settled) -> Option<String> {
        if let Some(epoch) = self.records_in_hand.remove(&delivery) {
            let lost = if how == Settled::Acked { self.records.acked(epoch) } else { None };
            self.broken.extend(lost);
            return Some(format!("the guard's record {epoch}"));
        }
        let Hand { replica, job, is_ticket, alone, before } = self.hands.remove(&delivery)?;
        let now = *self.steps(&replica, &job)?;
        let what = if is_ticket { "ticket" } else { "job" };
        match how {
            Settled::Acked if now.confirmed == before.confirmed => {
                let known = self.steps(&replica, &job).is_some_and(|steps| {
                    let known = steps.lost > 0;
                    steps.lost = steps.lost.saturating_sub(1);
                    known
                });
                if known {
                    self.one_copy_less(&job);
                } else {
                    let what =
                        format!("{replica} acked the {what} of {job} before a successor of it was confirmed");
                    self.broken.push(what);
                }
            }
            Settled::Acked | Settled::Rejected => {}
            Settled::Requeued | Settled::Returned => {
                let begun = now.stored > before.stored || now.creates > before.creates;
                if begun {
                    if alone && !self.is_disturbed(&replica) {
                        self.broken.push(format!(
                            "{replica} handed the {what} of {job} back although it had gone on with it"
                        ));
                    }
                    self.lost(&replica, &job);
                }
            }
        }
        Some(format!("the {what} of {job} {delivery:?}"))
    }

    /// A window has made a second copy of a job.
    pub(crate) fn another_copy(&mut self, job: &str) {
        if let Some(account) = self.accounts.get_mut(job) {
            account.copies += 1;
        }
    }

    /// A holder of a ticket submits its job again, or parks it for that. What is submitted in vain is parked after it, and counted once.
    fn resubmitted(&mut self, replica: &str, job: &str, parks: bool) {
        let Some(now) = self.steps(replica, job).copied() else { return };
        let counts = |hand: &&Hand| {
            let of_ticket = hand.is_ticket && hand.job == job && hand.replica == replica;
            of_ticket && !(parks && hand.alone && now.creates > hand.before.creates)
        };
        let Some(alone) = self.hands.values().find(counts).map(|hand| hand.alone) else { return };
        if let Some(account) = self.accounts.get_mut(job) {
            account.resubmissions += 1;
            account.certain_resubmissions += u32::from(alone);
        }
    }

    /// What a replica has begun is delivered once more, perhaps to itself.
    fn lost(&mut self, replica: &str, job: &str) {
        self.another_copy(job);
        if let Some(steps) = self.steps(replica, job) {
            steps.lost += 1;
        }
    }

    /// A second copy was known again, and is no more.
    fn one_copy_less(&mut self, job: &str) {
        if let Some(account) = self.accounts.get_mut(job) {
            account.copies = account.copies.saturating_sub(1).max(1);
        }
    }

    /// A replica calls createTask.
    pub(crate) fn create_begins(&mut self, replica: &str, job: &str, now: Instant) {
        if self.records.forbid_submissions(now) {
            self.broken.push(format!("{replica} submitted {job} although the guard has long forbidden it"));
        }
        if self.hands.values().any(|hand| hand.job == job && hand.replica == replica) {
            self.resubmitted(replica, job, false);
        } else if self.is_disturbed(replica) {
            // Cut off, and within its lease: the broker has taken the job back already.
            self.lost(replica, job);
        } else {
            self.broken.push(format!("{replica} submitted {job}, which is not in its hands"));
        }
        let deadline = self.accounts.get(job).and_then(|account| account.deadline);
        if deadline.is_some_and(|deadline| now > deadline) {
            self.broken.push(format!("{replica} submitted {job} past its deadline"));
        }
        if let Some(steps) = self.steps(replica, job) {
            steps.creates += 1;
        }
    }

    /// The API has accepted a task.
    pub(crate) fn paid(&mut self, job: &str) {
        if let Some(account) = self.accounts.get_mut(job) {
            account.payments += 1;
        }
    }

    /// The caller has learned the id of a task that was paid; `None`: it never will.
    pub(crate) fn answered(&mut self, job: &str, task: Option<String>, accepted_at: Instant) {
        if let Some(id) = task {
            let task = Task { job: job.to_owned(), accepted_at, last_poll: None, polls: 0, tickets: 0 };
            self.tasks.insert(id, task);
        } else if let Some(account) = self.accounts.get_mut(job) {
            account.unanswered += 1;
        }
    }

    /// A replica calls getTaskResult.
    pub(crate) fn poll_begins(&mut self, replica: &str, id: &str, now: Instant) {
        if self.records.forbid_polls(now) {
            self.broken.push(format!("{replica} polled {id} although the guard has long forbidden it"));
        }
        let Some(task) = self.tasks.get_mut(id) else {
            return self.broken.push(format!("{replica} polled {id}, which the API never gave"));
        };
        task.polls += 1;
        let since = task.last_poll.replace(now).map(|last| now.duration_since(last));
        let age = now.duration_since(task.accepted_at);
        let job = &task.job;
        // Two tickets of one task, after a confirm that was never heard, may have two owners: stated, and counted by the broker alone.
        let alone = task.tickets < 2;
        if alone && since.is_some_and(|since| since < Duration::from_secs(2)) {
            self.broken.push(format!("{replica} polled {id} of {job} {since:?} after the poll before it"));
        }
        if alone && task.polls > 120 {
            self.broken.push(format!("{replica} polled {id} of {job} for the {}th time", task.polls));
        }
        if age > Duration::from_secs(280) + self.skew {
            self.broken.push(format!("{replica} polled {id} of {job} at an age of {age:?}"));
        }
    }
}
