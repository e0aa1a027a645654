//! The truth about a history, kept by the broker's and the API's witnesses, and the promises that
//! are judged at each step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use captcha_worker::broker::memory::{DeliveryEnd, DeliveryId};
use captcha_worker::broker::topology::{Names, RETRY_DELAYS};
use captcha_worker::domain::guard::State;
use captcha_worker::domain::history::{HISTORY_HEADER, History};
use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::message::Message;
use captcha_worker::domain::money::Decimal;
use serde_json::Value;
use tokio::time::Instant;

use super::account::{Acceptance, Account, Steps, Task, ticket_of};
use super::answers::Answers;
use super::lanes::Turns;
use super::money::Payments;
use super::plan::{Plan, PlannedJob};
use super::publishers::Deliveries;
use super::reasons::HOP;
use super::records::Records;
use super::said::Said;

/// Clocks may be further apart only while somebody sets one, in ms.
const CLOCKS_APART: u64 = 10_000;
/// A ticket that seems older does not show what a replica that is gone has paid.
const SHOWN_FOR: Duration = Duration::from_secs(600);

/// A delivery in hand.
#[derive(Debug)]
struct Hand {
    replica: String,
    job: String,
    is_ticket: bool,
    /// It was delivered before, and may be known.
    redelivered: bool,
    /// When it was delivered.
    since: Instant,
    /// Of a ticket.
    task: Option<String>,
    /// A copy of the ticket is stored, for another owner.
    handed_over: bool,
    /// No other delivery of the job was in the same hands meanwhile, so that what they did is known
    /// to be for this one.
    alone: bool,
    before: Steps,
}

/// The books.
#[derive(Debug)]
pub(crate) struct Ledger {
    names: Names,
    /// When the history began.
    pub(super) began: Instant,
    /// How far the clocks of two replicas can be apart while nobody sets one.
    pub(super) skew: Duration,
    /// How far off the clock of each machine is, in ms.
    clocks: BTreeMap<String, i64>,
    /// For how long a task is asked for.
    pub(super) timeout: Duration,
    /// Whether the API is asked for callbacks.
    pub(super) callbacks: bool,
    pub(super) max_resubmissions: u32,
    pub(crate) accounts: BTreeMap<String, Account>,
    hands: BTreeMap<DeliveryId, Hand>,
    pub(super) tasks: BTreeMap<String, Task>,
    /// Tickets that the broker has taken back from a replica that may act on them until its lease
    /// ends, by the replica and the job.
    taken_back: BTreeSet<(String, String)>,
    /// Replicas that a fault has hit, or whose broker one has; the others must leave no window
    /// open.
    disturbed: BTreeSet<String>,
    /// All that have been started.
    pub(crate) started: BTreeSet<String>,
    /// The broker ends before it answers what it stores now.
    pub(crate) answers_nobody: bool,
    /// How many deliveries were taken back with nothing done for them so far, by the replica and
    /// the job.
    idle_taken_back: BTreeMap<(String, String), u32>,
    pub(super) records: Records,
    pub(super) answers: Answers,
    pub(super) payments: Payments,
    turns: Turns,
    deliveries: Deliveries,
    /// Epochs of those that are in hand.
    records_in_hand: BTreeMap<DeliveryId, u64>,
    /// Broken promises.
    pub(crate) broken: Vec<String>,
}

impl Ledger {
    pub(crate) fn new(names: Names, plan: &Plan, began: Instant) -> Self {
        let widest = plan.skews.iter().max().unwrap_or(&0) - plan.skews.iter().min().unwrap_or(&0);
        Self {
            names,
            began,
            skew: Duration::from_millis(widest.unsigned_abs()),
            clocks: BTreeMap::new(),
            timeout: plan.timeout,
            callbacks: plan.callbacks,
            max_resubmissions: plan.max_resubmissions,
            accounts: BTreeMap::new(),
            hands: BTreeMap::new(),
            tasks: BTreeMap::new(),
            taken_back: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            started: BTreeSet::new(),
            answers_nobody: false,
            idle_taken_back: BTreeMap::new(),
            records: Records::default(),
            answers: Answers::default(),
            payments: Payments::of(plan),
            turns: Turns::of(plan),
            deliveries: Deliveries::of(plan),
            records_in_hand: BTreeMap::new(),
            broken: Vec::new(),
        }
    }

    pub(crate) fn break_promise(&mut self, what: String) {
        self.broken.push(what);
    }

