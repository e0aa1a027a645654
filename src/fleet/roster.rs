//! The replicas that are heard.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::message::Presence;
use crate::domain::guard::{KeyStanding, Keys};
use crate::domain::mark::Mark;

/// A replica that was not heard for so many of its intervals is gone.
const MISSED: u32 = 4;
/// Replicas that are kept account of; a fleet beyond it shares the rate as if it were of this size.
const MAX_REPLICAS: usize = 4_096;
/// How often a replica says that it is there, in a fleet of up to 64; a larger one speaks less often, so that what each hears stays bounded.
const INTERVAL: Duration = Duration::from_secs(2);
const SMALL_FLEET: u32 = 64;

/// The replicas by their ids.
#[derive(Debug, Default)]
pub(super) struct Roster {
    heard: BTreeMap<String, (Presence, Instant)>,
}

impl Roster {
    /// A replica said that it is there. Tells whether it is new.
    pub(super) fn note(&mut self, presence: Presence) -> bool {
        if self.heard.len() >= MAX_REPLICAS && !self.heard.contains_key(&presence.id) {
            return false;
        }
        self.heard.insert(presence.id.clone(), (presence, Instant::now())).is_none()
    }

    /// A replica said that it leaves.
    pub(super) fn remove(&mut self, id: &str) {
        self.heard.remove(id);
    }

    /// Forgets who was not heard for long.
    pub(super) fn prune(&mut self) {
        let patience = self.interval() * MISSED;
        self.heard.retain(|_, (_, at)| at.elapsed() < patience);
    }

    pub(super) fn len(&self) -> usize {
        self.heard.len()
    }

    /// How often each of them says that it is there.
    pub(super) fn interval(&self) -> Duration {
        let number = u32::try_from(self.len()).unwrap_or(u32::MAX);
        INTERVAL * number.div_ceil(SMALL_FLEET).max(1)
    }

    /// The place of one of them in an order that all agree on.
    pub(super) fn rank(&self, id: &str) -> usize {
        self.heard.keys().take_while(|other| other.as_str() < id).count()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Presence> {
        self.heard.values().map(|(presence, _)| presence)
    }

    /// Tasks that the API has accepted from all of them since they run.
    pub(super) fn accepted(&self) -> u64 {
        self.all().map(|replica| replica.vitals.accepted).sum()
    }

    /// Whether somebody has a good key other than this one.
    pub(super) fn has_another_good_key(&self, keys: &Keys, than: &Mark) -> bool {
        self.all().any(|replica| replica.key != *than && keys.standing(&replica.key) == KeyStanding::Good)
    }

    /// One of the replicas whose key nobody has tried yet, by chance: one that does not answer must not keep the others waiting.
    pub(super) fn with_unknown_key(&self, keys: &Keys, luck: f64) -> Option<&Presence> {
        let unknown = || self.all().filter(|replica| keys.standing(&replica.key) == KeyStanding::Unknown);
        unknown().nth(place(luck, unknown().count()))
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place among some thousands"
)]
fn place(luck: f64, of: usize) -> usize {
    (luck * of as f64) as usize
}
