//! The demo's verdict: what was expected, what arrived, and which rules were broken.

use std::collections::BTreeMap;
use std::time::Duration;

use comfy_table::Table;
use serde_json::{Value, json};

use super::jobs::Goal;
use super::scenario::Arrivals;
use crate::simulator::Stats;

/// All that is judged.
pub(in crate::cli) struct DemoReport {
    expected: BTreeMap<Goal, usize>,
    arrived: Arrivals,
    stats: Stats,
    account: AccountAct,
    took: Duration,
}

/// The second act: a key that the API refuses.
pub(super) struct AccountAct {
    /// Jobs published.
    pub(super) jobs: usize,
    /// Jobs in `dead.account`.
    pub(super) dead: usize,
    /// Jobs still queued.
    pub(super) queued: usize,
    /// The worker knows that the account is refused.
    pub(super) tripped: bool,
    /// Calls that the simulator counted with a wrong key.
    pub(super) bad_key_calls: u64,
}

impl AccountAct {
    /// One call met the wrong key, and every job waits.
    fn is_as_promised(&self) -> bool {
        self.tripped && self.dead == 0 && self.bad_key_calls == 1 && self.queued == self.jobs
    }
}

impl DemoReport {
    pub(super) fn new(
        expected: BTreeMap<Goal, usize>,
        arrived: Arrivals,
        stats: Stats,
        account: AccountAct,
        took: Duration,
    ) -> Self {
        Self { expected, arrived, stats, account, took }
    }

    /// Rules of the API that were broken, by name. Each must be 0.
    fn breaches(&self) -> [(&'static str, u64); 8] {
        let (stats, again) = (&self.stats, &self.arrived.resubmissions);
        let unrecorded = stats.repeated_submissions.saturating_sub(again.recorded);
        [
            ("polls under 2 s apart", stats.early_polls),
            ("polls past 120", stats.polls_past_limit),
            ("payments repeated without a rule", unrecorded + again.without_rule),
            ("resubmissions by rule left out", again.left_out),
            ("polls of unknown ids", stats.wrong_id_calls),
            ("calls with a wrong key", stats.bad_key_calls),
            ("calls while banned", stats.calls_while_banned),
            ("paid answers not fetched", stats.uncollected_tasks),
        ]
    }

    fn rows(&self) -> Vec<(Goal, usize, usize)> {
        let mut goals: Vec<Goal> = self.expected.keys().chain(self.arrived.by_goal.keys()).copied().collect();
        goals.sort();
        goals.dedup();
        let count = |map: &BTreeMap<Goal, usize>, goal| map.get(&goal).copied().unwrap_or(0);
        goals
            .into_iter()
            .map(|goal| (goal, count(&self.arrived.by_goal, goal), count(&self.expected, goal)))
            .collect()
    }

    /// Whether everything is as promised.
    pub(in crate::cli) fn passed(&self) -> bool {
        self.rows().iter().all(|(_, arrived, expected)| arrived == expected)
            && self.breaches().iter().all(|(_, count)| *count == 0)
            && self.account.is_as_promised()
    }

    fn polls_per_job(&self) -> f64 {
        ratio(self.stats.polls, self.stats.accepted_tasks)
    }

    /// The value below which this share of the deliveries took, in milliseconds.
    fn delivery_ms(&self, share: f64) -> u128 {
        let mut sorted = self.arrived.delivery.clone();
        sorted.sort();
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a list of at most 1,000"
        )]
        let at = (last as f64 * share).round() as usize;
        sorted.get(at).map_or(0, Duration::as_millis)
    }

    pub(in crate::cli) fn json(&self) -> Value {
        let classes: Vec<Value> = self
            .rows()
            .iter()
            .map(|(goal, arrived, expected)| json!({"class": goal.name(), "count": arrived, "expected": expected}))
            .collect();
        let breaches: BTreeMap<&str, u64> = self.breaches().into_iter().collect();
        json!({
            "passed": self.passed(), "seconds": self.took.as_secs_f64(), "classes": classes,
            "solved_to_delivered_ms": {"median": delivery(self.delivery_ms(0.5)), "p99": delivery(self.delivery_ms(0.99))},
            "polls_per_accepted_task": self.polls_per_job(), "rule_breaches": breaches,
            "account": {"jobs": self.account.jobs, "dead": self.account.dead, "queued": self.account.queued,
                "calls_with_the_wrong_key": self.account.bad_key_calls},
        })
    }

    pub(in crate::cli) fn text(&self) -> String {
        let mut table = Table::new();
        table.set_header(["class", "count", "expected", ""]);
        for (goal, arrived, expected) in self.rows() {
            let mark = if arrived == expected { "ok" } else { "DIFFERS" };
            table.add_row([
                goal.name().to_owned(),
                arrived.to_string(),
                expected.to_string(),
                mark.to_owned(),
            ]);
        }
        let breaches: Vec<String> =
            self.breaches().iter().map(|(name, count)| format!("  {name}: {count}")).collect();
        let account = &self.account;
        format!(
            "{table}\n\
             solved to delivered: median {} ms, p99 {} ms\n\
             polls per accepted task: {:.2}\n\
             payments: {} for {} tasks ({} resubmitted)\n\
             rule breaches (each must be 0):\n{}\n\
             second act, a wrong key: {} jobs, {} in dead.account, {} still queued, {} call(s) with that key{}\n\
             took {:.1} s\n{}",
            self.delivery_ms(0.5),
            self.delivery_ms(0.99),
            self.polls_per_job(),
            self.stats.accepted_tasks,
            self.stats.distinct_tasks,
            self.arrived.resubmissions.recorded,
            breaches.join("\n"),
            account.jobs,
            account.dead,
            account.queued,
            account.bad_key_calls,
            if account.is_as_promised() { "" } else { " DIFFERS" },
            self.took.as_secs_f64(),
            if self.passed() { "everything is as promised" } else { "SOMETHING DIFFERS" },
        )
    }
}

fn delivery(millis: u128) -> u64 {
    u64::try_from(millis).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payment_that_no_outcome_records_is_a_breach() {
        let judged = |paid_again: u64, recorded: u64| {
            let mut stats = Stats::default();
            stats.repeated_submissions = paid_again;
            let mut arrived = Arrivals::default();
            arrived.resubmissions.recorded = recorded;
            let account = AccountAct { jobs: 0, dead: 0, queued: 0, tripped: true, bad_key_calls: 1 };
            let report = DemoReport::new(BTreeMap::new(), arrived, stats, account, Duration::ZERO);
            (BTreeMap::from(report.breaches())["payments repeated without a rule"], report.passed())
        };
        assert_eq!(judged(41, 41), (0, true));
        assert_eq!(judged(41, 40), (1, false));
    }
}
