//! How the account stands, as this replica knows it: what the leader wrote, and what it has met itself since.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::Found;
use super::answers::Answers;
use super::message::Report;
use super::snapshot::{Snapshot, accounted_for};
use super::type_breaker::Shut;
use super::vitals::Depths;
use crate::domain::fingerprint::Fingerprint;
use crate::domain::guard::{self, CanaryEnd, Permit, Polls, Reason, State};
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;

/// Reports on their way to the fleet. One that finds no room is made again while its cause lasts.
const REPORTS: usize = 1_024;

/// Whose address the API sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// One for all replicas: a ban of it concerns all.
    Shared,
    /// One for each replica.
    Own,
}

pub(super) struct Inner {
    pub(super) seen: watch::Sender<Snapshot>,
    changed: Notify,
    key: Mutex<Fingerprint>,
    /// When another key came into use.
    pub(super) key_since: Mutex<Option<Instant>>,
    pub(super) shut: Mutex<BTreeMap<String, Shut>>,
    pub(super) proxies: Mutex<BTreeMap<Fingerprint, Timestamp>>,
    queues: Mutex<Option<Depths>>,
    pub(super) answers: Answers,
    /// This replica's id, by which the leader keeps its counts apart.
    pub(super) id: String,
    pub(super) relapses: Mutex<(u32, Option<Instant>)>,
    pub(super) doubt_said: Mutex<Option<Instant>>,
    pub(super) wrong_id_said: Mutex<Option<Instant>>,
    pub(super) found: mpsc::Sender<Found>,
    pub(super) rules: guard::Rules,
    pub(super) egress: Egress,
}

/// The guard's state in this replica, and everybody's way to learn of a change. Clones are the same.
#[derive(Clone)]
pub struct AccountState {
    pub(super) inner: Arc<Inner>,
}

impl AccountState {
    pub(super) fn new(
        id: String,
        rules: guard::Rules,
        egress: Egress,
        key: Fingerprint,
    ) -> (Self, mpsc::Receiver<Found>) {
        let (found, reports) = mpsc::channel(REPORTS);
        let seen = Snapshot {
            state: None,
            leads: false,
            leader: None,
            leader_id: None,
            replicas: 1,
            rank: 0,
            permit: Permit::NOTHING,
            hold: None,
            alone: None,
            memory: None,
        };
        let inner = Inner {
            seen: watch::Sender::new(seen),
            changed: Notify::new(),
            key: Mutex::new(key),
            key_since: Mutex::default(),
            shut: Mutex::default(),
            proxies: Mutex::default(),
            queues: Mutex::default(),
            answers: Answers::default(),
            id,
            relapses: Mutex::default(),
            doubt_said: Mutex::default(),
            wrong_id_said: Mutex::default(),
            found,
            rules,
            egress,
        };
        (Self { inner: Arc::new(inner) }, reports)
    }

    /// What may be done now.
    #[must_use]
    pub fn permit(&self) -> Permit {
        self.inner.seen.borrow().permit
    }

    /// What may be done now, and the term it holds in: to be told with what a call that begins now finds out.
    #[must_use]
    pub fn permit_and_term(&self) -> (Permit, u64) {
        let seen = self.inner.seen.borrow();
        (seen.permit, seen.term())
    }

    /// How many replicas share the fleet's rate, and this one's place among them, from 0.
    #[must_use]
    pub fn share(&self) -> (usize, usize) {
        let seen = self.inner.seen.borrow();
        (seen.replicas, seen.rank)
    }

    /// This replica's place among those that it hears.
    pub(super) fn set_rank(&self, rank: usize) {
        self.change(|seen| std::mem::replace(&mut seen.rank, rank) != rank);
    }

    /// All that is known.
    #[must_use]
    pub fn seen(&self) -> Snapshot {
        self.inner.seen.borrow().clone()
    }

    /// The state in force, where it is known.
    #[must_use]
    pub fn state(&self) -> Option<Arc<State>> {
        self.inner.seen.borrow().state.clone()
    }

    /// What holds this replica alone.
    pub(super) fn held(&self) -> Option<Reason> {
        self.inner.seen.borrow().held()
    }

