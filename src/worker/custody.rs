//! Tasks whose tickets are in hand. A ticket that was published twice, since its first confirm was never heard, can come to one replica twice:
//! the second waits for the first.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::domain::call::TaskId;

/// What becomes of a ticket in hand.
#[derive(Debug, Default)]
struct Fate {
    settled: AtomicBool,
    gone: CancellationToken,
}

/// All that are in hand, by the JSON of the task's id.
#[derive(Debug, Default)]
pub(super) struct Custody {
    tasks: Mutex<HashMap<Box<str>, Arc<Fate>>>,
}

/// A ticket in hand, until dropped.
#[derive(Debug)]
pub(super) struct Held<'a> {
    custody: &'a Custody,
    task: Box<str>,
    fate: Arc<Fate>,
}

impl Custody {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Fate>>> {
        // Each entry is whole at every moment.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a task's ticket in hand, after whoever has another of it here. `None`: that one has settled it.
    pub(super) async fn take(&self, task: &TaskId) -> Option<Held<'_>> {
        loop {
            let other = match self.lock().entry(task.as_json().into()) {
                Entry::Vacant(free) => {
                    let task = free.key().clone();
                    let fate = Arc::clone(free.insert(Arc::default()));
                    return Some(Held { custody: self, task, fate });
                }
                Entry::Occupied(taken) => Arc::clone(taken.get()),
            };
            other.gone.cancelled().await;
            if other.settled.load(Ordering::Acquire) {
                return None;
            }
        }
    }
}

impl Held<'_> {
    /// The task's successor is confirmed: an outcome, or the job once more.
    pub(super) fn settled(&self) {
        self.fate.settled.store(true, Ordering::Release);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.custody.lock().remove(&self.task);
        self.fate.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use serde_json::value::to_raw_value;

    use super::*;

    #[tokio::test]
    async fn a_second_ticket_waits_for_the_first_and_learns_what_became_of_it() {
        let custody = Custody::default();
        let task = |n: u32| TaskId::from_raw(&to_raw_value(&n).unwrap()).unwrap();
        let (one, two, three) = (task(1), task(2), task(3));
        let first = custody.take(&one).await.expect("free");
        assert!(custody.take(&two).now_or_never().is_some(), "another task is no matter");
        let mut second = Box::pin(custody.take(&one));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.await.expect("it was left, so this one goes on");
        let third = custody.take(&one);
        second.settled();
        drop(second);
        assert!(third.await.is_some(), "what begins to wait later does not learn of it");
        let fourth = custody.take(&three).await.expect("free");
        let mut fifth = Box::pin(custody.take(&three));
        assert!((&mut fifth).now_or_never().is_none());
        fourth.settled();
        drop(fourth);
        assert!(fifth.await.is_none());
    }
}
