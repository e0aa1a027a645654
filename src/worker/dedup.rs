//! Deliveries that this replica has handled already, or is handling: they are not handled a second
//! time.
//!
//! A delivery whose successor is confirmed, or about to be, but that could not be acked, comes
//! again. With one replica that is every lost connection; with n of them, about one delivery in n.
//! What another replica gets is a double-payment window, and counted. And a ticket that was
//! published twice, since its first confirm was never heard, can come to one replica twice: the
//! second waits for the first.

use super::context::{Context, Scope};
use super::settlement::End;
use crate::domain::job::Job;
use crate::domain::lifecycle::{JobRun, OpenTask};
use crate::domain::message_hash::MessageHash;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What this replica remembers of deliveries.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Tickets that are held here.
    pub(super) held: Arc<HeldTickets>,
    /// Deliveries that have a successor.
    pub(super) succession: SettledDeliveries,
}

/// Lets a delivery go on, with its task in hand where there is one. What has a safe successor
/// already, or is about to, is not handled again: that is an end.
pub(super) async fn recognise(
    ctx: &Context,
    scope: &Scope,
    run: &JobRun,
    redelivered: bool,
) -> Result<Option<TicketClaim>, End> {
    let cancelled = scope.cancelled(run.origin);
    if redelivered && !ctx.dedup.succession.is_empty() {
        let identity = run.identity();
        if let Some(safe) = ctx.dedup.succession.take(identity) {
            return tokio::select! {
                biased;
                () = safe.cancelled() => Err(End::Known),
                () = cancelled.cancelled() => {
                    ctx.dedup.succession.remember(identity, safe.clone());
                    Err(End::Returned)
                }
            };
        }
    }
    let Some(task) = run.task() else { return Ok(None) };
    tokio::select! {
        biased;
        taken = ctx.dedup.held.take(&run.job, task) => taken.map(Some).ok_or(End::Known),
        () = cancelled.cancelled() => Err(End::Returned),
    }
}

/// How many are remembered; beyond it the oldest is forgotten, and would be handled again.
const MOST: usize = 4_096;
/// How long. A broker that was away for longer has no part in a task's life any more.
const KEPT: Duration = Duration::from_secs(600);

/// One of them.
#[derive(Debug)]
struct Successor {
    identity: MessageHash,
    /// Its successor is confirmed.
    safe: CancellationToken,
    until: Instant,
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct SettledDeliveries {
    settled: Mutex<VecDeque<Successor>>,
}

impl SettledDeliveries {
    /// Those that are not too old to be remembered.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Successor>> {
        // Each entry is whole at every moment.
        let mut settled = self.settled.lock();
        let now = Instant::now();
        while settled.front().is_some_and(|oldest| oldest.until <= now) {
            settled.pop_front();
        }
        settled
    }

    /// A delivery is lost whose successor is being published: it is safe once the token is
    /// cancelled.
    pub(super) fn expect(&self, identity: MessageHash) -> CancellationToken {
        let safe = CancellationToken::new();
        self.remember(identity, safe.clone());
        safe
    }

    /// The same, once more: the redelivery is lost, too.
    pub(super) fn remember(&self, identity: MessageHash, safe: CancellationToken) {
        let mut settled = self.lock();
        if settled.len() >= MOST {
            settled.pop_front();
        }
        settled.push_back(Successor { identity, safe, until: Instant::now() + KEPT });
    }

    /// A delivery is lost whose successor is confirmed.
    pub(super) fn note(&self, identity: MessageHash) {
        self.expect(identity).cancel();
    }

    /// Whether a redelivered message is one of them; then it is to be acked once its successor is
    /// safe, and is forgotten here.
    pub(super) fn take(&self, identity: MessageHash) -> Option<CancellationToken> {
        let mut settled = self.lock();
        let place = settled.iter().position(|known| known.identity == identity)?;
        settled.remove(place).map(|known| known.safe)
    }

    /// Whether there is any: as a rule there is none, and then no message need be hashed.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}

/// What becomes of a ticket in hand, for those who wait to know: as a rule there is nobody, and
/// then there is no such thing.
#[derive(Debug, Default)]
struct TicketResult {
    settled: AtomicBool,
    gone: CancellationToken,
}

/// All that are in hand, by what two copies of a ticket have in common and tickets of two jobs have
/// not. The task's id alone would not do: an API that gives one id twice must not cost a job.
#[derive(Debug, Default)]
pub(super) struct HeldTickets {
    tasks: Mutex<Tasks>,
}

type Tasks = HashMap<Arc<str>, Option<Arc<TicketResult>>>;

/// A ticket in hand, until dropped.
#[derive(Debug)]
pub(super) struct TicketClaim {
    held: Arc<HeldTickets>,
    key: Arc<str>,
}

impl HeldTickets {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        // Each entry is whole at every moment.
        self.tasks.lock()
    }

