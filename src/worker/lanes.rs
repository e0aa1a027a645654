//! The lanes of a replica: which of them takes the next job, and what is in flight of each.

use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{self, Poll};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::context::Scope;
use super::limits::resizable_semaphore::CallPermit;
use super::limits::{SubmissionPermit, TypeLimiter};
use super::rate::{Rate, Share};
use crate::broker::{Consumer, Delivery};
use crate::clock::Clock;
use crate::domain::lane::{DeficitRoundRobin, Lane, LaneRules, MAX_REMEMBERED};
use crate::failpoint::Failpoint;
use crate::fleet::LaneFigures;

/// A poll that has waited for so long does not wait for the turn of its lane.
const MAX_LANE_WAIT: Duration = Duration::from_secs(20);

/// Submissions of a lane that wait for its rate, at most: then no more of its jobs are taken.
const MOST_ASKING: usize = 16;
/// Jobs of a lane whose prices are set aside while they wait for a permit.
const MOST_PRICED: usize = 16;

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
    /// Submissions that wait for the rate.
    asking: AtomicUsize,
    /// Held by the one submission that stands in line for the rate, so that no paid task waits for
    /// its poll behind more of them.
    first_asking: tokio::sync::Mutex<()>,
    /// Where there are budgets: jobs whose prices are set aside while they wait for a permit.
    priced: Arc<Semaphore>,
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
        let (submissions, polls) = (Line::new(None), Line::new(Some(MAX_LANE_WAIT)));
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
    /// the first of them has got a permit, it goes to the lane whose turn it is then, and not to
    /// the job that came first.
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

    /// The same for a poll. One that has waited for long goes first, whatever its lane: its answer
    /// is paid, and the API does not keep it for ever.
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
            asking: AtomicUsize::new(0),
            first_asking: tokio::sync::Mutex::default(),
            priced: Arc::new(Semaphore::new(MOST_PRICED)),
            taken: AtomicU64::new(0),
            solved: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Its part of the work.
    fn weight(&self) -> u32 {
        let starve = Failpoint::LightLanesStarve.in_force();
        if starve { self.rules.weight.saturating_pow(8) } else { self.rules.weight }
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

    /// Waits until the lane's own rate lets a submission begin.
    pub(super) async fn submission_turn(&self, share: impl Fn() -> Share) {
        if self.rate.is_limited() {
            let _asking = AskingOfLane::new(self);
            let _first = self.first_asking.lock().await;
            self.rate.turn(share).await;
        }
    }

    /// Waits for one of the places of jobs whose prices are set aside. Were all prices of a backlog
    /// set aside at once, nothing would be left for another lane.
    pub(super) async fn priced(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.priced).acquire_owned().await.ok()
    }

    fn has_room(&self) -> bool {
        // What waits for the rate would fill the replica.
        if self.asking.load(Ordering::Acquire) >= MOST_ASKING {
            return false;
        }
        self.rules.max_in_flight.is_none_or(|most| self.held.load(Ordering::Acquire) < most)
    }
}

/// Counts a submission that waits for its lane's rate.
struct AskingOfLane<'a>(&'a LaneState);

impl<'a> AskingOfLane<'a> {
    fn new(state: &'a LaneState) -> Self {
        state.asking.fetch_add(1, Ordering::AcqRel);
        Self(state)
    }
}

