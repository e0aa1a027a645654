//! `dead export`: copies of letters.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::letters::{counted, line};
use super::list::bar;
use super::scan::{Scan, ScanReport, Walker, ended, walk};
use super::select::{Chosen, Filters, ScanLimit};
use super::{CommandContext, DynConsole};
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;

/// Copy chosen letters, whole, as NDJSON. They stay where they are.
///
/// Each line is `{"queue":…,"x_death":…,"properties":…,"letter":…}`: `jq -c .letter.job` gives the
/// jobs.
#[derive(Debug, Args)]
#[command(after_help = "\
Every dead letter is put back. That counts as one of its 1,000 deliveries, and hides it from other consumers meanwhile.

Examples:
  captcha-worker dead export --class unknown unknown.ndjson
  captcha-worker dead export --class proxy --show-secrets - | jq -c .letter.job
  captcha-worker dead export > all.ndjson

Exit codes: 0 all that was chosen and scanned is written, 1 it failed, was stopped, or nobody read it to its end, 2 wrong usage.")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    scan_limit: ScanLimit,
    /// Write credentials too (of publishers' proxies); without it they are '***', and such jobs
    /// cannot be run from the file
    #[arg(long)]
    show_secrets: bool,
    /// Where to; '-', the default, is standard output. A file must not exist yet
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

pub(super) async fn run(args: &ExportArgs, context: &mut CommandContext<'_>) -> Result<Exit, CommandError> {
    let to = if args.file == Path::new("-") { Copies::Out } else { Copies::To(&args.file) };
    let mut export = Export {
        args,
        chosen: args.filters.at(Clock::System.now()),
        to,
        written: 0,
        scan_report: ScanReport::default(),
    };
    let failure = walk(&mut export, &args.filters, &args.scan_limit, context).await;
    export.scan_report.interrupted(context.stop);
    let Export { to, written, scan_report, .. } = export;
    let safe = to.finish(&mut context.console);
    if context.console.is_forced_json() {
        context.console.note(scan_report.add_to(json!({"written": written})));
    } else {
        let not_scanned = scan_report.not_scanned();
        let (written, not_scanned) = (counted(written), counted(not_scanned));
        context.console.note(format_args!("{written} written; {not_scanned} not scanned"));
        scan_report.print_notes(&mut context.console);
    }
    ended(failure, safe, scan_report.is_whole())
}

struct Export<'a> {
    args: &'a ExportArgs,
    chosen: Chosen<'a>,
    to: Copies<'a>,
    written: u64,
    scan_report: ScanReport,
}

impl Walker for Export<'_> {
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError> {
        self.to.open()?;
        let bar = bar(&context.console, scan);
        while let Some(delivery) = scan.next(context.stop).await? {
            let is_chosen = scan.read(&delivery.message).is_some_and(|letter| self.chosen.takes(&letter));
            scan.keep(delivery.receipt);
            if is_chosen {
                let line = line(scan.queue(), &delivery.message, self.args.show_secrets);
                self.to.write(&line, &mut context.console)?;
                self.written += 1;
            }
            bar.advance_to(scan.progress().0, || format!("{} written", self.written));
        }
        bar.clear();
        Ok(())
    }

    fn scan_report(&mut self) -> &mut ScanReport {
        &mut self.scan_report
    }
}

/// Where copies go.
enum Copies<'a> {
    /// Standard output.
    Out,
    /// A file that is made once a queue has been reached: a broker that cannot be must leave none
    /// behind.
    To(&'a Path),
    File(BufWriter<File>),
}

impl Copies<'_> {
    fn open(&mut self) -> Result<(), CommandError> {
        if let Copies::To(path) = self {
            *self = Copies::File(BufWriter::new(created(path)?));
        }
        Ok(())
    }

    fn write(&mut self, line: &str, console: &mut DynConsole<'_>) -> Result<(), CommandError> {
        match self {
            Copies::File(file) => writeln!(file, "{line}").map_err(CommandError::Output),
            Copies::Out | Copies::To(_) => Ok(console.json_line(line)?),
        }
    }

    fn finish(self, console: &mut DynConsole<'_>) -> Result<(), CommandError> {
        match self {
            Copies::Out => Ok(console.out.flush()?),
            Copies::To(_) => Ok(()),
            Copies::File(file) => synced(file).map_err(CommandError::Output),
        }
    }
}

/// A new file that its owner alone can read: letters hold whole jobs. Its name is on the disk
/// before anything is in it.
pub(super) fn created(path: &Path) -> Result<File, CommandError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = File::options().write(true).create_new(true).mode(0o600).open(path).and_then(|file| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(file)
    });
    made.map_err(|error| CommandError::Failed(format!("cannot write '{}': {error}", path.display())))
}

fn synced(file: BufWriter<File>) -> io::Result<()> {
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
