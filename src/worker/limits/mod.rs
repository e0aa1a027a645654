//! When a call of the API may begin: the windows on all calls and on each type's submissions, the
//! caps, and the fleet's rate.

pub(crate) mod by_type;
pub(crate) mod in_flight;
pub(crate) mod resizable_semaphore;
pub(crate) mod waiting;

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::lanes::{LaneState, Lanes};
use super::rate::{Rate, Share};
use crate::clock::Clock;
use crate::domain::aimd::{AimdWindow, TypeWindow};
use crate::domain::class::Class;
use crate::domain::fault::{Fault, Stage, local_code};
use crate::domain::kind;
use crate::domain::lifecycle::Event;
use crate::domain::time::Timestamp;
use crate::fleet::{AccountState, TypeBreaker};
use by_type::{ByType, OTHERS};
use resizable_semaphore::{CallPermit, ResizableSemaphore};

/// The bounds on calls.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Calls of the API at once.
    pub max_calls: usize,
    /// Submissions at once.
    pub submit_concurrency: usize,
    /// Calls a second of the whole fleet; `None`: no limit.
    pub max_calls_per_second: Option<NonZeroU32>,
    /// Open tasks and submissions that this replica holds at once, by type or by `type/class`. A
    /// class with a cap of its own does not count against its type's; all the others of the type
    /// do, together.
    pub caps: BTreeMap<String, usize>,
    /// Jobs of one publisher that the whole fleet takes within a minute; `None`: no limit.
    pub per_publisher_per_minute: Option<NonZeroU32>,
}

/// The ways to the API.
pub(crate) struct CallLimits {
    limits: Limits,
    window: Mutex<AimdWindow>,
    calls: Arc<ResizableSemaphore>,
    submissions: Arc<Semaphore>,
    accepted_at: Mutex<Option<Timestamp>>,
    canary: OneByOne,
    polls: OneByOne,
    types: ByType<Arc<TypeLimiter>>,
    // By the name that the cap stands under.
    capped: BTreeMap<String, Arc<AtomicUsize>>,
    rate: Arc<Rate>,
}

/// The submissions of one type.
pub(crate) struct TypeLimiter {
    name: Box<str>,
    window: Mutex<TypeWindow>,
    permits: Arc<ResizableSemaphore>,
    asking: AtomicUsize,
    held: AtomicUsize,
}

/// Counts against the cap of a type, while it is held.
pub(crate) struct HeldOfType {
    limiter: Arc<TypeLimiter>,
    capped: Option<Arc<AtomicUsize>>,
}

impl HeldOfType {
    /// The limits on submissions of the type.
    pub(crate) fn limiter(&self) -> &Arc<TypeLimiter> {
        &self.limiter
    }
}