    /// A fault hits a replica; what its sessions leave half-done is a window from now on, and no
    /// mistake.
    pub(crate) fn disturb(&mut self, replica: &str) {
        self.disturbed.insert(replica.to_owned());
    }

    /// A replica is killed.
    pub(crate) fn dies(&mut self, replica: &str) {
        self.disturb(replica);
        let accounts = &self.accounts;
        let has_ended = |job: &str| accounts.get(job).is_some_and(|account| account.outcomes > 0);
        self.payments.killed(replica, has_ended, Instant::now());
    }

    /// The broker ends, and every session with it; what it stores before is answered to `nobody`.
    pub(crate) fn broker_ends(&mut self, nobody: bool) {
        self.disturbed.extend(self.started.iter().cloned());
        self.answers_nobody = nobody;
    }

    pub(crate) fn is_disturbed(&self, replica: &str) -> bool {
        self.disturbed.contains(replica)
    }

    pub(crate) fn open_account(&mut self, job: &PlannedJob, deadline: Option<Instant>) {
        let (innocent, lane) = (job.innocent, job.lane.clone());
        let task: Value = serde_json::from_str(&job.body).unwrap_or_default();
        let task_type = task["task"]["type"].as_str().unwrap_or_default().to_owned();
        let account = Account {
            innocent,
            lane,
            publisher: job.publisher,
            task_type,
            deadline,
            copies: 1,
            ..Account::default()
        };
        self.accounts.insert(job.id.clone(), account);
    }

    /// A machine's clock is off by so many ms from now on.
    pub(crate) fn set_clock(&mut self, machine: String, millis: i64) {
        // Whether it has read a ticket that was delivered is not known before its first poll. From
        // there on it goes by a steady clock.
        let is_polled = |hand: &Hand, task: &str| {
            let last_poll = self.tasks.get(task).and_then(|task| task.last_poll);
            last_poll.is_some_and(|at| at >= hand.since)
        };
        let held = self.hands.values().filter(|hand| machine_of(&hand.replica) == machine);
        let held = held.filter_map(|hand| Some((hand, hand.task.clone()?)));
        let unread: Vec<String> =
            held.filter(|(hand, task)| !is_polled(hand, task)).map(|(_, task)| task).collect();
        unread.iter().for_each(|task| self.held_under(task, millis));
        self.clocks.insert(machine, millis);
    }

    /// A task's ticket is in the hands of somebody whose clock is off by so many ms.
    fn held_under(&mut self, task: &str, clock: i64) {
        let Some(task) = self.tasks.get_mut(task) else { return };
        task.misdated |= clock.abs_diff(task.clock) > CLOCKS_APART;
        let fast = Duration::from_millis(clock.saturating_sub(task.clock).try_into().unwrap_or_default());
        if task.accepted_at.elapsed() + fast >= SHOWN_FOR {
            self.payments.ticket_too_old(&task.job);
        }
    }

    /// How far off a replica's clock is, in ms.
    pub(crate) fn clock_of(&self, replica: &str) -> i64 {
        self.clocks.get(machine_of(replica)).copied().unwrap_or_default()
    }

    /// The API forgets every task that it has accepted so far.
    pub(crate) fn forget_tasks(&mut self) {
        for task in self.tasks.values_mut() {
            (task.forgotten, task.forgotten_with_all) = (true, true);
        }
    }

    /// Whether it has forgotten this one.
    pub(crate) fn has_forgotten(&self, task: &str) -> bool {
        self.tasks.get(task).is_some_and(|task| task.forgotten)
    }

