//! All runs, what they say together, and the tables of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use serde_json::{Value, json};

use crate::candidate::Candidate;
use crate::figure::{Figure, Figures, Spread, digits};

/// One run.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) scene: &'static str,
    pub(crate) case: String,
    pub(crate) round: usize,
    /// What it has measured, or why it has failed.
    pub(crate) result: Result<Figures, String>,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    runs: Vec<Entry>,
}

impl Ledger {
    pub(crate) fn add(&mut self, run: Entry) {
        self.runs.push(run);
    }

    /// Over all rounds of a case.
    pub(crate) fn spread(&self, scene: &str, case: &str, figure: Figure) -> Option<Spread> {
        let runs = self.runs.iter().filter(|run| run.scene == scene && run.case == case);
        let figures = runs.filter_map(|run| run.result.as_ref().ok()?.get(&figure).copied());
        Spread::of(figures.collect())
    }

    pub(crate) fn median(&self, scene: &str, case: &str, figure: Figure) -> Option<f64> {
        Some(self.spread(scene, case, figure)?.median)
    }

    /// Failed runs, each with its reason.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |run: &Entry| {
            let reason = run.result.as_ref().err()?;
            Some(format!("{}, {}, round {}: {reason}", run.scene, run.case, run.round))
        };
        self.runs.iter().filter_map(failed).collect()
    }

    /// A scene as a table: figures by cases, `min / median / max`, and the median's ratio to that
    /// of minimal+ticket.
    pub(crate) fn table(&self, scene: &str, cases: &[String]) -> String {
        let figures: BTreeSet<Figure> = self
            .runs
            .iter()
            .filter(|run| run.scene == scene)
            .flat_map(|run| run.result.iter().flat_map(Figures::keys).copied())
            .collect();
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN);
        table.set_header([scene].into_iter().chain(cases.iter().map(String::as_str)));
        for figure in figures {
            let measure = self.median(scene, Candidate::Ticket.name(), figure);
            let cell = |case: &String| self.cell(scene, case, figure, measure);
            table.add_row([figure.name().to_owned()].into_iter().chain(cases.iter().map(cell)));
        }
        table.to_string()
    }

    fn cell(&self, scene: &str, case: &str, figure: Figure, measure: Option<f64>) -> String {
        let Some(Spread { min, median, max }) = self.spread(scene, case, figure) else {
            return "not told".to_owned();
        };
        let span = format!("{} / {} / {}", digits(min), digits(median), digits(max));
        // Ours reports its lateness by buckets; what is no candidate's name is a case of ours.
        if figure.is_lateness()
            && Candidate::called(case).is_none_or(|candidate| candidate == Candidate::Ours)
        {
            return format!("≤ {span}");
        }
        match measure {
            Some(measure) if measure > 0.0 => format!("{span} (× {:.2})", median / measure),
            _ => span,
        }
    }

    /// Leaves every run's raw figures in a file.
    pub(crate) fn keep(&self, file: &Path, terms: &Value) {
        let run = |run: &Entry| {
            let (figures, failed) = (run.result.as_ref().ok(), run.result.as_ref().err());
            let figures: Option<BTreeMap<_, _>> = figures
                .map(|figures| figures.iter().map(|(figure, value)| (figure.name(), *value)).collect());
            json!({"scene": run.scene, "case": run.case, "round": run.round, "figures": figures, "failed": failed})
        };
        let runs: Vec<Value> = self.runs.iter().map(run).collect();
        let text = json!({"terms": terms, "runs": runs}).to_string();
        std::fs::write(file, text).expect("the file for raw figures is writable");
    }
}
