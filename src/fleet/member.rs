//! One replica's part in the fleet, over one session: it listens, says that it is there, and leads
//! when the state message comes to it.
//!
//! What it does as the leader is in [`leading`].

mod leading;

use std::future::pending;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::account_state::{Egress, Finding};
use super::answers::MetWrongId;
use super::leadership::{self, AnswersVerdict, Lead};
use super::membership::Membership;
use super::message::{
    Control, Heartbeat, LeaderAnnouncement, OperatorCommand, Order, ReplicaReport, VerifiedControl, encode,
};
use super::{Fleet, Work};
use crate::broker::{ConsumeSpec, Consumer, Delivery, Session, receive};
use crate::domain::call::CallError;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{CanaryEnd, GuardEvent, Paused, Phase, ProbeEnd, Reason};
use crate::domain::message::is_direct_reply;
use crate::domain::money::{Orphan, SpendReport};
use crate::domain::solve_time::AnswersByKind;
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;
use crate::solver::Balance;

/// How often it looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// Without an announcement of the leader for so long (and up to as much again, by chance), its
/// state message is taken for lost.
const SILENCE: Duration = Duration::from_secs(5);
/// State messages that can be unacked at once: one, and what a crash in between two has left.
const PREFETCH: u16 = 8;
/// Messages that are on their way to a new leader follow each other this closely.
const TOGETHER: Duration = Duration::from_millis(20);
/// Both end up in the state, which must stay small. In bytes.
const MAX_REASON: usize = 1_000;
const MAX_COMMAND_ID: usize = 64;
/// Answers are no further apart, in a fleet of any size: an operator's question waits 2.5 s for
/// them.
const MOST_APART: Duration = Duration::from_millis(1_500);

/// A call of getBalance under way.
pub(super) type Probing = AbortOnDropHandle<Probed>;
/// Its end, and the key that it was made with.
type Probed = (Fingerprint, Result<Balance, CallError>);

pub(super) struct Member<'a> {
    fleet: &'a Fleet,
    session: &'a Session,
    work: &'a dyn Work,
    found: &'a mut Receiver<Finding>,
    control: Consumer,
    guard: Option<Consumer>,
    lead: Option<Lead>,
    membership: Membership,
    probing: Option<Probing>,
    tick: Interval,
    leader_heard: Instant,
    announced: Instant,
    heartbeat_sent_at: Instant,
    announced_key: Fingerprint,
    /// The epoch in its last heartbeat.
    said_epoch: u64,
    spending_reported_at: Instant,
    /// When it was last asked who is there, and answered.
    answered: Option<Instant>,
    /// It was asked, and has not answered yet.
    asked: bool,
    aside_until: Option<Instant>,
    /// The term in which the last call of getBalance was asked for.
    asked_in: u64,
}

/// Why it is over.
type Lost = String;

fn lost(error: impl ToString) -> Lost {
    format!("the fleet's channel: {}", error.to_string())
}

impl<'a> Member<'a> {
    pub(super) async fn join(
        fleet: &'a Fleet,
        session: &'a Session,
        work: &'a dyn Work,
        found: &'a mut Receiver<Finding>,
    ) -> Result<Self, Lost> {
        let queue = fleet.options.names.guard();
        // Asked before this replica is a consumer of it: nobody leads, and there is no state to
        // lead with.
        let depth = session.link().depth(&queue).await.map_err(lost)?;
        let control = session.link().subscribe(&fleet.options.names.control()).await.map_err(lost)?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut member = Self {
            fleet,
            session,
            work,
            found,
            control,
            guard: None,
            lead: None,
            membership: fleet.membership.clone(),
            probing: None,
            tick,
            leader_heard: now,
            announced: now,
            heartbeat_sent_at: now,
            announced_key: fleet.account.key(),
            said_epoch: 0,
            spending_reported_at: now,
            answered: None,
            asked: false,
            aside_until: None,
            asked_in: 0,
        };
        // From here on it can hear the others.
        fleet.membership.begin();
        if !fleet.leaving.is_cancelled() {
            member.stand_for_lead().await?;
        }
        member.send(&Control::Hello).await;
        if depth.ready == 0 && depth.consumers == 0 {
            member.create().await;
        }
        Ok(member)
    }

