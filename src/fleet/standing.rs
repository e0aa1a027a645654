//! How the account stands, as this replica knows it: what the leader wrote, and what it has met itself since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Found;
use super::message::Report;
use super::seen::{Hold, Seen, accounted_for, is_graver};
use super::shut::Shut;
use crate::domain::guard::{self, CanaryEnd, Permit, Reason, State, WRONG_IDS, WRONG_IDS_WITHIN, Watch};
use crate::domain::mark::Mark;
use crate::domain::time::Timestamp;

/// Reports on their way to the fleet. One that finds no room is made again while its cause lasts.
const REPORTS: usize = 64;
/// A hold that came back this soon waits longer.
const RELAPSE: Duration = Duration::from_secs(60);

/// Whose address the API sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress {
    /// One for all replicas: a ban of it concerns all.
    Shared,
    /// One for each replica.
    Own,
}

pub(super) struct Inner {
    pub(super) seen: watch::Sender<Seen>,
    key: Mutex<Mark>,
    pub(super) shut: Mutex<BTreeMap<String, Shut>>,
    pub(super) proxies: Mutex<BTreeMap<Mark, Timestamp>>,
    wrong_ids: Mutex<Watch>,
    relapses: Mutex<(u32, Option<Timestamp>)>,
    found: mpsc::Sender<Found>,
    pub(super) rules: guard::Rules,
    egress: Egress,
}

/// The guard's state in this replica, and everybody's way to learn of a change. Clones are the same.
#[derive(Clone)]
pub struct Standing {
    pub(super) inner: Arc<Inner>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each is a plain value, whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Standing {
    pub(super) fn new(rules: guard::Rules, egress: Egress, key: Mark) -> (Self, mpsc::Receiver<Found>) {
        let (found, reports) = mpsc::channel(REPORTS);
        let seen = Seen {
            state: None,
            leads: false,
            leader: None,
            replicas: 1,
            rank: 0,
            permit: Permit::NOTHING,
            hold: None,
            memory: None,
        };
        let inner = Inner {
            seen: watch::Sender::new(seen),
            key: Mutex::new(key),
            shut: Mutex::default(),
            proxies: Mutex::default(),
            wrong_ids: Mutex::new(Watch::new(WRONG_IDS, WRONG_IDS_WITHIN)),
            relapses: Mutex::default(),
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
        self.inner.seen.send_if_modified(|seen| std::mem::replace(&mut seen.rank, rank) != rank);
    }

    /// All that is known.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.inner.seen.borrow().clone()
    }

    /// For awaiting changes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Seen> {
        self.inner.seen.subscribe()
    }

    /// The API refused the account to a call that began in this term.
    pub fn refused(&self, reason: Reason, term: u64, now: Timestamp) {
        if self.inner.egress == Egress::Own && reason.is_of_the_address() {
            self.hold_alone(reason, term, now);
        } else if self.hold(Hold { reason, term, until: None, mine: true }) {
            self.report(Report::Refused { reason, key: self.key(), term });
        }
    }

    /// Another replica's call was refused. What it met, every replica with the same account would meet.
    pub(super) fn heard_refused(&self, reason: Reason, key: &Mark, term: u64) {
        if reason != Reason::KeyInvalid || *key == self.key() {
            self.hold(Hold { reason, term, until: None, mine: false });
        }
    }

    /// The API did not know a task's id.
    pub fn wrong_id(&self, term: u64, now: Timestamp) {
        self.report(Report::WrongId { term });
        if lock(&self.inner.wrong_ids).note(now) {
            self.hold(Hold { reason: Reason::WrongIds, term, until: None, mine: true });
        }
    }

    /// The API has not answered several calls in a row. The leader looks whether it is down for all.
    pub fn unanswered(&self, term: u64, now: Timestamp) {
        self.hold_alone(Reason::ProviderDown, term, now);
        self.report(Report::Down);
    }

    /// The canary's submission, begun in this term, has ended.
    pub fn canary(&self, end: CanaryEnd, term: u64) {
        let _ = self.inner.found.try_send(Found::Canary(end, term));
    }

