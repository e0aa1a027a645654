//! What the leader does: it holds the one state message, writes a new one before it acks the old,
//! and looks after the account.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::answers::RUN;
use super::ledger::Ledger;
use crate::broker::Receipt;
use crate::domain::api_code::Overrides;
use crate::domain::call::{CallError, Refusal, ReplyBody};
use crate::domain::class::Class;
use crate::domain::fault::{Stage, classify};
use crate::domain::guard::{AnswerShare, GuardRules, Phase, ProbeEnd, Reason, Spending, State};
use crate::domain::money::{Books, Decimal, FORGOTTEN_AFTER, MAX_REPLICAS, Window};
use crate::domain::time::Timestamp;
use crate::solver::Balance;

/// A state that does not change is written again after this long: the broker ends a consumer that
/// acks nothing for its consumer time-out, which is 30 minutes by default, and some operators set
/// it to a few.
const REWRITE_AFTER: Duration = Duration::from_secs(45);
/// While money is spent the books are written this often.
const BOOKS_INTERVAL: Duration = Duration::from_secs(1);
/// The share of a budget that is worth a warning.
const NEARLY: Decimal = Decimal::from_parts(8, 0, 0, false, 1);
/// Tasks in doubt that the API knows after all, by which the others are taken for known.
const KNOWN_ENOUGH: u64 = 3;
/// Without an answer about a task in doubt for so long, the leader has none to ask for.
const NO_MORE_IN_DOUBT: Duration = Duration::from_secs(10);
/// Replicas whose answers are counted.
const MAX_COUNTED: usize = 4_096;
/// Counts begin anew no more often than this, however often wrong ids come in a row.
const ANEW_AGAIN: Duration = Duration::from_secs(30);
/// What a report of a wrong id takes.
const REPORTED_WITHIN_MS: i64 = 100;
/// First wrong ids of several replicas within this much are of one row.
const AT_ONCE: Duration = Duration::from_secs(1);
/// A row that began longer ago is not what a trip is about.
const ONE_ROW: Duration = Duration::from_secs(60);

/// Replicas that come and go within the time after which the books forget them.
const MAX_HEARD: usize = 4 * MAX_REPLICAS;

/// The lead over a fleet. There is none without a state message in hand.
pub(super) struct Lead {
    pub(super) state: State,
    /// The message that holds the state, once it has come back from the broker; several where only
    /// together they hold all of it.
    held: Vec<Receipt>,
    held_since: Instant,
    /// The broker does not have this state yet; to be written again.
    pub(super) unwritten: bool,
    /// Another one of the same epoch is in force with some; its own epoch comes when it is written.
    contested: bool,
    /// Replicas find the API down; to be looked into.
    pub(super) suspected: bool,
    /// A call was refused by something that is not the API's own answer; to be looked into.
    pub(super) doubted: bool,
    answers: FleetAnswers,
    wrong_ids_since: Option<Timestamp>,
    /// Answers about tasks in doubt, and those about tasks that the API knows after all.
    doubtful: AnswerShare,
    known_doubtful: u64,
    doubt_quiet_since: Instant,
    /// What the fleet's submissions cost.
    pub(super) spending: Spending,
    /// The replicas whose rows the books keep.
    pub(super) listener: Listener,
    /// The version of the books that the broker has.
    books_written: u64,
    /// Budgets that were nearly used up, and the end of the window for which that was logged.
    warned: BTreeMap<(Option<String>, &'static str), Timestamp>,
}

/// The replicas that a leader hears, or has tickets of. By a steady clock: one that is set forward
/// must not make the books forget all that they have counted, and count it again.
pub(super) struct Listener {
    since: Instant,
    heard: BTreeMap<String, Instant>,
}

impl Listener {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), heard: BTreeMap::new() }
    }

    pub(super) fn note(&mut self, replica: &str) {
        if let Some(at) = self.heard.get_mut(replica) {
            *at = Instant::now();
        } else if self.heard.len() < MAX_HEARD {
            self.heard.insert(replica.to_owned(), Instant::now());
        }
    }

    /// The books forget the replicas that were silent for long.
    pub(super) fn tidy(&mut self, books: &mut Books) {
        self.heard.retain(|_, at| at.elapsed() < FORGOTTEN_AFTER);
        // Full, it may lack one that is well.
        if self.since.elapsed() >= FORGOTTEN_AFTER && self.heard.len() < MAX_HEARD {
            books.forget(|replica| !self.heard.contains_key(replica));
        }
    }
}