impl Drop for AskingOfLane<'_> {
    fn drop(&mut self) {
        self.0.asking.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
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
    round_robin: DeficitRoundRobin,
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
        self.round_robin.set(&consumer.state.lane, consumer.state.weight());
        self.lanes.push(consumer);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &LaneConsumer> {
        self.lanes.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut LaneConsumer> {
        self.lanes.iter_mut()
    }

    /// Gives up the consumers of some lanes.
    pub(super) fn take(&mut self, of: impl Fn(&Lane) -> bool) -> Vec<LaneConsumer> {
        self.lanes.extract_if(.., |lane| of(&lane.state.lane)).collect()
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
            let came = if let Some(drawn) = self.round_robin.draw(waits) {
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
struct Line<T>(Mutex<LaneQueues<T>>);

struct LaneQueues<T> {
    /// Who has waited so long goes first.
    max_wait: Option<Duration>,
    round_robin: DeficitRoundRobin,
    waiting: BTreeMap<Lane, VecDeque<LaneWaiter<T>>>,
}

struct LaneWaiter<T> {
    since: Instant,
    /// What the permit must be for.
    kind: usize,
    grant: oneshot::Sender<T>,
}

impl<T: Send + 'static> Line<T> {
    fn new(max_wait: Option<Duration>) -> Arc<Self> {
        let (round_robin, waiting) = (DeficitRoundRobin::default(), BTreeMap::new());
        Arc::new(Self(Mutex::new(LaneQueues { max_wait, round_robin, waiting })))
    }

    fn set(&self, state: &LaneState) {
        self.0.lock().round_robin.set(&state.lane, state.weight());
    }

    async fn wait(
        self: &Arc<Self>,
        lane: &Lane,
        kind: usize,
        in_line: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let (grant, granted) = oneshot::channel();
        let mut granted = Granted { line: Arc::clone(self), kind, granted };
        let waiting = LaneWaiter { since: Instant::now(), kind, grant };
        self.0.lock().waiting.entry(lane.clone()).or_default().push_back(waiting);
        let line = Arc::clone(self);
        // Who goes away leaves the line; who gets another's permit leaves its own place to that
        // one.
        let in_line = AbortOnDropHandle::new(tokio::spawn(async move {
            line.grant(kind, in_line.await);
        }));
        match (&mut granted.granted).await {
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

/// A permit that nobody has received yet goes to the next who waits: that one's own place in line
/// may have been used for it.
struct Granted<T: Send + 'static> {
    line: Arc<Line<T>>,
    kind: usize,
    granted: oneshot::Receiver<T>,
}

impl<T: Send + 'static> Drop for Granted<T> {
    fn drop(&mut self) {
        if let Ok(permit) = self.granted.try_recv() {
            self.line.grant(self.kind, permit);
        }
    }
}

impl<T> LaneQueues<T> {
    fn next(&mut self, kind: usize) -> Option<LaneWaiter<T>> {
        let Self { max_wait, round_robin, waiting } = self;
        // Those that have gone away take no turn of their lane.
        waiting.retain(|_, lane| {
            while lane.front().is_some_and(|waiting| waiting.grant.is_closed()) {
                lane.pop_front();
            }
            !lane.is_empty()
        });
        let first = |lane: &VecDeque<LaneWaiter<T>>| {
            lane.iter().position(|waiting| waiting.kind == kind && !waiting.grant.is_closed())
        };
        let longest = waiting.iter().filter_map(|(lane, of)| Some((of.get(first(of)?)?.since, lane))).min();
        let overdue =
            longest.filter(|(since, _)| max_wait.is_some_and(|max_wait| since.elapsed() >= max_wait));
        let lane = match overdue {
            Some((_, lane)) => lane.clone(),
            None => {
                round_robin.draw(|lane| waiting.get(lane).is_some_and(|lane| first(lane).is_some()))?.clone()
            }
        };
        let lane = waiting.get_mut(&lane)?;
        lane.remove(first(lane)?)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    fn line(max_wait: Option<Duration>) -> (Arc<Line<u32>>, [Lane; 2]) {
        let line = Line::new(max_wait);
        let lanes: [Lane; 2] = ["heavy", "light"].map(|name| name.parse().unwrap());
        for (lane, weight) in lanes.iter().zip([100, 1]) {
            let rules = LaneRules { weight, ..LaneRules::default() };
            let state = LaneState::new(lane.clone(), (rules, false), &Arc::default(), Clock::System);
            line.set(&state);
        }
        (line, lanes)
    }

    /// Who gets the next permits, of two that wait in each lane and get none by themselves.
    async fn served(max_wait: Option<Duration>) -> Vec<&'static str> {
        let (line, [heavy, light]) = line(max_wait);
        let (got, mut served) = tokio::sync::mpsc::unbounded_channel();
        for (lane, name) in [(&light, "light"), (&light, "light"), (&heavy, "heavy"), (&heavy, "heavy")] {
            let (line, lane, got) = (Arc::clone(&line), lane.clone(), got.clone());
            tokio::spawn(async move {
                line.wait(&lane, 0, pending()).await;
                got.send(name)
            });
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let mut order = Vec::new();
        for permit in 0..4 {
            line.grant(0, permit);
            order.extend(served.recv().await);
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_goes_to_the_lane_whose_turn_it_is_unless_somebody_has_waited_for_long() {
        assert_eq!(served(None).await, ["heavy", "heavy", "light", "light"]);
        // The first two have waited for 8 s and 6 s.
        assert_eq!(served(Some(Duration::from_secs(5))).await, ["light", "light", "heavy", "heavy"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_leaves_the_permit_to_another() {
        let (line, [heavy, light]) = line(None);
        let gone = tokio::spawn({
            let (line, heavy) = (Arc::clone(&line), heavy.clone());
            async move { line.wait(&heavy, 0, pending()).await }
        });
        tokio::task::yield_now().await;
        gone.abort();
        assert!(gone.await.is_err());
        // Of another kind: it must wait for a permit of its own.
        let other = tokio::spawn({
            let (line, heavy) = (Arc::clone(&line), heavy.clone());
            async move { line.wait(&heavy, 1, pending()).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(line.wait(&light, 0, ready(7)).await, 7);
        line.grant(1, 8);
        assert_eq!(other.await.unwrap(), 8);
    }
}
