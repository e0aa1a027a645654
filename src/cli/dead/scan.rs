//! One bounded scan of a queue of dead letters, and what every command reports of it.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::letters::counted;
use super::select::{Filters, ScanLimit};
use super::{CommandContext, DynConsole};
use crate::broker::topology::Names;
use crate::broker::{Broker, Delivery, Receipt, Session};
use crate::cli::outcomes::DeadLetters;
use crate::cli::queue_reader::{NextMessage, QueueReader};
use crate::cli::{CommandError, Exit};
use crate::domain::dead_letter::{DeadLetter, LetterQueue};
use crate::domain::message::Message;

/// Letters of a class that one channel holds: an outcome has at most 3 MiB, and few have more than
/// 100 kB.
const HOLDS: u16 = 128;
/// The same for dead.raw, where a message may have any size that the broker takes.
const HOLDS_RAW: u16 = 16;
/// Channels of one connection; RabbitMQ allows 2,047 unless configured otherwise.
const MOST_CHANNELS: u64 = 1_000;
/// Nothing arriving for so long, while more were there, means that somebody else has the rest.
const IDLE: Duration = Duration::from_secs(10);
/// The broker closes a channel that has held a delivery for 30 minutes.
const LONGEST: Duration = Duration::from_secs(20 * 60);
/// The result of scanning one queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueScan {
    pub(super) queue: DeadLetters,
    /// Letters that were there as the scan began.
    pub(super) there: u64,
    /// Letters scanned.
    scanned: u64,
    /// It ended for its length, with letters left.
    pub(super) took_too_long: bool,
    /// It ended since the letters that were left did not arrive.
    pub(super) ended_early: bool,
}

impl QueueScan {
    pub(super) fn not_scanned(&self) -> u64 {
        self.there.saturating_sub(self.scanned)
    }
}

/// A scan under way.
pub(super) struct Scan {
    session: Session,
    reader: QueueReader,
    queue: String,
    names: (String, String),
    most: u64,
    seen: QueueScan,
    until: Instant,
}

impl Scan {
    /// Begins to scan up to `most` letters.
    ///
    /// # Errors
    /// The broker cannot be reached, or the queue does not exist.
    pub(super) async fn begin(
        broker: &Broker,
        names: &Names,
        queue: DeadLetters,
        most: u64,
    ) -> Result<Self, CommandError> {
        let session = broker.connect().await?;
        let name = queue.queue(names);
        let there = session.link().depth(&name).await?.ready;
        let holds = if queue == DeadLetters::Raw { HOLDS_RAW } else { HOLDS };
        let most = most.min(there).min(u64::from(holds) * MOST_CHANNELS);
        Ok(Self {
            reader: QueueReader::new(&session, &name, "dead", holds, most),
            session,
            queue: name,
            names: (names.jobs(), names.tickets()),
            most,
            seen: QueueScan { queue, there, scanned: 0, took_too_long: false, ended_early: false },
            until: Instant::now() + LONGEST,
        })
    }

    /// The session, for publishing.
    pub(super) fn session(&self) -> &Session {
        &self.session
    }

    /// The queue's full name.
    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    /// Letters scanned, and how many are to be.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.seen.scanned, self.most)
    }

    /// Whether no more can arrive before something is settled: the caller should settle what it
    /// holds, or another channel is opened.
    pub(super) fn is_full(&self) -> bool {
        self.reader.is_full()
    }

    /// Until when letters may be held.
    pub(super) fn until(&self) -> Instant {
        self.until
    }

    /// It ends for its length.
    pub(super) fn took_too_long(&mut self) {
        self.seen.took_too_long = true;
    }

    /// What a message of this queue is.
    pub(super) fn read(&self, message: &Message) -> Option<DeadLetter> {
        let (jobs, tickets) = &self.names;
        DeadLetter::read(message, LetterQueue { class: self.seen.queue.class(), jobs, tickets })
    }

    /// The next letter; `None` at the scan's end.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> Result<Option<Delivery>, CommandError> {
        if self.seen.scanned < self.most && !stop.is_cancelled() && Instant::now() >= self.until {
            self.took_too_long();
            return Ok(None);
        }
        match self.reader.next(stop, Some(IDLE)).await? {
            NextMessage::Delivery(delivery) => {
                self.seen.scanned += 1;
                return Ok(Some(delivery));
            }
            NextMessage::Idle => self.seen.ended_early = true,
            NextMessage::Done | NextMessage::Stopped => {}
        }
        Ok(None)
    }

    /// The letter goes back when the scan ends.
    pub(super) fn keep(&mut self, receipt: Receipt) {
        self.reader.keep(receipt);
    }

    /// The letters are removed, see [`QueueReader::remove`].
    ///
    /// # Errors
    /// The channel is gone.
    pub(super) async fn remove(&mut self, receipts: Vec<Receipt>) -> Result<(), CommandError> {
        Ok(self.reader.remove(receipts).await?)
    }

    /// Puts back what was kept, in order.
    pub(super) async fn end(self) -> QueueScan {
        let (_, held) = self.reader.close().await;
        self.session.link().close().await;
        drop(held);
        self.seen
    }
}

