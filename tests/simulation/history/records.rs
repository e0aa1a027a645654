//! The guard's records as the broker has them, and what they forbid.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::domain::guard::{Phase, Reason, State};
use captcha_worker::domain::time::Timestamp;
use tokio::time::Instant;

/// How long a replica may act on what it knew before: its lease, and what a report needs on its
/// way.
const GRACE: Duration = Duration::from_secs(6);

/// Whether calls of one kind are forbidden, and since when.
#[derive(Debug, Clone, Copy, Default)]
struct Ban(Option<Instant>);

impl Ban {
    fn set(&mut self, forbidden: bool, now: Instant) {
        self.0 = forbidden.then(|| self.0.unwrap_or(now));
    }

    fn stands(self, now: Instant) -> bool {
        self.0.is_some_and(|since| now.duration_since(since) > GRACE)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// How many of each epoch are stored.
    stored: BTreeMap<u64, u32>,
    latest: Option<State>,
    no_submissions: Ban,
    no_polls: Ban,
    /// When all were forbidden to poll, and until when.
    silences: Vec<(Instant, Option<Instant>)>,
    doubts: Vec<Doubt>,
}

/// A time in which some were forbidden to ask for tasks that had been accepted before.
#[derive(Debug)]
struct Doubt {
    before: Timestamp,
    since: Instant,
    until: Option<Instant>,
}

impl Records {
    /// The broker has stored one; what it has forgotten of the one before it, if anything.
    pub(crate) fn stored(&mut self, state: State, now: Instant) -> Option<String> {
        *self.stored.entry(state.epoch).or_default() += 1;
        if self.latest.as_ref().is_some_and(|latest| latest.epoch > state.epoch) {
            return None;
        }
        // A record that is not known to be good may be one of several that followers have written
        // while nobody led: it binds nobody yet.
        let tripped = state.tripped().filter(|_| state.phase == Phase::Tripped).map(|trip| trip.reason);
        self.no_submissions.set(tripped.is_some() || state.paused.is_some(), now);
        self.no_polls.set(tripped.is_some_and(|reason| reason.stops().polls), now);
        self.note_silence(tripped.is_some_and(|reason| reason.stops().polls), now);
        self.note_doubt(state.doubt.map(|doubt| doubt.before), now);
        let before = self.latest.replace(state.clone());
        before.and_then(|before| forgotten(&before, &state))
    }

    fn note_silence(&mut self, silent: bool, now: Instant) {
        match self.silences.last_mut().filter(|(_, until)| until.is_none()) {
            Some((_, until)) if !silent => *until = Some(now),
            None if silent => self.silences.push((now, None)),
            Some(_) | None => {}
        }
    }

    fn note_doubt(&mut self, before: Option<Timestamp>, now: Instant) {
        if let Some(doubt) = self.doubts.last_mut().filter(|doubt| doubt.until.is_none()) {
            if Some(doubt.before) == before {
                return;
            }
            doubt.until = Some(now);
        }
        self.doubts.extend(before.map(|before| Doubt { before, since: now, until: None }));
    }

    /// For how long somebody was forbidden to ask for a task between its acceptance and a moment.
    /// `dated`: the acceptance by the clock of its owner; `less`: what of each such time does not
    /// count.
    pub(crate) fn silence(
        &self,
        accepted_at: Instant,
        dated: Timestamp,
        to: Instant,
        less: Duration,
    ) -> Duration {
        let doubts = self.doubts.iter().filter(|doubt| doubt.since > accepted_at && dated < doubt.before);
        let doubts = doubts.map(|doubt| (doubt.since, doubt.until));
        let mut times: Vec<_> = self.silences.iter().copied().chain(doubts).collect();
        times.sort_by_key(|(since, _)| *since);
        let (mut sum, mut counted_to) = (Duration::ZERO, accepted_at);
        for (since, until) in times {
            let (from, until) = (since.max(counted_to), until.unwrap_or(to).min(to));
            // What follows upon another is one time with it.
            let less = if since > counted_to || counted_to == accepted_at { less } else { Duration::ZERO };
            sum += until.saturating_duration_since(from).saturating_sub(less);
            counted_to = counted_to.max(until);
        }
        sum
    }

    /// Whether the guard trips with this record because of wrong task ids, for the first time or
    /// anew.
    pub(crate) fn trips_for_wrong_ids(&self, state: &State) -> bool {
        let doubts = |state: &State| {
            state.phase == Phase::Tripped
                && state.tripped().is_some_and(|trip| trip.reason == Reason::WrongIds)
        };
        let is_later = self.latest.as_ref().is_none_or(|latest| latest.epoch < state.epoch);
        is_later && doubts(state) && !self.latest.as_ref().is_some_and(doubts)
    }

    /// One was acked; what is wrong with that, if anything.
    pub(crate) fn acked(&mut self, epoch: u64) -> Option<String> {
        if let Some(count) = self.stored.get_mut(&epoch) {
            *count -= 1;
        }
        self.stored.retain(|_, count| *count > 0);
        let lost = self.stored.keys().all(|other| *other < epoch);
        lost.then(|| format!("the guard's record {epoch} was acked before its successor was stored"))
    }

    /// Whether createTask has been forbidden for so long that everybody must know.
    pub(crate) fn forbid_submissions(&self, now: Instant) -> bool {
        self.no_submissions.stands(now)
    }

    /// The same of getTaskResult.
    pub(crate) fn forbid_polls(&self, now: Instant) -> bool {
        self.no_polls.stands(now)
    }
}

fn forgotten(before: &State, state: &State) -> Option<String> {
    let (from, to) = (before.phase, state.phase);
    // Of one epoch there can be several, written without knowing of each other; but none of them
    // opens what another has shut.
    if before.epoch == state.epoch && from != Phase::Tripped {
        return None;
    }
    if to == Phase::Active && !matches!(from, Phase::Active | Phase::Canary) {
        return Some(format!("the guard went from {from:?} to {to:?} without a canary"));
    }
    let resumed = before.paused.is_some() && state.paused.is_none();
    (resumed && before.last_command == state.last_command)
        .then(|| "an operator's pause was ended by nobody's order".to_owned())
}
