//! `dead export`: copies of letters.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::Stage;
use super::letter::line;
use super::list::bar;
use super::scan::Scan;
use super::select::{Chosen, Filters, Reach};
use crate::cli::{CommandError, Exit};
use crate::clock::Clock;

/// Copy chosen letters, whole, as NDJSON. They stay where they are.
///
/// Each line is `{"queue":…,"x_death":…,"properties":…,"letter":…}`: `jq -c .letter.job` gives the jobs.
#[derive(Debug, Args)]
#[command(after_help = "\
A look: every letter is put back, with one more of its 1,000 deliveries counted, and is hidden from others while it lasts.

Examples:
  captcha-worker dead export --class unknown unknown.ndjson
  captcha-worker dead export --class proxy --show-secrets - | jq -c .letter.job
  captcha-worker dead export > all.ndjson

Exit codes: 0 all that was chosen and scanned is written, 1 it failed or was stopped, 2 wrong usage.")]
pub(super) struct ExportArgs {
    #[command(flatten)]
    filters: Filters,
    #[command(flatten)]
    reach: Reach,
    /// Write credentials too (of publishers' proxies); without it they are '***', and such jobs cannot be run from the file
    #[arg(long)]
    show_secrets: bool,
    /// Where to; '-', the default, is standard output. A file must not exist yet
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

pub(super) async fn run<O: Write, E: Write>(
    args: &ExportArgs,
    stage: &mut Stage<'_, O, E>,
) -> Result<Exit, CommandError> {
    let mut file =
        if args.file == Path::new("-") { None } else { Some(BufWriter::new(created(&args.file)?)) };
    let chosen = args.filters.at(Clock::System.now());
    let (mut written, mut not_scanned) = (0_u64, 0);
    for queue in args.filters.queues() {
        let mut scan = Scan::begin(stage.broker, stage.names, queue, args.reach.scan).await?;
        // Put back in order, even where nobody reads the output any more.
        let done = copy(args, &chosen, &mut scan, &mut file, &mut written, stage).await;
        not_scanned += scan.end().await.not_scanned();
        done?;
    }
    match file {
        Some(file) => synced(file).map_err(CommandError::Output)?,
        None => stage.console.out.flush()?,
    }
    stage.console.note(format_args!("{written} letters written; {not_scanned} letters were not scanned"));
    Ok(Exit::when(!stage.stop.is_cancelled()))
}

async fn copy<O: Write, E: Write>(
    args: &ExportArgs,
    chosen: &Chosen<'_>,
    scan: &mut Scan,
    file: &mut Option<BufWriter<File>>,
    written: &mut u64,
    stage: &mut Stage<'_, O, E>,
) -> Result<(), CommandError> {
    let bar = bar(stage.console, scan);
    while let Some(delivery) = scan.next(stage.stop).await? {
        let is_chosen = scan.read(&delivery.message).is_some_and(|letter| chosen.takes(&letter));
        scan.keep(delivery.receipt);
        if is_chosen {
            let line = line(scan.queue(), &delivery.message, args.show_secrets);
            match file {
                Some(file) => writeln!(file, "{line}").map_err(CommandError::Output)?,
                None => writeln!(stage.console.out, "{line}")?,
            }
            *written += 1;
        }
        bar.looked(scan.progress().0, || format!("{written} written"));
    }
    bar.clear();
    Ok(())
}

/// A new file that its owner alone can read: letters hold whole jobs.
pub(super) fn created(path: &Path) -> Result<File, CommandError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    made.map_err(|error| CommandError::Failed(format!("cannot write '{}': {error}", path.display())))
}

fn synced(file: BufWriter<File>) -> io::Result<()> {
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}
