//! One session, from its first delivery to its end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Worker;
use super::context::Scope;
use super::drain::Drained;
use super::executor::handle_delivery;
use super::lanes::{HeldOfLane, JobConsumers, LaneConsumer, LaneState};
use super::queue_monitor::QueueMonitor;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, Session, receive};
use crate::domain::guard::{Jobs, Polls};
use crate::domain::lane::Lane;
use crate::domain::lifecycle::Origin;
use crate::fleet::Snapshot;
use crate::linger::until;

/// A session that is still there has carried its last settlements out by then.
const CLOSES_WITHIN: Duration = Duration::from_millis(250);

/// Why serving ended.
pub(super) enum SessionEnd {
    /// The worker was asked to leave, and has.
    Drained(Drained),
    /// The session is gone.
    Lost(String),
}

/// A session with its consumers. A consumer is absent where the guard forbids what it brings.
pub(super) struct Serving {
    pub(super) scope: Arc<Scope>,
    pub(super) jobs: JobConsumers,
    pub(super) tickets: Option<Consumer>,
    /// As which the job consumers were opened.
    jobs_allowed: Jobs,
    /// Lanes that the fleet remembers, and whose queues do not exist any more.
    gone: BTreeSet<Lane>,
    /// No job is taken before, where that is not over yet.
    jobs_from: Option<Instant>,
    /// What could be asked for then.
    polls_allowed: Polls,
    seen: watch::Receiver<Snapshot>,
    fleet: AbortOnDropHandle<String>,
    _queue_monitor: AbortOnDropHandle<()>,
}

/// What happens next on a session.
enum SessionEvent {
    /// With the place of its lane.
    Job(Option<(usize, Delivery)>),
    Ticket(Option<Delivery>),
    Guard,
    Closed(String),
    Drain,
}

impl Serving {
    /// A session that takes part in the fleet, and consumes nothing yet: what it may do, the fleet
    /// must say first. It takes no jobs for a while.
    pub(super) fn open(worker: &Worker, session: Session, without_jobs: Duration) -> Self {
        let ctx = &worker.ctx;
        let seen = ctx.account().watch();
        let fleet = tokio::spawn({
            let (ctx, session) = (Arc::clone(ctx), session.clone());
            async move { ctx.fleet.serve(&session, &*ctx).await }
        });
        ctx.live.set(Some(session.clone()));
        let queue_monitor =
            AbortOnDropHandle::new(tokio::spawn(QueueMonitor::keep(Arc::clone(ctx), session.clone())));
        let scope = Arc::new(Scope::new(session));
        let fleet = AbortOnDropHandle::new(fleet);
        Self {
            scope,
            jobs: JobConsumers::default(),
            gone: BTreeSet::new(),
            tickets: None,
            jobs_allowed: Jobs::None,
            jobs_from: Some(Instant::now() + without_jobs),
            polls_allowed: Polls::None,
            seen,
            fleet,
            _queue_monitor: queue_monitor,
        }
    }

    /// Waits for what happens next. Paid work goes first: tickets before jobs.
    async fn next(&mut self, worker: &Worker, drain: &CancellationToken) -> SessionEvent {
        let (in_flight, lanes) = (&worker.ctx.in_flight, &worker.ctx.lanes);
        let (scope, jobs, tickets, jobs_allowed) =
            (&self.scope, &mut self.jobs, &mut self.tickets, self.jobs_allowed);
        let jobs_from = self.jobs_from;
        tokio::select! {
            biased;
            () = drain.cancelled() => SessionEvent::Drain,
            Ok(()) = self.seen.changed() => SessionEvent::Guard,
            reason = scope.session.closed() => SessionEvent::Closed(reason),
            () = until(jobs_from) => {
                self.jobs_from = None;
                SessionEvent::Guard
            }
            ended = &mut self.fleet => SessionEvent::Closed(ended.unwrap_or_else(|_| "the fleet's part panicked".to_owned())),
            ticket = receive(tickets) => SessionEvent::Ticket(ticket),
            job = async {
                // One canary more does no harm, and without it a full replica would keep the whole
                // fleet waiting.
                if jobs_allowed != Jobs::Canary {
                    in_flight.room().await;
                }
                jobs.next(lanes, jobs_allowed == Jobs::Canary).await
            } => SessionEvent::Job(job),
        }
    }

