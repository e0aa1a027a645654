//! The account's state as this replica knows it: what the leader wrote, and what this replica has
//! met itself since.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::answers::{AnswerCounts, Answers, MetWrongId, PolledTask};
use super::local_trip::{LocalTrip, LocalTrips, Quarantine, Relapses};
use super::message::ReplicaReport;
use super::type_breaker::{TypeBreaker, TypeBreakers};
use super::vitals::Depths;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{CanaryEnd, GuardRules, Jobs, Permit, Polls, Reason, State};
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;

/// Reports on their way to the fleet. One that finds no room is made again while its cause lasts.
const REPORTS: usize = 1_024;
/// The leader checks a doubt about the account no more often than this.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);

/// Whose address the API sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// One for all replicas: a ban of it concerns all.
    Shared,
    /// One for each replica.
    Own,
}

/// All that this replica knows of the account at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The state in force; `None` until the leader has announced it over the present session.
    pub state: Option<Arc<State>>,
    /// Whether this replica leads.
    pub leads: bool,
    /// The leader's name.
    pub leader: Option<String>,
    /// The leader's id: several replicas can have one name.
    pub leader_id: Option<String>,
    /// Replicas in the fleet, this one included, as the leader counts them.
    pub replicas: usize,
    /// By how many the fleet's limits are divided. Until all replicas had time to be heard, it is
    /// at least as many as before.
    pub divisor: usize,
    /// This one's place among them, from 0.
    pub rank: usize,
    /// What it may do.
    pub permit: Permit,
    /// What it has met itself.
    pub(super) trips: LocalTrips,
    /// The last state ever seen, whichever session it came over.
    pub(super) memory: Option<Arc<State>>,
}

impl Snapshot {
    /// What stops this replica alone, beside the fleet's state.
    #[must_use]
    pub fn held(&self) -> Option<Reason> {
        self.trips.reason()
    }

    /// The highest epoch ever seen; 0 for none.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.memory.as_ref().map_or(0, |state| state.epoch)
    }

    fn term(&self) -> u64 {
        self.state.as_ref().map_or(0, |state| state.term)
    }
}

/// What this replica has found out, on its way to the fleet.
#[derive(Debug)]
pub(super) enum Finding {
    /// For all.
    Report(ReplicaReport),
    /// How the canary ended: the leader's own business.
    Canary(CanaryEnd, u64),
    /// A task in doubt was asked for: the leader's own business too.
    Doubtful {
        /// The API does not know it.
        wrong_id: bool,
    },
}

struct AccountParts {
    snapshot: watch::Sender<Snapshot>,
    changed: Notify,
    /// The key in use, and since when if it has replaced another.
    key: Mutex<(Fingerprint, Option<Instant>)>,
    types: TypeBreakers,
    proxies: Quarantine,
    queues: Mutex<Option<Depths>>,
    answers: Answers,
    relapses: Relapses,
    doubted_at: Mutex<Option<Instant>>,
    /// This replica's id, by which the leader keeps its counts apart.
    id: String,
    found: mpsc::Sender<Finding>,
    rules: GuardRules,
    egress: Egress,
}

/// The guard's state in this replica, and everybody's way to learn of a change. Clones are the
/// same.
#[derive(Clone)]
pub struct AccountState {
    parts: Arc<AccountParts>,
}

impl AccountState {
    pub(super) fn new(
        id: String,
        rules: GuardRules,
        egress: Egress,
        key: Fingerprint,
    ) -> (Self, mpsc::Receiver<Finding>) {
        let (found, reports) = mpsc::channel(REPORTS);
        let snapshot = Snapshot {
            state: None,
            leads: false,
            leader: None,
            leader_id: None,
            replicas: 1,
            divisor: 1,
            rank: 0,
            permit: Permit::NOTHING,
            trips: LocalTrips::default(),
            memory: None,
        };
        let parts = AccountParts {
            snapshot: watch::Sender::new(snapshot),
            changed: Notify::new(),
            key: Mutex::new((key, None)),
            types: TypeBreakers::default(),
            proxies: Quarantine::default(),
            queues: Mutex::default(),
            answers: Answers::default(),
            relapses: Relapses::default(),
            doubted_at: Mutex::default(),
            id,
            found,
            rules,
            egress,
        };
        (Self { parts: Arc::new(parts) }, reports)
    }

