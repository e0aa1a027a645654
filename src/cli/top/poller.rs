//! Polls the fleet: the replicas over the broker, and beside them the ops servers.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::ops::{OpsServers, OpsStatus};
use crate::broker::topology::{Names, RETRY_DELAYS};
use crate::broker::{Broker, BrokerError, Session};
use crate::cli::CommandError;
use crate::clock::{Clock, Reconnect, Rng};
use crate::domain::class::Class;
use crate::domain::lane::Lane;
use crate::domain::sanitize::shown;
use crate::fleet::{Client, Depths, Heartbeat, Survey};
use crate::overview::{FleetFacts, Overview, RateTracker};

/// Replicas answer within milliseconds; this long for those that do not.
const TIMEOUT: Duration = Duration::from_millis(2_500);
/// The shortest pause between two reads of the queues' depths: each queue is a call of its own.
const DEPTHS_EVERY: Duration = Duration::from_secs(2);
/// Where the broker takes longer, the picture shows what the ops servers report until then.
const GRACE: Duration = Duration::from_secs(1);
/// The longest that one poll over the broker takes.
const LONGEST: Duration = Duration::from_secs(10);

/// The result of one poll.
#[derive(Debug, Clone, Default, Serialize)]
pub(in crate::cli) struct PollResult {
    /// The fleet; `None` where nobody reported it.
    pub(in crate::cli) fleet: Option<Overview>,
    /// The ops server that reported it, where the broker did not.
    pub(super) told_by: Option<String>,
    /// What is wrong with the broker.
    pub(super) broker: Option<String>,
    /// The ops servers.
    pub(super) ops: Vec<OpsStatus>,
}

impl PollResult {
    /// Whether somebody leads the fleet.
    pub(in crate::cli) fn has_leader(&self) -> bool {
        self.fleet.as_ref().is_some_and(|fleet| fleet.leader.is_some())
    }

    /// Whether the replicas reported it themselves.
    pub(super) fn is_by_broker(&self) -> bool {
        self.fleet.is_some() && self.told_by.is_none()
    }
}

impl PollResult {
    fn by_ops(ops: Vec<OpsStatus>, broker: &str) -> Self {
        // The server that hears a leader, and the most replicas, knows the fleet best. The first of
        // equals is taken, so that the picture does not jump.
        let knowing = ops.iter().filter_map(|status| Some((status.fleet.clone()?, status.address.clone())));
        let (fleet, told_by) =
            knowing.min_by_key(|(fleet, _)| Reverse((fleet.leader.is_some(), fleet.heard_replicas))).unzip();
        Self { fleet, told_by, broker: Some(shown(broker, 300)), ops }
    }
}

/// The way over the broker.
struct BrokerSource {
    broker: Broker,
    names: Names,
    client: Option<Client>,
    depths: Option<(Depths, Instant)>,
    /// The answers to the last question.
    survey: Survey,
}

impl BrokerSource {
    /// Asks the replicas on a new connection, and where `asks` is set. Otherwise it reads what they
    /// have sent unasked.
    async fn poll(&mut self, asks: bool) -> Result<(), BrokerError> {
        let is_new = self.client.is_none();
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(Client::connect(&self.broker, &self.names, Rng::Thread).await?),
        };
        if is_new || asks {
            self.survey = client.survey(TIMEOUT).await?;
        } else {
            client.listen_until(Instant::now()).await?;
        }
        if self.depths.as_ref().is_none_or(|(_, at)| at.elapsed() >= DEPTHS_EVERY) {
            let lanes: BTreeSet<Lane> =
                client.heard().flat_map(|(replica, _)| replica.vitals.lanes.keys().cloned()).collect();
            self.depths = Some((depths(client.session(), &self.names, &lanes).await?, Instant::now()));
        }
        Ok(())
    }
}

/// Polls, and keeps what it needs for the next poll.
pub(in crate::cli) struct Poller {
    source: BrokerSource,
    ops: OpsServers,
    began: Instant,
    tracker: RateTracker,
    reconnect: Reconnect,
    try_again_at: Instant,
    error: Option<BrokerError>,
}

impl Poller {
    pub(in crate::cli) fn new(broker: Broker, names: Names, ops: Vec<Url>) -> Result<Self, CommandError> {
        let ops = OpsServers::new(ops, names.namespace())?;
        let now = Instant::now();
        Ok(Self {
            source: BrokerSource { broker, names, client: None, depths: None, survey: Survey::default() },
            ops,
            began: now,
            tracker: RateTracker::default(),
            reconnect: Reconnect::default(),
            try_again_at: now,
            error: None,
        })
    }

    /// Polls until every receiver is gone.
    pub(super) async fn run(mut self, every: Duration, results: watch::Sender<PollResult>) {
        // Where nobody reports the fleet, an older picture of it says more than none.
        let early = |shot: PollResult| {
            if shot.fleet.is_some() {
                // The loop below notices that every receiver is gone.
                results.send_replace(shot);
            }
        };
        loop {
            let next = Instant::now() + every;
            let shot = self.poll(false, early).await;
            if results.send(shot).is_err() {
                return;
            }
            // A pause follows a long poll too.
            self.rest(next.max(Instant::now() + every / 2)).await;
        }
    }

