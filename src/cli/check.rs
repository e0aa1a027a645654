//! `check`: what is in force, and whether it works.

use std::io;

use clap::Args;
use serde_json::json;

use super::checks::{self, Finding, Verdict};
use super::output::Output;
use super::{CommandError, Exit};
use crate::config::Loaded;

const EXAMPLES: &str = "\
Connects to the broker, compares exchanges and queues, and asks the API for the balance, once. Nothing is changed,
submitted or paid.

Examples:
  captcha-worker check
  captcha-worker check --offline                settings only, nothing is reached
  captcha-worker check --json | jq '.checks[] | select(.verdict == \"failed\")'

Exit codes: 0 fine, notes included; 1 a check failed; 2 the settings cannot be used.";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// Reach neither the broker nor the API
    #[arg(long)]
    offline: bool,
}

pub(super) async fn run(
    args: &CheckArgs,
    loaded: &Loaded,
    output: &mut Output,
) -> Result<Exit, CommandError> {
    let mut findings = checks::of_settings(&loaded.settings);
    if !args.offline {
        findings.extend(checks::of_network(&loaded.settings).await);
    }
    let fine = findings.iter().all(|finding| finding.verdict != Verdict::Failed);
    match show(loaded, &findings, fine, output) {
        // The verdict stands, whoever has read it.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(Exit::when(fine)),
    }
}

fn show(loaded: &Loaded, findings: &[Finding], fine: bool, output: &mut Output) -> io::Result<()> {
    if output.is_json() {
        return output.value(&json!({ "ok": fine, "settings": loaded.report(), "checks": findings }));
    }
    let settings =
        loaded.report().iter().map(|line| [line.key.clone(), shown(&line.value_shown), line.origin.clone()]);
    output.table(["setting", "value", "from"], settings)?;
    output.line("")?;
    for finding in findings {
        let told = finding.detail.replace('\n', "\n                 ");
        output.line(format_args!("{:<8} {:<7} {told}", finding.check, finding.verdict.name()))?;
        if !finding.advice.is_empty() {
            output.line(format_args!("{:16} → {}", "", finding.advice))?;
        }
    }
    Ok(())
}

/// A value that is there and empty must not look like one that is missing.
fn shown(value: &str) -> String {
    if value.is_empty() { "\"\"".to_owned() } else { value.to_owned() }
}
