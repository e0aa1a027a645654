//! Looks at the fleet: over the broker, and at ops servers beside.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use url::Url;

use super::ops::{OpsServers, Told};
use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError};
use crate::cli::status::PATIENCE;
use crate::cli::{CommandError, backlog};
use crate::clock::{Clock, Dice};
use crate::domain::shown::shown;
use crate::fleet::{Client, Depths, Presence, Survey};
use crate::overview::{Overview, Paces, Sight};

/// First and longest wait before the broker is tried again.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The queues are looked at no more often: each is a call of its own.
const DEPTHS_EVERY: Duration = Duration::from_secs(2);

/// What was seen at one look.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Shot {
    /// The fleet; `None` where nobody could tell.
    pub(super) fleet: Option<Overview>,
    /// The ops server that told it, where the broker did not.
    pub(super) told_by: Option<String>,
    /// What is wrong with the broker.
    pub(super) broker: Option<String>,
    /// The ops servers.
    pub(super) ops: Vec<Told>,
}

impl Shot {
    /// Whether the replicas told it themselves.
    pub(super) fn is_by_broker(&self) -> bool {
        self.fleet.is_some() && self.told_by.is_none()
    }
}

/// Looks, and keeps what it needs for the next look.
pub(super) struct Asker {
    broker: Broker,
    names: Names,
    ops: OpsServers,
    began: Instant,
    paces: Paces,
    client: Option<Client>,
    depths: Option<(Depths, Instant)>,
    failures: u32,
    try_again_at: Instant,
    error: Option<BrokerError>,
}

impl Asker {
    pub(super) fn new(broker: Broker, names: Names, ops: Vec<Url>) -> Result<Self, CommandError> {
        let ops = OpsServers::new(ops)?;
        let now = Instant::now();
        Ok(Self {
            broker,
            names,
            ops,
            began: now,
            paces: Paces::default(),
            client: None,
            depths: None,
            failures: 0,
            try_again_at: now,
            error: None,
        })
    }

    /// Looks for as long as somebody wants to know.
    pub(super) async fn ask_on(mut self, every: Duration, tell: watch::Sender<Shot>) {
        loop {
            let next = Instant::now() + every;
            let shot = self.look().await;
            if tell.send(shot).is_err() {
                return;
            }
            // A look that took long is followed by a pause all the same.
            sleep(next.saturating_duration_since(Instant::now()).max(every / 2)).await;
        }
    }

    /// Looks once. Never fails: what cannot be asked is told as such.
    pub(super) async fn look(&mut self) -> Shot {
        let (fleet, ops) = tokio::join!(
            Self::over_broker(
                &self.broker,
                &self.names,
                &mut self.client,
                &mut self.depths,
                self.try_again_at,
                self.error.is_some()
            ),
            self.ops.ask()
        );
        let mut shot = Shot { fleet: None, told_by: None, broker: None, ops };
        match fleet {
            Some(Ok(survey)) => {
                (self.failures, self.error) = (0, None);
                shot.fleet = Some(self.overview(&survey));
            }
            Some(Err(error)) => self.lost(error),
            None => {}
        }
        if let Some(error) = &self.error {
            let wait = self.try_again_at.saturating_duration_since(Instant::now()).as_secs();
            shot.broker = Some(shown(&format!("{error}; trying again in {wait} s"), 300));
            let told = shot.ops.iter().find_map(|told| Some((told.fleet.clone()?, told.address.clone())));
            (shot.fleet, shot.told_by) = told.unzip();
        }
        shot
    }

    /// `None` while it is not to be tried yet.
    async fn over_broker(
        broker: &Broker,
        names: &Names,
        client: &mut Option<Client>,
        depths: &mut Option<(Depths, Instant)>,
        try_again_at: Instant,
        is_lost: bool,
    ) -> Option<Result<Survey, BrokerError>> {
        if is_lost && Instant::now() < try_again_at {
            return None;
        }
        let look = async {
            let client = match client {
                Some(client) => client,
                None => client.insert(Client::connect(broker, names, Dice::Thread).await?),
            };
            let survey = client.survey(PATIENCE).await?;
            if depths.as_ref().is_none_or(|(_, at)| at.elapsed() >= DEPTHS_EVERY) {
                *depths = Some((backlog::depths(client.session(), names).await?, Instant::now()));
            }
            Ok(survey)
        };
        Some(look.await)
    }

    fn lost(&mut self, error: BrokerError) {
        (self.client, self.depths, self.paces) = (None, None, Paces::default());
        let wait = RECONNECT.0.saturating_mul(2_u32.saturating_pow(self.failures.min(8))).min(RECONNECT.1);
        self.failures = self.failures.saturating_add(1);
        self.try_again_at = Instant::now() + wait;
        self.error = Some(error);
    }

    fn overview(&mut self, survey: &Survey) -> Overview {
        let now = self.began.elapsed();
        self.paces.note(now, survey.replicas.iter().map(|replica| (replica, Duration::ZERO)));
        let leader = survey.leader.as_ref();
        let replicas: Vec<&Presence> = survey.replicas.iter().collect();
        Overview::of(Sight {
            at: Clock::System.now(),
            namespace: self.names.namespace(),
            state: leader.map(|leader| &leader.state),
            leader: leader.map(|leader| &*leader.name),
            expected: survey.expected(),
            replicas: &replicas,
            shut: leader.map(|leader| &*leader.shut).unwrap_or_default(),
            queues: self.depths.as_ref().map(|(depths, _)| depths),
            paces: &self.paces,
        })
    }

    /// Ends, and tells what was wrong with the broker last.
    pub(super) async fn close(&mut self) -> Option<BrokerError> {
        if let Some(client) = self.client.take() {
            client.close().await;
        }
        self.error.take()
    }
}
