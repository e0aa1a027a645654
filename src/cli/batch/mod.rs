//! `batch`: a file of jobs in, a file of outcomes out, with nothing else to run.
//!
//! The jobs go through the embedded broker, over a file beside the output, and the worker of `run`,
//! in this process. A job is done when its row is in the output; a job that is neither done nor in
//! the queue is yet to be published. So the command goes on where it was after any end: what is
//! paid is in the queue, and nothing is published twice.

mod account;
mod jobs;
mod lines;
mod output;
mod queue;
mod report;
mod row;
mod work;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::console::{Console, Progress, Total};
use super::input::read_ahead;
use super::{CommandError, Exit, connect, run as replica, signals};
use crate::broker::Session;
use crate::broker::sqlite::beside;
use crate::config::Settings;
use crate::domain::class::Class;
use crate::domain::money::Decimal;
use crate::linger::Linger;
use crate::solver::Solver;
use crate::worker::{Worker, WorkerOptions};
use jobs::Jobs;
use lines::IdHashes;
use output::{OutcomesFile, Tally};
use queue::BatchQueue;
use report::BatchReport;
use row::RowFormat;
use work::{BatchEnd, BatchWork, UnderWay, Worked};

const HELP: &str = "\
FILE is NDJSON with one job a line, as `publish` takes it, or images: one ImageToTextTask each, whose id is the file's name. \
Every job gets one line in --out, with its outcome and \"line\": the number of its line, or of its image, from 1.

After any interruption, even kill -9, run the same command again: with the same FILE and --out it continues. The jobs under way are in the file \
<OUT>.queue, which is deleted at the end. Nothing is paid twice beyond what `run` may pay twice. broker.url plays no part.

The first Ctrl-C finishes paid tasks within worker.drain_timeout; what is left stays in the queue. A second one ends at once. \
The API keeps the answer of a paid task for 5 minutes.