/// What the leader is to do next by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// Call getBalance.
    Probe,
    /// Have another replica call it, to prove its key.
    Prove(String),
    /// Leave the lead to a replica whose key is good.
    Resign,
}

impl Lead {
    /// The state message has come, so this replica leads.
    pub(super) fn take(state: State, receipt: Receipt) -> Self {
        Self {
            state,
            held: vec![receipt],
            held_since: Instant::now(),
            unwritten: false,
            contested: false,
            suspected: false,
            doubted: false,
            answers: FleetAnswers::default(),
            wrong_ids_since: None,
            doubtful: AnswerShare::default(),
            known_doubtful: 0,
            doubt_quiet_since: Instant::now(),
            spending: Spending::default(),
            listener: Listener::new(),
            books_written: 0,
            warned: BTreeMap::new(),
        }
    }

    /// A further state message: the one this leader has just written, or one that a crash has left.
    /// The highest epoch wins; what operators have ordered is in force whichever of them knows it.
    pub(super) fn receive(&mut self, mut state: State, receipt: Receipt, now: Timestamp) {
        // The books have versions of their own.
        state.money.books.follow(&self.state.money.books);
        self.state.money.books.follow(&state.money.books);
        let is_later = state.epoch > self.state.epoch;
        let same = state.epoch == self.state.epoch;
        // Two have written it without knowing of each other: what either of them stops is stopped.
        let is_stricter = same && state.phase.strictness() > self.state.phase.strictness();
        let replaces = is_later || is_stricter;
        if replaces {
            std::mem::swap(&mut self.state, &mut state);
        }
        let has_orders = self.state.take_orders(&state, now);
        if has_orders {
            // No message alone holds all of it until this leader has written it.
            self.held.push(receipt);
        } else if replaces {
            self.hold(receipt);
        } else if same && self.held.is_empty() {
            self.held.push(receipt);
        } else {
            done_with(receipt);
        }
        // Not under a later epoch yet: a message of that epoch may follow, and wins.
        if replaces || has_orders {
            let is_merged = is_stricter || has_orders;
            (self.unwritten, self.contested) = (is_merged, is_merged);
        }
    }

    /// Whether the message has been in hand for long: the broker ends a consumer that acks nothing
    /// for 30 minutes.
    pub(super) fn is_old(&self) -> bool {
        self.held_since.elapsed() >= REWRITE_AFTER
    }

    fn release(&mut self) {
        self.held.drain(..).for_each(done_with);
    }

    fn hold(&mut self, receipt: Receipt) {
        self.release();
        self.held.push(receipt);
    }

    /// The state is about to be written.
    pub(super) fn writing(&mut self) {
        self.books_written = self.state.money.books.version;
        if std::mem::take(&mut self.contested) {
            self.state.epoch = self.state.epoch.saturating_add(1);
        }
    }

    /// Whether the new state is confirmed; then the old one has served.
    pub(super) fn written(&mut self, confirmed: bool) {
        self.unwritten = !confirmed;
        self.held_since = Instant::now();
        if confirmed {
            self.release();
        }
    }

    /// What this replica has learned itself stays true when the message is lost.
    pub(super) fn remember(&mut self, memory: &State, now: Timestamp) {
        if memory.epoch > self.state.epoch {
            let lost = std::mem::replace(&mut self.state, memory.clone());
            self.state.money.books.follow(&lost.money.books);
            self.state.take_orders(&lost, now);
            self.state.epoch = memory.epoch.saturating_add(1);
        }
    }

    /// Takes in what this replica knows of the fleet's spending: the last books that were
    /// announced, and what was reported since.
    pub(super) fn continue_books(&mut self, ledger: &Ledger, now: Timestamp) {
        let books = &mut self.state.money.books;
        self.books_written = books.version;
        books.follow(&ledger.money().0.books);
        ledger.recognise(books);
        ledger.heard().iter().for_each(|report| books.note(report, now));
    }

