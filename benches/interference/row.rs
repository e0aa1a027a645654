//! The table: one row a case, with what was measured and whether its bounds held.

use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use tokio::time::Instant;

use crate::ledger::{Entry, Latency, places};
use crate::wait;

const WIDTH: u16 = 180;
/// Load average by core from which a row says so.
const BUSY: f64 = 2.5;
/// Above the calm run's 99th percentile.
const LATER: Duration = Duration::from_millis(1_500);
const MACHINE_BUSY: &str = "machine busy";
const HEAD: [&str; 8] = [
    "case",
    "good jobs' p50 / p99 / max",
    "dead",
    "jobs hit",
    "calls/s while down",
    "full rate after",
    "guard",
    "verdict",
];

/// One case.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Row {
    group: &'static str,
    case: String,
    good: Option<Times>,
    /// Good jobs that have ended anywhere but among the results, by queue.
    dead: BTreeMap<String, usize>,
    /// Where the jobs ended at which the trouble was aimed.
    hit: BTreeMap<String, usize>,
    calls_down: Option<f64>,
    full_rate_after_s: Option<f64>,
    trips: String,
    broken: Vec<String>,
    notes: Vec<String>,
}

/// Seconds from a publish to its outcome.
#[derive(Debug, Clone, Copy, Serialize)]
struct Times {
    jobs: usize,
    p50_s: f64,
    p99_s: f64,
    max_s: f64,
}

impl Row {
    pub(crate) fn new(group: &'static str, case: impl Into<String>) -> Self {
        Self { group, case: case.into(), ..Self::default() }
    }

    pub(crate) fn case(&self) -> &str {
        &self.case
    }

    pub(crate) fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// What became of the jobs: those that the trouble was aimed at, and the others.
    pub(crate) fn jobs(&mut self, entries: &[Entry]) {
        let good: Vec<&Entry> = entries.iter().filter(|entry| !entry.hit).collect();
        self.latency(Latency::of(good.iter().copied()));
        self.dead = places(good.iter().copied().filter(|entry| entry.is_dead()));
        self.hit = places(entries.iter().filter(|entry| entry.hit));
        let missing = entries.iter().filter(|entry| entry.end.is_none()).count();
        self.at_most("jobs that have not ended", missing as u64, 0);
    }

    pub(crate) fn latency(&mut self, latency: Latency) {
        self.good = Some(Times {
            jobs: latency.jobs,
            p50_s: latency.p50.as_secs_f64(),
            p99_s: latency.p99.as_secs_f64(),
            max_s: latency.max.as_secs_f64(),
        });
    }

    /// Good jobs that are dead are more than these.
    pub(crate) fn dead_at_most(&mut self, most: usize) {
        let dead: usize = self.dead.values().sum();
        self.at_most("good jobs dead", dead as u64, most as u64);
    }

    pub(crate) fn trips(&mut self, trips: &crate::watch::Trips, allowed: bool) {
        self.trips = trips.summary();
        if !allowed {
            self.bound(format_args!("guard tripped: {}", trips.summary()), trips.is_none());
        }
    }

    pub(crate) fn calls_down(&mut self, per_second: f64) {
        self.calls_down = Some(per_second);
    }

    pub(crate) fn full_rate_after(&mut self, span: Option<Duration>, most: Duration) {
        self.full_rate_after_s = span.map(|span| span.as_secs_f64());
        match span {
            Some(span) => self.bound(
                format_args!("full rate after {} > {}", wait::seconds(span), wait::seconds(most)),
                span <= most,
            ),
            None => self.bound("full rate not seen again while it was watched", false),
        }
    }

    /// A bound, in words that say how it was broken.
    /// The jobs that the trouble does not hit are hardly later than those of the calm run.
    pub(crate) fn near_calm(&mut self, p99: Duration, calm: Duration) {
        self.bound(
            format_args!("p99 {} > {} + 1.5 s", wait::seconds(p99), wait::seconds(calm)),
            p99 <= calm + LATER,
        );
    }

