//! An operator's view of a fleet: asks who is there, and gives orders, over the control exchange.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, interval, timeout_at};

use super::membership;
use super::message::{Control, Heartbeat, LeaderAnnouncement, OperatorCommand, Sighting, Trust, encode};
use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError, Consumer, PublishError, Session};
use crate::clock::Rng;
use crate::domain::guard::Phase;
use crate::domain::message::Message;
use crate::domain::time::Timestamp;

pub use super::message::Order;

/// An order that was lost, for want of a leader at that moment, is given again.
const REPEAT: Duration = Duration::from_secs(1);
/// Replicas that are listed.
const MAX_REPLICAS: usize = 4_096;
/// A leader repeats its state every second; one that was silent for so long is none.
const LEADER_SILENT: Duration = Duration::from_secs(5);

/// What a fleet has answered.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The leader's latest announcement, asked for or pushed; `None` where nobody leads.
    pub leader: Option<LeaderAnnouncement>,
    /// The replicas, by name.
    pub replicas: Vec<Heartbeat>,
}

impl Survey {
    /// How many replicas know the state that the leader has announced, or a later one.
    #[must_use]
    pub fn following(&self) -> usize {
        following(self.leader.as_ref(), self.replicas.iter())
    }

    /// Replicas that should have answered.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.leader.as_ref().map_or(0, |leader| leader.replicas).max(self.replicas.len())
    }
}

fn following<'a>(
    leader: Option<&LeaderAnnouncement>,
    replicas: impl Iterator<Item = &'a Heartbeat>,
) -> usize {
    let epoch = leader.map_or(u64::MAX, |leader| leader.state.epoch);
    replicas.filter(|replica| replica.epoch >= epoch).count()
}

/// What has come of an order.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The leader has written it down.
    pub carried_out: bool,
    /// How the fleet stands.
    pub survey: Survey,
}

/// A connection to a fleet's control exchange.
pub struct Client {
    session: Session,
    control: Consumer,
    exchange: String,
    user: String,
    rng: Rng,
    replicas: BTreeMap<String, (Heartbeat, Instant)>,
    leader: Option<(LeaderAnnouncement, Instant)>,
}

impl Client {
    /// Connects. Nothing is asked yet.
    ///
    /// # Errors
    /// The broker cannot be reached, or has no control exchange under these names.
    pub async fn connect(broker: &Broker, names: &Names, rng: Rng) -> Result<Self, BrokerError> {
        let session = broker.connect().await?;
        let exchange = names.control();
        let control = session.link().subscribe(&exchange).await?;
        let user = broker.user().to_owned();
        Ok(Self { session, control, exchange, user, rng, replicas: BTreeMap::new(), leader: None })
    }

    /// The session, for looking at queues beside.
    #[must_use]
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Asks who is there, and waits until all have answered or the time is over.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn survey(&mut self, max_wait: Duration) -> Result<Survey, BrokerError> {
        let deadline = Instant::now() + max_wait;
        self.forget();
        self.send(&Control::Hello).await?;
        loop {
            if self.is_complete() || !self.listen(deadline).await? {
                return Ok(self.collected());
            }
        }
    }