    /// Whether the broker is to have the present books: no more often than once a second.
    pub(super) fn books_are_due(&self) -> bool {
        self.has_unwritten_books() && self.held_since.elapsed() >= BOOKS_INTERVAL
    }

    /// Whether something was spent since the record was written.
    pub(super) fn has_unwritten_books(&self) -> bool {
        self.state.money.books.version != self.books_written
    }

    /// Warns once in each window when a budget is nearly used up.
    pub(super) fn warn_of_budgets(&mut self, now: Timestamp) {
        self.warned.retain(|_, until| *until > now);
        let money = &self.state.money;
        for lane in money.budgets.scopes() {
            for window in Window::ALL {
                let (Some(limit), spent) =
                    (money.limit(window, lane, now), money.books.spent(window, lane, now))
                else {
                    continue;
                };
                let key = (lane.map(str::to_owned), window.name());
                if spent >= limit * NEARLY && !self.warned.contains_key(&key) {
                    let (lane, window_name, until) = (lane.unwrap_or("all"), window.name(), window.ends(now));
                    tracing::warn!(
                        lane, window = window_name, %spent, %limit, %until,
                        "80 % of the budget is used: once no task of the most expensive type fits, no job is taken until the window ends"
                    );
                    self.warned.insert(key, until);
                }
            }
        }
    }

    /// A replica remembers a later state than this one: an earlier message was lost, and all must
    /// follow this one all the same. What it said is not known, so the account is looked at.
    pub(super) fn overtake(&mut self, epoch: u64) -> bool {
        let behind = epoch > self.state.epoch;
        if behind {
            // The term stays: what replicas have met since it is reported to this leader again.
            self.state.epoch = epoch.saturating_add(1);
            if self.state.phase != Phase::Tripped {
                self.state.phase = Phase::Probing;
            }
        }
        behind
    }

    /// A replica says how many answers it has got since it runs, in a report of this term or in its
    /// heartbeat.
    pub(super) fn note_answers(
        &mut self,
        replica: &str,
        counts: (u64, u64),
        term: Option<u64>,
        (rules, uptime): (&GuardRules, Duration),
    ) -> Option<AnswersVerdict> {
        let old = term.is_some_and(|term| term < self.state.term);
        self.answers.note(replica, counts, old, uptime);
        if old || !self.state.may_be_asked() {
            return None;
        }
        if self.answers.share.is_too_high(rules, uptime) {
            self.answers.share.clear();
            return Some(AnswersVerdict::WrongIds);
        }
        (self.state.awaits_known_id() && self.answers.known > 0).then_some(AnswersVerdict::IdsKnown)
    }

    /// The leader's own worker has asked for a task that was in doubt. Returns whether such tasks
    /// are lost, once that is known.
    pub(super) fn note_doubtful(
        &mut self,
        wrong_id: bool,
        (rules, uptime): (&GuardRules, Duration),
    ) -> Option<bool> {
        self.state.doubt.filter(|doubt| !doubt.lost)?;
        self.doubt_quiet_since = Instant::now();
        self.doubtful.note(1, u64::from(wrong_id), uptime);
        self.known_doubtful += u64::from(!wrong_id);
        if self.doubtful.is_too_high(rules, uptime) {
            return Some(true);
        }
        (self.known_doubtful >= KNOWN_ENOUGH).then_some(false)
    }

    /// Whether the leader has none left of the tasks in doubt, and so cannot find out more about
    /// them: then all ask for theirs, each on probation.
    pub(super) fn doubt_is_undecided(&self) -> bool {
        let undecided = self.state.doubt.is_some_and(|doubt| !doubt.lost) && self.state.may_be_asked();
        undecided && self.doubt_quiet_since.elapsed() >= NO_MORE_IN_DOUBT
    }

    /// When the wrong ids began that come in a row now, as far as this leader has heard.
    pub(super) fn wrong_ids_since(&self, now: Timestamp) -> Option<Timestamp> {
        self.wrong_ids_since.filter(|since| now.since(*since) < ONE_ROW)
    }

