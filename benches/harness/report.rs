//! What trials have found, where they report it, and the table of it.

use parking_lot::Mutex;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};
use tokio::time::Instant;

use super::wait;

/// Wide enough for a measured value on one line, narrow enough for a report.
const WIDTH: u16 = 140;

/// How a finding stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    Broken,
    /// A number worth knowing, without a bound.
    Noted,
}

/// One line of the table.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    pub(crate) trial: String,
    pub(crate) must: String,
    pub(crate) measured: String,
    pub(crate) verdict: Verdict,
}

impl Verdict {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::Broken => "BROKEN",
            Verdict::Noted => "noted",
        }
    }
}

/// What a trial gets, and where it reports.
#[derive(Debug)]
pub(crate) struct Harness {
    name: &'static str,
    amqp: String,
    seed: u64,
    folder: PathBuf,
    began: Instant,
    findings: Mutex<Vec<Finding>>,
}

impl Harness {
    /// A harness with an empty folder for logs and scenarios.
    pub(crate) fn new(bench: &str, name: &'static str, amqp: &str, seed: u64) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(bench).join(name);
        // Absent, as a rule.
        std::fs::remove_dir_all(&folder).ok();
        std::fs::create_dir_all(&folder).expect("the target folder is writable");
        Self { name, amqp: amqp.to_owned(), seed, folder, began: Instant::now(), findings: Mutex::default() }
    }

    pub(crate) fn amqp(&self) -> &str {
        &self.amqp
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A progress line.
    pub(crate) fn say(&self, what: impl Display) {
        println!("{:>6.1} s  {}: {what}", self.began.elapsed().as_secs_f64(), self.name);
    }

    /// A requirement and whether it held.
    pub(crate) fn check(&self, must: impl Display, measured: impl Display, holds: bool) {
        self.add(must, measured, if holds { Verdict::Holds } else { Verdict::Broken });
    }

    /// The same for a count with a bound.
    pub(crate) fn at_most(&self, what: impl Display, measured: u64, most: u64) {
        self.check(format_args!("{what} <= {most}"), measured, measured <= most);
    }

    /// A number without a bound.
    pub(crate) fn note(&self, what: impl Display, measured: impl Display) {
        self.add(what, measured, Verdict::Noted);
    }

    fn add(&self, must: impl Display, measured: impl Display, verdict: Verdict) {
        let (must, measured) = (must.to_string(), measured.to_string());
        self.say(format_args!("{} [{must}]: {measured}", verdict.word()));
        let finding = Finding { trial: self.name.to_owned(), must, measured, verdict };
        self.findings.lock().push(finding);
    }

    /// What was found so far.
    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.findings.lock().clone()
    }
}

/// Prints the table and the count, and returns the program's exit code.
pub(crate) fn close(findings: &[Finding], began: Instant) -> ExitCode {
    println!("\n{}", table(findings));
    let broken = findings.iter().filter(|finding| finding.verdict == Verdict::Broken).count();
    println!("{broken} broken; {} in all", wait::seconds(began.elapsed()));
    if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// All findings as a table.
fn table(findings: &[Finding]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(["trial", "must show", "measured", "verdict"]);
    let mut last = "";
    for finding in findings {
        let trial = if finding.trial == last { "" } else { &finding.trial };
        table.add_row([trial, &finding.must, &finding.measured, finding.verdict.word()]);
        last = &finding.trial;
    }
    table.to_string()
}
