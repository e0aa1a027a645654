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

/// The replicas that are heard over a session. Clones are the same: a member of the fleet writes
/// it, and whoever looks at the fleet reads it from aside.
#[derive(Debug, Clone)]
pub(super) struct Membership(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    heard: Mutex<Heard>,
    session: Mutex<Session>,
}

/// By their ids.
type Heard = BTreeMap<String, (Arc<Heartbeat>, Instant)>;

#[derive(Debug)]
struct Session {
    began: Instant,
    /// How many were heard over the last session that lasted long enough to tell.
    last_size: Option<usize>,
}

impl Membership {
    pub(super) fn new() -> Self {
        let session = Session { began: Instant::now(), last_size: None };
        Self(Arc::new(Parts { heard: Mutex::default(), session: Mutex::new(session) }))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Whatever is in it was heard.
        self.0.heard.lock()
    }

    /// A session begins: nobody was heard yet.
    pub(super) fn begin(&self) {
        self.0.session.lock().began = Instant::now();
    }

    /// The session is gone, and forgets everybody.
    pub(super) fn end(&self) {
        let size = std::mem::take(&mut *self.lock()).len();
        let session = &mut *self.0.session.lock();
        // A session that ends before the others were heard says nothing about their number.
        if size > 1 || size == 1 && session.began.elapsed() >= patience(size) {
            session.last_size = Some(size);
        }
    }

    /// How many there are. Until all had time to be heard, as many as over the last session; in the
    /// first one, as many as the caller takes for safe.
    pub(super) fn size(&self, unknown: usize) -> usize {
        let heard = self.len();
        let session = self.0.session.lock();
        let expected = session.last_size.unwrap_or(unknown);
        if session.began.elapsed() < patience(expected) { heard.max(expected) } else { heard }
    }

    /// How many times as long one of them waits before it tries the broker again.
    pub(super) fn slower_reconnects(&self) -> u32 {
        slower(self.0.session.lock().last_size.unwrap_or_default().max(self.len()))
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
    async fn until_all_had_time_to_be_heard_there_are_as_many_as_before() {
        let membership = Membership::new();
        let sizes = |membership: &Membership| (membership.size(1), membership.size(64));
        let (just_before, moment) = (Duration::from_millis(7_999), Duration::from_millis(1));
        membership.begin();
        membership.note(heartbeat("this"));
        assert_eq!(sizes(&membership), (1, 64), "the first session");
        tokio::time::sleep(just_before).await;
        membership.note(heartbeat("another"));
        assert_eq!(sizes(&membership), (2, 64));
        tokio::time::sleep(moment).await;
        assert_eq!(sizes(&membership), (2, 2));
        // One that ends before the others were heard is no measure.
        for _ in 0..2 {
            membership.end();
            membership.begin();
            membership.note(heartbeat("this"));
            assert_eq!(sizes(&membership), (2, 2));
        }
        tokio::time::sleep(just_before + moment).await;
        assert_eq!(sizes(&membership), (1, 1), "alone, and long enough to tell");
        membership.end();
        membership.begin();
        assert_eq!(sizes(&membership), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn who_looks_from_aside_sees_no_one_that_was_silent_for_long_even_where_nobody_prunes() {
        let membership = Membership::new();
        membership.note(heartbeat("silent"));
        tokio::time::sleep(Duration::from_secs(5)).await;
        membership.note(heartbeat("heard"));
        assert_eq!(membership.heard().len(), 2);
        tokio::time::sleep(Duration::from_secs(3)).await;
        let heard: Vec<String> = membership.heard().iter().map(|(replica, _)| replica.id.clone()).collect();
        assert_eq!((heard, membership.len()), (vec!["heard".to_owned()], 2));
    }
}
