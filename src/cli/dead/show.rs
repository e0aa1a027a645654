//! `dead show`: everything that is known of one job's letters.

use std::io::{self, Write};

use clap::Args;
use serde_json::{Value as Json, json};

use super::CommandContext;
use super::letters::{age, counted, line, shortened};
use super::list::bar;
use super::scan::{Scan, ScanReport, Walker, walk};
use super::select::{Chosen, Filters, ScanLimit};
use crate::cli::find::Findings;
use crate::cli::outcomes::{DeadLetters, dead_letters};
use crate::cli::render::cut;
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;
use crate::domain::dead_letter::DeadLetter;
use crate::domain::sanitize::shown_lines;
use crate::domain::time::Timestamp;

/// Widest text of somebody else's, in characters.
const WIDTH: usize = 200;

/// Print every letter of a job: what failed, its attempts and times, and the job itself.
///
/// Credentials are masked, and long texts such as images cut to their beginnings: `export` has them
/// whole.
#[derive(Debug, Args)]
#[command(after_help = "\
The command scans every queue, or only those of --class. It puts each dead letter back, which counts as one of its 1,000 \
deliveries, and hides it from other consumers meanwhile.

Examples:
  captcha-worker dead show order-17
  captcha-worker dead show order-17 --class lost --json | jq .letter.attempts

Exit codes: 0 found, 1 not found in what was scanned, or failed, 2 wrong usage.")]
pub(super) struct ShowArgs {
    /// The job's id
    #[arg(value_name = "ID")]
    id: String,
    /// Look into this class's queue only. May be repeated
    #[arg(long = "class", value_name = "CLASS", value_delimiter = ',', value_parser = dead_letters())]
    classes: Vec<DeadLetters>,
    #[command(flatten)]
    scan_limit: ScanLimit,
}

pub(super) async fn run(args: &ShowArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    let filters = Filters::of_job(&args.id, &args.classes);
    let chosen = filters.at(Clock::System.now());
    let mut search = Search { chosen, found: 0, scan_report: ScanReport::default() };
    let failure = walk(&mut search, &filters, &args.scan_limit, context).await;
    let Search { found, mut scan_report, .. } = search;
    scan_report.interrupted(context.stop);
    print_notes(&args.id, found, &scan_report, context);
    if found == 0 && failure.is_none() {
        say_where_it_is(&args.id, context).await;
    }
    failure.map_or(Ok(Exit::when(found > 0)), Err)
}

/// A job that has no letter may be in flight, waiting or solved.
async fn say_where_it_is(id: &str, context: &mut CommandContext<'_>) {
    let fleet = match Findings::ask(context.broker, context.names, id).await {
        Ok(fleet) => fleet,
        Err(error) => return context.console.note(format_args!("cannot ask the fleet where it is: {error}")),
    };
    if context.console.is_forced_json() {
        return context.console.note(fleet.json(id));
    }
    for line in fleet.lines(Clock::System.now()) {
        context.console.note(line);
    }
}

fn print_notes(id: &str, found: u64, scan_report: &ScanReport, context: &mut CommandContext<'_>) {
    let not_scanned = scan_report.not_scanned();
    if found > 0 && not_scanned == 0 && scan_report.is_whole() {
        return;
    }
    if context.console.is_forced_json() {
        context.console.note(scan_report.add_to(json!({"found": found})));
        return;
    }
    let id = cut(id, WIDTH);
    let (found, not_scanned) = (counted(found), counted(not_scanned));
    context.console.note(format_args!("{found} of '{id}' found; {not_scanned} not scanned"));
    scan_report.print_notes(&mut context.console);
}

struct Search<'a> {
    chosen: Chosen<'a>,
    found: u64,
    scan_report: ScanReport,
}

impl Walker for Search<'_> {
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        let bar = bar(&context.console, scan);
        while let Some(delivery) = scan.next(context.stop).await? {
            let letter = scan.read(&delivery.message).filter(|letter| self.chosen.takes(letter));
            scan.keep(delivery.receipt);
            if let Some(letter) = letter {
                let whole = line(scan.queue(), &delivery.message, false);
                bar.clear();
                show(&letter, &whole, Clock::System.now(), context)?;
                self.found += 1;
            }
            bar.advance_to(scan.progress().0, || "scanned".to_owned());
        }
        bar.clear();
        Ok(())
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.scan_report
    }
}

fn show(
    letter: &DeadLetter,
    whole: &str,
    now: Timestamp,
    context: &mut CommandContext<'_>,
) -> Result<(), CommandError> {
    let parsed: Option<Json> = serde_json::from_str(whole).ok();
    let is_human = context.console.is_human();
    let Some(mut whole) = parsed else {
        // JSON allows what is not read into a value: numbers beyond all bounds, halves of
        // characters, any depth.
        if is_human {
            as_it_is(letter, whole, now, &mut context.console.out)?;
        } else {
            context.console.json_line(whole)?;
        }
        return Ok(());
    };
    shortened(&mut whole);
    if !is_human {
        context.console.json_line(&whole.to_string())?;
        return Ok(());
    }
    let out = &mut context.console.out;
    for (name, value) in facts(letter, &whole, now) {
        writeln!(out, "{name:<12}{}", cut(&value, WIDTH))?;
    }
    for attempt in whole.pointer("/letter/attempts").and_then(Json::as_array).into_iter().flatten() {
        let field = |name: &str| text(&attempt[name]);
        let (at, ended, polls, id) =
            (field("submitted_at"), field("ended"), field("polls"), field("task_id"));
        writeln!(out, "{:<12}{}", "attempt", cut(&format!("{at} task {id}, {polls} polls: {ended}"), WIDTH))?;
    }
    let rest =
        json!({"properties": whole["properties"], "x_death": whole["x_death"], "letter": whole["letter"]});
    writeln!(out, "{}\n", shown_lines(&serde_json::to_string_pretty(&rest).unwrap_or_default()))?;
    Ok(())
}

/// The letter's own facts, and its masked text.
fn as_it_is(letter: &DeadLetter, whole: &str, now: Timestamp, out: &mut impl Write) -> io::Result<()> {
    for (name, value) in facts(letter, &Json::Null, now) {
        writeln!(out, "{name:<12}{}", cut(&value, WIDTH))?;
    }
    writeln!(out, "{}\n", shown_lines(whole))
}

fn facts(letter: &DeadLetter, whole: &Json, now: Timestamp) -> Vec<(&'static str, String)> {
    let at = |pointer: &str| whole.pointer(pointer).map(text).unwrap_or_default();
    let ended =
        letter.ended.map_or_else(String::new, |ended| format!("{ended}, {} ago", age(Some(ended), now)));
    let facts = [
        ("id", letter.id.clone()),
        ("queue", at("/queue")),
        ("class/code", format!("{}/{}", letter.class_name(), letter.code)),
        ("reason", at("/letter/failure/description")),
        ("stage", at("/letter/failure/stage")),
        ("lane", letter.lane.to_string()),
        ("type", letter.task_type.clone().unwrap_or_default()),
        ("received", at("/letter/times/received_at")),
        ("ended", ended),
        ("deadline", letter.deadline.map(|deadline| deadline.to_string()).unwrap_or_default()),
        ("worker", at("/letter/worker")),
        ("replays", letter.replays.to_string()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}

fn text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}
