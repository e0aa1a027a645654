//! What a simulator has seen: the numbers by which a run is judged.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters since the start, and the state at this moment. Everything is counted at a call's
/// arrival.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Calls by endpoint, whatever was answered.
    pub calls: Calls,
    /// Tasks accepted, each of them paid.
    pub accepted_tasks: u64,
    /// Different tasks among the accepted ones, distinguished by a digest of their JSON bytes. Two
    /// jobs with one payload look like one job here, so trials give every job an image or a field
    /// of its own.
    pub distinct_tasks: u64,
    /// `accepted_tasks - distinct_tasks`: payments for a task that had been paid before.
    pub repeated_submissions: u64,
    /// Accepted tasks that came after `max_digests` was reached: counted as distinct without
    /// knowing.
    pub digests_not_remembered: u64,
    /// Polls of tasks that were known, too early and surplus ones included.
    pub polls: u64,
    /// Polls that came too soon after the previous poll of the same task. Breaks a documented rule.
    pub early_polls: u64,
    /// Polls past the number allowed for one task. Breaks a documented rule.
    pub polls_past_limit: u64,
    /// Shortest time seen between two polls of one task, in ms; null before there were two.
    pub min_spacing_ms: Option<f64>,
    /// Tasks whose answer was handed out at least once.
    pub answered_ready: u64,
    /// Calls whose key was missing or wrong, also while banned.
    pub bad_key_calls: u64,
    /// Polls of a task id that is not known: never given, forgotten, or of another JSON type.
    pub wrong_id_calls: u64,
    /// Those among them whose caller knew: the id was answered as unknown before, or is
    /// none at all.
    pub repeated_wrong_ids: u64,
    /// Error codes answered, scripted ones included. At most 256 codes; further ones count as
    /// `(other)`.
    pub refused: BTreeMap<String, u64>,
    /// Scripted faults played that are not error codes, by the step's name.
    pub faults: BTreeMap<&'static str, u64>,
    /// Calls answered by a storm (see the control endpoint).
    pub storm_calls: u64,
    /// Calls answered by an outage or a flash.
    pub outage_calls: u64,
    /// Callbacks.
    pub callbacks: Callbacks,
    /// What was paid for tasks, in the account's currency.
    pub paid: f64,
    /// What is left, in the account's currency.
    pub balance: f64,
    /// Calls of the kinds that lead to a ban; of unknown ids all, whatever their share.
    pub offences: u64,
    /// Bans that began, those set by hand included.
    pub bans: u64,
    /// Whether the account is banned now.
    pub banned: bool,
    /// Calls made while banned.
    pub calls_while_banned: u64,
    /// Calls refused for the account (key, ban, or no funds for a createTask) that began more than
    /// 1 s after the first such refusal had been answered: the caller knew, and went on. A
    /// new streak begins once the cause is fixed.
    pub late_calls: u64,
    /// `late_calls` by what the caller knew.
    pub late_by_reason: LateCalls,
    /// Tasks still known whose answer (or final error) has not been handed out.
    pub tasks_open: u64,
    /// Tasks forgotten before their answer was handed out: paid for nothing.
    pub uncollected_tasks: u64,
    /// Tasks forgotten before their time, by a script's `forget` or by control.
    pub forgotten_tasks: u64,
}

/// Calls by endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Calls {
    /// createTask.
    pub create_task: u64,
    /// getTaskResult.
    pub get_task_result: u64,
    /// getBalance.
    pub get_balance: u64,
    /// Any other path.
    pub other: u64,
}

/// Callbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Callbacks {
    /// Accepted tasks that asked for one.
    pub asked: u64,
    /// Sent, repeated ones included.
    pub sent: u64,
    /// Of those sent, the ones that nobody answered within 2 s.
    pub failed: u64,
    /// createTask refused because the callback's host cannot be reached.
    pub refused: u64,
}

/// Late calls by what the caller knew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LateCalls {
    /// The key is wrong.
    pub key: u64,
    /// The account is banned.
    pub ban: u64,
    /// There are no funds (createTask only; polls and getBalance are no fault then).
    pub balance: u64,
}

/// Codes come from scripts too, so the map needs a bound.
const MAX_CODES: usize = 256;

impl Stats {
    pub(super) fn count_code(&mut self, code: &str) {
        if let Some(count) = self.refused.get_mut(code) {
            *count += 1;
        } else {
            let code = if self.refused.len() < MAX_CODES { code } else { "(other)" };
            *self.refused.entry(code.to_owned()).or_default() += 1;
        }
    }

    pub(super) fn note_spacing(&mut self, spacing: std::time::Duration) {
        let ms = spacing.as_secs_f64() * 1_000.0;
        self.min_spacing_ms = Some(self.min_spacing_ms.map_or(ms, |least| least.min(ms)));
    }
}