    pub(crate) fn bound(&mut self, broken: impl Display, holds: bool) {
        if !holds {
            self.broken.push(broken.to_string());
        }
    }

    /// A count with a bound.
    pub(crate) fn at_most(&mut self, what: &str, measured: u64, most: u64) {
        self.bound(format_args!("{what}: {measured} > {most}"), measured <= most);
    }

    /// A number without a bound.
    pub(crate) fn note(&mut self, what: impl Display) {
        self.notes.push(what.to_string());
    }

    /// Where the machine has more to do than it can, times are not the worker's alone.
    pub(crate) fn note_load(&mut self) {
        let load = std::fs::read_to_string("/proc/loadavg").ok();
        let load: Option<f64> = load.and_then(|text| text.split(' ').next()?.parse().ok());
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let said = self.notes.iter().any(|note| note.starts_with(MACHINE_BUSY));
        if let Some(load) = load.filter(|load| !said && *load > BUSY * cores as f64) {
            self.note(format_args!("{MACHINE_BUSY}: load {load:.1} on {cores} cores"));
        }
    }

    fn cells(&self) -> [String; 8] {
        let seconds = |span: Option<f64>| span.map_or_else(String::new, |span| format!("{span:.1} s"));
        let good = self.good.map_or_else(String::new, |times| {
            format!("{:.2} / {:.2} / {:.2} s", times.p50_s, times.p99_s, times.max_s)
        });
        let dead = if self.dead.is_empty() { "0".to_owned() } else { listed(&self.dead) };
        let calls = self.calls_down.map_or_else(String::new, |calls| format!("{calls:.2}"));
        let mut verdict =
            if self.is_broken() { format!("BROKEN: {}", self.broken.join("; ")) } else { "holds".to_owned() };
        if !self.notes.is_empty() {
            write!(verdict, " ({})", self.notes.join("; ")).expect("a string takes it");
        }
        let trips = if self.trips == "none" { String::new() } else { self.trips.clone() };
        let case = format!("{}: {}", self.group, self.case);
        [case, good, dead, listed(&self.hit), calls, seconds(self.full_rate_after_s), trips, verdict]
    }

    /// The row on one line, as soon as it is known.
    pub(crate) fn summary(&self) -> String {
        let cells = self.cells();
        let said = HEAD.iter().zip(&cells).skip(1).filter(|(_, cell)| !cell.is_empty());
        said.map(|(head, cell)| format!("{head} {cell}")).collect::<Vec<_>>().join(" | ")
    }
}

fn listed(places: &BTreeMap<String, usize>) -> String {
    places.iter().map(|(place, count)| format!("{place} {count}")).collect::<Vec<_>>().join(", ")
}

/// Prints the table, writes it where that is wanted, and returns the program's exit code.
pub(crate) fn close(rows: &[Row], began: Instant, json: Option<&Path>, markdown: Option<&Path>) -> ExitCode {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(HEAD);
    rows.iter().for_each(|row| {
        table.add_row(row.cells());
    });
    println!("\n{table}");
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(rows).expect("rows are JSON");
        std::fs::write(file, text).expect("the file for JSON is writable");
    }
    if let Some(file) = markdown {
        std::fs::write(file, as_markdown(rows)).expect("the file for Markdown is writable");
    }
    let broken = rows.iter().filter(|row| row.is_broken()).count();
    println!("{broken} of {} cases broken; {} in all", rows.len(), wait::seconds(began.elapsed()));
    if broken == 0 && !rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn as_markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| {
        let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", escaped.join(" | "))
    };
    let mut text = line(&HEAD.map(str::to_owned));
    text.push_str(&format!("|{}\n", "---|".repeat(HEAD.len())));
    rows.iter().for_each(|row| text.push_str(&line(&row.cells())));
    text
}
