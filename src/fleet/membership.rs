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
/// it, and the HTTP server and the worker read it.
#[derive(Debug, Clone)]
pub(super) struct Membership(Arc<Mutex<Heard>>);

#[derive(Debug)]
struct Heard {
    /// By their ids.
    replicas: BTreeMap<String, (Arc<Heartbeat>, Instant)>,
    /// Since when messages arrive without a gap.
    hears_since: Instant,
    /// The last message, of this replica's own too: they come back to it.
    heard_at: Instant,
    /// How many there were before the last gap, or the end of the last session.
    last_size: Option<usize>,
}

impl Heard {
    /// Remembers how many there are. If it has not heard for long enough, more were there before.
    fn remember_size(&mut self) {
        let size = self.replicas.len();
        let is_settled =
            self.heard_at - self.hears_since >= heartbeat_timeout(self.last_size.unwrap_or(size));
        self.last_size = if is_settled { Some(size) } else { self.last_size.map(|last| last.max(size)) };
    }
}

impl Membership {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let heard = Heard { replicas: BTreeMap::new(), hears_since: now, heard_at: now, last_size: None };
        Self(Arc::new(Mutex::new(heard)))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        // Whatever is in it was heard.
        self.0.lock()
    }

    /// A session begins: nobody was heard yet.
    pub(super) fn begin(&self) {
        let heard = &mut *self.lock();
        heard.hears_since = Instant::now();
        heard.heard_at = heard.hears_since;
    }

    /// A message has arrived. After a gap, as an alarm of the broker makes one, the others are
    /// heard again within an interval only.
    pub(super) fn hears(&self) {
        let heard = &mut *self.lock();
        let now = Instant::now();
        if now - heard.heard_at >= heartbeat_timeout(heard.replicas.len()) / 2 {
            heard.remember_size();
            heard.hears_since = now;
        }
        heard.heard_at = now;
    }

    /// The session is gone, and forgets everybody.
    pub(super) fn end(&self) {
        let heard = &mut *self.lock();
        heard.remember_size();
        heard.replicas.clear();
    }

    /// How many there are. Until all had time to be heard, as many as before; in the first session,
    /// as many as the caller takes for safe.
    pub(super) fn size_or(&self, unknown: usize) -> usize {
        let heard = self.lock();
        let expected = heard.last_size.unwrap_or(unknown);
        let is_settled = heard.hears_since.elapsed() >= heartbeat_timeout(expected);
        if is_settled { heard.replicas.len() } else { heard.replicas.len().max(expected) }
    }

    /// How many times as long one of them waits before it tries the broker again.
    pub(super) fn slower_reconnects(&self) -> u32 {
        let heard = self.lock();
        slower(heard.last_size.unwrap_or_default().max(heard.replicas.len()))
    }

    /// A replica said that it is there. Returns whether it is new.
    pub(super) fn note(&self, heartbeat: Heartbeat) -> bool {
        let replicas = &mut self.lock().replicas;
        if replicas.len() >= MAX_REPLICAS && !replicas.contains_key(&heartbeat.id) {
            return false;
        }
        replicas.insert(heartbeat.id.clone(), (Arc::new(heartbeat), Instant::now())).is_none()
    }

    /// A replica said that it leaves.
    pub(super) fn remove(&self, id: &str) {
        self.lock().replicas.remove(id);
    }

    /// Forgets who was not heard for long, while this replica heard at least itself.
    pub(super) fn prune(&self) {
        let heard = &mut *self.lock();
        let (max_wait, heard_at) = (heartbeat_timeout(heard.replicas.len()), heard.heard_at);
        heard.replicas.retain(|_, (_, at)| heard_at.saturating_duration_since(*at) < max_wait);
    }

    pub(super) fn len(&self) -> usize {
        self.lock().replicas.len()
    }

    /// How often each of them says that it is there.
    pub(super) fn interval(&self) -> Duration {
        interval(self.len())
    }

    /// How many times as seldom each of them reports what has to be known soon.
    pub(super) fn report_interval_factor(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX).div_ceil(SMALL_CROWD).max(1)
    }

    /// The place of one of them in an order that all agree on.
    pub(super) fn rank(&self, id: &str) -> usize {
        self.lock().replicas.keys().take_while(|other| other.as_str() < id).count()
    }

    /// All of them that were not silent for long, and how long ago each was heard. By the time, and
    /// not by [`prune`](Self::prune) alone: where the worker's runtime is stuck nobody prunes, and
    /// those who look from another thread are not to take the last that was heard for news.
    pub(super) fn heard(&self) -> Vec<(Arc<Heartbeat>, Duration)> {
        let replicas = &self.lock().replicas;
        let max_wait = heartbeat_timeout(replicas.len());
        let all = replicas.values().map(|(heartbeat, at)| (Arc::clone(heartbeat), at.elapsed()));
        all.filter(|(_, ago)| *ago < max_wait).collect()
    }

    /// The lanes that the settings of some of them name.
    pub(super) fn lanes(&self) -> BTreeSet<Lane> {
        let replicas = &self.lock().replicas;
        let all = replicas.values().flat_map(|(replica, _)| &replica.vitals.lanes);
        all.filter(|(lane, of)| !lane.is_default() && !of.is_removed).map(|(lane, _)| lane.clone()).collect()
    }

    /// Tasks that the API has accepted from all of them since they run.
    pub(super) fn accepted(&self) -> u64 {
        self.lock().replicas.values().map(|(replica, _)| replica.vitals.accepted).sum()
    }

    /// Whether somebody has a good key other than this one.
    pub(super) fn has_another_good_key(&self, keys: &Keys, than: &Fingerprint) -> bool {
        let replicas = &self.lock().replicas;
        let mut keys_of_all = replicas.values().map(|(replica, _)| &replica.key);
        keys_of_all.any(|key| key != than && keys.standing(key) == KeyStanding::Good)
    }

    /// The id of one of the replicas whose key nobody has tried yet, by chance: one that does not
    /// answer must not keep the others waiting.
    pub(super) fn with_unknown_key(&self, keys: &Keys, jitter: f64) -> Option<String> {
        let replicas = &self.lock().replicas;
        let all = || replicas.values().map(|(replica, _)| replica);
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
pub(super) fn heartbeat_timeout(replicas: usize) -> Duration {
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

    /// So long, each second a message.
    async fn hear_for(membership: &Membership, ids: &[&str], seconds: u64) {
        for _ in 0..seconds {
            for id in ids {
                membership.hears();
                membership.note(heartbeat(id));
            }
            membership.prune();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn sizes(membership: &Membership) -> (usize, usize) {
        (membership.size_or(1), membership.size_or(64))
    }

    #[tokio::test(start_paused = true)]
    async fn until_all_had_time_to_be_heard_there_are_as_many_as_before() {
        let membership = Membership::new();
        membership.begin();
        hear_for(&membership, &["this"], 7).await;
        assert_eq!(sizes(&membership), (1, 64), "the first session");
        hear_for(&membership, &["this", "a", "b"], 1).await;
        assert_eq!(sizes(&membership), (3, 3));
        hear_for(&membership, &["this", "a", "b"], 1).await;
        // One that ends before all were heard is no measure.
        for _ in 0..2 {
            membership.end();
            membership.begin();
            hear_for(&membership, &["this", "a"], 2).await;
            assert_eq!(sizes(&membership), (3, 3));
        }
        hear_for(&membership, &["this"], 9).await;
        assert_eq!(sizes(&membership), (1, 1), "alone, and long enough to tell");
        membership.end();
        membership.begin();
        assert_eq!(sizes(&membership), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_first_session_is_no_measure_either() {
        let membership = Membership::new();
        membership.begin();
        hear_for(&membership, &["this", "a"], 1).await;
        membership.end();
        membership.begin();
        assert_eq!(sizes(&membership), (1, 64));
    }

    #[tokio::test(start_paused = true)]
    async fn who_hears_not_even_itself_takes_nobody_for_gone() {
        let membership = Membership::new();
        membership.begin();
        hear_for(&membership, &["this", "a"], 10).await;
        // An alarm of the broker: it goes on saying that it is there, and nothing comes back.
        for _ in 0..60 {
            membership.note(heartbeat("this"));
            membership.prune();
            assert_eq!(sizes(&membership), (2, 2));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // Its own message is the first that comes.
        hear_for(&membership, &["this"], 7).await;
        assert_eq!(sizes(&membership), (2, 2));
        hear_for(&membership, &["this"], 2).await;
        assert_eq!(sizes(&membership), (1, 1), "the other one is gone");
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
