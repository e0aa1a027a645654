//! Leaving in order: nothing new is begun, what is begun is finished, and what is paid is handed to
//! others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Worker;
use super::serve::Serving;
use crate::broker::receive;
use crate::domain::guard::Polls;
use crate::failpoint::Failpoint;

/// How long closing the session may take when the drain's own time is used up.
const CLOSING: Duration = Duration::from_secs(2);
/// How long a session is given to the tickets that wait for one, before it is made anew.
const RETRY: Duration = Duration::from_secs(5);

/// What a drain left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Deliveries that were not settled in time. Their messages go back to their queues when the
    /// connection closes.
    pub unfinished: usize,
}

impl Worker {
    /// Stops taking jobs, finishes submissions, hands tickets over, and closes the session: in this
    /// order, and in a bounded time. What is not done by then goes back to its queue.
    pub(super) async fn drain(&self, mut serving: Serving) -> Drained {
        let deadline = Instant::now() + self.drain_timeout;
        let session = serving.scope.session.clone();
        self.ctx.leaving.store(true, Ordering::Relaxed);
        tracing::info!(in_flight = self.ctx.in_flight.held(), "draining: no more jobs are taken");
        self.ctx.fleet.step_down();
        let stopped = timeout_at(deadline, async {
            serving.stop_jobs().await;
            // Until submissions have ended tickets are polled on, so that as few as possible change
            // hands; but a poll that is begun late might outlast the drain.
            if !Failpoint::DrainHurried.in_force() {
                let _ = timeout(self.drain_timeout / 3, self.ctx.limits.submissions_ended()).await;
            }
            if self.finishes_tickets {
                // Handing over what is left takes a part of the time too.
                let _ =
                    timeout_at(deadline - self.drain_timeout / 3, self.finish_tickets(&mut serving)).await;
            }
            serving.stop_tickets(self).await;
            self.runs.close();
            if !Failpoint::DrainHurried.in_force() {
                self.runs.wait().await;
            }
        });
        let in_time = tokio::select! {
            biased;
            stopped = stopped => stopped.is_ok(),
            reason = session.closed() => {
                serving.scope.end();
                tracing::warn!(reason, "the session ended while draining");
                return self.drain_unconnected(deadline.saturating_duration_since(Instant::now())).await;
            }
        };
        let unfinished = self.ctx.in_flight.held();
        let closing = self.close(serving);
        let closed = timeout_at(deadline.max(Instant::now() + CLOSING), closing).await.is_ok();
        if !(in_time && closed) {
            tracing::warn!(
                unfinished,
                "worker.drain_timeout is over; unfinished deliveries go back to their queues"
            );
        }
        Drained { unfinished }
    }

    /// Polls on until no paid task is left that may be asked for.
    async fn finish_tickets(&self, serving: &mut Serving) {
        let mut seen = self.ctx.account().watch();
        loop {
            if self.ctx.in_flight.held() == 0 || seen.borrow_and_update().permit.polls == Polls::None {
                return;
            }
            tokio::select! {
                ticket = receive(&mut serving.tickets) => match ticket {
                    Some(delivery) => self.spawn_handler(&serving.scope, delivery, None),
                    None => return,
                },
                () = self.ctx.in_flight.freed() => {}
                changed = seen.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }

    async fn close(&self, mut serving: Serving) {
        serving.scope.end();
        let session = &serving.scope.session;
        self.ctx.fleet.leave(session).await;
        // Closing a consumer carries out the settlements made so far, and returns the rest.
        let jobs = serving.jobs.take(|_| true).into_iter().map(|lane| lane.consumer);
        for consumer in jobs.chain(serving.tickets.take()) {
            consumer.close().await;
        }
        session.link().close().await;
    }

    /// Leaves while there is no session. A paid task whose ticket is not safe yet is worth one
    /// more, for as long as the drain may take.
    pub(super) async fn drain_unconnected(&self, within: Duration) -> Drained {
        self.ctx.leaving.store(true, Ordering::Relaxed);
        self.runs.close();
        let finished = async {
            while !self.runs.is_empty() {
                let session = self.broker.connect().await.map(|session| session.metered(&self.ctx.meter));
                if let Ok(session) = &session {
                    self.ctx.live.set(Some(session.clone()));
                }
                tokio::select! {
                    biased;
                    () = self.runs.wait() => {}
                    () = sleep(RETRY) => {}
                }
                if let Ok(session) = session {
                    session.link().close().await;
                }
            }
        };
        if timeout(within, finished).await.is_err() {
            tracing::warn!(
                unfinished = self.ctx.in_flight.held(),
                "the broker could not be reached in time; paid tasks may be lost"
            );
        }
        Drained { unfinished: self.ctx.in_flight.held() }
    }
}
