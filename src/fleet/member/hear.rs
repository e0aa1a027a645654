//! What a member hears on the control exchange, and what its own worker has found.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Found;
use super::super::lead::{self, Verdict};
use super::super::message::{Command, Control, Heard, LeaderNews, Order, Presence, Report};
use super::super::standing::Egress;
use super::{Lost, Member};
use crate::broker::Delivery;
use crate::domain::guard::{CanaryEnd, News, Paused, ProbeEnd, Reason};
use crate::domain::mark::Mark;

/// Both end up in the state, which must stay small. In bytes.
const MAX_REASON: usize = 1_000;
const MAX_COMMAND_ID: usize = 64;
/// Answers are no further apart, in a fleet of any size: an operator's question waits 2.5 s for them.
const MOST_APART: Duration = Duration::from_millis(1_500);

impl Member<'_> {
    pub(super) async fn on_control(&mut self, delivery: Delivery) -> Result<(), Lost> {
        let Delivery { message, receipt, .. } = delivery;
        let _ = receipt.ack();
        let Some(Heard { control, user }) = self.fleet.trust.hear(&message) else {
            tracing::debug!("a control message that is not to be believed");
            return Ok(());
        };
        match control {
            Control::Hello => {
                self.asked = true;
                self.answer().await;
            }
            Control::Leader(news) => self.on_leader(*news).await?,
            Control::Replica(presence) => self.on_replica(*presence).await,
            Control::Bye { id } => self.roster.remove(&id),
            Control::Report(report) => self.on_report(report).await,
            Control::Prove { id } => {
                let free = self.fleet.standing.held().is_none();
                if id == self.fleet.id && self.probing.is_none() && free {
                    self.probing = Some(self.fleet.probe());
                }
            }
            Control::Command(command) => self.on_command(command, user).await,
        }
        Ok(())
    }

    /// Says that it is there to whoever has asked, unless it has answered another just now: each answer of each replica goes to all of them.
    /// Then it is said a little later, to all who have asked meanwhile.
    pub(super) async fn answer(&mut self) {
        let apart = (self.roster.interval() / 2).min(MOST_APART);
        if self.answered.is_some_and(|at| at.elapsed() < apart) {
            return;
        }
        self.answered = Some(Instant::now());
        self.present().await;
        self.announce().await;
    }

    async fn on_leader(&mut self, news: LeaderNews) -> Result<(), Lost> {
        if news.id == self.fleet.id {
            return Ok(());
        }
        if let Some(lead) = &self.lead {
            // The broker has given the lead to another while this one was cut off.
            let outrun = news.state.epoch > lead.state.epoch;
            return if outrun { Err("another replica leads".to_owned()) } else { Ok(()) };
        }
        self.leader_heard = Instant::now();
        let before = self.fleet.standing.memory();
        let is_news = self.fleet.standing.adopt(&news.state, (&news.id, &news.name), false, news.replicas);
        self.fleet.standing.follow_shut(&news.shut, &news.failing);
        self.fleet.standing.note_queues(news.queues);
        if is_news {
            lead::tell(&news.state, before.as_deref());
            self.present().await;
        }
        Ok(())
    }

    async fn on_replica(&mut self, presence: Presence) {
        let epoch = presence.epoch;
        let (id, counts) = (presence.id.clone(), (presence.vitals.answered, presence.vitals.wrong_ids));
        let new = self.roster.note(presence);
        if new {
            self.fleet.standing.set_rank(self.roster.rank(&self.fleet.id));
        }
        let Some(lead) = &mut self.lead else { return };
        if lead.overtake(epoch) {
            self.write().await;
        } else if new {
            self.announce().await;
        }
        self.on_answers(&id, counts, None).await;
    }

    /// What a replica's answers make of the fleet's.
    async fn on_answers(&mut self, replica: &str, counts: (u64, u64), term: Option<u64>) {
        let clock = (&self.fleet.rules, self.fleet.clock.uptime());
        let Some(lead) = &mut self.lead else { return };
        let (verdict, term) = (lead.note_answers(replica, counts, term, clock), lead.state.term);
        let key = self.fleet.standing.key();
        match verdict {
            Some(Verdict::WrongIds) => {
                let reason = Reason::WrongIds;
                // Whatever the writing of it takes, nothing more is asked for here.
                self.fleet.standing.heard_refused(reason, &key, term);
                let since = lead.wrong_ids_since(self.fleet.clock.now());
                self.learn(News::Refused { reason, key: &key, term, peers: false, since }).await;
            }
            Some(Verdict::IdsKnown) => {
                self.learn(News::Canary(CanaryEnd::Passed, term, &key)).await;
            }
            None => {}
        }
    }

    async fn on_report(&mut self, report: Report) {
        let now = self.now();
        match report {
            Report::Refused { reason, key, term } => {
                self.fleet.standing.heard_refused(reason, &key, term);
                let peers = self.peers(&key);
                let lead = self.lead.as_ref().filter(|_| reason == Reason::WrongIds);
                let since = lead.and_then(|lead| lead.wrong_ids_since(now));
                self.learn(News::Refused { reason, key: &key, term, peers, since }).await;
            }
            Report::Answered { from, term, answered, wrong_ids, wrong_id, in_a_row } => {
                if wrong_id && from != self.fleet.id {
                    self.fleet.standing.heard_wrong_id();
                }
                if let Some(lead) = &mut self.lead
                    && wrong_id
                {
                    lead.wrong_id(in_a_row, now);
                }
                self.on_answers(&from, (answered, wrong_ids), Some(term)).await;
            }
            Report::Down => {
                if let Some(lead) = &mut self.lead {
                    lead.suspected = true;
                    lead.forget_answers();
                    self.do_duty().await;
                }
            }
            Report::Silence => {
                if let Some(lead) = &mut self.lead {
                    lead.forget_answers();
                }
            }
            Report::Doubted => {
                if let Some(lead) = &mut self.lead {
                    lead.doubted = true;
                    self.do_duty().await;
                }
            }
            Report::Shut { task_type, failing } => {
                self.fleet.standing.note_shut(&task_type, failing);
            }
            Report::Slots { task_type } => {
                self.fleet.standing.note_slots(&task_type);
            }
            Report::ProxyBanned { proxy } => {
                self.fleet.standing.isolate(&proxy, now);
                self.learn(News::ProxyBanned(&proxy)).await;
            }
            Report::KeyTried { key, good: Some(true) } => self.on_tried(&key, ProbeEnd::KeyTaken).await,
            Report::KeyTried { key, good: Some(false) } => {
                self.on_tried(&key, ProbeEnd::Refused(Reason::KeyInvalid)).await;
            }
            Report::KeyTried { good: None, .. } => {}
        }
    }

    /// Whether the leader knows another replica whose key is good.
    pub(super) fn peers(&self, key: &Mark) -> bool {
        let keys = self.lead.as_ref().map(|lead| &lead.state.keys);
        keys.is_some_and(|keys| self.roster.has_another_good_key(keys, key))
    }

    async fn on_command(&mut self, command: Command, by: String) {
        let since = self.now();
        let Command { id, order } = command;
        let done = self.lead.as_ref().is_none_or(|lead| lead.state.last_command.as_deref() == Some(&*id));
        let reason_fits =
            !matches!(&order, Order::Pause { reason: Some(reason) } if reason.len() > MAX_REASON);
        if done || id.len() > MAX_COMMAND_ID || !reason_fits {
            return;
        }
        match order {
            Order::Pause { reason } => self.learn(News::Pause(Paused { reason, by, since }, &id)).await,
            Order::Resume => self.learn(News::Resume(&id)).await,
        };
        self.do_duty().await;
    }

    pub(super) async fn on_found(&mut self, found: Found) {
        match found {
            Found::Report(report) => self.say(&Control::Report(report)).await,
            // An address of its own: no matter of the fleet's.
            Found::Canary(CanaryEnd::Refused(reason), _)
                if self.fleet.egress == Egress::Own && reason.is_of_the_address() => {}
            Found::Doubtful { wrong_id } => {
                let clock = (&self.fleet.rules, self.fleet.clock.uptime());
                let verdict = self.lead.as_mut().and_then(|lead| lead.note_doubtful(wrong_id, clock));
                if let Some(lost) = verdict {
                    self.learn(News::DoubtfulTasks { lost }).await;
                }
            }
            Found::Canary(end, term) => {
                let key = self.fleet.standing.key();
                self.learn(News::Canary(end, term, &key)).await;
            }
        }
    }
}