    /// A replica has met a wrong id, as one of so many in a row. After many, all that was answered
    /// before is left out; what replicas have counted until they are heard next, too.
    pub(super) fn wrong_id(&mut self, in_a_row: u32, now: Timestamp) {
        // Those that are met at the same moment are the first of one row.
        if in_a_row <= 1 && self.wrong_ids_since.is_none_or(|since| now.since(since) >= AT_ONCE) {
            // Its job is submitted again before the report of it is here.
            self.wrong_ids_since = Some(Timestamp::from_millis(now.as_millis() - REPORTED_WITHIN_MS));
        }
        let answers = &mut self.answers;
        if in_a_row >= RUN && answers.anew_at.is_none_or(|at| at.elapsed() >= ANEW_AGAIN) {
            answers.anew_at = Some(Instant::now());
            answers.share.clear();
            answers.counted.clear();
        }
    }

    /// So much was answered to a replica before what it reports next.
    pub(super) fn count_from(&mut self, replica: &str, counts: (u64, u64)) {
        if let Some(counted) = self.answers.counted.get_mut(replica) {
            *counted = counts;
        }
    }

    /// A replica was not answered for a moment: good answers before that say nothing any more.
    pub(super) fn note_silence(&mut self) {
        self.answers.share.clear_good();
        self.doubtful.clear_good();
        self.count_known_anew();
    }

    /// What was answered before says nothing about what is now.
    pub(super) fn forget_answers(&mut self) {
        self.answers.share.clear();
        self.doubtful.clear();
        self.count_known_anew();
    }

    fn count_known_anew(&mut self) {
        self.answers.known = 0;
        self.known_doubtful = 0;
        self.doubt_quiet_since = Instant::now();
    }
}

/// What the fleet's answers show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswersVerdict {
    /// Too many of them are about ids that the API does not know.
    WrongIds,
    /// The API knows a task that it has accepted since its ids were in doubt.
    IdsKnown,
}

/// The answers of all replicas. Each says how many it has got since it runs, so that a message that
/// is lost is made good by the next.
#[derive(Debug, Default)]
struct FleetAnswers {
    share: AnswerShare,
    /// Answers about tasks that the API knows, since the account's phase began.
    known: u64,
    counted: BTreeMap<String, (u64, u64)>,
    anew_at: Option<Instant>,
}

impl FleetAnswers {
    fn note(&mut self, replica: &str, (answered, wrong_ids): (u64, u64), old: bool, uptime: Duration) {
        if self.counted.len() >= MAX_COUNTED && !self.counted.contains_key(replica) {
            self.counted.clear();
        }
        // What a replica has counted before this leader first hears of it, is of an unknown time.
        let first = (answered, wrong_ids);
        // A report can come after a heartbeat that says more.
        let counted = self.counted.entry(replica.to_owned()).or_insert(first);
        let (answered_before, wrong_before) = *counted;
        *counted = (answered.max(answered_before), wrong_ids.max(wrong_before));
        let fresh = answered.saturating_sub(answered_before);
        let wrong = wrong_ids.saturating_sub(wrong_before).min(fresh);
        if fresh > 0 && !old {
            self.share.note(fresh, wrong, uptime);
            self.known = self.known.saturating_add(fresh - wrong);
        }
    }
}

/// The lead ends with the session; what is not settled then comes to the next leader.
fn done_with(receipt: Receipt) {
    let _ = receipt.ack();
}