Examples:
  captcha-worker batch jobs.ndjson --out outcomes.ndjson
  captcha-worker batch captchas/*.png --out texts.csv --csv
  captcha-worker batch jobs.ndjson --out outcomes.ndjson --failed again.ndjson
  captcha-worker batch again.ndjson --out outcomes2.ndjson

Exit codes:
  0    every job is solved
  1    stopped by a failure; the same command goes on
  2    the command line, the input, the output or the settings cannot be used
  3    every job has its line, and some have failed
  11   stopped: the API refuses the key; with a good key it goes on
  130  stopped by Ctrl-C or SIGTERM; the same command goes on";

/// The least window of jobs under way.
const LEAST_WINDOW: usize = 1_000;

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct BatchArgs {
    /// NDJSON with one job a line, or images
    #[arg(value_name = "FILE", required = true, num_args = 1..)]
    inputs: Vec<PathBuf>,
    /// Where the outcomes go; a batch that was stopped continues from what it contains
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Write a table (CSV) with line, id, status, text, class, code and `task_id`, instead of
    /// NDJSON
    #[arg(long)]
    csv: bool,
    /// Bring the outcomes into the order of the input, once all are there. Without it they stay in
    /// the order in which the jobs have ended
    #[arg(long)]
    in_order: bool,
    /// When all are there, write the jobs that have failed to this file, to be run again
    #[arg(long, value_name = "FILE")]
    failed: Option<PathBuf>,
}

/// Runs a batch, or goes on with it.
pub(super) async fn run<O: Write, E: Write>(
    args: &BatchArgs,
    settings: &Settings,
    console: &mut Console<O, E>,
) -> Result<Exit, CommandError> {
    let solver = connect::solver(settings)?;
    let jobs = Jobs::of(&args.inputs)?;
    args.refuse_one_file_for_two(&jobs)?;
    let stop = signals::stop_or(Exit::Interrupted, || ())?;
    let batch = BatchRun::open(args, jobs, settings).await?;
    let progress =
        Progress::new(Total::Jobs(batch.count), console.err_is_terminal && !console.is_forced_json());
    let done = batch.work(settings, solver, (&progress, console), &stop).await;
    progress.clear();
    done?.finish(args, console).await
}

impl BatchArgs {
    /// What is written must not be what is read.
    fn refuse_one_file_for_two(&self, jobs: &Jobs) -> Result<(), CommandError> {
        let same = |one: &Path, other: &Path| match (one.canonicalize(), other.canonicalize()) {
            (Ok(one), Ok(other)) => one == other,
            _ => one == other,
        };
        let is_input = |path: &Path| jobs.files().iter().any(|file| same(file, path));
        let refused = |name: &str, path: &Path| {
            Err(CommandError::Usage(format!(
                "{name} '{}' is a file that is read: choose another",
                path.display()
            )))
        };
        if is_input(&self.out) {
            return refused("--out", &self.out);
        }
        match &self.failed {
            Some(failed) if is_input(failed) || same(failed, &self.out) => refused("--failed", failed),
            _ => Ok(()),
        }
    }

    fn format(&self) -> RowFormat {
        if self.csv { RowFormat::Csv } else { RowFormat::Ndjson }
    }
}

/// A batch whose files are open.
struct BatchRun {
    jobs: Jobs,
    queue: BatchQueue,
    session: Session,
    output: OutcomesFile,
    tally: Tally,
    /// How many jobs there are.
    count: u64,
    /// Those that are done or in the queue.
    known: lines::LineSet,
    under_way: UnderWay,
    name: String,
}

/// Whether it is a file, or can become one.
fn is_plain(path: &Path) -> bool {
    path.metadata().map_or(true, |found| found.is_file())
}

/// A batch that works no more.
struct StoppedBatch {
    jobs: Jobs,
    queue: BatchQueue,
    count: u64,
    worked: Worked,
    spent: Option<Decimal>,
}

impl BatchRun {
    async fn open(args: &BatchArgs, jobs: Jobs, settings: &Settings) -> Result<Self, CommandError> {
        // Through a link it is the same batch, and the link stays one when the rows are sorted.
        let target = args.out.is_symlink().then(|| args.out.canonicalize().ok()).flatten();
        let out = target.as_deref().unwrap_or(&args.out);
        let path = beside(out, ".queue");
        let is_new = !path.exists();
        if !is_new && !out.exists() {
            return Err(CommandError::Usage(format!(
                "'{0}' is there, but '{1}' is not: bring it back. To begin anew, and pay again for what was done, delete '{0}' and what stands beside it",
                path.display(),
                out.display()
            )));
        }
        // A device can be read for ever, and a pipe has no place to go on from.
        if !is_plain(out) {
            let problem = format!("--out '{}' is not a plain file: choose another", out.display());
            return Err(CommandError::Usage(problem));
        }
        // Before the queue: so it is missing only where somebody has taken it away.
        OpenOptions::new().append(true).create(true).open(out).map_err(|reason| {
            CommandError::Usage(format!("--out '{}' cannot be written: {reason}", out.display()))
        })?;
        let name = connect::worker_name(settings);
        let queue = BatchQueue::open(path, out, settings, &name).await?;
        match Self::read(out, args.format(), jobs, queue, name).await {
            Ok(batch) => Ok(batch),
            Err((error, queue)) => {
                if is_new {
                    queue.delete().await?;
                }
                Err(error)
            }
        }
    }

    /// Finds out what is done and what is under way.
    async fn read(
        out: &Path,
        format: RowFormat,
        jobs: Jobs,
        queue: BatchQueue,
        name: String,
    ) -> Result<Self, (CommandError, BatchQueue)> {
        let read = async {
            let (output, tally, mut known) = OutcomesFile::open(out, format)?;
            let session = queue.broker().connect().await?;
            queue.drop_account_letters(&session).await?;
            let mut under_way = UnderWay::default();
            for (line, job) in queue.jobs(&known).await? {
                known.insert(line, job.id_hash);
                under_way.insert(line, job.bytes);
            }
            let (count, known) = survey(&jobs, known, out, &queue.path).await?;
            Ok((output, tally, known, session, under_way, count))
        };
        match read.await {
            Ok((output, tally, known, session, under_way, count)) => Ok(Self {
                jobs,
                queue,
                session,
                output,
                tally,
                count,
                known: known.into_lines(),
                under_way,
                name,
            }),
            Err(error) => Err((error, queue)),
        }
    }

    async fn work<O: Write, E: Write>(
        self,
        settings: &Settings,
        solver: Solver,
        (progress, console): (&Progress, &mut Console<O, E>),
        stop: &CancellationToken,
    ) -> Result<StoppedBatch, CommandError> {
        let Self { jobs, queue, session, output, tally, count, known, under_way, name } = self;
        if tally.done() == count {
            session.link().close().await;
            let worked = Worked { end: BatchEnd::Complete, output, tally };
            return Ok(StoppedBatch { jobs, queue, count, worked, spent: None });
        }
        progress.go_on_from(tally.done());
        let broker = queue.broker();
        let tracer = connect::tracer(settings, &name, &broker)?;
        let broker = (broker, Linger::every(settings.worker.linger));
        let options = replica::options(settings, name, broker, solver, tracer.clone());
        // Its jobs come from one file.
        let worker = Worker::new(WorkerOptions { lanes: BTreeMap::new(), ..options });
        // There is no other replica to hand them to.
        let worker = worker.finishing_tickets();
        let view = worker.view();
        let input = read_ahead(jobs.without(known)?)?;
        let work = BatchWork {
            session,
            names: queue.names.clone(),
            jobs: count,
            under_way,
            window: settings.worker.max_in_flight.saturating_mul(2).max(LEAST_WINDOW),
            output,
            tally,
            view: view.clone(),
            progress,
            console,
        };
        let drain = CancellationToken::new();
        let running = AbortOnDropHandle::new(tokio::spawn(worker.run(drain.clone())));
        let worked = Box::pin(work.run(input, running, drain, stop)).await;
        tracer.flush().await;
        Ok(StoppedBatch { jobs, queue, count, worked: worked?, spent: work::spent(&view) })
    }
}

/// Counts the jobs, and sees to it that those which are known are still the same.
async fn survey(
    jobs: &Jobs,
    known: IdHashes,
    out: &Path,
    queue: &Path,
) -> Result<(u64, IdHashes), CommandError> {
    let again = jobs.clone();
    let surveyed = spawn_blocking(move || again.survey(&known).map(|found| (found, known)));
    let (found, known) = surveyed.await.map_err(CommandError::failed)??;
    match found {
        Ok(count) => Ok((count, known)),
        Err(line) => Err(CommandError::Usage(format!(
            "{} is not the job that '{1}' or its queue has for it: the input has changed. Bring it back, or choose another --out. To begin anew, and pay again for what was done, delete '{1}' and '{2}'",
            jobs.name(line),
            out.display(),
            queue.display()
        ))),
    }
}

impl StoppedBatch {
    /// Completes the files, and prints the result.
    async fn finish<O: Write, E: Write>(
        self,
        args: &BatchArgs,
        console: &mut Console<O, E>,
    ) -> Result<Exit, CommandError> {
        let Self { jobs, queue, count, worked: Worked { end, mut output, tally }, spent } = self;
        let report = BatchReport::new(count, &tally, spent);
        let done = tally.done();
        let exit = match end {
            BatchEnd::Complete => {
                if args.in_order {
                    output.sort().map_err(CommandError::Output)?;
                }
                if let Some(failed) = &args.failed {
                    write_failed(&jobs, &tally, failed).map_err(|reason| {
                        CommandError::Failed(format!(
                            "--failed '{}' cannot be written: {reason}",
                            failed.display()
                        ))
                    })?;
                }
                queue.delete().await?;
                report.print(console)?;
                return Ok(if tally.solved == count { Exit::Fine } else { Exit::SomeFailed });
            }
            BatchEnd::Interrupted => {
                console.note("interrupted");
                Exit::Interrupted
            }
            BatchEnd::KeyRefused => {
                console.note("error: the API refuses the key: correct solver.api_key before you go on; repeated calls with a refused key earn a ban");
                Exit::Job(Class::Account)
            }
            BatchEnd::Failed(reason) => {
                console.note(format_args!("error: {reason}"));
                Exit::Failed
            }
        };
        console
            .note(format_args!("{done} of {count} jobs are done; the same command goes on with the others"));
        let tickets = queue.tickets().await;
        if tickets > 0 {
            console.note(format_args!(
                "{tickets} paid tasks wait in '{}': go on within 5 minutes, the API keeps their answers no longer",
                queue.path.display()
            ));
        }
        report.print(console)?;
        Ok(exit)
    }
}

/// Writes the jobs that have failed, as they are in the input.
fn write_failed(jobs: &Jobs, tally: &Tally, path: &Path) -> io::Result<()> {
    let mut writer = BufWriter::new(File::create(path)?);
    for job in jobs.of_set(&tally.failed_lines)? {
        // One that could not be read before is none.
        if let Ok(body) = job?.body {
            writer.write_all(&body)?;
            writer.write_all(b"\n")?;
        }
    }
    writer.flush()
}