    /// Stops this replica for a time, growing while it meets the same again.
    fn hold_alone(&self, reason: Reason, term: u64, now: Timestamp) {
        // What was under way together is one relapse.
        if self.inner.seen.borrow().held() == Some(reason) {
            return;
        }
        let failures = {
            let mut relapses = lock(&self.inner.relapses);
            let again = relapses.1.is_some_and(|until| now.since(until) < RELAPSE);
            relapses.0 = if again { relapses.0.saturating_add(1) } else { 0 };
            relapses.0
        };
        let until = now.plus(reason.schedule(&self.inner.rules).wait(failures));
        if self.hold(Hold { reason, term, until: Some(until), mine: false }) {
            lock(&self.inner.relapses).1 = Some(until);
        }
    }

    /// Holds, unless something graver does, or the leader's word has accounted for it. Tells whether it is news.
    fn hold(&self, hold: Hold) -> bool {
        let mut news = false;
        self.inner.seen.send_if_modified(|seen| {
            let graver_than_told = seen.state.as_ref().is_some_and(|state| is_graver(&hold, state));
            let old = hold.term < seen.term() && !graver_than_told;
            let graver = seen.hold.is_some_and(|standing| standing.reason >= hold.reason);
            news = !old && !graver;
            if news {
                seen.hold = Some(hold);
                seen.permit = self.permit_of(seen);
            }
            news
        });
        if news && hold.mine {
            tracing::error!(
                reason = hold.reason.name(),
                "the API refused this replica's call; {}",
                hold.reason.advice()
            );
        } else if news && hold.until.is_some() {
            tracing::warn!(reason = hold.reason.name(), "this replica calls nothing for a while");
        }
        news
    }

    fn permit_of(&self, seen: &Seen) -> Permit {
        let Some(state) = &seen.state else { return Permit::NOTHING };
        let permit = Permit::under(state, seen.leads, &self.key());
        let Some(hold) = seen.hold else { return permit };
        // What the address earned for this replica alone is no matter to others, who can finish its tickets.
        let alone = hold.until.is_some() && self.inner.egress == Egress::Own;
        let held = permit.without(hold.reason);
        Permit { tickets: held.tickets && !(alone && hold.reason.is_of_the_address()), ..held }
    }

    /// The leader's word. Tells whether the state is news here.
    pub(super) fn adopt(&self, state: &State, leader: &str, leads: bool, replicas: usize) -> bool {
        let mut news = false;
        let key = self.key();
        self.inner.seen.send_if_modified(|seen| {
            if state.epoch < seen.epoch() {
                return false;
            }
            news = seen.state.as_ref().is_none_or(|known| known.epoch != state.epoch);
            let same = !news
                && seen.leads == leads
                && seen.replicas == replicas
                && seen.leader.as_deref() == Some(leader);
            if same {
                return false;
            }
            if news {
                seen.state = Some(Arc::new(state.clone()));
                seen.memory.clone_from(&seen.state);
            }
            (seen.leads, seen.replicas, seen.leader) = (leads, replicas, Some(leader.to_owned()));
            seen.hold = seen.hold.filter(|hold| !accounted_for(hold, state, &key));
            seen.permit = self.permit_of(seen);
            true
        });
        news
    }

    /// The session is gone, and with it the certainty: nothing is called before the leader's word comes over the next one.
    pub(super) fn forget(&self) {
        self.inner.seen.send_modify(|seen| {
            seen.state = None;
            seen.leads = false;
            seen.permit = Permit::NOTHING;
        });
    }

    /// What is over by time.
    pub(super) fn tick(&self, now: Timestamp) {
        let Some(hold) = self.inner.seen.borrow().hold else { return };
        if hold.until.is_some_and(|until| until <= now) {
            self.inner.seen.send_modify(|seen| {
                seen.hold = None;
                seen.permit = self.permit_of(seen);
            });
        } else if hold.until.is_none() {
            self.report(Report::Refused { reason: hold.reason, key: self.key(), term: hold.term });
        }
    }

    /// The mark of the key in use.
    #[must_use]
    pub fn key(&self) -> Mark {
        lock(&self.inner.key).clone()
    }

    /// Another key is in use.
    pub(super) fn set_key(&self, key: Mark) {
        *lock(&self.inner.key) = key;
        self.inner.seen.send_modify(|seen| {
            seen.hold = seen.hold.filter(|hold| hold.reason != Reason::KeyInvalid);
            seen.permit = self.permit_of(seen);
        });
    }

    pub(super) fn report(&self, report: Report) {
        // Full: the fleet is out of reach, and what matters is reported again.
        let _ = self.inner.found.try_send(Found::Report(report));
    }

    /// The last state ever seen.
    pub(super) fn memory(&self) -> Option<Arc<State>> {
        self.inner.seen.borrow().memory.clone()
    }
}
