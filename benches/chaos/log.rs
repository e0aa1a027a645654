//! The log of a run: what each phase cost, and the table of it.

use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use tokio::time::Instant;

use crate::environment::Fingerprint;
use crate::gauges::Letters;
use crate::ledger::{Ledger, Span};
use crate::verdict::Bounds;
use crate::wait::seconds;

const WIDTH: u16 = 175;

/// One phase, from its fault to the calm after it.
#[derive(Debug)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) before: Fingerprint,
    pub(crate) after: Fingerprint,
    /// When the fault was over.
    pub(crate) fixed_at: Instant,
    /// From there to the first outcome; `None` where none came.
    pub(crate) stall: Option<Duration>,
    pub(crate) bounds: Bounds,
}

/// What a phase cost.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) span: Span,
    pub(crate) paid: u64,
    pub(crate) paid_twice: u64,
    pub(crate) letters: Letters,
    pub(crate) early: u64,
    pub(crate) past_limit: u64,
}

/// Between two moments.
pub(crate) fn cost(ledger: &Ledger, before: &Fingerprint, after: &Fingerprint) -> Cost {
    let (one, two) = (&before.stats, &after.stats);
    Cost {
        span: ledger.span(before.at, after.at),
        paid: two.accepted_tasks - one.accepted_tasks,
        paid_twice: two.repeated_submissions - one.repeated_submissions,
        letters: after.letters.since(&before.letters),
        early: two.early_polls - one.early_polls,
        past_limit: two.polls_past_limit - one.polls_past_limit,
    }
}

/// All phases, and their sum.
pub(crate) fn table(ledger: &Ledger, phases: &[Phase]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header([
        "phase",
        "from",
        "lasted",
        "jobs",
        "outcomes",
        "repeated",
        "paid",
        "paid twice",
        "counted by window",
        "early polls",
        "past 120",
        "stall",
        "longest gap",
    ]);
    let Some((first, last)) = phases.first().zip(phases.last()) else { return table.to_string() };
    let began = first.before.at;
    for phase in phases {
        let stall = phase.stall.map_or_else(|| "-".to_owned(), seconds);
        let times = [seconds(phase.before.at - began), seconds(phase.fixed_at - phase.before.at)];
        table.add_row(row(&phase.name, times, &cost(ledger, &phase.before, &phase.after), stall));
    }
    let times = [String::new(), seconds(last.after.at - began)];
    table.add_row(row("all", times, &cost(ledger, &first.before, &last.after), String::new()));
    table.to_string()
}

fn row(name: &str, [from, lasted]: [String; 2], cost: &Cost, stall: String) -> Vec<String> {
    let span = cost.span;
    let numbers =
        [span.confirmed as u64, span.outcomes as u64, span.repeated as u64, cost.paid, cost.paid_twice];
    let mut cells = vec![name.to_owned(), from, lasted];
    cells.extend(numbers.map(|number| number.to_string()));
    cells.extend([
        cost.letters.summary(),
        cost.early.to_string(),
        cost.past_limit.to_string(),
        stall,
        seconds(span.gap),
    ]);
    cells
}
