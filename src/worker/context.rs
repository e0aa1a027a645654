//! What every run of a job needs: the replica's parts, and the session it was begun on.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api_health::ApiHealth;
use super::dedup::Memory;
use super::job_index::JobIndex;
use super::lanes::{JobConsumers, Lanes};
use super::limits::CallLimits;
use super::limits::in_flight::InFlight;
use super::limits::waiting::Waiting;
use super::queue_monitor::QueueMonitor;
use super::stats::counters::Counters;
use super::stats::failures;
use super::watchdog::Watchdog;
use crate::broker::topology::Names;
use crate::broker::{ConsumerWatch, Lease, Meter, Session};
use crate::clock::{Clock, Rng};
use crate::domain::guard::Jobs;
use crate::domain::lane::Lane;
use crate::domain::lifecycle::{DecisionInput, Event, JobRules, JobRun, OpenTask, Origin};
use crate::domain::outcome::Finish;
use crate::domain::policy::Policy;
use crate::domain::publishers::{PublisherLimit, Publishers, publisher};
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;
use crate::fleet::{AccountState, Fleet, LaneFigures, Sighting, Vitals, Work};
use crate::linger::Linger;
use crate::solver::Solver;
use crate::trace::Tracer;

/// The parts of a replica that outlive its connections.
pub(super) struct Context {
    pub(super) solver: Solver,
    pub(super) rules: JobRules,
    pub(super) policy: Policy,
    pub(super) names: Names,
    pub(super) clock: Clock,
    pub(super) rng: Rng,
    pub(super) linger: Linger,
    pub(super) tracer: Tracer,
    pub(super) fleet: Fleet,
    pub(super) counters: Arc<Counters>,
    pub(super) in_flight: Arc<InFlight>,
    pub(super) lanes: Lanes,
    pub(super) api_health: ApiHealth,
    pub(super) dedup: Memory,
    /// A permit is taken from them before the last look at lease and guard, so that nothing waits
    /// between that look and the call.
    pub(super) limits: CallLimits,
    pub(super) per_publisher_per_minute: Option<NonZeroU32>,
    pub(super) publishers: Mutex<Publishers>,
    /// The live session, for what must be published whichever session it began on.
    pub(super) live: Live,
    pub(super) consumers: Consumers,
    pub(super) queue_monitor: QueueMonitor,
    /// Each ticket that is handed over is in memory twice until it is confirmed.
    pub(super) handing_over: Semaphore,
    pub(super) waiting: Waiting,
    pub(super) meter: Arc<Meter>,
    pub(super) watchdog: Watchdog,
    pub(super) job_index: Arc<JobIndex>,
    /// It is to leave, and takes no more jobs.
    pub(super) leaving: AtomicBool,
    pub(super) worker: String,
    pub(super) reply_to_prefix: String,
}

impl Context {
    /// How the account stands.
    pub(super) fn account(&self) -> &AccountState {
        self.fleet.account()
    }

    /// The lanes to take jobs from.
    pub(super) fn lanes_to_serve(&self) -> Vec<Lane> {
        let state = self.account().state();
        self.lanes.to_serve(state.as_ref().map(|state| &state.lanes))
    }

    /// The figures of the lanes to take jobs from; none where that is the default one alone.
    fn lane_figures(&self) -> BTreeMap<Lane, LaneFigures> {
        let (served, mut figures) = (self.lanes_to_serve(), self.lanes.figures());
        figures.retain(|lane, _| served.len() > 1 && served.contains(lane));
        figures
    }

    /// The least time in which an answer of a type can be expected, once enough is learned.
    pub(super) fn least_solve_time(&self, task_type: &str) -> Option<Duration> {
        self.fleet.solve_times().least(task_type, self.clock.now())
    }

    /// The answer to a task has come.
    pub(super) fn solved(&self, task_type: &str, task: &OpenTask) {
        self.counters.times.solved(task_type, task.age(self.uptime()));
        self.first_poll(task_type, task, true);
        if let Some(answer) = task.answer().filter(|_| self.was_undisturbed(task)) {
            self.fleet.learn(|times| times.note(task_type, answer, self.clock.now()));
        }
    }