/// What a call of getBalance has shown.
pub(super) fn probe_end(end: Result<Balance, CallError>, overrides: &Overrides) -> ProbeEnd {
    let error = match end {
        Ok(Balance { text, amount }) => return ProbeEnd::Balance { text, amount },
        Err(error) => error,
    };
    // A page without a code is not the API's own answer; it may just not have this call.
    if let CallError::Refused(refusal) = &error
        && refusal.code.is_none()
        && matches!(refusal.status, 404 | 405 | 501)
    {
        return ProbeEnd::Unsupported;
    }
    // Without a body nothing but the API itself speaks, where the call is about nothing but the
    // account.
    if let CallError::Refused(Refusal { code: None, status, body: ReplyBody::Empty, .. }) = &error {
        match status {
            401 | 403 => return ProbeEnd::Refused(Reason::KeyInvalid),
            402 => return ProbeEnd::Refused(Reason::NoFunds),
            _ => {}
        }
    }
    let fault = classify(&error, Stage::Submit, false, overrides);
    match fault.class {
        Class::Account => ProbeEnd::Refused(fault.reason().unwrap_or(Reason::KeyInvalid)),
        Class::Transient | Class::Pending | Class::Throttled | Class::Capacity => ProbeEnd::Down,
        Class::Lost
        | Class::Unsolved
        | Class::Invalid
        | Class::Forbidden
        | Class::Expired
        | Class::Proxy
        | Class::Malformed
        | Class::Poison
        | Class::Unknown => ProbeEnd::Unsupported,
    }
}

/// Logs what has changed about the account, once, with what to do about it.
pub(super) fn log_change(state: &State, before: Option<&State>) {
    if before.is_some_and(|before| before.phase == state.phase && before.reasons() == state.reasons()) {
        return;
    }
    let reasons: Vec<&str> = state.reasons().iter().map(|reason| reason.name()).collect();
    let reasons = reasons.join(" and ");
    match (state.phase, state.reasons().first()) {
        (Phase::Tripped, Some(reason)) => {
            let next_probe_at = state.trip.as_ref().map(|trip| tracing::field::display(trip.next_probe_at));
            tracing::error!(
                reasons,
                next_probe_at,
                "API calls stopped for this account, jobs stay queued; {}",
                reason.advice()
            );
        }
        (_, Some(Reason::Budget)) => {
            let until = state.money.stops.account.map(|stop| tracing::field::display(stop.until));
            tracing::warn!(
                until,
                "the account's budget is used up: jobs stay queued, paid tasks are finished; {}",
                Reason::Budget.advice()
            );
        }
        (_, Some(Reason::Operator)) => {
            let paused = state.paused.as_ref();
            let why = paused.and_then(|paused| paused.reason.as_deref());
            let by = paused.map(|paused| &*paused.by);
            tracing::warn!(why, by, "paused by an operator: jobs stay queued, paid tasks are finished");
        }
        (Phase::Canary, _) => tracing::info!("balance received; submitting one job first"),
        (Phase::Probing, _) => tracing::info!("checking the account before any job is submitted"),
        (Phase::Active | Phase::Tripped, _) => tracing::info!("the account may be used"),
    }
}

/// Logs which lanes have used their budgets up, and which go on.
pub(super) fn log_budgets(state: &State, before: &State) {
    let (stops, stopped) = (&state.money.stops.lanes, &before.money.stops.lanes);
    for (lane, stop) in stops.iter().filter(|(lane, _)| !stopped.contains_key(*lane)) {
        tracing::warn!(
            lane,
            until = %stop.until,
            "the lane's budget is used up: its jobs stay queued, paid tasks are finished; {}",
            Reason::Budget.advice()
        );
    }
    for lane in stopped.keys().filter(|lane| !stops.contains_key(*lane)) {
        tracing::info!(lane, "the lane's budget allows jobs again");
    }
}