/// What a command does with each queue.
pub(super) trait Walker {
    /// Goes through one queue. When it ends, every letter has been settled, or is the scan's to put
    /// back.
    async fn visit(&mut self, scan: &mut Scan, context: &mut CommandContext<'_>) -> Result<(), CommandError>;

    /// The report that each queue's result is added to.
    fn scan_report(&mut self) -> &mut ScanReport;

    /// Whether it wants no more.
    fn is_over(&self) -> bool {
        false
    }
}

/// Walks through the queues that the filters name, until one fails; what has failed.
pub(super) async fn walk(
    walker: &mut impl Walker,
    filters: &Filters,
    limit: &ScanLimit,
    context: &mut CommandContext<'_>,
) -> Option<CommandError> {
    for queue in filters.queues() {
        if context.stop.is_cancelled() || walker.is_over() {
            break;
        }
        if let Err(failure) = scan_queue(walker, queue, limit, context).await {
            return Some(failure);
        }
    }
    None
}

async fn scan_queue(
    walker: &mut impl Walker,
    queue: DeadLetters,
    limit: &ScanLimit,
    context: &mut CommandContext<'_>,
) -> Result<(), CommandError> {
    let mut scan = Scan::begin(context.broker, context.names, queue, limit.scan).await?;
    let done = walker.visit(&mut scan, context).await;
    walker.scan_report().left(scan.end().await);
    done
}

/// The queues that a run has scanned.
#[derive(Default)]
pub(super) struct ScanReport {
    queues: Vec<QueueScan>,
    stopped: Option<String>,
}

impl ScanReport {
    /// A queue was left.
    pub(super) fn left(&mut self, seen: QueueScan) {
        self.queues.push(seen);
    }

    /// The run has ended before its time.
    pub(super) fn stopped(&mut self, why: &str) {
        self.stopped.get_or_insert_with(|| why.to_owned());
    }

    /// The same, where it was by Ctrl-C.
    pub(super) fn interrupted(&mut self, stop: &CancellationToken) {
        if stop.is_cancelled() {
            self.stopped("interrupted");
        }
    }

    /// Whether everything that was to be scanned has been.
    pub(super) fn is_whole(&self) -> bool {
        self.stopped.is_none() && !self.took_too_long() && !self.ended_early()
    }

    pub(super) fn scanned(&self) -> u64 {
        self.queues.iter().map(|seen| seen.scanned).sum()
    }

    pub(super) fn not_scanned(&self) -> u64 {
        self.queues.iter().map(QueueScan::not_scanned).sum()
    }

    fn took_too_long(&self) -> bool {
        self.queues.iter().any(|seen| seen.took_too_long)
    }

    fn ended_early(&self) -> bool {
        self.queues.iter().any(|seen| seen.ended_early)
    }

    /// Adds all of it to a command's report.
    pub(super) fn add_to(&self, mut report: Json) -> Json {
        let queues: Json = self.queues.iter().map(queue_json).collect();
        for (name, value) in [
            ("scanned", self.scanned().into()),
            ("not_scanned", self.not_scanned().into()),
            ("took_too_long", self.took_too_long().into()),
            ("ended_early", self.ended_early().into()),
            ("stopped", self.stopped.as_deref().into()),
            ("queues", queues),
        ] {
            report[name] = value;
        }
        report
    }

    /// Notes why not everything was scanned.
    pub(super) fn print_notes(&self, console: &mut DynConsole<'_>) {
        for seen in &self.queues {
            let (queue, there, missed) = (seen.queue.name(), counted(seen.there), seen.not_scanned());
            if seen.took_too_long {
                console.note(format_args!(
                    "{queue}: stopped after 20 minutes, {missed} of {there} not scanned: the broker takes back what is held for 30; run the command again"
                ));
            } else if seen.ended_early {
                console.note(format_args!(
                    "{queue}: {missed} of {there} not delivered within 10 s: another consumer holds them, or they are gone; run the command again"
                ));
            } else if missed > 0 {
                console.note(format_args!("{queue}: {missed} of {there} not scanned; see --scan"));
            }
        }
        if let Some(why) = &self.stopped {
            console.note(format_args!("stopped: {why}; the remaining letters stay, run the command again"));
        }
    }
}

fn queue_json(seen: &QueueScan) -> Json {
    json!({
        "queue": seen.queue.name(), "there": seen.there, "scanned": seen.scanned, "not_scanned": seen.not_scanned(),
        "took_too_long": seen.took_too_long, "ended_early": seen.ended_early,
    })
}

/// How a run ends. Its failure comes first: a report that could not be printed must not hide it.
pub(super) fn ended(
    failure: Option<CommandError>,
    printed: Result<(), CommandError>,
    fine: bool,
) -> Result<Exit, CommandError> {
    match failure.or(printed.err()) {
        None => Ok(Exit::when(fine)),
        Some(CommandError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Failed),
        Some(failure) => Err(failure),
    }
}
