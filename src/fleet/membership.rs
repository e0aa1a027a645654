//! The replicas that are heard.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::message::Heartbeat;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{KeyStanding, Keys};
use crate::domain::lane::Lane;

/// A replica that was not heard for so many of its intervals is gone.
const MISSED: u32 = 4;
/// Replicas that are kept account of; a fleet beyond it shares the rate as if it were of this size.
const MAX_REPLICAS: usize = 4_096;
/// How often a replica says that it is there, in a fleet of up to 64; a larger one speaks less
/// often, so that what each hears stays bounded.
const INTERVAL: Duration = Duration::from_secs(2);
const SMALL_FLEET: u32 = 64;
const SMALL_CROWD: u32 = 16;

/// The replicas by their ids. Clones are the same: a member of the fleet writes it, and whoever
/// looks at the fleet reads it from aside.
#[derive(Debug, Clone, Default)]
pub(super) struct Membership(Arc<Mutex<Heard>>);

type Heard = BTreeMap<String, (Arc<Heartbeat>, Instant)>;

impl Membership {
    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Whatever is in it was heard.
        self.0.lock()
    }

    /// A replica said that it is there. Returns whether it is new.
    pub(super) fn note(&self, heartbeat: Heartbeat) -> bool {
        let mut heard = self.lock();
        if heard.len() >= MAX_REPLICAS && !heard.contains_key(&heartbeat.id) {
            return false;
        }
        heard.insert(heartbeat.id.clone(), (Arc::new(heartbeat), Instant::now())).is_none()
    }

    /// A replica said that it leaves.
    pub(super) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Forgets everybody.
    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Forgets who was not heard for long.
    pub(super) fn prune(&self) {
        let patience = patience(self.len());
        self.lock().retain(|_, (_, at)| at.elapsed() < patience);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// How often each of them says that it is there.
    pub(super) fn interval(&self) -> Duration {
        interval(self.len())
    }

    /// How many times as seldom each of them reports what has to be known soon.
    pub(super) fn crowds(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX).div_ceil(SMALL_CROWD).max(1)
    }

    /// The place of one of them in an order that all agree on.
    pub(super) fn rank(&self, id: &str) -> usize {
        self.lock().keys().take_while(|other| other.as_str() < id).count()
    }

    /// All of them that were not silent for long, and how long ago each was heard. By the time, and
    /// not by [`prune`](Self::prune) alone: where the worker's runtime is stuck nobody prunes, and
    /// those who look from another thread are not to take the last that was heard for news.
    pub(super) fn heard(&self) -> Vec<(Arc<Heartbeat>, Duration)> {
        let heard = self.lock();
        let patience = patience(heard.len());
        let all = heard.values().map(|(heartbeat, at)| (Arc::clone(heartbeat), at.elapsed()));
        all.filter(|(_, ago)| *ago < patience).collect()
    }

    /// The lanes that the settings of some of them name.
    pub(super) fn lanes(&self) -> BTreeSet<Lane> {
        let heard = self.lock();
        let all = heard.values().flat_map(|(replica, _)| &replica.vitals.lanes);
        all.filter(|(lane, of)| !lane.is_default() && !of.is_removed).map(|(lane, _)| lane.clone()).collect()
    }

    /// Tasks that the API has accepted from all of them since they run.
    pub(super) fn accepted(&self) -> u64 {
        self.lock().values().map(|(replica, _)| replica.vitals.accepted).sum()
    }

    /// Whether somebody has a good key other than this one.
    pub(super) fn has_another_good_key(&self, keys: &Keys, than: &Fingerprint) -> bool {
        let heard = self.lock();
        let mut keys_of_all = heard.values().map(|(replica, _)| &replica.key);
        keys_of_all.any(|key| key != than && keys.standing(key) == KeyStanding::Good)
    }

    /// The id of one of the replicas whose key nobody has tried yet, by chance: one that does not
    /// answer must not keep the others waiting.
    pub(super) fn with_unknown_key(&self, keys: &Keys, jitter: f64) -> Option<String> {
        let heard = self.lock();
        let all = || heard.values().map(|(replica, _)| replica);
        let unknown = || all().filter(|replica| keys.standing(&replica.key) == KeyStanding::Unknown);
        unknown().nth(place(jitter, unknown().count())).map(|replica| replica.id.clone())
    }
}

/// How many times as seldom a replica of a fleet of so many does what costs the broker, or the
/// others, something for each of them.
pub(super) fn slower(replicas: usize) -> u32 {
    u32::try_from(replicas).unwrap_or(u32::MAX).div_ceil(SMALL_FLEET).max(1)
}

fn interval(replicas: usize) -> Duration {
    INTERVAL * slower(replicas)
}

/// For how long a replica of a fleet of so many may be silent.
pub(super) fn patience(replicas: usize) -> Duration {
    interval(replicas) * MISSED
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place among some thousands"
)]
fn place(jitter: f64, of: usize) -> usize {
    (jitter * of as f64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;
    use crate::fleet::Vitals;

    fn heartbeat(id: &str) -> Heartbeat {
        Heartbeat {
            id: id.to_owned(),
            name: id.to_owned(),
            epoch: 0,
            key: Fingerprint::of_key("key"),
            held: None,
            started_at: Timestamp::from_millis(0),
            vitals: Vitals::default(),
            answers: BTreeMap::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_from_aside_sees_no_one_that_was_silent_for_long_even_where_nobody_prunes() {
        let membership = Membership::default();
        membership.note(heartbeat("silent"));
        tokio::time::sleep(Duration::from_secs(5)).await;
        membership.note(heartbeat("heard"));
        assert_eq!(membership.heard().len(), 2);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let heard: Vec<String> = membership.heard().iter().map(|(replica, _)| replica.id.clone()).collect();
        assert_eq!((heard, membership.len()), (vec!["heard".to_owned()], 2));
    }
}