    /// What may be done now.
    #[must_use]
    pub fn permit(&self) -> Permit {
        self.parts.snapshot.borrow().permit
    }

    /// What may be done now, and in which term. What a call that begins now finds out is reported
    /// with this term.
    #[must_use]
    pub fn permit_and_term(&self) -> (Permit, u64) {
        let snapshot = self.parts.snapshot.borrow();
        (snapshot.permit, snapshot.term())
    }

    /// How many replicas share the fleet's rate, and this one's place among them, from 0.
    #[must_use]
    pub fn share(&self) -> (usize, usize) {
        let snapshot = self.parts.snapshot.borrow();
        (snapshot.divisor, snapshot.rank)
    }

    /// This replica's place among those that it hears.
    pub(super) fn set_rank(&self, rank: usize) {
        self.change(|snapshot| std::mem::replace(&mut snapshot.rank, rank) != rank);
    }

    /// All that is known.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.parts.snapshot.borrow().clone()
    }

    /// The state in force, where it is known.
    #[must_use]
    pub fn state(&self) -> Option<Arc<State>> {
        self.parts.snapshot.borrow().state.clone()
    }

    /// The last state ever seen.
    pub(super) fn memory(&self) -> Option<Arc<State>> {
        self.parts.snapshot.borrow().memory.clone()
    }

    /// What stops this replica alone.
    pub(super) fn held(&self) -> Option<Reason> {
        self.parts.snapshot.borrow().held()
    }

    /// For awaiting changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.parts.snapshot.subscribe()
    }

    /// Waits until the permit is as wanted. Jobs that wait for the same are woken in the order in
    /// which they began to.
    pub async fn until(&self, wanted: impl Fn(&Permit) -> bool) {
        loop {
            let changed = self.parts.changed.notified();
            if wanted(&self.permit()) {
                return;
            }
            changed.await;
        }
    }

    /// Changes what is known; `change` returns whether it has.
    fn change(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        let changed = self.parts.snapshot.send_if_modified(|snapshot| {
            let before = snapshot.permit.polls;
            let changed = change(snapshot);
            // Here, since whoever waits for the permit polls at once.
            if changed && snapshot.permit.polls != before && snapshot.permit.polls != Polls::None {
                self.parts.answers.begin_probation(snapshot.rank);
            }
            changed
        });
        if changed {
            self.parts.changed.notify_waiters();
        }
    }

    /// The same where the change bears on the permit, which is derived anew.
    fn change_permit(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        self.change(|snapshot| {
            let changed = change(snapshot);
            if changed {
                snapshot.permit = self.permit_of(snapshot);
            }
            changed
        });
    }

    fn permit_of(&self, snapshot: &Snapshot) -> Permit {
        if Failpoint::PermitIgnored.in_force() {
            return Permit::ALL;
        }
        let Some(state) = &snapshot.state else { return Permit::NOTHING };
        let permit = Permit::under(state, snapshot.leads, &self.key());
        snapshot.trips.restrict(permit, self.parts.egress == Egress::Own)
    }

    /// The leader, by its id and its name, has announced a state. Returns whether it is new here.
    pub(super) fn adopt(
        &self,
        state: &State,
        (id, name): (&str, &str),
        leads: bool,
        (replicas, divisor): (usize, usize),
    ) -> bool {
        let mut is_new = false;
        let key = self.key();
        self.change_permit(|snapshot| {
            if state.epoch < snapshot.epoch() {
                return false;
            }
            is_new = snapshot.state.as_ref().is_none_or(|known| known.epoch != state.epoch);
            let same = !is_new
                && snapshot.leads == leads
                && (snapshot.replicas, snapshot.divisor) == (replicas, divisor)
                && snapshot.leader.as_deref() == Some(name)
                && snapshot.leader_id.as_deref() == Some(id);
            if same {
                return false;
            }
            if is_new {
                snapshot.state = Some(Arc::new(state.clone()));
                snapshot.memory.clone_from(&snapshot.state);
            }
            (snapshot.leads, snapshot.replicas, snapshot.divisor) = (leads, replicas, divisor);
            (snapshot.leader, snapshot.leader_id) = (Some(name.to_owned()), Some(id.to_owned()));
            snapshot.trips.drop_accounted(state, &key);
            true
        });
        is_new
    }

    /// The session is gone, and with it the certainty: nothing is called before a leader has
    /// announced the state over the next one.
    pub(super) fn forget(&self) {
        self.note_queues(None);
        self.change(|snapshot| {
            snapshot.state = None;
            snapshot.leads = false;
            snapshot.permit = Permit::NOTHING;
            true
        });
    }

    /// Ends what is over by time, and repeats what the leader has not accounted for yet.
    pub(super) fn tick(&self) {
        self.change_permit(|snapshot| snapshot.trips.expire());
        let unaccounted = self.parts.snapshot.borrow().trips.fleet;
        if let Some(LocalTrip { reason, term, .. }) = unaccounted {
            self.report_refused(reason, term);
        }
    }

    /// The fingerprint of the key in use.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        self.parts.key.lock().0.clone()
    }

    /// Another key is in use.
    pub(super) fn set_key(&self, key: Fingerprint) {
        *self.parts.key.lock() = (key, Some(Instant::now()));
        self.change_permit(|snapshot| {
            snapshot.trips.fleet.take_if(|trip| trip.reason == Reason::KeyInvalid);
            true
        });
    }

    fn report(&self, report: ReplicaReport) {
        // Full: the fleet is out of reach, and what matters is reported again.
        let _ = self.parts.found.try_send(Finding::Report(report));
    }

    fn report_refused(&self, reason: Reason, term: u64) {
        self.report(ReplicaReport::Refused { reason, key: self.key(), term });
    }

    /// The queues as the leader saw them last; `None` where it has not said.
    #[must_use]
    pub fn queues(&self) -> Option<Depths> {
        self.parts.queues.lock().clone()
    }

    /// The leader has looked at the queues.
    pub fn note_queues(&self, queues: Option<Depths>) {
        *self.parts.queues.lock() = queues;
    }

    /// The canary's submission, begun in this term, has ended.
    pub fn canary(&self, end: CanaryEnd, term: u64) {
        let _ = self.parts.found.try_send(Finding::Canary(end, term));
    }

    /// The API refused the account to a call that began then, in this term.
    pub fn refused(&self, reason: Reason, term: u64, began: Instant, now: Timestamp) {
        let of_another_key = self.parts.key.lock().1.is_some_and(|since| began < since);
        if reason == Reason::KeyInvalid && of_another_key {
            return tracing::info!("the API refused a key that was replaced during the call");
        }
        if self.parts.egress == Egress::Own && reason.is_of_the_address() {
            self.trip_alone(reason, term, now);
        } else if self.trip(LocalTrip { reason, term, until: None, mine: true }) {
            self.report_refused(reason, term);
        }
    }

    /// Another replica's call was refused. What it met, every replica with the same account would
    /// meet.
    pub(super) fn heard_refused(&self, reason: Reason, key: &Fingerprint, term: u64) {
        if reason != Reason::KeyInvalid || *key == self.key() {
            self.trip(LocalTrip { reason, term, until: None, mine: false });
        }
    }

    /// The API has not answered several calls in a row. The leader checks whether it is down for
    /// all.
    pub fn unanswered(&self, term: u64, now: Timestamp) {
        if self.trip_alone(Reason::ProviderDown, term, now) {
            self.report(ReplicaReport::Down);
        }
    }

    /// The API answers, but only with failures or with what is not known. The leader checks whether
    /// it is down; nobody stops before.
    pub fn suspect(&self) {
        self.report(ReplicaReport::Down);
    }

    /// Something that is not the API itself refused a call. The leader checks the balance; nobody
    /// stops for it.
    pub fn doubted(&self) {
        let mut doubted_at = self.parts.doubted_at.lock();
        if doubted_at.is_none_or(|at| at.elapsed() >= DOUBT_INTERVAL) {
            *doubted_at = Some(Instant::now());
            self.report(ReplicaReport::Doubted);
        }
    }

    /// Stops this replica for a time, which grows while it meets the same again. Returns whether
    /// the stop is new.
    fn trip_alone(&self, reason: Reason, term: u64, now: Timestamp) -> bool {
        // What was under way together is one relapse.
        if self.parts.snapshot.borrow().trips.alone.is_some_and(|trip| trip.reason == reason) {
            return false;
        }
        let wait = self.parts.relapses.next_wait(reason, &self.parts.rules);
        let until = Instant::now() + wait;
        let is_new = self.trip(LocalTrip { reason, term, until: Some(until), mine: false });
        if is_new {
            tracing::warn!("API calls paused on this replica until {}: {reason}", now.plus(wait));
            self.parts.relapses.began(until);
        }
        is_new
    }

    /// Stops, unless something graver does, or the leader's state has accounted for it. Returns
    /// whether it is new.
    fn trip(&self, trip: LocalTrip) -> bool {
        let key = self.key();
        let (mut is_new, mut stops) = (false, false);
        self.change_permit(|snapshot| {
            (is_new, stops) = snapshot.trips.note(trip, snapshot.state.as_deref(), &key);
            stops
        });
        if stops && trip.mine {
            tracing::error!(
                reason = trip.reason.name(),
                "the API refused this replica's call; {}",
                trip.reason.advice()
            );
        }
        is_new
    }

    /// A poll that began in this term was answered: the API knows the task, or it knows no such id.
    pub fn answered(
        &self,
        wrong_id: bool,
        accepted_at: Timestamp,
        (term, began): (u64, Instant),
        uptime: Duration,
    ) {
        let (rank, leader_waits, doubtful) = {
            let snapshot = self.parts.snapshot.borrow();
            let state = snapshot.state.as_ref();
            let leader_waits = state.is_some_and(|state| state.awaits_known_id());
            (snapshot.rank, leader_waits, state.is_some_and(|state| state.doubts(accepted_at)))
        };
        if doubtful {
            // What is known of these says nothing about the others.
            let _ = self.parts.found.try_send(Finding::Doubtful { wrong_id });
            return;
        }
        let noted = self.parts.answers.note(
            wrong_id,
            PolledTask { began, accepted_at },
            leader_waits,
            rank,
            &self.parts.rules,
            uptime,
        );
        if noted.begins_anew {
            let AnswerCounts { answered, wrong_ids, .. } = noted.counts;
            self.report_silence(answered - 1, wrong_ids - 1);
        }
        if noted.is_due {
            let AnswerCounts { answered, wrong_ids, in_a_row } = noted.counts;
            let from = self.parts.id.clone();
            let after_silence = noted.after_silence;
            self.report(ReplicaReport::Answered {
                from,
                term,
                answered,
                wrong_ids,
                wrong_id,
                in_a_row,
                after_silence,
                accepted_at: wrong_id.then_some(accepted_at),
            });
        }
        if noted.is_oldest_known {
            self.report(ReplicaReport::NewerKnown { from: self.parts.id.clone(), accepted_at });
        }
        if noted.too_many {
            self.trip_for_wrong_ids(term);
        }
    }

    fn trip_for_wrong_ids(&self, term: u64) {
        let trip = LocalTrip { reason: Reason::WrongIds, term, until: None, mine: true };
        if self.trip(trip) {
            self.report_refused(Reason::WrongIds, term);
        }
    }

    /// Another replica has met a wrong id.
    pub(super) fn heard_wrong_id(&self, met: MetWrongId) {
        let (rank, term) = {
            let snapshot = self.parts.snapshot.borrow();
            (snapshot.rank, snapshot.term())
        };
        if self.parts.answers.heard_wrong_id(met, rank, &self.parts.rules) {
            self.trip_for_wrong_ids(term);
        }
    }

    /// Another replica reports a known task.
    pub(super) fn heard_known_task(&self) {
        let rank = self.parts.snapshot.borrow().rank;
        self.parts.answers.heard_known_task(rank);
    }

    /// Another replica knows a task that was accepted then.
    pub(super) fn heard_newer_known(&self, accepted_at: Timestamp) {
        self.parts.answers.heard_newer_known(accepted_at);
    }

    /// Another replica has found that there was a silence.
    pub(super) fn heard_silence(&self) {
        self.parts.answers.heard_silence();
    }

    /// There was a silence: polls begin one by one, and the leader counts anew.
    pub fn silence(&self) {
        self.parts.answers.begin_probation(self.parts.snapshot.borrow().rank);
        let (answered, wrong_ids) = self.answer_counts();
        self.report_silence(answered, wrong_ids);
    }

    fn report_silence(&self, answered: u64, wrong_ids: u64) {
        self.report(ReplicaReport::Silence { from: self.parts.id.clone(), answered, wrong_ids });
    }

    /// A call found nobody listening, or its connection was cut: the API may have been restarted.
    pub fn interrupted(&self) {
        self.parts.answers.interrupted();
    }

    /// Whether polls are made one by one, since there was a silence and no answer has shown yet
    /// that the API knows this replica's tasks.
    #[must_use]
    pub fn is_on_probation(&self) -> bool {
        self.parts.answers.on_probation()
    }

    /// Whether nothing may be polled at present, while polls begin one by one.
    #[must_use]
    pub fn holds_polls(&self) -> bool {
        self.parts.answers.held_until().is_some()
    }

    /// Waits until polls may be made, as far as wrong ids forbid them.
    pub async fn until_polls_released(&self) {
        self.parts.answers.until_released().await;
    }

    /// Answers to polls since this process runs, and those of them about ids that the API did not
    /// know.
    #[must_use]
    pub fn answer_counts(&self) -> (u64, u64) {
        let AnswerCounts { answered, wrong_ids, .. } = self.parts.answers.counts();
        (answered, wrong_ids)
    }

    /// Whether a publisher's proxy is in quarantine.
    #[must_use]
    pub fn quarantines(&self, proxy: &Fingerprint, now: Timestamp) -> bool {
        let fleet = || self.state().is_some_and(|state| state.quarantines(proxy, now));
        self.parts.proxies.holds(proxy, now) || fleet()
    }

    /// The API called a publisher's proxy banned.
    pub fn proxy_banned(&self, proxy: Fingerprint, now: Timestamp) {
        self.isolate(&proxy, now);
        self.report(ReplicaReport::ProxyBanned { proxy });
    }

    /// Uses a proxy no more, whether or not a leader has heard of it.
    pub(super) fn isolate(&self, proxy: &Fingerprint, now: Timestamp) {
        self.parts.proxies.add(proxy, now, self.parts.rules.quarantine);
    }

    /// The task types that the API does not take.
    pub(super) fn types(&self) -> &TypeBreakers {
        &self.parts.types
    }

    /// The API does not take a type, as this replica has found: createTask fails for it, or it has
    /// no slots.
    pub fn open_breaker(&self, task_type: &str, failing: bool) {
        if self.types().open(task_type, failing) {
            let why =
                if failing { "createTask fails for this type" } else { "the API has no slots for this type" };
            tracing::warn!(task_type, "{why}: its jobs wait in the retry queues");
        }
        self.report(ReplicaReport::Shut { task_type: task_type.to_owned(), failing });
    }

    /// A submission of a type has failed. If the breaker is open, this was the trial call, and says
    /// what is the matter now.
    pub fn trial_failed(&self, task_type: &str, failing: bool) {
        if self.types().is_failing(task_type).is_some() {
            self.open_breaker(task_type, failing);
        }
    }

    /// createTask refused a job of a type for the job's own sake, so it no longer fails for the
    /// type. Whether there are slots, that does not say.
    pub fn type_answered(&self, task_type: &str) {
        if self.types().is_failing(task_type) == Some(true) {
            self.close_breaker(task_type);
        }
    }

    /// The trial call was accepted: slots are back.
    pub fn close_breaker(&self, task_type: &str) {
        if self.types().close(task_type) {
            self.report(ReplicaReport::Slots { task_type: task_type.to_owned() });
        }
    }

    /// What the type's breaker means for one of its jobs; `None` where it is closed. `unanswered`:
    /// a submission of this job got no answer before.
    #[must_use]
    pub fn breaker(&self, task_type: &str, unanswered: bool) -> Option<TypeBreaker> {
        // By the role that this replica has now: it may have come to lead since.
        let snapshot = self.parts.snapshot.borrow();
        // The leader tries. The few jobs of a rare type may never come to it, so the others do too,
        // so seldom that it hardly adds up.
        let replicas = u32::try_from(snapshot.replicas).unwrap_or(u32::MAX);
        let factor = if snapshot.leads { 1 } else { replicas.saturating_mul(4) };
        // The canary is the trial call of all types.
        self.types().ask(task_type, factor, unanswered, snapshot.permit.jobs == Jobs::Canary)
    }

    /// The types that the API does not take.
    #[must_use]
    pub fn open_breakers(&self) -> Vec<String> {
        self.types().names()
    }
}