    /// A poll has found a task ready, or has not; only its first one says something more.
    pub(super) fn first_poll(&self, task_type: &str, task: &OpenTask, is_ready: bool) {
        if let Some(age) = task.first_poll().filter(|_| self.was_undisturbed(task)) {
            let since = task.age(self.uptime()).saturating_sub(age);
            self.fleet.solve_times().first_poll(task_type, age, is_ready, self.clock.now().minus(since));
        }
    }

    /// The age of a task that was open through a trip says how long the trip was.
    fn was_undisturbed(&self, task: &OpenTask) -> bool {
        self.account().state().is_some_and(|state| state.since <= task.accepted_at)
    }

    /// Counts a job for its publisher. Over its limit, the job waits first; a job that has come
    /// back from another wait is counted already.
    pub(super) fn taken(&self, run: &mut JobRun, is_first: bool) -> Event {
        let delayed_for = run.history.delayed_for().map(str::to_owned);
        if !is_first && delayed_for.is_none() {
            return Event::Taken;
        }
        let publisher = delayed_for.unwrap_or_else(|| publisher(&run.job.properties));
        let limit = self.per_publisher_per_minute.map(|per_minute| {
            let (elsewhere, replicas) = self.fleet.let_pass_elsewhere(&publisher);
            let twice = Failpoint::PublisherCountedTwice.in_force();
            let elsewhere = if twice { 2 * elsewhere } else { elsewhere };
            PublisherLimit { per_minute, elsewhere, replicas }
        });
        let admitted = self.publishers.lock().admit(&publisher, limit, self.clock.uptime());
        match admitted {
            Ok(()) => {
                run.history.let_pass();
                Event::Taken
            }
            Err(wait) => {
                self.counters.delayed();
                Event::OverPublisherLimit { publisher, wait }
            }
        }
    }

    /// A steady clock, for the ages of open tasks.
    pub(super) fn uptime(&self) -> Duration {
        if Failpoint::WallClockAges.in_force() {
            return self.clock.now().since(Timestamp::from_millis(0));
        }
        self.clock.uptime()
    }

    pub(super) fn decision_input(&self, kind: &str) -> DecisionInput<'_> {
        let now = self.clock.now();
        DecisionInput {
            rules: &self.rules,
            learned: self.fleet.solve_times().polls(kind),
            callbacks_come: self.fleet.callbacks().are_on(now),
            now,
            uptime: self.uptime(),
            jitter: self.rng.jitter(),
        }
    }

    pub(super) fn finish(&self) -> Finish<'_> {
        Finish { worker: &self.worker, now: self.clock.now() }
    }
}

impl Work for Context {
    fn vitals(&self) -> Vitals {
        let counters = self.counters.read();
        let leaving = self.leaving.load(Ordering::Relaxed);
        let (answered, wrong_ids) = self.account().answer_counts();
        Vitals {
            ready: !leaving && self.account().permit().jobs != Jobs::None,
            in_flight: self.in_flight.held(),
            window: self.limits.window(),
            types: self.limits.narrowed(),
            lanes: self.lane_figures(),
            calls: counters.submissions + counters.polls,
            accepted: counters.accepted,
            solved: counters.solved,
            failed: counters.failed,
            answered,
            wrong_ids,
            callbacks: self.fleet.callbacks().status(self.clock.now()),
            detail: Some(failures::detail(
                &counters,
                &self.counters.failures,
                self.limits.by_type(),
                &self.fleet.solve_times(),
                self.publishers.lock().top(self.uptime()),
            )),
        }
    }

    fn find(&self, id: &str) -> Vec<Sighting> {
        self.job_index.find(id)
    }
}

/// The consumers that the session has now, seen from aside.
#[derive(Debug, Default)]
pub(super) struct Consumers(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    tickets: Option<ConsumerWatch>,
    jobs: Vec<ConsumerWatch>,
}