    /// Takes what the guard allows, and stops what it does not.
    async fn apply_permit(&mut self, worker: &Worker) -> Result<(), BrokerError> {
        let mut permit = self.seen.borrow_and_update().permit;
        if self.jobs_from.is_some() {
            permit.jobs = Jobs::None;
        }
        let has_tickets = self.tickets.as_ref().is_some_and(|tickets| !tickets.is_cancelled());
        if permit.tickets && !has_tickets {
            let tickets = self.consume(worker, worker.ctx.names.tickets(), worker.ticket_prefetch).await?;
            self.scope = Arc::new(self.scope.with_tickets(tickets.lease().clone()));
            worker.ctx.consumers.set_tickets(Some(tickets.watch()));
            self.tickets = Some(tickets);
        } else if !permit.tickets && has_tickets {
            worker.ctx.consumers.set_tickets(None);
            self.stop_tickets(worker).await;
        }
        // At the closing, so that what waits for the opening finds the window small; and at the
        // opening.
        if permit.polls != self.polls_allowed || permit.jobs != self.jobs_allowed {
            worker.ctx.limits.restart();
        }
        self.polls_allowed = permit.polls;
        let state = worker.ctx.account().state();
        let has_no_budget = |lane: &Lane| state.as_ref().is_some_and(|state| state.money.stops(lane.name()));
        let changed = permit.jobs != self.jobs_allowed;
        self.leave_jobs_queued(worker, |lane| changed || has_no_budget(lane)).await;
        let prefetch = match permit.jobs {
            Jobs::None => None,
            Jobs::Canary => Some(1),
            Jobs::All => Some(worker.job_prefetch),
        };
        if let Some(prefetch) = prefetch {
            self.take_jobs(worker, prefetch, has_no_budget).await?;
        }
        self.jobs_allowed = permit.jobs;
        Ok(())
    }