    /// Asks nobody, and takes in until the deadline what replicas say by themselves; who has fallen
    /// silent is forgotten. For whoever looks on for long: each question is answered by every
    /// replica to all of them.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn listen_until(&mut self, deadline: Instant) -> Result<(), BrokerError> {
        while self.listen(deadline).await? {}
        let max_wait = membership::heartbeat_timeout(self.replicas.len());
        self.replicas.retain(|_, (_, at)| at.elapsed() < max_wait);
        self.leader.take_if(|(_, at)| at.elapsed() >= LEADER_SILENT);
        Ok(())
    }

    /// The leader's latest announcement, asked for or pushed; `None` where nobody leads.
    #[must_use]
    pub fn leader(&self) -> Option<&LeaderAnnouncement> {
        self.leader.as_ref().map(|(leader, _)| leader)
    }

    /// The replicas, and how long ago each was heard.
    pub fn heard(&self) -> impl Iterator<Item = (&Heartbeat, Duration)> {
        self.replicas.values().map(|(replica, at)| (replica, at.elapsed()))
    }

    /// Gives an order, and waits until the whole fleet follows it or the time is over.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn order(&mut self, order: Order, max_wait: Duration) -> Result<Answer, BrokerError> {
        let deadline = Instant::now() + max_wait;
        let id = self.rng.fresh_id();
        let command = Control::Command(OperatorCommand { id: id.clone(), order });
        self.forget();
        // Whoever is there already answers to this, so that it is known how many are to follow.
        self.send(&Control::Hello).await?;
        let mut repeat = interval(REPEAT);
        loop {
            let carried_out = self.leader().is_some_and(|leader| leader.state.has_carried_out(&id));
            if carried_out && self.is_complete() || Instant::now() >= deadline {
                return Ok(Answer { carried_out, survey: self.collected() });
            }
            tokio::select! {
                _ = repeat.tick(), if !carried_out => self.send(&command).await?,
                heard = self.listen(deadline) => drop(heard?),
            }
        }
    }

    /// Waits, after a resume, until it is known whether the account can be used: `false` where it
    /// was tried and refused, or must not be tried yet, or where that takes too long. `before`:
    /// when it was tried last before the resume.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn works_again(
        &mut self,
        before: Option<Timestamp>,
        max_wait: Duration,
    ) -> Result<bool, BrokerError> {
        let deadline = Instant::now() + max_wait;
        loop {
            if let Some(LeaderAnnouncement { state, .. }) = self.leader() {
                let trip = state.tripped();
                let is_tried = state.unended == 0 && state.probed_at > before;
                match state.phase {
                    Phase::Active | Phase::Canary => return Ok(true),
                    Phase::Tripped if is_tried || trip.is_some_and(|trip| trip.reason.stops().probes) => {
                        return Ok(false);
                    }
                    Phase::Tripped | Phase::Probing => {}
                }
            }
            if !self.listen(deadline).await? {
                return Ok(false);
            }
        }
    }

    /// How the fleet stands, as far as it was heard.
    #[must_use]
    pub fn collected(&self) -> Survey {
        let mut replicas: Vec<Heartbeat> = self.heard().map(|(replica, _)| replica.clone()).collect();
        replicas.sort_by(|a, b| a.name.cmp(&b.name));
        Survey { leader: self.leader().cloned(), replicas }
    }

    /// Asks every replica where a job is, and returns by replica's name what those have answered
    /// that did so in time. Fewer than `expected` answer if some are of an earlier version.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn find(
        &mut self,
        job: &str,
        expected: usize,
        max_wait: Duration,
    ) -> Result<Vec<(String, Vec<Sighting>)>, BrokerError> {
        let deadline = Instant::now() + max_wait;
        let mut replies = self.session.link().open_replies().await?;
        let mut message = encode(&Control::Find { job: job.to_owned() }, &self.user);
        message.properties.reply_to = Some(replies.reply_to().to_owned());
        sent(replies.publisher().publish(&self.exchange, "", false, message).await)?;
        let mut found = BTreeMap::new();
        while found.len() < expected.min(MAX_REPLICAS)
            && let Ok(Some(answer)) = timeout_at(deadline, replies.recv()).await
        {
            if let Some(Control::Found { id, name, sightings }) = shown(&answer) {
                found.insert(id, (name, sightings));
            }
        }
        Ok(found.into_values().collect())
    }

    /// Closes the connection.
    pub async fn close(self) {
        self.session.link().close().await;
    }

    fn forget(&mut self) {
        self.replicas.clear();
        self.leader = None;
    }

    async fn send(&self, control: &Control) -> Result<(), BrokerError> {
        let message = encode(control, &self.user);
        sent(self.session.publisher().publish(&self.exchange, "", false, message).await)
    }

    /// Whether all that there should be have answered, and know what the leader has announced.
    fn is_complete(&self) -> bool {
        let Some(leader) = self.leader() else { return false };
        following(Some(leader), self.heard().map(|(replica, _)| replica))
            >= leader.replicas.max(self.replicas.len())
    }

    /// Takes the next message in; whether there was one before the deadline.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn listen(&mut self, deadline: Instant) -> Result<bool, BrokerError> {
        let Ok(next) = timeout_at(deadline, self.control.recv()).await else { return Ok(false) };
        let delivery = next.ok_or_else(|| BrokerError::Lost("the control consumer ended".to_owned()))?;
        let _ = delivery.receipt.ack();
        match shown(&delivery.message) {
            Some(Control::Leader(news)) => {
                let later = self.leader().is_none_or(|known| known.state.epoch <= news.state.epoch);
                if later {
                    self.leader = Some((*news, Instant::now()));
                }
            }
            Some(Control::Replica(heartbeat))
                if self.replicas.len() < MAX_REPLICAS || self.replicas.contains_key(&heartbeat.id) =>
            {
                self.replicas.insert(heartbeat.id.clone(), (*heartbeat, Instant::now()));
            }
            Some(Control::Bye { id }) => drop(self.replicas.remove(&id)),
            Some(_) | None => {}
        }
        Ok(true)
    }
}

/// What a message says. Shown, never acted upon: any sender will do that the broker has verified
/// and that may write to the exchange.
fn shown(message: &Message) -> Option<Control> {
    let own = message.properties.user_id.clone().unwrap_or_default();
    Trust { own, operators: Vec::new() }.verify(message).map(|heard| heard.control)
}

/// RabbitMQ 4.3 refuses a message if one of its queues is deleted at that moment, as that of a
/// replica that leaves. The others have their copies, and the answers show that.
fn sent(end: Result<(), PublishError>) -> Result<(), BrokerError> {
    match end {
        Err(PublishError::Rejected) => Ok(()),
        end => end.map_err(|error| BrokerError::Lost(error.to_string())),
    }
}
