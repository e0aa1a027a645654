//! Tasks whose tickets are in hand. A ticket that was published twice, since its first confirm was never heard, can come to one replica twice:
//! the second waits for the first.

use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::domain::job::Job;
use crate::domain::lifecycle::OpenTask;

/// What becomes of a ticket in hand, for those who wait to know: as a rule there is nobody, and then there is no such thing.
#[derive(Debug, Default)]
struct Fate {
    settled: AtomicBool,
    gone: CancellationToken,
}

/// All that are in hand, by what two copies of a ticket have in common and tickets of two jobs have not. The task's id alone would not do: an
/// API that gives one id twice must not cost a job.
#[derive(Debug, Default)]
pub(super) struct Custody {
    tasks: Mutex<Tasks>,
}

type Tasks = HashMap<Arc<str>, Option<Arc<Fate>>>;

/// A ticket in hand, until dropped.
#[derive(Debug)]
pub(super) struct Held {
    custody: Arc<Custody>,
    key: Arc<str>,
}

impl Custody {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        // Each entry is whole at every moment.
        self.tasks.lock()
    }

    /// Takes a job's ticket in hand, after whoever has another copy of it here. `None`: that one has settled it.
    pub(super) async fn take(self: &Arc<Self>, job: &Job, task: &OpenTask) -> Option<Held> {
        let key: Arc<str> =
            format!("{} {} {}", task.id.as_json(), task.accepted_at.as_millis(), job.id).into();
        loop {
            let other = match self.lock().entry(key.clone()) {
                Entry::Vacant(free) => {
                    free.insert(None);
                    return Some(Held { custody: Arc::clone(self), key });
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

impl Held {
    /// The task's successor is confirmed: an outcome, or the job once more.
    pub(super) fn settled(&self) {
        let fate = self.custody.lock().get(&self.key).cloned().flatten();
        if let Some(fate) = fate {
            fate.settled.store(true, Ordering::Release);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let fate = self.custody.lock().remove(&self.key).flatten();
        if let Some(fate) = fate {
            fate.gone.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::domain::call::TaskId;
    use crate::domain::message::Message;
    use crate::domain::policy::Policy;
    use crate::domain::time::Timestamp;

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
        let (custody, task, one, other) = (Arc::new(Custody::default()), task(), job("one"), job("other"));
        let first = custody.take(&one, &task).await.expect("free");
        assert!(
            custody.take(&other, &task).now_or_never().is_some(),
            "another job, though its task has the same id"
        );
        let mut second = Box::pin(custody.take(&one, &task));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.await.expect("it was left, so this one goes on");
        let mut third = Box::pin(custody.take(&one, &task));
        assert!((&mut third).now_or_never().is_none());
        second.settled();
        drop(second);
        assert!(third.await.is_none());
        assert!(custody.take(&one, &task).await.is_some(), "what begins to wait later does not learn of it");
    }
}