impl Drop for HeldOfType {
    fn drop(&mut self) {
        self.limiter.held.fetch_sub(1, Ordering::AcqRel);
        if let Some(capped) = &self.capped {
            capped.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// The right to begin a submission, given back when dropped.
pub(crate) struct SubmissionPermit {
    _type: CallPermit,
    _submission: Option<OwnedSemaphorePermit>,
    _call: CallPermit,
}

impl CallLimits {
    pub(crate) fn new(limits: Limits, clock: Clock) -> Self {
        Self {
            window: Mutex::new(AimdWindow::starting(limits.max_calls)),
            calls: ResizableSemaphore::new(1),
            submissions: Arc::new(Semaphore::new(limits.submit_concurrency.max(1))),
            accepted_at: Mutex::default(),
            canary: OneByOne::default(),
            polls: OneByOne::default(),
            types: ByType::default(),
            capped: limits.caps.keys().map(|name| (name.clone(), Arc::default())).collect(),
            rate: Arc::new(Rate::new(limits.max_calls_per_second, clock)),
            limits,
        }
    }

    /// The limiter of a type.
    pub(crate) fn of_type(&self, task_type: &str) -> Arc<TypeLimiter> {
        let make = |name: &str| {
            let most = self.limits.submit_concurrency.max(1);
            Arc::new(TypeLimiter {
                name: name.into(),
                window: Mutex::new(TypeWindow::new(most)),
                permits: ResizableSemaphore::new(most),
                asking: AtomicUsize::new(0),
                held: AtomicUsize::new(0),
            })
        };
        self.types.with(task_type, make, |limiter| Arc::clone(limiter))
    }

    /// Counts a job or ticket in flight against its type's cap.
    pub(crate) fn hold(&self, task_type: &str) -> HeldOfType {
        let limiter = self.of_type(task_type);
        limiter.held.fetch_add(1, Ordering::AcqRel);
        let capped = kind::find(&self.capped, task_type).map(|(_, held)| Arc::clone(held));
        if let Some(capped) = &capped {
            capped.fetch_add(1, Ordering::AcqRel);
        }
        HeldOfType { limiter, capped }
    }

    /// Whether a job of a type may ask for a permit now; else why it waits its turn without a call.
    pub(crate) fn admit(
        &self,
        limiter: &TypeLimiter,
        task_type: &str,
        unanswered: bool,
        account: &AccountState,
    ) -> Result<(), Event> {
        let cap = kind::find(&self.limits.caps, task_type);
        let held = |name: &str| self.capped.get(name).map_or(0, |held| held.load(Ordering::Acquire));
        if let Some((name, _)) = cap.filter(|(name, cap)| held(name) > **cap) {
            let text = format!("this replica holds as many tasks of type {name} as [caps] allows");
            return Err(no_slot(local_code::TYPE_CAP_REACHED, text));
        }
        match account.breaker(limiter.name_of(task_type), unanswered) {
            Some(TypeBreaker::NoSlots) => {
                limiter.shut();
                let text = format!("the API has no free slot for type {task_type}, as other jobs have found");
                return Err(no_slot(local_code::NO_SLOT_EXPECTED, text));
            }
            Some(TypeBreaker::Failing) => {
                limiter.shut();
                return Err(Event::TypeFailing);
            }
            Some(TypeBreaker::Try) => return Ok(()),
            None => limiter.reopen(),
        }
        // While the API is short of slots, as many may wait as are under way; more would stand in
        // the way of other types.
        let (size, short) = {
            let window = limiter.window.lock();
            (window.size(), window.is_short())
        };
        if short && limiter.asking.load(Ordering::Acquire) >= size {
            let text = format!("the API has few free slots for type {task_type} at the moment");
            return Err(no_slot(local_code::NO_SLOT_EXPECTED, text));
        }
        Ok(())
    }

    /// The API accepted a task.
    pub(crate) fn accepted(&self, now: Timestamp) {
        *self.accepted_at.lock() = Some(now);
    }

    /// Whether the API has accepted a task since, here.
    pub(crate) fn accepted_since(&self, moment: Timestamp) -> bool {
        self.accepted_at.lock().is_some_and(|at| at >= moment)
    }

    /// Waits until a submission may begin. Who waits stands in line for a permit of its type, and
    /// the lane of the job that gets the permit is drawn when there is one.
    pub(crate) async fn submission(
        &self,
        limiter: &Arc<TypeLimiter>,
        (lanes, lane): (&Lanes, &LaneState),
        account: &AccountState,
    ) -> SubmissionPermit {
        // Before the line, where it would keep others from their permit.
        lane.submission_turn(|| share(account)).await;
        let _asking = Asking::new(&limiter.asking);
        if let Some(permit) = self.submission_at_once(limiter) {
            return permit;
        }
        let (types, submissions, calls) =
            (Arc::clone(limiter), Arc::clone(&self.submissions), Arc::clone(&self.calls));
        let (rate, account) = (Arc::clone(&self.rate), account.clone());
        let in_line = async move {
            // In this order: a submission that waits must not hold a call that a poll could use.
            let type_permit = types.permits.acquire().await;
            let submission = submissions.acquire_owned().await.ok();
            let call = calls.acquire().await;
            rate.turn(|| share(&account)).await;
            SubmissionPermit { _type: type_permit, _submission: submission, _call: call }
        };
        lanes.submission(lane, limiter, in_line).await
    }

    /// The same without a wait, where that can be.
    fn submission_at_once(&self, limiter: &TypeLimiter) -> Option<SubmissionPermit> {
        if self.rate.is_limited() {
            return None;
        }
        let type_permit = limiter.permits.acquire().now_or_never()?;
        let submission = Arc::clone(&self.submissions).try_acquire_owned().ok()?;
        let call = self.calls.acquire().now_or_never()?;
        Some(SubmissionPermit { _type: type_permit, _submission: Some(submission), _call: call })
    }

    /// Waits until a poll may begin.
    pub(crate) async fn poll(
        &self,
        (lanes, lane): (&Lanes, &LaneState),
        account: &AccountState,
    ) -> CallPermit {
        lane.rate().turn(|| share(account)).await;
        let (calls, rate, account) = (Arc::clone(&self.calls), Arc::clone(&self.rate), account.clone());
        let in_line = async move {
            let permit = calls.acquire().await;
            rate.turn(|| share(&account)).await;
            permit
        };
        lanes.poll(lane, in_line).await
    }

    /// The same without a wait, where that can be. Where calls are rationed, each has a turn of its
    /// own to wait for.
    pub(crate) fn poll_at_once(&self, lane: &LaneState) -> Option<CallPermit> {
        if self.rate.is_limited() || lane.rate().is_limited() {
            None
        } else {
            self.calls.acquire().now_or_never()
        }
    }

    /// Held by the one canary.
    pub(crate) async fn canary(&self) -> Turn<'_> {
        turn(&self.canary).await
    }

    /// Held by one poll of those that are made one by one.
    pub(crate) async fn one_by_one(&self) -> Turn<'_> {
        turn(&self.polls).await
    }

    /// The API answered, whatever it said about the job.
    pub(crate) fn answered(&self) {
        let mut window = self.window.lock();
        let before = window.size();
        window.good();
        if window.size() != before {
            self.calls.resize(window.size());
        }
    }

    /// No answer, or a server error: fewer calls of every kind.
    pub(crate) fn unanswered(&self, now: Timestamp) {
        let mut window = self.window.lock();
        window.failed(now);
        self.calls.resize(window.size());
    }

    /// From one call again, and quickly back to where it was.
    pub(crate) fn restart(&self) {
        let mut window = self.window.lock();
        window.restart();
        self.calls.resize(window.size());
    }

    /// Calls that may be under way at once.
    pub(crate) fn window(&self) -> usize {
        self.window.lock().size()
    }

    /// The windows of the types that are narrower than they may be.
    pub(crate) fn narrowed(&self) -> BTreeMap<String, usize> {
        let most = self.limits.submit_concurrency;
        let mut sizes = self.types.read(|limiter| limiter.window.lock().size());
        sizes.retain(|_, size| *size < most);
        sizes
    }

    /// What is held of each type, and the type's window.
    pub(crate) fn by_type(&self) -> BTreeMap<String, (usize, usize)> {
        self.types.read(|limiter| (limiter.held.load(Ordering::Acquire), limiter.window.lock().size()))
    }

    /// Permits in use, of all kinds together.
    pub(crate) fn in_use(&self) -> usize {
        let submissions =
            self.limits.submit_concurrency.max(1).saturating_sub(self.submissions.available_permits());
        let of_type =
            |limiter: &Arc<TypeLimiter>| limiter.permits.in_use() + limiter.held.load(Ordering::Acquire);
        self.calls.in_use() + submissions + self.types.read(of_type).values().sum::<usize>()
    }

    /// Waits until no submission is under way.
    pub(crate) async fn submissions_ended(&self) {
        let all = u32::try_from(self.limits.submit_concurrency.max(1)).unwrap_or(u32::MAX);
        drop(self.submissions.acquire_many(all).await);
    }
}

impl TypeLimiter {
    /// Under which name the fleet reports its slots: that of all who share it. A replica's own
    /// mixture of others has none.
    pub(crate) fn name_of<'a>(&'a self, kind: &'a str) -> &'a str {
        if &*self.name == OTHERS { kind } else { &self.name }
    }

