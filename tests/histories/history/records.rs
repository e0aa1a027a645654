//! The guard's records as the broker has them, and what they forbid.

use std::collections::BTreeMap;
use std::time::Duration;

use captcha_worker::domain::guard::{Phase, Reason, State};
use tokio::time::Instant;

/// How long a replica may act on what it knew before: its lease, and what a report needs on its way.
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
    /// When somebody was forbidden to poll, and until when.
    silences: Vec<(Instant, Option<Instant>)>,
}

impl Records {
    /// The broker has stored one; what it has forgotten of the one before it, if anything.
    pub(crate) fn stored(&mut self, state: State, now: Instant) -> Option<String> {
        *self.stored.entry(state.epoch).or_default() += 1;
        if self.latest.as_ref().is_some_and(|latest| latest.epoch > state.epoch) {
            return None;
        }
        // A record that is not known to be good may be one of several that followers have written while nobody led: it binds nobody yet.
        let tripped = state.tripped().filter(|_| state.phase == Phase::Tripped).map(|trip| trip.reason);
        self.no_submissions.set(tripped.is_some() || state.paused.is_some(), now);
        self.no_polls.set(tripped.is_some_and(|reason| reason.stops().polls), now);
        let doubted = state.doubts_ids().is_some();
        self.note_silence(doubted || tripped.is_some_and(|reason| reason.stops().polls), now);
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

    /// For how long somebody was forbidden to poll between two moments. `less`: what of each such time does not count.
    pub(crate) fn silence(&self, from: Instant, to: Instant, less: Duration) -> Duration {
        let overlap = |(begin, end): &(Instant, Option<Instant>)| {
            let end = end.unwrap_or(to).min(to);
            end.saturating_duration_since((*begin).max(from)).saturating_sub(less)
        };
        self.silences.iter().map(overlap).sum()
    }

    /// Whether the guard trips with this record because of wrong task ids, for the first time or anew.
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
    // Of one epoch there can be several, written without knowing of each other; but none of them opens what another has shut.
    if before.epoch == state.epoch && from != Phase::Tripped {
        return None;
    }
    if to == Phase::Open && !matches!(from, Phase::Open | Phase::Canary) {
        return Some(format!("the guard went from {from:?} to {to:?} without a canary"));
    }
    let resumed = before.paused.is_some() && state.paused.is_none();
    (resumed && before.last_command == state.last_command)
        .then(|| "an operator's pause was ended by nobody's order".to_owned())
}
