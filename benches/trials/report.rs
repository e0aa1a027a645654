//! What trials have found, and the table of it.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{ContentArrangement, Table};

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

/// All findings as a table.
pub(crate) fn table(findings: &[Finding]) -> String {
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