    /// The API accepted a task of this type.
    pub(crate) fn accepted(&self) {
        self.change(TypeWindow::good);
    }

    /// The API has no slot for it, or wants fewer calls. Returns whether that shuts the type.
    pub(crate) fn refused(&self) -> bool {
        self.change(TypeWindow::refused)
    }

    /// createTask refused a job of it for the job's own sake: it works.
    pub(crate) fn answered(&self) {
        self.change(TypeWindow::answered);
    }

    /// A submission of it failed in a way that says nothing about its job. Returns whether that
    /// shuts the type.
    pub(crate) fn failed(&self) -> bool {
        self.change(TypeWindow::failed)
    }

    /// The fleet has found that it is shut.
    pub(crate) fn shut(&self) {
        self.change(TypeWindow::shut);
    }

    /// Slots are back.
    fn reopen(&self) {
        if self.window.lock().is_shut() {
            self.change(TypeWindow::reopen);
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut TypeWindow) -> T) -> T {
        let mut window = self.window.lock();
        let before = window.size();
        let result = change(&mut window);
        if window.size() != before {
            // One permit stays for the call that finds out whether slots are back.
            self.permits.resize(window.size().max(1));
        }
        result
    }
}

/// Calls that are made one by one, the next not before the moment that is written into it.
type OneByOne = tokio::sync::Mutex<Option<Instant>>;
/// The turn of one of them.
pub(crate) type Turn<'a> = tokio::sync::MutexGuard<'a, Option<Instant>>;

async fn turn(calls: &OneByOne) -> Turn<'_> {
    let turn = calls.lock().await;
    if let Some(not_before) = *turn {
        sleep_until(not_before).await;
    }
    turn
}

fn share(account: &AccountState) -> Share {
    let (replicas, rank) = account.share();
    Share { replicas, rank }
}

struct Asking<'a>(&'a AtomicUsize);

impl<'a> Asking<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn no_slot(code: &'static str, text: String) -> Event {
    Event::Deferred(Fault::local(Class::Capacity, code, Stage::Submit, text))
}