    /// Takes a job's ticket in hand, after whoever has another copy of it here. `None`: that one
    /// has settled it.
    pub(super) async fn take(self: &Arc<Self>, job: &Job, task: &OpenTask) -> Option<TicketClaim> {
        let key: Arc<str> =
            format!("{} {} {}", task.id.as_json(), task.accepted_at.as_millis(), job.id).into();
        loop {
            let other = match self.lock().entry(key.clone()) {
                Entry::Vacant(free) => {
                    free.insert(None);
                    return Some(TicketClaim { held: Arc::clone(self), key });
                }
                Entry::Occupied(mut taken) => Arc::clone(taken.get_mut().get_or_insert_default()),
            };
            other.gone.cancelled().await;
            if other.settled.load(Ordering::Acquire) {
                return None;
            }
        }
    }
}

impl TicketClaim {
    /// The task's successor is confirmed: an outcome, or the job once more.
    pub(super) fn settled(&self) {
        let fate = self.held.lock().get(&self.key).cloned().flatten();
        if let Some(fate) = fate {
            fate.settled.store(true, Ordering::Release);
        }
    }
}

impl Drop for TicketClaim {
    fn drop(&mut self) {
        let fate = self.held.lock().remove(&self.key).flatten();
        if let Some(fate) = fate {
            fate.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::call::TaskId;
    use crate::domain::message::Message;
    use crate::domain::policy::Policy;
    use crate::domain::time::Timestamp;
    use futures_util::FutureExt;
    use serde_json::value::to_raw_value;

    fn job(id: &str) -> Job {
        let body = br#"{"task":{"type":"T"}}"#.as_slice().into();
        let policy = Policy::try_new(&[], &["T"]).unwrap();
        Job::read(&mut Message { body, ..Message::default() }, &policy, || id.to_owned()).unwrap()
    }

    fn task() -> OpenTask {
        let id = TaskId::from_raw(&to_raw_value(&7).unwrap()).unwrap();
        {
            let accepted_at = Timestamp::from_millis(1_790_000_000_000);
            OpenTask::new(id, accepted_at, accepted_at, std::time::Duration::ZERO)
        }
    }

    #[tokio::test]
    async fn a_second_ticket_waits_for_the_first_and_learns_what_became_of_it() {
        let (held, task, one, other) = (Arc::new(HeldTickets::default()), task(), job("one"), job("other"));
        let first = held.take(&one, &task).await.expect("free");
        assert!(
            held.take(&other, &task).now_or_never().is_some(),
            "another job, though its task has the same id"
        );
        let mut second = Box::pin(held.take(&one, &task));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.await.expect("it was left, so this one goes on");
        let mut third = Box::pin(held.take(&one, &task));
        assert!((&mut third).now_or_never().is_none());
        second.settled();
        drop(second);
        assert!(third.await.is_none());
        assert!(held.take(&one, &task).await.is_some(), "what begins to wait later does not learn of it");
    }

    fn identity(n: usize) -> MessageHash {
        MessageHash::of_parts(["", "", ""], n.to_string().as_bytes())
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_known_again_once_and_for_a_time() {
        let succession = SettledDeliveries::default();
        succession.note(identity(1));
        let safe = succession.expect(identity(2));
        assert!(succession.take(identity(1)).expect("known").is_cancelled());
        assert!(succession.take(identity(1)).is_none());
        let seen = succession.take(identity(2)).expect("known");
        assert!(!seen.is_cancelled());
        safe.cancel();
        assert!(seen.is_cancelled() && succession.is_empty());
        (0..MOST + 5).for_each(|n| succession.note(identity(n)));
        assert!(succession.take(identity(4)).is_none() && succession.take(identity(5)).is_some());
        tokio::time::advance(KEPT).await;
        assert!(succession.take(identity(6)).is_none() && succession.is_empty(), "too old");
        succession.note(identity(0));
        assert_eq!(succession.lock().len(), 1);
    }
}
