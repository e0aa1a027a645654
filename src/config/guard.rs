//! Reads `[guard]`.

use std::time::Duration;

use super::reader::{Reader, quoted};
use super::sections::{MINUTE, SECOND};
use super::settings::GuardSettings;
use crate::domain::guard::Rules;
use crate::domain::solve_time::Reach;

const HOUR: Duration = Duration::from_secs(3_600);
/// Beyond any account's funds.
const MOST_MONEY: f64 = 1_000_000_000.0;

pub(super) fn read(reader: &mut Reader) -> Option<GuardSettings> {
    let shared_egress = reader.text("guard.egress", "\"shared\", \"own\"", |text| match text {
        "shared" => Ok(true),
        "own" => Ok(false),
        other => Err(format!("{} is neither", quoted(other))),
    });
    let ban_pause = reader.duration("guard.ban_pause", SECOND..=24 * HOUR);
    let quarantine = reader.duration("guard.proxy_quarantine", SECOND..=24 * HOUR);
    let balance_interval = reader.duration("guard.balance_interval", 5 * SECOND..=60 * MINUTE);
    let low_balance = reader.number("guard.low_balance", 0.0..=MOST_MONEY);
    let min_balance = reader.number("guard.min_balance", 0.0..=MOST_MONEY);
    let wrong_ids_share = reader.number("guard.wrong_ids_share", 0.01..=1.0);
    let wrong_ids_least = reader.whole("guard.wrong_ids_least", 1..=1_000);
    let wrong_ids_per_minute = reader.whole("guard.wrong_ids_per_minute", 0..=100_000);
    let quantile = reader.number("guard.deadline_quantile", 0.0..=1.0);
    let least_answers = reader.whole("guard.deadline_answers", 1..=200);
    let operators = reader.list("guard.operators");
    Some(GuardSettings {
        rules: Rules {
            ban_pause: ban_pause?,
            min_balance: min_balance?,
            low_balance: low_balance?,
            balance_interval: balance_interval?,
            quarantine: quarantine?,
            wrong_ids_share: wrong_ids_share?,
            wrong_ids_least: wrong_ids_least?,
            wrong_ids_per_minute: wrong_ids_per_minute?,
        },
        shared_egress: shared_egress?,
        operators: operators?.0,
        deadlines: Reach { quantile: quantile?, least_answers: least_answers? },
    })
}
