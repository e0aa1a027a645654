//! The lanes of a replica: which of them takes the next job, and what is in flight of each.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{self, Poll};

use tokio::sync::{Notify, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::context::Scope;
use super::limits::resizable_semaphore::CallPermit;
use super::limits::{SubmissionPermit, TypeLimiter};
use super::rate::Rate;
use crate::broker::{Consumer, Delivery};
use crate::clock::Clock;
use crate::domain::lane::{Lane, LaneRota, LaneRules, MAX_REMEMBERED};
use crate::fleet::LaneFigures;

/// What is known of each lane. It outlives sessions.
pub(crate) struct Lanes {
    by_lane: Mutex<BTreeMap<Lane, Arc<LaneState>>>,
    // Most jobs are of it, and it needs no look-up.
    default: Arc<LaneState>,
    clock: Clock,
    /// A lane with a limit of its own holds less.
    freed: Arc<Notify>,
    submissions: Arc<Line<SubmissionPermit>>,
    polls: Arc<Line<CallPermit>>,
}

/// One lane.
pub(crate) struct LaneState {
    lane: Lane,
    rules: LaneRules,
    /// Of a lane that the settings do not name.
    is_removed: bool,
    held: AtomicUsize,
    freed: Arc<Notify>,
    rate: Rate,
    taken: AtomicU64,
    solved: AtomicU64,
    failed: AtomicU64,
}

/// Counts a job or ticket as in flight in its lane, while it is held.
pub(crate) struct HeldOfLane(Arc<LaneState>);

impl Lanes {
    /// The lanes of the settings, and the default one in any case.
    pub(crate) fn new(rules: BTreeMap<Lane, LaneRules>, clock: Clock) -> Self {
        let freed = Arc::default();
        let state = |lane: &Lane, rules: LaneRules| {
            Arc::new(LaneState::new(lane.clone(), (rules, false), &freed, clock.clone()))
        };
        let default = rules.get(&Lane::default()).copied().unwrap_or_default();
        let default = state(&Lane::default(), default);
        let mut by_lane: BTreeMap<_, _> =
            rules.iter().map(|(lane, rules)| (lane.clone(), state(lane, *rules))).collect();
        by_lane.insert(Lane::default(), Arc::clone(&default));
        let (submissions, polls) = (Arc::default(), Arc::default());
        let all = Self { by_lane: Mutex::new(by_lane), default, clock, freed, submissions, polls };
        all.by_lane.lock().values().for_each(|state| all.drawn_from(state));
        all
    }

    /// The lanes to take jobs from: those of the settings, and those that the fleet remembers.
    pub(crate) fn to_serve(&self, remembered: Option<&BTreeSet<Lane>>) -> Vec<Lane> {
        remembered.into_iter().flatten().for_each(|lane| drop(self.of(lane)));
        let served = |state: &&Arc<LaneState>| {
            !state.is_removed || remembered.is_some_and(|lanes| lanes.contains(&state.lane))
        };
        self.by_lane.lock().values().filter(served).map(|state| state.lane.clone()).collect()
    }

    /// What is known of a lane. One that no settings name has weight 1. What has no place any more
    /// is counted in the default lane.
    pub(crate) fn of(&self, lane: &Lane) -> Arc<LaneState> {
        if lane.is_default() {
            return Arc::clone(&self.default);
        }
        let mut by_lane = self.by_lane.lock();
        if let Some(state) = by_lane.get(lane) {
            return Arc::clone(state);
        }
        if by_lane.len() > MAX_REMEMBERED {
            return Arc::clone(&self.default);
        }
        let rules = (LaneRules::default(), true);
        let state = Arc::new(LaneState::new(lane.clone(), rules, &self.freed, self.clock.clone()));
        self.drawn_from(&state);
        by_lane.insert(lane.clone(), Arc::clone(&state));
        state
    }

    fn drawn_from(&self, state: &LaneState) {
        self.submissions.set(state);
        self.polls.set(state);
    }

    /// Counts a job or ticket as in flight.
    pub(crate) fn hold(&self, lane: &Lane) -> HeldOfLane {
        HeldOfLane::new(self.of(lane))
    }

    /// Waits for the permit of a submission, for which each that waits has one stand in line. When
    /// the first of them has got a permit, it goes to the lane whose turn it is then, whoever has
    /// come first.
    pub(super) async fn submission(
        &self,
        lane: &LaneState,
        limiter: &Arc<TypeLimiter>,
        in_line: impl Future<Output = SubmissionPermit> + Send + 'static,
    ) -> SubmissionPermit {
        if self.is_one() {
            return in_line.await;
        }
        // A permit is for one type.
        self.submissions.wait(&lane.lane, Arc::as_ptr(limiter) as usize, in_line).await
    }

    /// The same for a poll.
    pub(super) async fn poll(
        &self,
        lane: &LaneState,
        in_line: impl Future<Output = CallPermit> + Send + 'static,
    ) -> CallPermit {
        if self.is_one() { in_line.await } else { self.polls.wait(&lane.lane, 0, in_line).await }
    }

    /// Whether nothing has to be drawn.
    fn is_one(&self) -> bool {
        self.by_lane.lock().len() == 1
    }

    /// The figures of each.
    pub(crate) fn figures(&self) -> BTreeMap<Lane, LaneFigures> {
        let of = |state: &LaneState| LaneFigures {
            weight: state.rules.weight,
            is_removed: state.is_removed,
            in_flight: state.held.load(Ordering::Acquire),
            taken: state.taken.load(Ordering::Relaxed),
            solved: state.solved.load(Ordering::Relaxed),
            failed: state.failed.load(Ordering::Relaxed),
        };
        self.by_lane.lock().iter().map(|(lane, state)| (lane.clone(), of(state))).collect()
    }

    /// An outcome of a job of the lane is published.
    pub(crate) fn ended(&self, lane: &Lane, solved: bool) {
        let state = self.of(lane);
        let counter = if solved { &state.solved } else { &state.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl LaneState {
    fn new(lane: Lane, (rules, is_removed): (LaneRules, bool), freed: &Arc<Notify>, clock: Clock) -> Self {
        Self {
            lane,
            rules,
            is_removed,
            held: AtomicUsize::new(0),
            freed: Arc::clone(freed),
            rate: Rate::new(rules.max_calls_per_second, clock),
            taken: AtomicU64::new(0),
            solved: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Its name.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Its own limit on calls.
    pub(super) fn rate(&self) -> &Rate {
        &self.rate
    }

    /// Whether no settings name it.
    pub(super) fn is_removed(&self) -> bool {
        self.is_removed
    }

    /// A job has come by it.
    pub(crate) fn job_taken(&self) {
        self.taken.fetch_add(1, Ordering::Relaxed);
    }

    fn has_room(&self) -> bool {
        self.rules.max_in_flight.is_none_or(|most| self.held.load(Ordering::Acquire) < most)
    }
}

impl HeldOfLane {
    /// One more of the lane.
    pub(super) fn new(state: Arc<LaneState>) -> Self {
        state.held.fetch_add(1, Ordering::AcqRel);
        Self(state)
    }

    /// The lane.
    pub(super) fn lane(&self) -> &LaneState {
        &self.0
    }
}

impl Drop for HeldOfLane {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::AcqRel);
        if self.0.rules.max_in_flight.is_some() {
            self.0.freed.notify_one();
        }
    }
}

/// The consumers of jobs that a session has: one for each lane.
#[derive(Default)]
pub(super) struct JobConsumers {
    lanes: Vec<LaneConsumer>,
    rota: LaneRota,
}

/// The consumer of a lane's jobs.
pub(super) struct LaneConsumer {
    pub(super) state: Arc<LaneState>,
    /// With the lease on its own channel.
    pub(super) scope: Arc<Scope>,
    pub(super) consumer: Consumer,
}

impl JobConsumers {
    pub(super) fn serves(&self, lane: &Lane) -> bool {
        self.lanes.iter().any(|consumer| consumer.state.lane == *lane)
    }

    pub(super) fn add(&mut self, consumer: LaneConsumer) {
        self.rota.set(&consumer.state.lane, consumer.state.rules.weight);
        self.lanes.push(consumer);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneConsumer> {
        self.lanes.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LaneConsumer> {
        self.lanes.iter_mut()
    }

    pub(super) fn take(&mut self) -> Vec<LaneConsumer> {
        std::mem::take(self).lanes
    }

    /// The next job, of the lane whose turn it is, with the place of its consumer; `None` where a
    /// consumer has ended. A lane that holds as much as it may is passed over.
    /// The canary is not: without it the whole fleet would wait.
    pub(super) async fn next(&mut self, lanes: &Lanes, is_canary: bool) -> Option<(usize, Delivery)> {
        if self.lanes.iter().all(|lane| lane.consumer.is_cancelled()) {
            return pending().await;
        }
        loop {
            let freed = lanes.freed.notified();
            tokio::select! {
                biased;
                next = poll_fn(|cx| self.poll_next(cx, is_canary)) => return next,
                () = freed => {}
            }
        }
    }

    fn poll_next(&mut self, cx: &mut task::Context<'_>, is_canary: bool) -> Poll<Option<(usize, Delivery)>> {
        let may_take =
            |lane: &LaneConsumer| !lane.consumer.is_cancelled() && (is_canary || lane.state.has_room());
        loop {
            // Where something has come there is a choice; else the first to come is taken.
            let waits = |name: &Lane| {
                let lane = self.lanes.iter().find(|lane| lane.state.lane == *name);
                lane.is_some_and(|lane| may_take(lane) && lane.consumer.has_news())
            };
            let came = if let Some(drawn) = self.rota.draw(waits) {
                let at = self.lanes.iter().position(|lane| lane.state.lane == *drawn);
                at.map(|at| (at, self.lanes[at].consumer.try_recv()))
            } else {
                let mut lanes = self.lanes.iter_mut().enumerate().filter(|(_, lane)| may_take(lane));
                lanes.find_map(|(at, lane)| match lane.consumer.poll_recv(cx) {
                    Poll::Ready(delivery) => Some((at, delivery)),
                    Poll::Pending => None,
                })
            };
            match came {
                Some((at, Some(delivery))) => return Poll::Ready(Some((at, delivery))),
                // The operator may delete the queue of a lane that no settings name.
                Some((at, None)) if self.lanes[at].state.is_removed => drop(self.lanes.remove(at)),
                Some((_, None)) => return Poll::Ready(None),
                None => return Poll::Pending,
            }
        }
    }

    pub(super) fn at(&self, at: usize) -> &LaneConsumer {
        &self.lanes[at]
    }
}

/// Those that wait for permits `T`, by lane.
struct Line<T>(Mutex<Queues<T>>);

struct Queues<T> {
    rota: LaneRota,
    waiting: BTreeMap<Lane, VecDeque<Waiting<T>>>,
}

struct Waiting<T> {
    /// What the permit must be for.
    kind: usize,
    grant: oneshot::Sender<T>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self(Mutex::new(Queues { rota: LaneRota::default(), waiting: BTreeMap::new() }))
    }
}

impl<T: Send + 'static> Line<T> {
    fn set(&self, state: &LaneState) {
        self.0.lock().rota.set(&state.lane, state.rules.weight);
    }

    async fn wait(
        self: &Arc<Self>,
        lane: &Lane,
        kind: usize,
        in_line: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (grant, granted) = oneshot::channel();
        self.0.lock().waiting.entry(lane.clone()).or_default().push_back(Waiting { kind, grant });
        let line = Arc::clone(self);
        // Who goes away leaves the line; who gets another's permit leaves its own place to that one.
        let in_line = AbortOnDropHandle::new(tokio::spawn(async move {
            line.grant(kind, in_line.await);
        }));
        match granted.await {
            Ok(permit) => {
                drop(in_line.detach());
                permit
            }
            // The runtime ends.
            Err(_) => pending().await,
        }
    }

    /// Gives a permit to the first who waits for one of the kind in the lane whose turn it is.
    fn grant(&self, kind: usize, permit: T) {
        let mut permit = permit;
        loop {
            let next = self.0.lock().next(kind);
            let Some(next) = next else { return };
            match next.grant.send(permit) {
                Ok(()) => return,
                // It went away this moment.
                Err(unused) => permit = unused,
            }
        }
    }
}

impl<T> Queues<T> {
    fn next(&mut self, kind: usize) -> Option<Waiting<T>> {
        let Self { rota, waiting } = self;
        // Those that have gone away take no turn of their lane.
        waiting.retain(|_, lane| {
            while lane.front().is_some_and(|waiting| waiting.grant.is_closed()) {
                lane.pop_front();
            }
            !lane.is_empty()
        });
        let first = |lane: &VecDeque<Waiting<T>>| {
            lane.iter().position(|waiting| waiting.kind == kind && !waiting.grant.is_closed())
        };
        let lane = rota.draw(|lane| waiting.get(lane).is_some_and(|lane| first(lane).is_some()))?;
        let lane = waiting.get_mut(lane)?;
        lane.remove(first(lane)?)
    }
}
