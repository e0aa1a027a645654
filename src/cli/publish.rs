//! `captcha-worker publish`: jobs from NDJSON or from image files, each confirmed by the broker.
//!
//! Publishes are pipelined: up to `--window` wait for their confirms at once, and all go through
//! one channel in the input's order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{File, Metadata};
use std::future::ready;
use std::io::{BufReader, IsTerminal, Write, stdin};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::console::{Console, Progress, Total};
use super::input::{BadEntry, Entry, Images, Lines, NewJob, Origin, read_ahead};
use super::report::PublishReport;
use super::{CommandError, Exit};
use crate::broker::topology::Names;
use crate::broker::{Broker, PublishError, Publisher};
use crate::domain::lane::{Lane, LaneRules};
use crate::domain::message::{Message, Properties};

/// Bodies that may wait for confirms at once, in bytes, whatever the window: the bound on memory.
const MOST_BYTES_IN_FLIGHT: usize = 64 << 20;
/// How long the last confirms are awaited once nothing more is sent.
const LAST_CONFIRMS: Duration = Duration::from_secs(30);
/// Buffer for reading lines.
const READ_BUFFER: usize = 256 << 10;

/// Publish jobs and wait until the broker has confirmed each.
///
/// Each job is checked by the rules of the worker's admission, except for the policy, which is the
/// workers'. All jobs of a file are checked before the first one is sent; those of standard input,
/// or with --keep-going, one by one. A job goes out as it is. The first bad job stops the run with
/// its line and field; so does the first publish that the broker does not confirm. The report
/// counts what was confirmed until then, and the exit code is 1.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  captcha-worker publish jobs.ndjson
  generate-jobs | captcha-worker publish -
  captcha-worker publish --image shots/*.png --deadline 5m
  captcha-worker publish --lane urgent one.ndjson
  captcha-worker publish --keep-going --json jobs.ndjson > report.json

Exit codes: 0 all published and confirmed, 1 not all, 2 the command line, the input or the settings cannot be used.")]
pub struct PublishArgs {
    /// NDJSON with one job a line; '-' is standard input
    #[arg(value_name = "FILE", required_unless_present = "images", conflicts_with = "images")]
    pub file: Option<PathBuf>,
    /// Publish each of these images as a job of type `ImageToTextTask`, its id being the file's
    /// name
    #[arg(long = "image", value_name = "FILE", num_args = 1..)]
    pub images: Vec<PathBuf>,
    /// Number the ids of images instead: PREFIX1, PREFIX2, … in the order given
    #[arg(long, value_name = "PREFIX", requires = "images", conflicts_with = "file")]
    pub id_prefix: Option<String>,
    /// Give each image job a deadline this far ahead, such as 90s or 5m; after it nothing more is
    /// spent
    #[arg(long, value_name = "DURATION", requires = "images", conflicts_with = "file", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,
    /// Publish to this lane of the settings
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub lane: Lane,
    /// AMQP priority of each job, from RabbitMQ 4.3 on: of the jobs of a lane, higher ones are
    /// taken first; 0 to 31. RabbitMQ 4.0 to 4.2 know two levels, below 5 and from 5 on. Without
    /// effect on
    /// 3.x and on the embedded broker
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=31))]
    pub priority: Option<u8>,
    /// Publishes that may wait for their confirms at once
    #[arg(long, value_name = "N", default_value = "256")]
    pub window: NonZeroU16,
    /// Go on after a bad line or image, and report all of them at the end (exit code 1)
    #[arg(long)]
    pub keep_going: bool,
    /// Send every line that is JSON: a worker checks it, and a refusal arrives as an outcome
    #[arg(long)]
    pub no_check: bool,
}

impl PublishArgs {
    /// Whether the settings name the lane.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn check_lane(&self, lanes: &BTreeMap<Lane, LaneRules>) -> Result<(), CommandError> {
        if self.lane.is_default() || lanes.contains_key(&self.lane) {
            return Ok(());
        }
        let default = Lane::default();
        let known: BTreeSet<_> = lanes.keys().chain([&default]).map(Lane::name).collect();
        Err(CommandError::Usage(format!(
            "--lane {}: the settings have no such lane; they have {}",
            self.lane,
            known.into_iter().collect::<Vec<_>>().join(", ")
        )))
    }

    /// Whether all of the input is checked before anything is sent: it can be read twice.
    fn checks_first(&self) -> bool {
        let mut files = self.images.iter().chain(&self.file);
        let is_pipe = |file: &PathBuf| file.metadata().is_ok_and(|found| !found.is_file());
        let again = self.file.as_deref() != Some(Path::new("-")) && !files.any(is_pipe);
        again && !self.keep_going && !self.no_check
    }

    /// Readers of outcomes drop what has an id twice, so two images of one name would be answered
    /// once.
    fn refuse_repeated_names(&self) -> Result<(), CommandError> {
        let mut names = BTreeSet::new();
        let repeated = self.images.iter().find(|path| !names.insert(Images::name(path)));
        match repeated {
            Some(path) if self.id_prefix.is_none() => Err(CommandError::Usage(format!(
                "--image '{}': another image has this file name, and so would have the same id; number them with --id-prefix",
                path.display()
            ))),
            _ => Ok(()),
        }
    }
}

/// Runs the command. When `stop` is cancelled nothing more is sent, and what is under way is waited
/// for, 30 s at the most.
///
/// The report goes to `console.out`, faults to `console.err`.
///
/// # Errors
/// Where images share a file name, the input cannot be opened, the broker cannot be
/// reached, or the job queue does not exist.
pub async fn publish<O: Write, E: Write>(
    args: PublishArgs,
    broker: &Broker,
    names: &Names,
    console: &mut Console<O, E>,
    stop: &CancellationToken,
) -> Result<Exit, CommandError> {
    if args.file.as_deref() == Some(Path::new("-")) && stdin().is_terminal() {
        console.note("reading jobs from the terminal, one a line; Ctrl-D ends");
    }
    args.refuse_repeated_names()?;
    let bad = if args.checks_first() { first_bad(open(&args)?.0, stop).await } else { None };
    let (entries, total) = open(&args)?;
    let mut progress = Progress::new(total, console.err_is_terminal && !console.is_forced_json());
    // The name of the lane's exchange and of its queue.
    let jobs = names.jobs_of(&args.lane);
    if args.priority.is_some() && !matches!(broker, Broker::Amqp(_)) {
        console.note("--priority has no effect: this broker has no priorities");
    }
    let connecting = async {
        let session = broker.connect().await?;
        session.link().depth(&jobs).await?;
        Ok::<_, CommandError>(session)
    };
    let mut report = PublishReport::default();
    tokio::select! {
        biased;
        () = ready(()), if bad.is_some() => {
            report.interrupted = true;
            bad.into_iter().for_each(|bad| report.bad_entry(bad));
        }
        () = stop.cancelled() => report.interrupted = true,
        session = connecting => {
            let session = session?;
            let pipeline = Pipeline::new(session.publisher().clone(), (jobs.clone(), args.priority), args.window, &mut progress);
            report = pipeline.run(entries, args.keep_going, stop).await;
            session.link().close().await;
        }
    }
    progress.clear();
    report.print(console)
}

/// The first entry that cannot be published.
async fn first_bad(mut entries: mpsc::Receiver<Entry>, stop: &CancellationToken) -> Option<BadEntry> {
    while let Some(Some(entry)) = stop.run_until_cancelled(entries.recv()).await {
        if let Err(bad) = entry {
            return Some(bad);
        }
    }
    None
}

/// Opens the input, and returns its length where that is known.
fn open(args: &PublishArgs) -> Result<(mpsc::Receiver<Entry>, Total), CommandError> {
    let no_check = args.no_check;
    let checked = move |entry: Entry| if no_check { entry } else { entry.and_then(NewJob::checked) };
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |reason| CommandError::Input { path, reason }
    };
    match args.file.as_deref() {
        None => {
            let total = Total::Jobs(args.images.len() as u64);
            let images = Images::new(args.images.clone(), args.id_prefix.clone(), args.deadline);
            let entries = read_ahead(images.map(checked)).map_err(failed(Path::new("--image")))?;
            Ok((entries, total))
        }
        Some(path) if path == Path::new("-") => {
            let reader = BufReader::with_capacity(READ_BUFFER, stdin());
            let entries = read_ahead(Lines::new(reader).map(checked)).map_err(failed(path))?;
            Ok((entries, Total::Open))
        }
        Some(path) => {
            let file = File::open(path).map_err(failed(path))?;
            let regular = file.metadata().ok().filter(Metadata::is_file);
            let total = regular.map_or(Total::Open, |file| Total::Bytes(file.len()));
            let reader = BufReader::with_capacity(READ_BUFFER, file);
            let entries = read_ahead(Lines::new(reader).map(checked)).map_err(failed(path))?;
            Ok((entries, total))
        }
    }
}

type Flight = Pin<Box<dyn Future<Output = Result<(), PublishError>> + Send>>;

/// The publishes under way on one channel, in order.
struct Pipeline<'a> {
    publisher: Publisher,
    jobs: String,
    priority: Option<u8>,
    window: usize,
    flights: FuturesOrdered<Flight>,
    // The same flights: where each was read, and how many bytes it holds.
    waiting: VecDeque<(Origin, usize)>,
    bytes: usize,
    report: PublishReport,
    progress: &'a mut Progress,
}

impl<'a> Pipeline<'a> {
    fn new(
        publisher: Publisher,
        (jobs, priority): (String, Option<u8>),
        window: NonZeroU16,
        progress: &'a mut Progress,
    ) -> Self {
        Self {
            publisher,
            jobs,
            priority,
            window: usize::from(window.get()),
            flights: FuturesOrdered::new(),
            waiting: VecDeque::new(),
            bytes: 0,
            report: PublishReport::default(),
            progress,
        }
    }

    async fn run(
        mut self,
        mut entries: mpsc::Receiver<Entry>,
        keep_going: bool,
        stop: &CancellationToken,
    ) -> PublishReport {
        while !self.report.interrupted {
            tokio::select! {
                biased;
                () = stop.cancelled() => self.report.interrupted = true,
                Some(end) = self.flights.next(), if !self.flights.is_empty() => {
                    // The next publishes would most likely fail too, and would be out of order.
                    self.report.interrupted = end.is_err();
                    self.land(end);
                }
                entry = entries.recv(), if self.has_room() => match entry {
                    None => break,
                    Some(Ok(job)) => self.send(job, stop).await,
                    Some(Err(bad)) => {
                        self.report.bad_entry(bad);
                        self.report.interrupted = !keep_going;
                    }
                }
            }
        }
        self.finish().await
    }

    fn has_room(&self) -> bool {
        self.waiting.len() < self.window && self.bytes < MOST_BYTES_IN_FLIGHT
    }

    /// Sends a job, and after a stop does not: sending may have to wait until the channel's owner
    /// has room.
    async fn send(&mut self, job: NewJob, stop: &CancellationToken) {
        let bytes = job.body.len();
        let mut message = message(job.body, job.id);
        message.properties.priority = self.priority;
        let sent = tokio::select! {
            biased;
            sent = self.publisher.send(&self.jobs, &self.jobs, true, message) => sent,
            () = stop.cancelled() => {
                self.report.interrupted = true;
                return;
            }
        };
        if sent.is_ok() {
            self.report.last_sent = Some(job.origin.clone());
        }
        self.bytes += bytes;
        self.waiting.push_back((job.origin, bytes));
        self.flights.push_back(match sent {
            Ok(confirm) => Box::pin(confirm.answered()),
            // Takes its turn behind those that were sent before it.
            Err(error) => Box::pin(ready(Err(error))),
        });
    }

    fn land(&mut self, end: Result<(), PublishError>) {
        if let Some((origin, bytes)) = self.waiting.pop_front() {
            self.bytes -= bytes;
            let confirmed = end.is_ok();
            self.report.settled(origin, end);
            if confirmed {
                self.progress.confirmed(bytes, self.report.published, self.waiting.len());
            }
        }
    }

    /// Waits for what is under way, and gives up what has no confirm in time.
    async fn finish(mut self) -> PublishReport {
        let until = Instant::now() + LAST_CONFIRMS;
        while let Ok(Some(end)) = timeout_at(until, self.flights.next()).await {
            self.land(end);
        }
        while !self.waiting.is_empty() {
            self.land(Err(PublishError::Unknown("no confirm in time".to_owned())));
        }
        self.report
    }
}

/// A job as it is published.
pub(super) fn message(body: impl Into<Bytes>, id: Option<String>) -> Message {
    Message {
        body: body.into(),
        properties: Properties {
            content_type: Some("application/json".to_owned()),
            message_id: id,
            // From it workers compute how long jobs wait (captcha_queue_wait_seconds).
            timestamp: SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()),
            ..Properties::default()
        },
        transient: false,
    }
}