impl Consumers {
    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0.lock()
    }

    pub(super) fn set_tickets(&self, consumer: Option<ConsumerWatch>) {
        self.lock().tickets = consumer;
    }

    pub(super) fn set_jobs(&self, consumers: &JobConsumers) {
        // That of a lane which no settings name may end at any time.
        let named = consumers.iter().filter(|lane| !lane.state.is_removed());
        self.lock().jobs = named.map(|lane| lane.consumer.watch()).collect();
    }

    pub(super) fn forget(&self) {
        *self.lock() = Watched::default();
    }

    /// Whether deliveries from this queue, of jobs in every lane, are known to come here.
    pub(super) fn is_consuming(&self, origin: Origin) -> bool {
        let watched = self.lock();
        match origin {
            Origin::Job => !watched.jobs.is_empty() && watched.jobs.iter().all(ConsumerWatch::is_consuming),
            Origin::Ticket => watched.tickets.as_ref().is_some_and(ConsumerWatch::is_consuming),
        }
    }

    /// Deliveries in flight that are not begun.
    pub(super) fn waiting(&self) -> usize {
        let watched = self.lock();
        watched.jobs.iter().chain(&watched.tickets).map(ConsumerWatch::waiting).sum()
    }
}

/// The live session, if there is one. Who waits for it is served in order.
#[derive(Default)]
pub(super) struct Live {
    session: Mutex<Option<Session>>,
    changed: Notify,
}

impl Live {
    pub(super) fn set(&self, session: Option<Session>) {
        *self.session.lock() = session;
        self.changed.notify_waiters();
    }

    pub(super) fn now(&self) -> Option<Session> {
        self.session.lock().clone()
    }

    /// Waits until there is one.
    pub(super) async fn session(&self) -> Session {
        loop {
            let changed = self.changed.notified();
            if let Some(session) = self.now() {
                return session;
            }
            changed.await;
        }
    }
}

/// One session as its runs see it, with the signs that end them early.
#[derive(Clone)]
pub(super) struct Scope {
    pub(super) session: Session,
    /// On the job channel; nobody submits without it.
    job_lease: Lease,
    /// On the ticket channel; nobody polls without it.
    ticket_lease: Lease,
    /// Nothing more is submitted.
    pub(super) submissions_shut: CancellationToken,
    /// No more jobs are delivered: one that is handed back now does not come straight in again.
    pub(super) jobs_cancelled: CancellationToken,
    /// No more tickets are delivered, and those in flight go to other replicas.
    pub(super) tickets_cancelled: CancellationToken,
    /// The session is gone, or about to be closed.
    pub(super) ended: CancellationToken,
}

impl Scope {
    /// A session before it has a ticket consumer.
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            job_lease: Lease::none(),
            ticket_lease: Lease::none(),
            submissions_shut: CancellationToken::new(),
            jobs_cancelled: CancellationToken::new(),
            tickets_cancelled: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    /// The same session from now on, with a new ticket consumer.
    pub(super) fn with_tickets(&self, lease: Lease) -> Self {
        Self { ticket_lease: lease, tickets_cancelled: CancellationToken::new(), ..self.clone() }
    }

    /// The same session from now on, with a new job consumer.
    pub(super) fn with_jobs(&self, lease: Lease) -> Self {
        Self { job_lease: lease, ..self.clone() }
    }

    /// Cancelled once no more is delivered from this queue.
    pub(super) fn cancelled(&self, origin: Origin) -> &CancellationToken {
        match origin {
            Origin::Job => &self.jobs_cancelled,
            Origin::Ticket => &self.tickets_cancelled,
        }
    }

    /// Whether this replica is still known to own deliveries from this queue.
    pub(super) fn owns(&self, origin: Origin) -> bool {
        let lease = match origin {
            Origin::Job => &self.job_lease,
            Origin::Ticket => &self.ticket_lease,
        };
        lease.holds(Instant::now()) || Failpoint::LeaseIgnored.in_force()
    }

    /// The session is gone: what waits on it need not wait any longer.
    pub(super) fn end(&self) {
        self.ended.cancel();
        self.submissions_shut.cancel();
        self.jobs_cancelled.cancel();
        self.tickets_cancelled.cancel();
    }
}