/// Warns once when the balance falls below the operator's bound.
pub(super) fn log_low_balance(state: &State, before: &State, low_balance: Decimal) {
    let is_low = |state: &State| state.funds.as_ref().is_some_and(|funds| funds.amount < low_balance);
    if is_low(state) && !is_low(before) {
        let balance = state.funds.as_ref().map(|funds| &*funds.text);
        tracing::warn!(balance, %low_balance, "the balance is below guard.low_balance: top up the account");
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::broker::Settlement;
    use crate::domain::guard::Paused;
    use crate::domain::money::{Ordered, Raise};

    #[test]
    fn a_later_message_wins_over_two_of_one_epoch_that_differ() {
        let (owner, mut settled) = mpsc::unbounded_channel();
        let mut acked = || match settled.try_recv() {
            Ok(Settlement::Ack(tag)) => Some(tag),
            _ => None,
        };
        let receipt = |tag| Receipt::new(tag, owner.clone());
        let now = Timestamp::from_millis(1_790_000_000_000);
        let cautious = State::unknown(4, now);
        let active = State { phase: Phase::Active, ..cautious.clone() };
        let later = State { epoch: 6, unended: 1, ..active.clone() };
        let mut lead = Lead::take(active, receipt(1));
        lead.receive(cautious.clone(), receipt(2), now);
        assert_eq!((acked(), lead.unwritten, &lead.state), (Some(1), true, &cautious));
        lead.receive(later.clone(), receipt(3), now);
        assert_eq!((acked(), lead.unwritten, &lead.state), (Some(2), false, &later));

        let mut lead = Lead::take(State { phase: Phase::Active, ..cautious.clone() }, receipt(4));
        lead.receive(cautious.clone(), receipt(5), now);
        lead.writing();
        assert_eq!(lead.state, State { epoch: 6, ..cautious });
    }

    #[test]
    fn no_order_of_an_operator_is_lost_with_a_message_that_another_replaces() {
        let now = Timestamp::from_millis(1_790_000_000_000);
        let (owner, _settled) = mpsc::unbounded_channel();
        let receipt = |tag| Receipt::new(tag, owner.clone());
        let recreated = State::unknown(4, now);
        let mut ordered = State { phase: Phase::Active, ..recreated.clone() };
        let raise = Ordered { lane: None, by: "1".parse().unwrap(), for_ms: 60_000 };
        let raise = raise.raise("guest".to_owned(), now).unwrap();
        ordered.money.raises = vec![Raise { command: Some("7".to_owned()), ..raise }];
        ordered.paused = Some(Paused { reason: None, by: "guest".to_owned(), since: now });
        ordered.last_command = Some("7".to_owned());
        for (first, second) in [(&ordered, &recreated), (&recreated, &ordered)] {
            let (owner, mut settled) = mpsc::unbounded_channel();
            let receipt = |tag| Receipt::new(tag, owner.clone());
            let mut lead = Lead::take(first.clone(), receipt(1));
            lead.receive(second.clone(), receipt(2), now);
            let expected = State { phase: Phase::Probing, ..ordered.clone() };
            assert_eq!((&lead.state, lead.unwritten), (&expected, true));
            assert!(settled.try_recv().is_err(), "both messages are kept until it is written");
            lead.writing();
            lead.written(true);
            assert!(settled.try_recv().is_ok() && settled.try_recv().is_ok());
            let written = lead.state.clone();
            assert_eq!(written.epoch, ordered.epoch + 1);
            lead.receive(written.clone(), receipt(3), now);
            assert_eq!((&lead.state, lead.unwritten), (&written, false), "its own message is no news");
        }
        // The other one has learned something meanwhile, and another command. The pause may be
        // over.
        let later = State { epoch: 6, last_command: Some("8".to_owned()), ..recreated };
        // The same command was repeated to its leader, and carried out a little later.
        let mut again = later.clone();
        let since = now.plus(Duration::from_secs(1));
        again.money.raises = vec![Raise { since, ..ordered.money.raises[0].clone() }];
        for (first, second, is_news) in
            [(&ordered, &later, true), (&later, &ordered, true), (&again, &ordered, false)]
        {
            let mut lead = Lead::take(first.clone(), receipt(1));
            lead.receive(second.clone(), receipt(2), now);
            assert_eq!((lead.state.epoch, lead.unwritten), (later.epoch, is_news));
            assert_eq!((lead.state.money.raises.len(), &lead.state.paused), (1, &None));
            assert!(lead.state.has_carried_out("7") && lead.state.has_carried_out("8"));
        }
        let mut lead = Lead::take(ordered.clone(), receipt(1));
        lead.remember(&later, now);
        assert!(lead.state.has_carried_out("7"), "what it remembers is later, and lacks the order");
        // One that is over is no news.
        let mut lead = Lead::take(later.clone(), receipt(1));
        lead.receive(ordered, receipt(2), now.plus(Duration::from_secs(60)));
        assert!(!lead.unwritten && lead.state.money.raises.is_empty());
    }
}