    async fn stand_for_lead(&mut self) -> Result<(), Lost> {
        let queue = self.fleet.options.names.guard();
        let tag = format!("{} {queue}", self.fleet.options.name);
        let spec = ConsumeSpec { queue, prefetch: PREFETCH, tag };
        self.guard = Some(self.session.link().consume(spec).await.map_err(lost)?);
        Ok(())
    }

    /// Takes part until the session is gone, and returns why.
    pub(super) async fn run(mut self) -> Lost {
        loop {
            let done = tokio::select! {
                biased;
                message = self.control.recv() => match message {
                    Some(delivery) => self.on_control(delivery).await,
                    None => Err("the control consumer ended".to_owned()),
                },
                message = receive(&mut self.guard) => match message {
                    Some(delivery) => self.on_state(delivery).await,
                    None => Err("the guard consumer ended".to_owned()),
                },
                Some(found) = self.found.recv() => { self.on_found(found).await; Ok(()) }
                end = probed(&mut self.probing) => { self.on_probed(end).await; Ok(()) }
                () = self.fleet.leaving.cancelled(), if self.guard.is_some() => { self.leave_lead().await; Ok(()) }
                _ = self.tick.tick() => self.on_tick().await,
            };
            if let Err(reason) = done {
                return reason;
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.fleet.options.clock.now()
    }

    /// Says something to all. Should it not arrive, that is no end of anything: what matters is
    /// said again.
    async fn send(&self, control: &Control) {
        let message = encode(control, &self.fleet.trust.own);
        let said =
            self.session.publisher().publish(&self.fleet.options.names.control(), "", false, message).await;
        if let Err(error) = said {
            tracing::debug!(%error, "cannot publish a control message");
        }
    }

    /// Says that it is there.
    async fn send_heartbeat(&mut self) {
        let snapshot = self.fleet.account.snapshot();
        let mut heartbeat = Heartbeat {
            id: self.fleet.id.clone(),
            name: self.fleet.options.name.clone(),
            epoch: snapshot.epoch(),
            key: self.fleet.account.key(),
            held: snapshot.held(),
            started_at: self.fleet.started_at,
            vitals: self.work.vitals().bounded(),
            answers: AnswersByKind::new(),
        };
        self.heartbeat_sent_at = Instant::now();
        self.announced_key = heartbeat.key.clone();
        self.said_epoch = heartbeat.epoch;
        self.asked = false;
        self.membership.note(heartbeat.clone());
        heartbeat.answers = self.fleet.solve_times().take_unreported();
        self.send(&Control::Replica(Box::new(heartbeat))).await;
    }

    /// A message of the guard's queue: with the first of them comes the lead.
    async fn on_state(&mut self, delivery: Delivery) -> Result<(), Lost> {
        let Delivery { message, receipt, .. } = delivery;
        let Some(state) = self.fleet.trust.read_state(&message) else {
            tracing::warn!(
                "rejecting a message on the guard queue that no replica wrote; it goes to the raw dead letters"
            );
            let _ = receipt.reject();
            return Ok(());
        };
        let now = self.now();
        if let Some(lead) = &mut self.lead {
            lead.receive(state, receipt, now);
            return Ok(());
        }
        self.fleet.solve_times().recall(&state.solve_times, now);
        let mut lead = Lead::take(state, receipt);
        if Failpoint::GuardForgotten.in_force() {
            lead.state.phase = Phase::Active;
            lead.state.paused = None;
        }
        self.gather(&mut lead).await?;
        if let Some(memory) = self.fleet.account.memory() {
            lead.remember(&memory, now);
        }
        lead.continue_books(&self.fleet.ledger, self.now());
        tracing::info!(
            epoch = lead.state.epoch,
            phase = lead.state.phase.name(),
            "this replica leads the fleet"
        );
        // A replica that starts into a trip or a pause has not heard of it yet.
        if !lead.state.reasons().is_empty() {
            leadership::log_change(&lead.state, self.fleet.account.memory().as_deref());
        }
        self.lead = Some(lead);
        if !self.learn(GuardEvent::TookOver).await {
            self.write().await;
        }
        self.send(&Control::Hello).await;
        Ok(())
    }

    /// Whatever else the broker holds belongs to the leader before it acts: a crash may have left
    /// two states.
    async fn gather(&mut self, lead: &mut Lead) -> Result<(), Lost> {
        let queue = self.fleet.options.names.guard();
        let waiting = self.session.link().depth(&queue).await.map_err(lost)?.ready;
        let max_wait = if waiting > 0 { TOGETHER * 10 } else { TOGETHER };
        while let Ok(next) = timeout(max_wait, receive(&mut self.guard)).await {
            let Delivery { message, receipt, .. } = next.ok_or("the guard consumer ended")?;
            match self.fleet.trust.read_state(&message) {
                Some(state) => lead.receive(state, receipt, self.now()),
                None => {
                    let _ = receipt.reject();
                }
            }
        }
        Ok(())
    }

    async fn on_control(&mut self, delivery: Delivery) -> Result<(), Lost> {
        let Delivery { message, receipt, .. } = delivery;
        let _ = receipt.ack();
        let Some(VerifiedControl { control, user }) = self.fleet.trust.verify(&message) else {
            tracing::debug!(
                "ignoring a control message whose sender is not verified or not allowed to send it"
            );
            return Ok(());
        };
        self.membership.hears();
        match control {
            Control::Hello => {
                self.asked = true;
                self.answer().await;
            }
            Control::Leader(news) => self.on_leader(*news).await?,
            Control::Replica(heartbeat) => self.on_replica(*heartbeat).await,
            Control::Bye { id } => self.membership.remove(&id),
            Control::Report(report) => self.on_report(report).await,
            Control::Prove { id } => {
                let free = self.fleet.account.held().is_none();
                if id == self.fleet.id && self.probing.is_none() && free {
                    self.probing = Some(self.fleet.probe());
                }
            }
            Control::Command(command) => self.on_command(command, user).await,
            Control::Callbacks { tokens } => self.fleet.callbacks.heard(tokens),
            Control::Spent(report) => self.on_spent(&report).await,
            Control::Orphans { orphans } => self.on_orphans(&orphans).await,
            Control::Find { job } => self.on_find(&job, message.properties.reply_to.as_deref()).await,
            // Sent to who has asked alone.
            Control::Found { .. } => {}
        }
        Ok(())
    }

    /// Answers where a job is. The answer goes to the process that has asked, and to nobody else.
    async fn on_find(&self, job: &str, reply_to: Option<&str>) {
        let Some(reply_to) = reply_to.filter(|reply_to| is_direct_reply(reply_to)) else { return };
        let found = Control::Found {
            id: self.fleet.id.clone(),
            name: self.fleet.options.name.clone(),
            sightings: self.work.find(job),
        };
        let answer = encode(&found, &self.fleet.trust.own);
        // Who has asked may have gone.
        let _ = self.session.publisher().publish("", reply_to, false, answer).await;
    }

    /// Says that it is there to whoever has asked, unless it has answered another just now: each
    /// answer of each replica goes to all of them. Then it is said a little later, to all who have
    /// asked meanwhile.
    async fn answer(&mut self) {
        let apart = (self.membership.interval() / 2).min(MOST_APART);
        if self.answered.is_some_and(|at| at.elapsed() < apart) {
            return;
        }
        self.answered = Some(Instant::now());
        self.send_heartbeat().await;
        self.announce().await;
    }

    async fn on_leader(&mut self, news: LeaderAnnouncement) -> Result<(), Lost> {
        if news.id == self.fleet.id {
            return Ok(());
        }
        if let Some(lead) = &self.lead {
            // The broker has given the lead to another while this one was cut off.
            let outrun = news.state.epoch > lead.state.epoch;
            return if outrun { Err("another replica leads".to_owned()) } else { Ok(()) };
        }
        self.leader_heard = Instant::now();
        self.fleet.solve_times().recall(&news.state.solve_times, self.now());
        let before = self.fleet.account.memory();
        if before.as_ref().is_none_or(|before| before.epoch <= news.state.epoch) {
            self.fleet.ledger.follow(&news.state.money, news.at.unwrap_or_else(|| self.now()));
        }
        // The leader may not have heard this one yet.
        let divisor = news.replicas.max(self.membership.size_or(1)).max(2);
        let leader = (&*news.id, &*news.name);
        let is_news = self.fleet.account.adopt(&news.state, leader, false, (news.replicas, divisor));
        self.fleet.account.types().follow(&news.shut, &news.failing);
        self.fleet.account.note_queues(news.queues);
        if is_news {
            leadership::log_change(&news.state, before.as_deref());
            self.send_heartbeat().await;
        }
        Ok(())
    }

    async fn on_replica(&mut self, mut heartbeat: Heartbeat) {
        let answers = std::mem::take(&mut heartbeat.answers);
        if heartbeat.id != self.fleet.id {
            let within = self.membership.interval() + TICK;
            self.fleet.learn(|times| times.hear(&answers, within, self.now()));
        }
        let epoch = heartbeat.epoch;
        let (id, counts) = (heartbeat.id.clone(), (heartbeat.vitals.answered, heartbeat.vitals.wrong_ids));
        let new = self.membership.note(heartbeat);
        if new {
            self.fleet.account.set_rank(self.membership.rank(&self.fleet.id));
        }
        let Some(lead) = &mut self.lead else { return };
        lead.listener.note(&id);
        if lead.overtake(epoch) {
            self.write().await;
        } else if new {
            self.announce().await;
        }
        self.on_answers(&id, counts, None).await;
    }

    /// What a replica's answers make of the fleet's.
    async fn on_answers(&mut self, replica: &str, counts: (u64, u64), term: Option<u64>) {
        let clock = (&self.fleet.options.rules, self.fleet.options.clock.uptime());
        let now = self.now();
        let Some(lead) = &mut self.lead else { return };
        let (verdict, term) = (lead.note_answers(replica, counts, term, clock), lead.state.term);
        let key = self.fleet.account.key();
        match verdict {
            Some(AnswersVerdict::WrongIds) => {
                let reason = Reason::WrongIds;
                // Whatever the writing of it takes, nothing more is asked for here.
                self.fleet.account.heard_refused(reason, &key, term);
                let since = lead.wrong_ids_since(now);
                self.learn(GuardEvent::Refused { reason, key: &key, term, peers: false, since }).await;
            }
            Some(AnswersVerdict::IdsKnown) => {
                self.learn(GuardEvent::Canary(CanaryEnd::Passed, term, &key)).await;
            }
            None => {}
        }
    }

    async fn on_report(&mut self, report: ReplicaReport) {
        let now = self.now();
        match report {
            ReplicaReport::Refused { reason, key, term } => {
                self.fleet.account.heard_refused(reason, &key, term);
                let peers = self.peers(&key);
                let lead = self.lead.as_ref().filter(|_| reason == Reason::WrongIds);
                let since = lead.and_then(|lead| lead.wrong_ids_since(now));
                self.learn(GuardEvent::Refused { reason, key: &key, term, peers, since }).await;
            }
            ReplicaReport::Answered {
                from,
                term,
                answered,
                wrong_ids,
                wrong_id,
                in_a_row,
                after_silence,
                accepted_at,
            } => {
                if from != self.fleet.id {
                    let account = &self.fleet.account;
                    if wrong_id {
                        account.heard_wrong_id(MetWrongId { in_a_row, after_silence, accepted_at });
                    } else {
                        account.heard_known_task();
                    }
                }
                if let Some(lead) = &mut self.lead
                    && wrong_id
                {
                    lead.wrong_id(in_a_row, now);
                }
                self.on_answers(&from, (answered, wrong_ids), Some(term)).await;
            }
            ReplicaReport::NewerKnown { from, accepted_at } => {
                if from != self.fleet.id {
                    self.fleet.account.heard_newer_known(accepted_at);
                }
            }
            ReplicaReport::Down => {
                if let Some(lead) = &mut self.lead {
                    lead.suspected = true;
                    lead.note_silence();
                    self.perform_duty().await;
                }
            }
            ReplicaReport::Silence { from, answered, wrong_ids } => {
                if from != self.fleet.id {
                    self.fleet.account.heard_silence();
                }
                if let Some(lead) = &mut self.lead {
                    lead.count_from(&from, (answered, wrong_ids));
                    lead.note_silence();
                }
            }
            ReplicaReport::Doubted => {
                if let Some(lead) = &mut self.lead {
                    lead.doubted = true;
                    self.perform_duty().await;
                }
            }
            ReplicaReport::Shut { task_type, failing } => {
                self.fleet.account.types().open(&task_type, failing);
            }
            ReplicaReport::Slots { task_type } => {
                self.fleet.account.types().close(&task_type);
            }
            ReplicaReport::ProxyBanned { proxy } => {
                self.fleet.account.isolate(&proxy, now);
                self.learn(GuardEvent::ProxyBanned(&proxy)).await;
            }
            ReplicaReport::KeyTried { key, good: Some(true) } => {
                self.on_tried(&key, ProbeEnd::KeyTaken).await;
            }
            ReplicaReport::KeyTried { key, good: Some(false) } => {
                self.on_tried(&key, ProbeEnd::Refused(Reason::KeyInvalid)).await;
            }
            ReplicaReport::KeyTried { good: None, .. } => {}
        }
    }

    /// Whether the leader knows another replica whose key is good.
    fn peers(&self, key: &Fingerprint) -> bool {
        let keys = self.lead.as_ref().map(|lead| &lead.state.keys);
        keys.is_some_and(|keys| self.membership.has_another_good_key(keys, key))
    }

    async fn on_command(&mut self, command: OperatorCommand, by: String) {
        let since = self.now();
        let OperatorCommand { id, order } = command;
        let done = self.lead.as_ref().is_none_or(|lead| lead.state.has_carried_out(&id));
        let reason_fits =
            !matches!(&order, Order::Pause { reason: Some(reason) } if reason.len() > MAX_REASON);
        if done || id.len() > MAX_COMMAND_ID || !reason_fits {
            return;
        }
        let (command, reason) = match &order {
            Order::Pause { reason } => ("pause", reason.as_deref()),
            Order::Resume => ("resume", None),
            Order::RaiseBudget(_) => ("raise a budget", None),
        };
        tracing::info!(command, by, reason, "an operator's command");
        match order {
            Order::Pause { reason } => self.learn(GuardEvent::Pause(Paused { reason, by, since }, &id)).await,
            Order::Resume => self.learn(GuardEvent::Resume(&id)).await,
            Order::RaiseBudget(ordered) => match ordered.raise(by, since) {
                Some(raise) => self.learn(GuardEvent::BudgetRaised(raise, &id)).await,
                None => return,
            },
        };
        self.perform_duty().await;
    }

    /// Reports what this replica has spent, until the leader has counted it; and what others have
    /// not reported. Soon where a budget has to hold, else with the heartbeats.
    async fn report_spending(&mut self) {
        let ledger = &self.fleet.ledger;
        if self.lead.is_some() {
            self.book_own_spending();
        } else if ledger.has_news()
            && !Failpoint::SpendingUnreported.in_force()
            && let Some(report) = ledger.report()
        {
            let soon = !ledger.money().0.budgets.is_empty();
            let apart = if soon {
                TICK * self.membership.report_interval_factor()
            } else {
                self.membership.interval()
            };
            if self.spending_reported_at.elapsed() + TICK / 2 >= apart {
                self.spending_reported_at = Instant::now();
                self.send(&Control::Spent(report)).await;
            }
        }
        let orphans = self.fleet.ledger.orphans();
        if !orphans.is_empty() {
            self.send(&Control::Orphans { orphans }).await;
        }
    }

    async fn on_spent(&mut self, report: &SpendReport) {
        self.fleet.ledger.hear(report);
        let now = self.now();
        if let Some(lead) = &mut self.lead {
            lead.state.money.books.note(report, now);
            self.judge_budgets().await;
        }
    }

    async fn on_orphans(&mut self, orphans: &[Orphan]) {
        let now = self.now();
        if let Some(lead) = &mut self.lead {
            for orphan in orphans {
                // The row of a replica that is gone stays for as long as its tickets may show up.
                if lead.state.money.books.note_orphan(orphan, now) {
                    lead.listener.note(orphan.acceptance.replica_id());
                }
            }
            self.judge_budgets().await;
        }
    }

    async fn on_found(&mut self, found: Finding) {
        match found {
            Finding::Report(report) => self.send(&Control::Report(report)).await,
            // An address of its own: no matter of the fleet's.
            Finding::Canary(CanaryEnd::Refused(reason), _)
                if self.fleet.options.egress == Egress::Own && reason.is_of_the_address() => {}
            Finding::Doubtful { wrong_id } => {
                let clock = (&self.fleet.options.rules, self.fleet.options.clock.uptime());
                let verdict = self.lead.as_mut().and_then(|lead| lead.note_doubtful(wrong_id, clock));
                if let Some(lost) = verdict {
                    self.learn(GuardEvent::DoubtfulTasks { lost }).await;
                }
            }
            Finding::Canary(end, term) => {
                let key = self.fleet.account.key();
                self.learn(GuardEvent::Canary(end, term, &key)).await;
            }
        }
    }

    async fn on_tick(&mut self) -> Result<(), Lost> {
        let fleet = self.fleet;
        fleet.account.tick();
        if fleet.account.key() != self.announced_key {
            tracing::info!("API key changed; verifying it");
            self.send_heartbeat().await;
        }
        self.membership.prune();
        fleet.account.set_rank(self.membership.rank(&fleet.id));
        if self.heartbeat_sent_at.elapsed() >= self.membership.interval() {
            self.send_heartbeat().await;
        } else if self.asked {
            self.answer().await;
        }
        self.report_spending().await;
        if self.lead.is_some() {
            self.lead_on().await;
        } else {
            self.watch_leader().await?;
        }
        Ok(())
    }

    /// What a replica that does not lead does about there being a leader.
    async fn watch_leader(&mut self) -> Result<(), Lost> {
        let leaving = self.fleet.leaving.is_cancelled();
        if self.aside_until.is_some_and(|until| !leaving && Instant::now() >= until) {
            self.aside_until = None;
            self.stand_for_lead().await?;
        }
        let max_wait = SILENCE.mul_f64(1.0 + self.fleet.options.rng.jitter());
        if self.leader_heard.elapsed() < max_wait || self.guard.is_none() {
            return Ok(());
        }
        self.leader_heard = Instant::now();
        let depth = self.session.link().depth(&self.fleet.options.names.guard()).await.map_err(lost)?;
        // One that waits there is about to make somebody the leader.
        if depth.ready == 0 {
            self.create().await;
        }
        Ok(())
    }
}

/// The end of the call under way, if any; `None` where it panicked.
async fn probed(probing: &mut Option<Probing>) -> Option<Probed> {
    match probing {
        Some(probing) => probing.await.ok(),
        None => pending().await,
    }
}