    /// For awaiting changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.inner.seen.subscribe()
    }

    /// Waits until what may be done is as wanted. Jobs that wait for the same are woken in the order in which they began to.
    pub async fn until(&self, wanted: impl Fn(&Permit) -> bool) {
        loop {
            let changed = self.inner.changed.notified();
            if wanted(&self.permit()) {
                return;
            }
            changed.await;
        }
    }

    /// Changes what is known; `change` tells whether it has.
    pub(super) fn change(&self, change: impl FnOnce(&mut Snapshot) -> bool) {
        let changed = self.inner.seen.send_if_modified(|seen| {
            let before = seen.permit.polls;
            let changed = change(seen);
            // Here, since whoever waits for the permit polls at once.
            if changed && seen.permit.polls != before && seen.permit.polls != Polls::None {
                self.inner.answers.begin_probation(seen.rank);
            }
            changed
        });
        if changed {
            self.inner.changed.notify_waiters();
        }
    }

    /// The canary's submission, begun in this term, has ended.
    pub fn canary(&self, end: CanaryEnd, term: u64) {
        let _ = self.inner.found.try_send(Found::Canary(end, term));
    }

    pub(super) fn permit_of(&self, seen: &Snapshot) -> Permit {
        if Failpoint::PermitIgnored.in_force() {
            return Permit::ALL;
        }
        let Some(state) = &seen.state else { return Permit::NOTHING };
        let permit = Permit::under(state, seen.leads, &self.key());
        let permit = seen.hold.map_or(permit, |hold| permit.without(hold.reason));
        let Some(alone) = seen.alone else { return permit };
        // What the address earned for this replica alone is no matter to others, who can finish its tickets.
        let leaves = self.inner.egress == Egress::Own && alone.reason.is_of_the_address();
        let held = permit.without(alone.reason);
        Permit { tickets: held.tickets && !leaves, ..held }
    }

    /// The word of a leader, by its id and its name. Tells whether the state is news here.
    pub(super) fn adopt(
        &self,
        state: &State,
        (id, name): (&str, &str),
        leads: bool,
        replicas: usize,
    ) -> bool {
        let mut news = false;
        let key = self.key();
        self.change(|seen| {
            if state.epoch < seen.epoch() {
                return false;
            }
            news = seen.state.as_ref().is_none_or(|known| known.epoch != state.epoch);
            let same = !news
                && seen.leads == leads
                && seen.replicas == replicas
                && seen.leader.as_deref() == Some(name)
                && seen.leader_id.as_deref() == Some(id);
            if same {
                return false;
            }
            if news {
                seen.state = Some(Arc::new(state.clone()));
                seen.memory.clone_from(&seen.state);
            }
            (seen.leads, seen.replicas) = (leads, replicas);
            (seen.leader, seen.leader_id) = (Some(name.to_owned()), Some(id.to_owned()));
            seen.hold = seen.hold.filter(|hold| !accounted_for(hold, state, &key));
            seen.permit = self.permit_of(seen);
            true
        });
        news
    }

    /// The session is gone, and with it the certainty: nothing is called before the leader's word comes over the next one.
    pub(super) fn forget(&self) {
        self.note_queues(None);
        self.change(|seen| {
            seen.state = None;
            seen.leads = false;
            seen.permit = Permit::NOTHING;
            true
        });
    }

    /// What is over by time.
    pub(super) fn tick(&self) {
        let (hold, alone) = {
            let seen = self.inner.seen.borrow();
            (seen.hold, seen.alone)
        };
        if alone.and_then(|alone| alone.until).is_some_and(|until| until <= Instant::now()) {
            self.change(|seen| {
                seen.alone = None;
                seen.permit = self.permit_of(seen);
                true
            });
        }
        if let Some(hold) = hold {
            self.report(Report::Refused { reason: hold.reason, key: self.key(), term: hold.term });
        }
    }

    /// The mark of the key in use.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        self.inner.key.lock().clone()
    }

    /// Another key is in use.
    pub(super) fn set_key(&self, key: Fingerprint) {
        *self.inner.key.lock() = key;
        *self.inner.key_since.lock() = Some(Instant::now());
        self.change(|seen| {
            seen.hold = seen.hold.filter(|hold| hold.reason != Reason::KeyInvalid);
            seen.permit = self.permit_of(seen);
            true
        });
    }

    pub(super) fn report(&self, report: Report) {
        // Full: the fleet is out of reach, and what matters is reported again.
        let _ = self.inner.found.try_send(Found::Report(report));
    }

    /// The queues as the leader saw them last; `None` where it has not told.
    #[must_use]
    pub fn queues(&self) -> Option<Depths> {
        self.inner.queues.lock().clone()
    }

    /// The leader has looked at them.
    pub fn note_queues(&self, queues: Option<Depths>) {
        *self.inner.queues.lock() = queues;
    }

    /// The last state ever seen.
    pub(super) fn memory(&self) -> Option<Arc<State>> {
        self.inner.seen.borrow().memory.clone()
    }
}
