//! What a member does while it leads: it writes the state down, announces it, and looks after the
//! account.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::super::account_state::Egress;
use super::super::leadership::{self, Duty};
use super::super::message::{Control, LeaderAnnouncement, ReplicaReport, encode_state};
use super::{Member, Probed};
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{GuardEvent, KeyStanding, Pressure, ProbeEnd, Reason, State};
use crate::domain::lane::Lane;
use crate::failpoint::Failpoint;

/// How often the leader repeats its state.
const LEADER_INTERVAL: Duration = Duration::from_secs(1);
/// How long a replica stays out of the lead that it has left.
const LEADERSHIP_BACKOFF: Duration = Duration::from_secs(20);

impl Member<'_> {
    /// The state message is lost, or there never was one: writes one. Several replicas may; the
    /// highest epoch wins.
    pub(super) async fn create(&mut self) {
        self.leader_heard = Instant::now();
        let now = self.now();
        let mut state = match self.fleet.account.memory() {
            Some(memory) => memory.as_ref().clone().recreated(now),
            None => State::unknown(0, now),
        };
        state.money.books.follow(&self.fleet.ledger.money().0.books);
        tracing::info!(epoch = state.epoch, "no account state on the broker; checking the account first");
        self.store(&state).await;
    }

    /// Whether the broker has it.
    pub(super) async fn store(&self, state: &State) -> bool {
        let message = encode_state(state, &self.fleet.trust.own);
        let stored = self.session.publish("", &self.fleet.options.names.guard(), message).await;
        if let Err(error) = &stored {
            tracing::warn!(%error, "cannot write the account state; trying again");
        }
        stored.is_ok()
    }

    /// Takes news in as the leader, and writes it down. It is in force, here as everywhere, once
    /// the broker has it; a refusal has stopped this replica before.
    pub(super) async fn learn(&mut self, news: GuardEvent<'_>) -> bool {
        let now = self.now();
        let Some(lead) = &mut self.lead else { return false };
        let before = lead.state.clone();
        if !lead.state.learn(news, &self.fleet.options.rules, now) {
            return false;
        }
        if lead.state.term != before.term {
            lead.forget_answers();
        }
        leadership::log_change(&lead.state, Some(&before));
        leadership::log_budgets(&lead.state, &before);
        leadership::log_low_balance(&lead.state, &before, self.fleet.options.rules.low_balance);
        self.write().await;
        true
    }

    /// The new state goes to the broker before the old one is acked, and before it is announced.
    pub(super) async fn write(&mut self) {
        if Failpoint::RecordAckedFirst.in_force()
            && let Some(lead) = &mut self.lead
        {
            lead.written(true);
        }
        self.book_own_spending();
        if let Some(lead) = &mut self.lead {
            lead.writing();
            lead.state.solve_times = self.fleet.solve_times().summary();
        }
        let Some(lead) = &self.lead else { return };
        let stored = self.store(&lead.state).await;
        if let Some(lead) = &mut self.lead {
            lead.written(stored);
        }
        self.announce().await;
        if self.fleet.account.snapshot().epoch() != self.said_epoch {
            self.send_heartbeat().await;
        }
    }

    /// What this replica has spent stands in its own books at once.
    pub(super) fn book_own_spending(&mut self) {
        let ledger = &self.fleet.ledger;
        if let (Some(lead), Some(report)) = (&mut self.lead, ledger.report()) {
            ledger.hear(&report);
            lead.state.money.books.note(&report, self.fleet.options.clock.now());
        }
    }

    /// Announces the state in force.
    pub(super) async fn announce(&mut self) {
        let Some(lead) = self.lead.as_ref().filter(|lead| !lead.unwritten) else { return };
        let (fleet, replicas) = (self.fleet, self.membership.len().max(1));
        let sizes = (replicas, self.membership.size_or(1).max(1));
        fleet.account.adopt(&lead.state, (&fleet.id, &fleet.options.name), true, sizes);
        let now = self.now();
        fleet.ledger.follow(&lead.state.money, now);
        let news = LeaderAnnouncement {
            id: fleet.id.clone(),
            name: fleet.options.name.clone(),
            state: lead.state.clone(),
            shut: fleet.account.open_breakers(),
            failing: fleet.account.types().failing(),
            replicas,
            queues: fleet.account.queues(),
            at: Some(now),
        };
        self.announced = Instant::now();
        self.leader_heard = self.announced;
        self.send(&Control::Leader(Box::new(news))).await;
    }

    /// What the leader does from time to time.
    pub(super) async fn lead_on(&mut self) {
        let now = self.now();
        if self.lead.as_ref().is_some_and(|lead| lead.state.doubt_is_over(now) || lead.doubt_is_undecided()) {
            self.learn(GuardEvent::DoubtfulTasks { lost: false }).await;
        }
        self.remember_lanes().await;
        self.judge_budgets().await;
        let books = self.fleet.ledger.money().0.books.version;
        let has_news = self.lead.as_ref().is_some_and(|lead| {
            !lead.state.money.budgets.is_empty() && lead.state.money.books.version != books
        });
        if self.lead.as_ref().is_some_and(|lead| lead.unwritten || lead.is_old() || lead.books_are_due()) {
            self.write().await;
        } else if has_news || self.announced.elapsed() >= LEADER_INTERVAL {
            self.announce().await;
        }
        self.perform_duty().await;
    }

    /// Writes down which lanes there are, so that a lane that is taken out of all settings is still
    /// served, by whichever replicas there are then. It is forgotten when its queue is deleted.
    async fn remember_lanes(&mut self) {
        let Some(lead) = &self.lead else { return };
        let named = self.membership.lanes();
        let missing = self.fleet.account.queues().map(|queues| queues.missing).unwrap_or_default();
        let is_gone = |lane: &&Lane| missing.contains(&format!("jobs.{lane}"));
        let gone: BTreeSet<Lane> = lead.state.lanes.iter().filter(is_gone).cloned().collect();
        if !named.is_subset(&lead.state.lanes) || !gone.is_subset(&named) {
            self.learn(GuardEvent::Lanes { named: &named, gone: &gone }).await;
        }
    }

    /// Whether a budget is used up, or no longer.
    pub(super) async fn judge_budgets(&mut self) {
        let (rules, now) = (&self.fleet.options.rules, self.now());
        let Some(lead) = &mut self.lead else { return };
        lead.listener.tidy(&mut lead.state.money.books);
        if !rules.budgets.is_empty() || rules.budgets != lead.state.money.budgets {
            lead.warn_of_budgets(now);
            self.learn(GuardEvent::BudgetsDue).await;
        }
    }

    /// What the leader has to do by itself, where it is due.
    pub(super) async fn perform_duty(&mut self) {
        let Some(duty) = self.duty() else { return };
        let begun = duty != Duty::Resign && self.begin_probe().await;
        match (duty, begun) {
            (Duty::Probe, true) => self.probing = Some(self.fleet.probe()),
            (Duty::Prove(id), true) => self.send(&Control::Prove { id }).await,
            (Duty::Resign, _) => self.resign().await,
            (Duty::Probe | Duty::Prove(_), false) => {}
        }
    }

    /// Writes down that getBalance is called now, so that a leader that dies over the call is
    /// followed by one that knows of it. Returns whether it may be called.
    async fn begin_probe(&mut self) -> bool {
        self.learn(GuardEvent::ProbeBegins).await;
        let Some(lead) = self.lead.as_ref().filter(|_| self.may_lead()) else { return false };
        self.asked_in = lead.state.term;
        true
    }

    async fn resign(&mut self) {
        tracing::warn!("the API refuses this replica's key or address; giving up leadership");
        self.aside_until = Some(Instant::now() + LEADERSHIP_BACKOFF);
        self.leave_lead().await;
    }

    /// The record goes back to its queue, and to the next who stands for the lead.
    pub(super) async fn leave_lead(&mut self) {
        self.book_own_spending();
        if self.lead.as_ref().is_some_and(|lead| lead.has_unwritten_books()) {
            self.write().await;
        }
        self.lead = None;
        if let Some(guard) = self.guard.take() {
            guard.close().await;
        }
    }

    /// Whether nobody else can have been given the lead meanwhile, and the broker has what this
    /// leader knows.
    fn may_lead(&self) -> bool {
        let holds = self.guard.as_ref().is_some_and(|guard| guard.lease().holds(Instant::now()));
        holds && self.lead.as_ref().is_some_and(|lead| !lead.unwritten)
    }

    fn duty(&self) -> Option<Duty> {
        let (lead, now) = (self.lead.as_ref()?, self.now());
        if self.probing.is_some() || !self.may_lead() {
            return None;
        }
        // Met here, and not in the state yet, or never to be, since it concerns this replica alone.
        if self.fleet.account.held().is_some_and(Reason::is_of_the_address) {
            return (self.fleet.options.egress == Egress::Own && self.membership.len() > 1)
                .then_some(Duty::Resign);
        }
        let (state, key) = (&lead.state, self.fleet.account.key());
        let standing = state.keys.standing(&key);
        if standing == KeyStanding::Refused && self.membership.has_another_good_key(&state.keys, &key) {
            return Some(Duty::Resign);
        }
        let funds = state.funds.as_ref();
        let spending = funds.is_some_and(|funds| {
            lead.spending.is_pressing(funds, &self.fleet.options.rules, self.membership.accepted())
        });
        let pressure = Pressure { suspected: lead.suspected, doubted: lead.doubted, spending };
        let due = state.probe_due(&self.fleet.options.rules, pressure, now);
        let proof =
            (standing == KeyStanding::Unknown).then(|| state.proof_due(&self.fleet.options.rules, now));
        if due.is_some_and(|at| at <= now) || proof.is_some_and(|at| at <= now) {
            return Some(Duty::Probe);
        }
        let untried = self.membership.with_unknown_key(&state.keys, self.fleet.options.rng.jitter());
        let untried = untried.filter(|_| state.proof_due(&self.fleet.options.rules, now) <= now)?;
        Some(Duty::Prove(untried))
    }

    /// A call of getBalance has ended: the leader's own, or one by which this replica was to prove
    /// its key.
    pub(super) async fn on_probed(&mut self, probed: Option<Probed>) {
        self.probing = None;
        let Some((key, end)) = probed else { return };
        let end = leadership::probe_end(end, &self.fleet.options.overrides);
        if self.lead.is_some() {
            return self.on_tried(&key, end).await;
        }
        let good = match end {
            ProbeEnd::Balance { .. } | ProbeEnd::KeyTaken | ProbeEnd::Unsupported => Some(true),
            ProbeEnd::Refused(Reason::KeyInvalid) => Some(false),
            ProbeEnd::Refused(reason) => {
                let (term, began) = (self.fleet.account.permit_and_term().1, Instant::now());
                self.fleet.account.refused(reason, term, began, self.now());
                None
            }
            ProbeEnd::Down => None,
        };
        self.send(&Control::Report(ReplicaReport::KeyTried { key, good })).await;
    }

    pub(super) async fn on_tried(&mut self, key: &Fingerprint, end: ProbeEnd) {
        let (peers, now) = (self.peers(key), self.now());
        let Some(lead) = &mut self.lead else { return };
        match &end {
            ProbeEnd::Refused(reason)
                if self.fleet.options.egress == Egress::Own && reason.is_of_the_address() =>
            {
                self.fleet.account.refused(*reason, lead.state.term, Instant::now(), now);
                self.learn(GuardEvent::ProbeEnded).await;
                return;
            }
            // Whatever the writing of it takes, nothing more is called.
            ProbeEnd::Refused(reason) => self.fleet.account.heard_refused(*reason, key, lead.state.term),
            ProbeEnd::Balance { .. } | ProbeEnd::KeyTaken | ProbeEnd::Unsupported | ProbeEnd::Down => {}
        }
        if let ProbeEnd::Balance { amount, .. } = &end {
            let before = lead.state.funds.as_ref().map(|funds| funds.amount);
            lead.spending.note(before, *amount, self.membership.accepted());
            lead.state.money.books.note_balance(before, *amount, now);
        }
        // Looks that fail raise no suspicion of their own: getBalance can be down alone, while work
        // goes on.
        let doubted = std::mem::take(&mut lead.doubted);
        let suspected = std::mem::take(&mut lead.suspected) || doubted;
        let term = self.asked_in;
        self.learn(GuardEvent::Probed { key, end, term, suspected, peers }).await;
    }
}
