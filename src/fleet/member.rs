//! One replica's part in the fleet, over one session: it listens, says that it is there, and leads when the state message comes to it.
//!
//! What it hears is in `hear`, what it does as the leader in `duty`.

mod control_handlers;
mod leading;

use std::future::pending;
use std::time::Duration;

use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::leadership::Lead;
use super::membership::Membership;
use super::message::{Control, Heartbeat, say};
use super::{Fleet, Found, Vitals};
use crate::broker::{ConsumeSpec, Consumer, Delivery, Session, receive};
use crate::domain::call::CallError;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{GuardEvent, Phase};
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;
use crate::solver::Balance;

/// How often it looks at what is due.
const TICK: Duration = Duration::from_millis(500);
/// Without the leader's word for so long (and up to as much again, by chance), its state message is taken for lost.
const SILENCE: Duration = Duration::from_secs(5);
/// State messages that can be at hand: one, and what a crash in between two has left.
const PREFETCH: u16 = 8;
/// Messages that are on their way to a new leader follow each other this closely.
const TOGETHER: Duration = Duration::from_millis(20);

type Vital<'a> = &'a (dyn Fn() -> Vitals + Send + Sync);

/// A call of getBalance under way.
pub(super) type Probing = AbortOnDropHandle<Probed>;
/// Its end, and the key that it was made with.
type Probed = (Fingerprint, Result<Balance, CallError>);

pub(super) struct Member<'a> {
    fleet: &'a Fleet,
    session: &'a Session,
    vitals: Vital<'a>,
    found: &'a mut Receiver<Found>,
    control: Consumer,
    guard: Option<Consumer>,
    lead: Option<Lead>,
    roster: Membership,
    probing: Option<Probing>,
    tick: Interval,
    leader_heard: Instant,
    announced: Instant,
    presented: Instant,
    presented_key: Fingerprint,
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
        vitals: Vital<'a>,
        found: &'a mut Receiver<Found>,
    ) -> Result<Self, Lost> {
        let queue = fleet.names.guard();
        // Asked before this replica is a consumer of it: nobody leads, and there is no state to lead with.
        let depth = session.link().depth(&queue).await.map_err(lost)?;
        let control = session.link().subscribe(&fleet.names.control()).await.map_err(lost)?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = Instant::now();
        let mut member = Self {
            fleet,
            session,
            vitals,
            found,
            control,
            guard: None,
            lead: None,
            roster: fleet.roster.clone(),
            probing: None,
            tick,
            leader_heard: now,
            announced: now,
            presented: now,
            presented_key: fleet.standing.key(),
            answered: None,
            asked: false,
            aside_until: None,
            asked_in: 0,
        };
        if !fleet.leaving.is_cancelled() {
            member.stand_for_lead().await?;
        }
        member.say(&Control::Hello).await;
        if depth.ready == 0 && depth.consumers == 0 {
            member.create().await;
        }
        Ok(member)
    }

    async fn stand_for_lead(&mut self) -> Result<(), Lost> {
        let queue = self.fleet.names.guard();
        let tag = format!("{} {queue}", self.fleet.name);
        let spec = ConsumeSpec { queue, prefetch: PREFETCH, tag };
        self.guard = Some(self.session.link().consume(spec).await.map_err(lost)?);
        Ok(())
    }

    /// Takes part until the session is gone, and tells why.
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
        self.fleet.clock.now()
    }

    /// Says something to all. Should it not arrive, that is no end of anything: what matters is said again.
    async fn say(&self, control: &Control) {
        let message = say(control, &self.fleet.trust.own);
        let said = self.session.publisher().publish(&self.fleet.names.control(), "", false, message).await;
        if let Err(error) = said {
            tracing::debug!(%error, "a control message was not published");
        }
    }

    /// Says that it is there.
    async fn present(&mut self) {
        let seen = self.fleet.standing.seen();
        let presence = Heartbeat {
            id: self.fleet.id.clone(),
            name: self.fleet.name.clone(),
            epoch: seen.epoch(),
            key: self.fleet.standing.key(),
            held: seen.held(),
            started_at: self.fleet.started_at,
            vitals: (self.vitals)().bounded(),
        };
        self.presented = Instant::now();
        self.presented_key = presence.key.clone();
        self.asked = false;
        self.roster.note(presence.clone());
        self.say(&Control::Replica(Box::new(presence))).await;
    }

    /// A message of the guard's queue: with the first of them comes the lead.
    async fn on_state(&mut self, delivery: Delivery) -> Result<(), Lost> {
        let Delivery { message, receipt, .. } = delivery;
        let Some(state) = self.fleet.trust.read_state(&message) else {
            tracing::warn!(
                "a message on the guard's queue that no replica wrote goes to the raw dead letters"
            );
            let _ = receipt.reject();
            return Ok(());
        };
        if let Some(lead) = &mut self.lead {
            lead.receive(state, receipt);
            return Ok(());
        }
        let mut lead = Lead::take(state, receipt);
        if Failpoint::GuardForgotten.in_force() {
            lead.state.phase = Phase::Active;
            lead.state.paused = None;
        }
        self.gather(&mut lead).await?;
        if let Some(memory) = self.fleet.standing.memory() {
            lead.remember(&memory);
        }
        tracing::info!(
            epoch = lead.state.epoch,
            phase = lead.state.phase.name(),
            "this replica leads the fleet"
        );
        self.lead = Some(lead);
        if !self.learn(GuardEvent::TookOver).await {
            self.write().await;
        }
        self.say(&Control::Hello).await;
        Ok(())
    }

    /// Whatever else the broker holds belongs to the leader before it acts: a crash may have left two states.
    async fn gather(&mut self, lead: &mut Lead) -> Result<(), Lost> {
        let queue = self.fleet.names.guard();
        let waiting = self.session.link().depth(&queue).await.map_err(lost)?.ready;
        let patience = if waiting > 0 { TOGETHER * 10 } else { TOGETHER };
        while let Ok(next) = timeout(patience, receive(&mut self.guard)).await {
            let Delivery { message, receipt, .. } = next.ok_or("the guard consumer ended")?;
            match self.fleet.trust.read_state(&message) {
                Some(state) => lead.receive(state, receipt),
                None => {
                    let _ = receipt.reject();
                }
            }
        }
        Ok(())
    }

    async fn on_tick(&mut self) -> Result<(), Lost> {
        let fleet = self.fleet;
        fleet.standing.tick();
        if fleet.standing.key() != self.presented_key {
            tracing::info!("another key: it is tried before it is used");
            self.present().await;
        }
        self.roster.prune();
        fleet.standing.set_rank(self.roster.rank(&fleet.id));
        if self.presented.elapsed() >= self.roster.interval() {
            self.present().await;
        } else if self.asked {
            self.answer().await;
        }
        if self.lead.is_some() {
            self.lead_on().await;
        } else {
            self.mind_the_lead().await?;
        }
        Ok(())
    }

    /// What a replica that does not lead does about there being a leader.
    async fn mind_the_lead(&mut self) -> Result<(), Lost> {
        let leaving = self.fleet.leaving.is_cancelled();
        if self.aside_until.is_some_and(|until| !leaving && Instant::now() >= until) {
            self.aside_until = None;
            self.stand_for_lead().await?;
        }
        let patience = SILENCE.mul_f64(1.0 + self.fleet.dice.jitter());
        if self.leader_heard.elapsed() < patience || self.guard.is_none() {
            return Ok(());
        }
        self.leader_heard = Instant::now();
        let depth = self.session.link().depth(&self.fleet.names.guard()).await.map_err(lost)?;
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