    /// Polls once. If the broker takes long, it passes to `early` what is known without the broker.
    /// Never fails: the result says what could not be asked.
    pub(in crate::cli) async fn poll(&mut self, asks: bool, early: impl Fn(PollResult)) -> PollResult {
        if self.error.is_some() && Instant::now() < self.try_again_at {
            return self.without_broker().await;
        }
        let before = self.error.as_ref().map_or_else(|| "no answer yet".to_owned(), ToString::to_string);
        let (seen, ops) = {
            let mut seen = pin!(timeout(LONGEST, self.source.poll(asks)));
            loop {
                let (seen, ops) = tokio::join!(timeout(GRACE, &mut seen), self.ops.ask());
                match seen {
                    Ok(seen) => break (seen, ops),
                    Err(_) => early(PollResult::by_ops(ops, &before)),
                }
            }
        };
        let seen = seen
            .unwrap_or_else(|_| Err(BrokerError::Lost(format!("no answer within {} s", LONGEST.as_secs()))));
        match seen {
            Ok(()) => {
                self.reconnect.reset();
                self.error = None;
                PollResult { fleet: self.overview(), told_by: None, broker: None, ops }
            }
            Err(error) => {
                self.lost(error);
                PollResult::by_ops(ops, &self.trouble())
            }
        }
    }

    async fn without_broker(&self) -> PollResult {
        let ops = self.ops.ask().await;
        PollResult::by_ops(ops, &self.trouble())
    }

    /// Waits, and reads what arrives meanwhile.
    pub(super) async fn rest(&mut self, until: Instant) {
        match &mut self.source.client {
            Some(client) => {
                if let Err(error) = client.listen_until(until).await {
                    self.lost(error);
                }
            }
            None => sleep_until(until).await,
        }
    }

    /// What is wrong with the broker, and when it is tried again.
    fn trouble(&self) -> String {
        let wait = self.try_again_at.saturating_duration_since(Instant::now()).as_secs();
        self.error.as_ref().map_or_else(String::new, |error| format!("{error}; trying again in {wait} s"))
    }

    fn lost(&mut self, error: BrokerError) {
        (self.source.client, self.source.depths, self.tracker) = (None, None, RateTracker::default());
        self.try_again_at = Instant::now() + self.reconnect.wait(Rng::Thread.jitter());
        self.error = Some(error);
    }

    fn overview(&mut self) -> Option<Overview> {
        let BrokerSource { names, client, depths, .. } = &self.source;
        let client = client.as_ref()?;
        self.tracker.note(self.began.elapsed(), client.heard());
        let leader = client.leader();
        let replicas: Vec<&Heartbeat> = client.heard().map(|(replica, _)| replica).collect();
        Some(Overview::of(FleetFacts {
            at: Clock::System.now(),
            namespace: names.namespace(),
            state: leader.map(|leader| &leader.state),
            leader: leader.map(|leader| &*leader.name),
            leader_id: leader.map(|leader| &*leader.id),
            expected: leader.map_or(0, |leader| leader.replicas),
            replicas: &replicas,
            shut: leader.map(|leader| &*leader.shut).unwrap_or_default(),
            queues: depths.as_ref().map(|(depths, _)| depths),
            tracker: &self.tracker,
        }))
    }

    /// What the replicas answered to the last poll that asked them.
    pub(in crate::cli) fn survey(&self) -> &Survey {
        &self.source.survey
    }

    /// Ends, and returns the last error of the broker.
    pub(in crate::cli) async fn close(&mut self) -> Option<BrokerError> {
        if let Some(client) = self.source.client.take() {
            client.close().await;
        }
        self.error.take()
    }
}

/// The depth of every queue that is shown.
async fn depths(session: &Session, names: &Names, lanes: &BTreeSet<Lane>) -> Result<Depths, BrokerError> {
    let mut queues = vec![names.jobs(), names.tickets(), names.results(), names.dead_raw(), names.unrouted()];
    queues.extend(RETRY_DELAYS.map(|delay| names.retry(delay)));
    let of_lanes = lanes.iter().filter(|lane| !lane.is_default()).flat_map(|lane| {
        let retry = RETRY_DELAYS.map(|delay| names.retry_of(delay, lane));
        [names.jobs_of(lane)].into_iter().chain(retry)
    });
    let of_lanes: BTreeSet<String> = of_lanes.collect();
    queues.extend(of_lanes.iter().cloned());
    queues.extend(Class::finals().map(|class| names.dead(class)));
    let prefix = format!("{}.", names.namespace());
    let mut depths = Depths {
        at: Clock::System.now(),
        ready: std::collections::BTreeMap::new(),
        missing: BTreeSet::new(),
    };
    for queue in queues {
        let ready = match session.link().depth(&queue).await {
            Ok(depth) => depth.ready,
            // A lane's queues are deleted when it is done with.
            Err(BrokerError::Missing { .. }) if of_lanes.contains(&queue) => continue,
            Err(error) => return Err(error),
        };
        let name = queue.strip_prefix(&prefix).unwrap_or(&queue);
        depths.ready.insert(name.to_owned(), ready);
    }
    Ok(depths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(address: &str, leader: Option<&str>, replicas: usize) -> OpsStatus {
        let mut fleet = Overview::of(FleetFacts {
            at: crate::domain::time::Timestamp::from_millis(0),
            namespace: "captcha",
            state: None,
            leader,
            leader_id: None,
            expected: 0,
            replicas: &[],
            shut: &[],
            queues: None,
            tracker: &RateTracker::default(),
        });
        fleet.heard_replicas = replicas;
        OpsStatus { address: address.to_owned(), fleet: Some(fleet), ..OpsStatus::default() }
    }

    #[test]
    fn without_the_broker_the_fleet_is_shown_as_the_server_that_knows_it_best_reports_it() {
        let all = vec![status("alone", None, 9), status("cut", Some("a"), 1), status("whole", Some("a"), 3)];
        let shot = PollResult::by_ops([all, vec![status("as good", Some("a"), 3)]].concat(), "gone");
        assert_eq!((shot.told_by.as_deref(), shot.broker.as_deref()), (Some("whole"), Some("gone")));
        assert_eq!(PollResult::by_ops(vec![OpsStatus::default()], "gone").told_by, None);
    }
}
