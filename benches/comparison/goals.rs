//! What ours must reach.

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

use crate::candidate::Candidate;
use crate::figure::{Figure, digits};
use crate::ledger::Ledger;
use crate::scene::{Case, ONE_LANE, THREE_LANES, Terms, growth_in_flight, growth_of_queue, replicas_label};

/// One thing that ours must reach.
#[derive(Debug)]
pub(crate) struct Goal {
    must: &'static str,
    /// As far as it was measured.
    reached: Option<f64>,
    bound: Bound,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn at_most(must: &'static str, most: f64, reached: Option<f64>) -> Self {
        Self { must, reached, bound: Bound::AtMost(most) }
    }

    fn at_least(must: &'static str, least: f64, reached: Option<f64>) -> Self {
        Self { must, reached, bound: Bound::AtLeast(least) }
    }

    /// Whether it was measured and not reached.
    pub(crate) fn is_missed(&self) -> bool {
        self.reached.is_some_and(|reached| match self.bound {
            Bound::AtMost(most) => reached > most,
            Bound::AtLeast(least) => reached < least,
        })
    }
}

/// All of them.
pub(crate) fn all(ledger: &Ledger, terms: &Terms) -> Vec<Goal> {
    let ours = |scene, figure| ledger.median(scene, Candidate::Ours.name(), figure);
    let ratio =
        |scene, figure| Some(ours(scene, figure)? / ledger.median(scene, Candidate::Ticket.name(), figure)?);
    let worst_start = |figure| Some(ledger.spread("start", Candidate::Ours.name(), figure)?.max);
    let of_lanes = |label| ledger.median("lanes", label, Figure::CpuPerJob);
    let lanes = of_lanes(THREE_LANES).zip(of_lanes(ONE_LANE)).map(|(three, one)| three / one);
    let spread = |cases| Some(100.0 * spread_of(ledger, cases)?);
    vec![
        Goal::at_most(
            "CPU per job, × minimal+ticket, offered 500 jobs/s",
            0.65,
            ratio("steady", Figure::CpuPerJob),
        ),
        Goal::at_most(
            "CPU per job, × minimal+ticket, as fast as it goes",
            0.95,
            ratio("fast", Figure::CpuPerJob),
        ),
        Goal::at_most(
            "CPU per job, × minimal+ticket, images of 50,000 bytes",
            0.85,
            ratio("large", Figure::CpuPerJob),
        ),
        Goal::at_most(
            "CPU per job, × minimal+ticket, 50,000 in flight",
            1.0,
            ratio("deep", Figure::CpuPerJob),
        ),
        Goal::at_most("CPU per job, three lanes, × one lane", 1.05, lanes),
        Goal::at_most("kB per job in flight, 2,000 in flight", 11.0, ours("fast", Figure::BytesInFlight)),
        Goal::at_most("kB per job in flight, 50,000 in flight", 12.0, ours("deep", Figure::BytesInFlight)),
        Goal::at_most("peak MiB, 50,000 in flight", 700.0, ours("deep", Figure::Peak)),
        Goal::at_most("poll lateness p99, ms, 50,000 in flight", 100.0, ours("deep", Figure::Late99)),
        Goal::at_least(
            "jobs/s, × minimal+ticket, 2,000 in flight",
            1.0,
            ratio("fast", Figure::JobsPerSecond),
        ),
        Goal::at_least("jobs/s of 4 replicas, × 1 replica", 3.8, scaled(ledger)),
        Goal::at_most("CPU per job, ± %, 1,000 to 100,000 queued", 25.0, spread(growth_of_queue(terms.jobs))),
        Goal::at_most(
            "CPU per job, ± %, 100 to 20,000 in flight",
            25.0,
            spread(growth_in_flight(terms.jobs)),
        ),
        Goal::at_most("first job, ms, account unknown, the slowest", 200.0, worst_start(Figure::FirstJob)),
        Goal::at_most("first job, ms, account known, the slowest", 200.0, worst_start(Figure::FirstJobAgain)),
    ]
}

/// How much more four replicas do than one.
fn scaled(ledger: &Ledger) -> Option<f64> {
    let of = |replicas| ledger.median("replicas", &replicas_label(replicas), Figure::JobsPerSecond);
    Some(of(4)? / of(1)?)
}

/// How far the dearest and the cheapest of them are from half-way between the two, as a share of
/// that.
fn spread_of(ledger: &Ledger, cases: [Case; 3]) -> Option<f64> {
    let costs: Option<Vec<f64>> =
        cases.into_iter().map(|case| ledger.median("growth", &case.label, Figure::CpuPerJob)).collect();
    let costs = costs?;
    let (least, most) = (costs.iter().copied().reduce(f64::min)?, costs.iter().copied().reduce(f64::max)?);
    Some((most - least) / (most + least))
}

pub(crate) fn table(goals: &[Goal]) -> String {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["ours must reach", "bound", "reached", ""]);
    for goal in goals {
        let bound = match goal.bound {
            Bound::AtMost(most) => format!("≤ {}", digits(most)),
            Bound::AtLeast(least) => format!("≥ {}", digits(least)),
        };
        let reached = goal.reached.map_or_else(|| "not measured".to_owned(), digits);
        let verdict = match goal.reached {
            None => "",
            Some(_) if goal.is_missed() => "MISSED",
            Some(_) => "ok",
        };
        table.add_row([goal.must, &bound, &reached, verdict]);
    }
    table.to_string()
}