    /// Whether somebody's clock was so far off that a task's age was not known to its owner.
    pub(crate) fn has_misdated(&self) -> bool {
        self.tasks.values().any(|task| task.misdated)
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
            return State::read(&message.body).map_or((), |state| self.record_stored(state, now));
        }
        let Some(job) = message.properties.message_id.clone().filter(|id| self.accounts.contains_key(id))
        else {
            return;
        };
        if exchange == self.names.jobs()
            && let Some(account) = self.accounts.get_mut(&job)
        {
            account.published = true;
        }
        let is_outcome = exchange == self.names.outcomes();
        let is_retried = exchange.is_empty() && key.starts_with(&self.names.retry_prefix());
        let is_kept = is_retried || exchange.is_empty() && key == self.names.tickets();
        if let Some(steps) = self.steps(replica, &job).filter(|_| is_outcome || is_kept) {
            steps.stored += 1;
            steps.confirmed += u32::from(is_confirmed);
            let taken_back = self.idle_taken_back.get_mut(&(replica.to_owned(), job.clone()));
            if let Some(taken_back) = taken_back.filter(|count| **count > 0) {
                // It was under way to the store as its delivery was taken back.
                *taken_back -= 1;
                self.lost(replica, &job);
                let was_ticket = self.taken_back.contains(&(replica.to_owned(), job.clone()));
                if let Some(account) = self.accounts.get_mut(&job).filter(|_| is_retried && was_ticket) {
                    account.resubmissions += 1;
                }
            }
        }
        if let Some(delay) = key.strip_prefix(&self.names.retry_prefix()) {
            self.resubmitted(replica, &job, true, now);
            let (delay, lane) = delay.split_once('.').unwrap_or((delay, "default"));
            if let Some(account) = self.accounts.get(&job)
                && is_delayed(message)
            {
                self.broken.extend(self.deliveries.delayed(account.publisher, now));
            } else {
                self.retried(replica, &job, delay);
            }
            self.stays_in_lane(&job, lane);
        }
        if is_outcome {
            self.ended(&job, key, message, now);
        } else if let Some(id) = ticket_of(message).filter(|id| self.tasks.contains_key(id)) {
            let holds = |hand: &&mut Hand| hand.replica == replica && hand.task.as_ref() == Some(&id);
            match self.hands.values_mut().find(holds) {
                // The one in hand is as good as gone, and asked for no more.
                Some(hand) if !hand.handed_over => hand.handed_over = true,
                _ => self.another_ticket(&id),
            }
        }
    }

    /// A job, or its outcome, is in this lane.
    fn stays_in_lane(&mut self, job: &str, lane: &str) {
        let own = self.accounts.get(job).map(|account| account.lane.clone()).unwrap_or_default();
        if own.name() != lane {
            self.broken.push(format!("{job} came by lane {own} and is in lane {lane}"));
        }
    }

    /// A ticket of a task is stored beside those that there are.
    fn another_ticket(&mut self, id: &str) {
        let Some(task) = self.tasks.get_mut(id) else { return };
        task.tickets += 1;
        if task.tickets > 1 {
            // Published again since its confirm was never heard.
            let job = task.job.clone();
            self.another_copy(&job);
        }
    }

    fn record_stored(&mut self, state: State, now: Instant) {
        if self.records.trips_for_wrong_ids(&state) && !self.answers.were_mostly_wrong(now) {
            self.broken.push("the guard tripped for wrong ids although they were single ones".to_owned());
        }
        let forgotten = self.records.stored(state, now);
        self.broken.extend(forgotten);
    }

    /// A job waits in a retry queue: for what its last submission came to. Without one it is want
    /// of slots that it is charged for, or the unknown code that it has met itself; which of them
    /// is not distinguished.
    fn retried(&mut self, replica: &str, job: &str, delay: &str) {
        let Some(met) = self.accounts.get_mut(job).map(|account| &mut account.met) else { return };
        let budgets = match met.last.remove(replica) {
            None if met.spent.contains_key(&Said::Unknown) => vec![Said::Capacity, Said::Unknown],
            None | Some(Said::Capacity | Said::Throttled) => vec![Said::Capacity],
            Some(Said::Transient | Said::Ambiguous) => vec![Said::Transient],
            Some(said) => vec![said],
        };
        let delay = RETRY_DELAYS
            .iter()
            .find(|other| other.label == delay)
            .map_or(Duration::ZERO, |delay| delay.delay());
        for budget in budgets {
            *met.spent.entry(budget).or_default() += delay + HOP;
        }
    }

    fn ended(&mut self, job: &str, key: &str, message: &Message, now: Instant) {
        let outcome: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let unjustified = self.unjustified(job, &outcome, now);
        self.broken.extend(unjustified);
        self.stays_in_lane(job, Lane::of_outcome(&message.properties.headers).name());
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
        redelivered: bool,
    ) -> Option<String> {
        if queue == self.names.guard() {
            let epoch = State::read(&message.body)?.epoch;
            self.records_in_hand.insert(delivery, epoch);
            return Some(format!("the guard's record {epoch}"));
        }
        let is_ticket = queue == self.names.tickets();
        let job = message.properties.message_id.clone()?;
        let account = self.accounts.get(&job)?;
        if !is_ticket && queue != self.names.jobs_of(&account.lane) {
            return None;
        }
        if !is_ticket {
            self.deliveries.delivered(account.publisher, delivery, Instant::now());
        }
        let before = *self.steps(replica, &job)?;
        self.idle_taken_back.remove(&(replica.to_owned(), job.clone()));
        let what = format!("the {} of {job} {delivery:?}", if is_ticket { "ticket" } else { "job" });
        let mut alone = true;
        for other in self.hands.values_mut().filter(|hand| hand.job == job && hand.replica == replica) {
            (alone, other.alone) = (false, false);
        }
        let task = ticket_of(message).filter(|_| is_ticket);
        if let Some(task) = &task {
            self.held_under(task, self.clock_of(replica));
        }
        let hand = Hand {
            replica: replica.to_owned(),
            job,
            is_ticket,
            redelivered,
            since: Instant::now(),
            task,
            handed_over: false,
            alone,
            before,
        };
        self.hands.insert(delivery, hand);
        Some(what)
    }

    /// A delivery has ended; what it was, where that is known.
    pub(crate) fn settled(&mut self, delivery: DeliveryId, how: DeliveryEnd) -> Option<String> {
        if let Some(epoch) = self.records_in_hand.remove(&delivery) {
            let lost = if how == DeliveryEnd::Acked { self.records.acked(epoch) } else { None };
            self.broken.extend(lost);
            return Some(format!("the guard's record {epoch}"));
        }
        let Hand { replica, job, is_ticket, task, handed_over, alone, before, .. } =
            self.hands.remove(&delivery)?;
        if let Some(account) = self.accounts.get(&job).filter(|_| !is_ticket) {
            self.deliveries.settled(account.publisher, delivery, Instant::now());
        }
        let now = *self.steps(&replica, &job)?;
        let what = if is_ticket { "ticket" } else { "job" };
        match how {
            DeliveryEnd::Acked if now.confirmed == before.confirmed => {
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
            DeliveryEnd::Acked | DeliveryEnd::Rejected => {}
            DeliveryEnd::Requeued | DeliveryEnd::Returned => {
                if let Some(task) = task.filter(|_| handed_over).and_then(|id| self.tasks.get_mut(&id)) {
                    task.tickets += 1;
                }
                if is_ticket && self.is_disturbed(&replica) {
                    self.taken_back.insert((replica.clone(), job.clone()));
                }
                // What was refused for its callback's sake alone has cost nothing so far.
                let is_free = self.callbacks && self.met_last(&replica, &job) == Some(Said::Transient);
                let begun = now.stored > before.stored || now.creates > before.creates + u32::from(is_free);
                if begun {
                    if alone && !self.is_disturbed(&replica) {
                        self.broken.push(format!(
                            "{replica} handed the {what} of {job} back although it had gone on with it"
                        ));
                    }
                    self.lost(&replica, &job);
                } else if how == DeliveryEnd::Returned {
                    *self.idle_taken_back.entry((replica, job.clone())).or_default() += 1;
                }
            }
        }
        Some(format!("the {what} of {job} {delivery:?}"))
    }

    /// A window has made a second copy of a job.
    pub(crate) fn another_copy(&mut self, job: &str) {
        if let Some(account) = self.accounts.get_mut(job) {
            account.copies += 1;
            account.doubled = true;
        }
    }

    /// A holder of a ticket submits its job again, or parks it for that. What is submitted in vain
    /// is retried after it, and counted once. Were it paid more than once, the payments would show
    /// it.
    fn resubmitted(&mut self, replica: &str, job: &str, parks: bool, now: Instant) {
        let Some(steps) = self.steps(replica, job).copied() else { return };
        let counts = |hand: &&Hand| {
            let of_ticket = hand.is_ticket && hand.job == job && hand.replica == replica;
            let submissions = steps.creates.saturating_sub(hand.before.creates);
            // What is refused for its callback is submitted once more without one.
            let is_counted = if parks { submissions > 0 } else { submissions == 1 };
            of_ticket && !(hand.alone && is_counted)
        };
        let Some(hand) = self.hands.values().find(counts) else { return };
        let task = hand.task.as_ref().and_then(|id| self.tasks.get(id)).filter(|_| hand.alone);
        let needless = task.and_then(|task| self.needless(task, now)).map(|what| format!("{job} {what}"));
        let alone = hand.alone;
        self.broken.extend(needless);
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
        let mut held = self.hands.values().filter(|hand| hand.job == job && hand.replica == replica);
        if let Some(is_ticket) = held.next().map(|hand| hand.is_ticket) {
            if !is_ticket {
                self.takes_turn(replica, job);
            }
            self.resubmitted(replica, job, false, now);
        } else if self.is_disturbed(replica) {
            // Cut off, and within its lease: the broker has taken the job back already.
            self.lost(replica, job);
            if self.taken_back.contains(&(replica.to_owned(), job.to_owned()))
                && let Some(account) = self.accounts.get_mut(job)
            {
                account.resubmissions += 1;
            }
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

    /// A job of a lane is submitted while jobs of others wait in the same hands. A ticket's job
    /// needs no place in flight, and is in no turn.
    fn takes_turn(&mut self, replica: &str, job: &str) {
        let Some(own) = self.accounts.get(job) else { return };
        let waiting = self.hands.values().filter(|hand| {
            let steps = self.accounts.get(&hand.job).and_then(|account| account.by_replica.get(replica));
            let is_untouched = !hand.is_ticket && !hand.redelivered && steps == Some(&hand.before);
            is_untouched && hand.replica == replica
        });
        let of_type = waiting.filter_map(|hand| self.accounts.get(&hand.job));
        let lanes = of_type.filter(|account| account.task_type == own.task_type).map(|account| &account.lane);
        self.broken.extend(self.turns.taken(replica, &own.lane, lanes.collect()));
    }

    /// The API has accepted a task, for so much.
    pub(crate) fn paid(&mut self, replica: &str, job: &str, amount: Decimal, now: Instant) {
        if let Some(account) = self.accounts.get_mut(job) {
            account.payments += 1;
            account.paid += amount;
            self.payments.made(replica, job, (&account.lane, amount), now);
        }
    }

    /// What the last submission of a job by a replica came to, if the job has not gone on since.
    fn met_last(&self, replica: &str, job: &str) -> Option<Said> {
        self.accounts.get(job)?.met.last.get(replica).copied()
    }

    /// What a submission has come to.
    pub(crate) fn submission_said(&mut self, replica: &str, job: &str, said: Said) {
        let clock = self.clock_of(replica);
        let Some(met) = self.accounts.get_mut(job).map(|account| &mut account.met) else { return };
        met.misdated |= clock.unsigned_abs() > CLOCKS_APART;
        met.ambiguous += u32::from(said == Said::Ambiguous);
        met.key_refusals += u32::from(said == Said::KeyRefused);
        met.last.insert(replica.to_owned(), said);
    }

    /// The caller has learned the id of a task that was paid; `None`: it never will.
    pub(crate) fn answered(&mut self, replica: &str, job: &str, task: Option<String>, accepted: Acceptance) {
        let Acceptance { at, clock, forgotten } = accepted;
        self.payments.call_ended(replica, job, Instant::now());
        if let Some(id) = task {
            self.tasks.insert(id, Task { forgotten, ..Task::new(job, at, clock) });
        } else if let Some(account) = self.accounts.get_mut(job) {
            account.unanswered += 1;
        }
    }

    /// What a poll has come to.
    pub(crate) fn poll_said(&mut self, replica: &str, id: &str, said: Said, now: Instant) {
        if matches!(said, Said::Well | Said::Unsolved | Said::Final | Said::WrongId) {
            let all_forgotten = self.tasks.get(id).is_some_and(|task| task.forgotten_with_all);
            self.answers.note(replica, said == Said::WrongId, all_forgotten, now);
        }
        if let Some(task) = self.tasks.get_mut(id) {
            task.calling += task.last_poll.map_or(Duration::ZERO, |began| now.duration_since(began));
            task.wrong_id |= said == Said::WrongId;
            task.unsolved |= said == Said::Unsolved;
            task.slower |= matches!(said, Said::Throttled | Said::Unknown);
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
        // Two tickets of one task, after a confirm that was never heard, may have two owners:
        // stated, and counted by the broker alone.
        let alone = task.tickets < 2;
        let dated = !task.misdated;
        if alone && since.is_some_and(|since| since < Duration::from_secs(2)) {
            self.broken.push(format!("{replica} polled {id} of {job} {since:?} after the poll before it"));
        }
        if alone && dated && task.polls > 120 {
            self.broken.push(format!("{replica} polled {id} of {job} for the {}th time", task.polls));
        }
        if dated && age > Duration::from_secs(280) + self.skew {
            self.broken.push(format!("{replica} polled {id} of {job} at an age of {age:?}"));
        }
    }
}

/// Whether a job waits because of its publisher's limit.
fn is_delayed(message: &Message) -> bool {
    let history = message.properties.headers.get(HISTORY_HEADER).and_then(|header| header.as_text());
    let history: Option<History> = history.and_then(|text| serde_json::from_str(text).ok());
    history.is_some_and(|history| history.delayed_for().is_some())
}

/// Its name begins with that of its machine.
fn machine_of(replica: &str) -> &str {
    replica.split('.').next().unwrap_or_default()
}
