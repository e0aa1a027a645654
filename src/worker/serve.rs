//! One session, from its first delivery to its end.

use std::future::pending;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Worker;
use super::attempt::attempt;
use super::context::Scope;
use super::drain::Drained;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, Session};
use crate::domain::guard::Guard;
use crate::domain::lifecycle::Origin;

/// Why serving ended.
pub(super) enum End {
    /// The worker was told to leave, and has.
    Drained(Drained),
    /// The session is gone.
    Lost(String),
}

/// A session with its consumers. A consumer is absent where the guard forbids what it brings.
pub(super) struct Serving {
    pub(super) scope: Arc<Scope>,
    pub(super) jobs: Option<Consumer>,
    pub(super) tickets: Option<Consumer>,
    guard: watch::Receiver<Guard>,
}

/// What happens next on a session.
enum News {
    Job(Option<Delivery>),
    Ticket(Option<Delivery>),
    Guard,
    Closed(String),
    Drain,
}

impl Serving {
    pub(super) async fn open(worker: &Worker, session: Session) -> Result<Self, BrokerError> {
        let ctx = &worker.ctx;
        let mut guard = ctx.standing.watch();
        let stops = guard.borrow_and_update().stops();
        let spec =
            |queue: String, prefetch| ConsumeSpec { tag: format!("{} {queue}", ctx.worker), queue, prefetch };
        let tickets = session.link().consume(spec(ctx.names.tickets(), worker.ticket_prefetch)).await?;
        let scope = Arc::new(Scope::new(session.clone(), tickets.lease().clone()));
        let tickets = if stops.polls {
            tickets.close().await;
            None
        } else {
            Some(tickets)
        };
        let jobs = if stops.submissions {
            None
        } else {
            Some(session.link().consume(spec(ctx.names.jobs(), worker.job_prefetch)).await?)
        };
        ctx.live.send_replace(Some(session));
        tracing::info!(namespace = ctx.names.namespace(), worker = ctx.worker, "consuming");
        Ok(Self { scope, jobs, tickets, guard })
    }

    /// Waits for what happens next. Paid work goes first: tickets before jobs.
    async fn next(&mut self, worker: &Worker, drain: &CancellationToken) -> News {
        let gate = &worker.ctx.gate;
        let (scope, jobs, tickets) = (&self.scope, &mut self.jobs, &mut self.tickets);
        tokio::select! {
            biased;
            () = drain.cancelled() => News::Drain,
            Ok(()) = self.guard.changed() => News::Guard,
            reason = scope.session.closed() => News::Closed(reason),
            ticket = receive(tickets) => News::Ticket(ticket),
            job = async { gate.room().await; receive(jobs).await } => News::Job(job),
        }
    }

    /// Stops what the guard stops.
    async fn obey(&mut self) {
        let stops = self.guard.borrow_and_update().stops();
        if stops.submissions {
            self.stop_jobs().await;
        }
        if stops.polls {
            self.stop_tickets().await;
        }
    }

    /// No more jobs: those not begun go back.
    pub(super) async fn stop_jobs(&mut self) {
        self.scope.submissions_shut.cancel();
        if let Some(jobs) = self.jobs.as_mut().filter(|jobs| !jobs.is_cancelled()) {
            jobs.cancel().await;
        }
        self.scope.jobs_cancelled.cancel();
    }

    /// No more tickets: those that wait for their next poll go back.
    pub(super) async fn stop_tickets(&mut self) {
        if let Some(tickets) = self.tickets.as_mut().filter(|tickets| !tickets.is_cancelled()) {
            tickets.cancel().await;
        }
        self.scope.tickets_cancelled.cancel();
    }
}

/// The next delivery of a consumer that is neither absent nor cancelled by us; the latter's end is no news.
async fn receive(consumer: &mut Option<Consumer>) -> Option<Delivery> {
    match consumer {
        Some(consumer) if !consumer.is_cancelled() => consumer.recv().await,
        _ => pending().await,
    }
}

impl Worker {
    /// Serves a session until it is gone or the worker is told to leave.
    pub(super) async fn serve(&self, mut serving: Serving, drain: &CancellationToken) -> End {
        loop {
            let lost = match serving.next(self, drain).await {
                News::Job(Some(delivery)) => {
                    self.ctx.tally.job_taken();
                    self.begin_attempt(&serving, delivery, Origin::Job);
                    continue;
                }
                News::Ticket(Some(delivery)) => {
                    self.ctx.tally.ticket_taken();
                    self.begin_attempt(&serving, delivery, Origin::Ticket);
                    continue;
                }
                News::Guard => {
                    serving.obey().await;
                    continue;
                }
                News::Drain => return End::Drained(self.drain(serving).await),
                News::Job(None) => "the job consumer ended".to_owned(),
                News::Ticket(None) => "the ticket consumer ended".to_owned(),
                News::Closed(reason) => reason,
            };
            serving.scope.end();
            serving.scope.session.link().close().await;
            return End::Lost(lost);
        }
    }

    fn begin_attempt(&self, serving: &Serving, delivery: Delivery, origin: Origin) {
        let pass = self.ctx.gate.enter();
        let (ctx, scope) = (Arc::clone(&self.ctx), Arc::clone(&serving.scope));
        self.attempts.spawn(attempt(ctx, scope, delivery, origin, pass));
    }
}
