//! How much a replica holds at once: tickets and its own submissions, counted together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::domain::lifecycle::Origin;

/// Counts what is in flight against a bound.
#[derive(Debug)]
pub(crate) struct InFlight {
    limit: usize,
    held: AtomicUsize,
    /// Of them, tickets.
    tickets: AtomicUsize,
    freed: Notify,
}

/// A permit for a job or a ticket in flight, given back when dropped.
#[derive(Debug)]
#[must_use = "the permit is given back when this is dropped"]
pub(crate) struct InFlightPermit {
    in_flight: Arc<InFlight>,
    origin: Origin,
}

impl InFlight {
    /// Room for this many.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            held: AtomicUsize::new(0),
            tickets: AtomicUsize::new(0),
            freed: Notify::new(),
        })
    }

    /// Takes a permit. A ticket takes one even when all are taken: it is paid already, and
    /// the broker bounds how many come.
    pub(crate) fn enter(self: &Arc<Self>, origin: Origin) -> InFlightPermit {
        self.held.fetch_add(1, Ordering::AcqRel);
        if origin == Origin::Ticket {
            self.tickets.fetch_add(1, Ordering::Relaxed);
        }
        InFlightPermit { in_flight: Arc::clone(self), origin }
    }

    /// How many of those held are tickets.
    #[must_use]
    pub(crate) fn tickets(&self) -> usize {
        self.tickets.load(Ordering::Relaxed)
    }

    /// How many are held.
    #[must_use]
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Whether a new job may be begun.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.limit
    }

    /// Waits until a new job may be begun.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            if self.has_room() {
                return;
            }
            freed.await;
        }
    }

    /// Waits until something has ended. Not beside [`InFlight::room`]: one waiter hears of it.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        if self.origin == Origin::Ticket {
            self.in_flight.tickets.fetch_sub(1, Ordering::Relaxed);
        }
        let before = self.in_flight.held.fetch_sub(1, Ordering::AcqRel);
        // Only the fall below the bound is news, and one waiter hears it.
        if before <= self.in_flight.limit {
            self.in_flight.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn jobs_are_taken_again_when_a_permit_is_given_back() {
        let in_flight = InFlight::new(2);
        let (first, second) = (in_flight.enter(Origin::Job), in_flight.enter(Origin::Job));
        assert!(!in_flight.has_room());
        let waiting = tokio::spawn({
            let in_flight = Arc::clone(&in_flight);
            async move { in_flight.room().await }
        });
        drop(first);
        tokio::time::timeout(std::time::Duration::from_secs(5), waiting)
            .await
            .expect("opens")
            .expect("no panic");
        drop(second);
        assert_eq!(in_flight.held(), 0);
    }

    #[test]
    fn tickets_enter_a_full_gate_and_shut_it_for_jobs() {
        let in_flight = InFlight::new(1);
        let _tickets = [in_flight.enter(Origin::Ticket), in_flight.enter(Origin::Ticket)];
        assert_eq!((in_flight.held(), in_flight.tickets(), in_flight.has_room()), (2, 2, false));
    }
}