    /// Consumes from each lane that is not consumed from yet. Each has a prefetch of its own: what
    /// waits here of one lane takes no place from another.
    async fn take_jobs(
        &mut self,
        worker: &Worker,
        prefetch: u16,
        has_no_budget: impl Fn(&Lane) -> bool,
    ) -> Result<(), BrokerError> {
        let ctx = &worker.ctx;
        for lane in ctx.lanes_to_serve() {
            if self.jobs.serves(&lane) || self.gone.contains(&lane) || has_no_budget(&lane) {
                continue;
            }
            let state = ctx.lanes.of(&lane);
            let consumer = match self.consume(worker, ctx.names.jobs_of(&lane), prefetch).await {
                Ok(consumer) => consumer,
                Err(BrokerError::Missing { .. }) if state.is_removed() => {
                    self.gone.insert(lane);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if state.is_removed() {
                tracing::warn!(%lane, "no settings name this lane; its jobs are taken at weight 1 until its queue is deleted");
            }
            tracing::info!(namespace = ctx.names.namespace(), %lane, prefetch, "taking jobs");
            let scope = Arc::new(self.scope.with_jobs(consumer.lease().clone()));
            self.jobs.add(LaneConsumer { state, scope, consumer });
            ctx.consumers.set_jobs(&self.jobs);
        }
        Ok(())
    }

    async fn consume(&self, worker: &Worker, queue: String, prefetch: u16) -> Result<Consumer, BrokerError> {
        let tag = format!("{} {queue}", worker.ctx.worker);
        self.scope.session.link().consume(ConsumeSpec { tag, queue, prefetch }).await
    }

    /// No more jobs of some lanes for now. What has been delivered goes on its way, and back to the
    /// queue by way of a retry queue: a plain return would be charged to the broker's delivery
    /// counter each time that the guard trips.
    async fn leave_jobs_queued(&mut self, worker: &Worker, of: impl Fn(&Lane) -> bool) {
        let lanes = self.jobs.take(of);
        if lanes.is_empty() {
            return;
        }
        worker.ctx.consumers.set_jobs(&self.jobs);
        for mut lane in lanes {
            for delivery in lane.consumer.cancel().await {
                worker.spawn_handler(&lane.scope, delivery, Some(&lane.state));
            }
        }
    }

    /// No more jobs, since the worker leaves: those not begun go back.
    pub(super) async fn stop_jobs(&mut self) {
        self.scope.submissions_shut.cancel();
        for lane in self.jobs.iter_mut().filter(|lane| !lane.consumer.is_cancelled()) {
            drop(lane.consumer.cancel().await);
        }
        self.scope.jobs_cancelled.cancel();
    }

    /// No more tickets: those that wait for their next poll go to other replicas, and so do those
    /// that nobody here has received yet. Merely put back, they would come as redelivered.
    pub(super) async fn stop_tickets(&mut self, worker: &Worker) {
        if let Some(tickets) = self.tickets.as_mut().filter(|tickets| !tickets.is_cancelled()) {
            for delivery in tickets.cancel().await {
                worker.spawn_handler(&self.scope, delivery, None);
            }
        }
        self.scope.tickets_cancelled.cancel();
    }
}

impl Worker {
    /// Serves a session until it is gone or the worker is asked to leave.
    pub(super) async fn serve(&self, mut serving: Serving, drain: &CancellationToken) -> SessionEnd {
        // The fleet may have spoken before this listens.
        serving.seen.mark_changed();
        loop {
            let lost = match serving.next(self, drain).await {
                SessionEvent::Job(Some((at, delivery))) => {
                    let lane = serving.jobs.at(at);
                    self.spawn_handler(&lane.scope, delivery, Some(&lane.state));
                    continue;
                }
                SessionEvent::Ticket(Some(delivery)) => {
                    self.spawn_handler(&serving.scope, delivery, None);
                    // Those that came with it: looking at everything else that may happen costs
                    // more than a ticket does.
                    while let Some(delivery) = serving.tickets.as_mut().and_then(Consumer::try_recv) {
                        self.spawn_handler(&serving.scope, delivery, None);
                    }
                    continue;
                }
                SessionEvent::Guard => match serving.apply_permit(self).await {
                    Ok(()) => continue,
                    Err(error) => error.to_string(),
                },
                SessionEvent::Drain => return SessionEnd::Drained(self.drain(serving).await),
                SessionEvent::Job(None) => "the job consumer ended".to_owned(),
                SessionEvent::Ticket(None) => "the ticket consumer ended".to_owned(),
                SessionEvent::Closed(reason) => reason,
            };
            serving.scope.end();
            let session = serving.scope.session.clone();
            session.end(&lost);
            // A connection whose broker has gone may take all of its time-outs to close. The next
            // session must not wait for that.
            let closing = tokio::spawn(async move { session.link().close().await });
            let _ = timeout(CLOSES_WITHIN, closing).await;
            return SessionEnd::Lost(lost);
        }
    }

    /// Begins with a delivery: with a job of a lane, or else with a ticket.
    pub(super) fn spawn_handler(
        &self,
        scope: &Arc<Scope>,
        delivery: Delivery,
        lane: Option<&Arc<LaneState>>,
    ) {
        let origin = match lane {
            Some(lane) => {
                self.ctx.counters.job_taken();
                lane.job_taken();
                Origin::Job
            }
            None => {
                self.ctx.counters.ticket_taken();
                Origin::Ticket
            }
        };
        let permit = self.ctx.in_flight.enter(origin);
        let lane = lane.map(|lane| HeldOfLane::new(Arc::clone(lane)));
        let (ctx, scope) = (Arc::clone(&self.ctx), Arc::clone(scope));
        self.runs.spawn(handle_delivery(ctx, scope, delivery, (origin, lane), permit));
    }
}
