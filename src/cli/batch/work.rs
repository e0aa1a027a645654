//! A batch at work: jobs go from the input to the queue, through a window, and outcomes from the
//! queue to the output. The worker in between is that of `run`.

use std::collections::HashMap;
use std::future::ready;
use std::io::{self, Write};
use std::mem::take;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::account::{AccountWatch, Notice};
use super::jobs::NumberedJob;
use super::output::{OutcomesFile, Tally};
use super::queue::line_of;
use super::row::Row;
use crate::broker::topology::Names;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, PublishError, Receipt, Session};
use crate::cli::console::{Console, Progress};
use crate::cli::outcomes::DeadLetters;
use crate::cli::{CommandError, publish};
use crate::domain::class::Class;
use crate::domain::message::{Message, Properties};
use crate::domain::money::Decimal;
use crate::worker::{Drained, Spent, WorkerHandle};

/// Bodies of jobs that are under way, in bytes: with the window the bound on memory.
const MOST_BYTES: usize = 256 << 20;
/// Outcomes of one queue that may wait here.
const PREFETCH: u16 = 256;
/// Rows that are written together at most, and how long the first one waits for others.
const MOST_ROWS: usize = 512;
const ROW_WAIT: Duration = Duration::from_millis(50);
/// How long an outcome is awaited once the worker has ended.
const LAST: Duration = Duration::from_millis(200);
/// How often the progress is drawn, and the API checked.
const TICK: Duration = Duration::from_millis(250);

/// A publish under way.
type Confirming = BoxFuture<'static, Result<(), PublishError>>;

/// How the work has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BatchEnd {
    /// Every job has its row.
    Complete,
    /// By a signal.
    Interrupted,
    /// The API refuses the key.
    KeyRefused,
    /// It cannot go on.
    Failed(String),
}

/// What is worked with.
pub(super) struct BatchWork<'a, O, E> {
    pub(super) session: Session,
    pub(super) names: Names,
    /// How many jobs there are.
    pub(super) jobs: u64,
    pub(super) under_way: UnderWay,
    /// How many may be.
    pub(super) window: usize,
    pub(super) output: OutcomesFile,
    pub(super) tally: Tally,
    pub(super) view: WorkerHandle,
    pub(super) progress: &'a Progress,
    pub(super) console: &'a mut Console<O, E>,
}

/// Jobs that are in the queue, and not in the output: the bytes of each by line.
#[derive(Debug, Default)]
pub(super) struct UnderWay {
    jobs: HashMap<u64, usize>,
    bytes: usize,
}

impl UnderWay {
    pub(super) fn insert(&mut self, line: u64, bytes: usize) {
        self.bytes += bytes;
        self.bytes -= self.jobs.insert(line, bytes).unwrap_or_default();
    }

    /// Whether it was there.
    fn remove(&mut self, line: u64) -> bool {
        let bytes = self.jobs.remove(&line);
        self.bytes -= bytes.unwrap_or_default();
        bytes.is_some()
    }
}

/// What a queue of outcomes has brought.
#[expect(clippy::large_enum_variant, reason = "nearly all are outcomes")]
enum Arrival {
    /// The end of a job.
    Outcome(Delivery),
    /// A job that met a refused key. Nothing is wrong with it.
    Refused,
}

/// What is left when the work has ended.
pub(super) struct Worked {
    pub(super) end: BatchEnd,
    pub(super) output: OutcomesFile,
    pub(super) tally: Tally,
}

impl<O: Write, E: Write> BatchWork<'_, O, E> {
    /// Works until every job has its row, or nothing more can be done. `running` is the worker,
    /// which ends after `drain` is cancelled.
    pub(super) async fn run(
        mut self,
        mut input: mpsc::Receiver<io::Result<NumberedJob>>,
        mut running: AbortOnDropHandle<Result<Drained, BrokerError>>,
        drain: CancellationToken,
        stop: &CancellationToken,
    ) -> Result<Worked, CommandError> {
        let (mut arrivals, _consumers) = self.consume().await?;
        let mut confirms = FuturesUnordered::<Confirming>::new();
        let mut rows = Rows::default();
        let mut account = AccountWatch::new(&self.view);
        let mut seen = self.view.watch();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = None;
        // Once rows cannot be written, outcomes stay in the queue.
        let (mut takes_outcomes, mut all_read) = (true, false);
        let session = self.session.clone();
        loop {
            if self.tally.done() == self.jobs && rows.is_empty() {
                end.get_or_insert(BatchEnd::Complete);
            }
            if end.is_some() {
                drain.cancel();
            }
            let feeds = end.is_none() && self.has_room();
            tokio::select! {
                () = stop.cancelled(), if end.is_none() => {
                    self.note("stopping: paid tasks are finished first, within worker.drain_timeout; a second Ctrl-C ends at once");
                    end = Some(BatchEnd::Interrupted);
                }
                ended = &mut running => {
                    if let Err(error) = ended.map_err(CommandError::failed)? {
                        end.get_or_insert(BatchEnd::Failed(error.to_string()));
                    }
                    break;
                }
                reason = session.closed(), if end.is_none() => end = Some(BatchEnd::Failed(reason)),
                Some(fate) = confirms.next() => if let Err(error) = fate {
                    // The job may be in the queue all the same, and its outcome may arrive.
                    end.get_or_insert(BatchEnd::Failed(format!("a job cannot be put into the queue: {error}")));
                },
                Some(arrival) = arrivals.recv(), if takes_outcomes => match arrival {
                    Arrival::Outcome(delivery) => if let Err(foreign) = self.add_outcome(&mut rows, delivery) {
                        takes_outcomes = false;
                        end.get_or_insert(BatchEnd::Failed(foreign));
                    },
                    Arrival::Refused => drop(end.get_or_insert(BatchEnd::KeyRefused)),
                },
                () = sleep_until(rows.due()), if !rows.is_empty() => rows.is_due = true,
                job = input.recv(), if feeds && !all_read => match job {
                    Some(Ok(job)) => confirms.extend(self.feed(job, &mut rows).await),
                    Some(Err(error)) => end = Some(BatchEnd::Failed(format!("the input cannot be read: {error}"))),
                    None => all_read = true,
                },
                _ = seen.changed() => match account.check(&self.view) {
                    Some(Notice::KeyRefused) => drop(end.get_or_insert(BatchEnd::KeyRefused)),
                    Some(Notice::Text(text)) => self.note(&text),
                    None => {}
                },
                _ = ticks.tick() => {
                    if let Some(Notice::Text(text)) = account.check_api(&self.view) {
                        self.note(&text);
                    }
                    self.show();
                }
            }
            if (rows.is_due || rows.len() >= MOST_ROWS)
                && let Err(error) = self.write(&mut rows).await
            {
                takes_outcomes = false;
                end = Some(BatchEnd::Failed(error.to_string()));
            }
        }
        // What the worker has finished on its way out. Any later one stays in the queue.
        while takes_outcomes
            && self.tally.done() + (rows.rows.len() as u64) < self.jobs
            && let Ok(Some(arrival)) = timeout(LAST, arrivals.recv()).await
        {
            if let Arrival::Outcome(delivery) = arrival {
                takes_outcomes = self.add_outcome(&mut rows, delivery).is_ok();
            }
        }
        if let Err(error) = self.write(&mut rows).await {
            end = Some(BatchEnd::Failed(error.to_string()));
        }
        // It carries out the acks.
        session.link().close().await;
        let end = match end {
            _ if self.tally.done() == self.jobs => BatchEnd::Complete,
            Some(end) => end,
            None => BatchEnd::Failed("the worker has ended".to_owned()),
        };
        Ok(Worked { end, output: self.output, tally: self.tally })
    }

    fn has_room(&self) -> bool {
        self.under_way.jobs.len() < self.window && self.under_way.bytes < MOST_BYTES
    }

    /// Consumes from every queue in which a job can end.
    async fn consume(&self) -> Result<(mpsc::Receiver<Arrival>, Vec<AbortOnDropHandle<()>>), CommandError> {
        let (send, arrivals) = mpsc::channel(usize::from(PREFETCH));
        let mut consumers = Vec::new();
        let dead = DeadLetters::all().map(|letters| (letters.queue(&self.names), letters.class()));
        for (queue, class) in dead.chain([(self.names.results(), None)]) {
            let spec = ConsumeSpec { tag: format!("batch {queue}"), queue, prefetch: PREFETCH };
            let consumer = self.session.link().consume(spec).await?;
            let forwarding = forward(consumer, class == Some(Class::Account), send.clone());
            consumers.push(AbortOnDropHandle::new(tokio::spawn(forwarding)));
        }
        Ok((arrivals, consumers))
    }

    /// An outcome is to be written, unless its job has a row already.
    ///
    /// # Errors
    /// It is none of this batch's jobs: somebody has published to the queue. It stays there.
    fn add_outcome(&mut self, rows: &mut Rows, delivery: Delivery) -> Result<(), String> {
        let line = line_of(&delivery.message).ok_or(
            "somebody has published a job to the queue of this batch: take its outcome out with `captcha-worker outcomes --ack`",
        )?;
        // One that is not under way has its row: a job can end twice where a process was killed.
        let is_under_way = self.under_way.remove(line);
        let row = is_under_way.then(|| Row::of_message(line, &delivery.message, self.output.format()));
        rows.add(row, Some(delivery.receipt));
        Ok(())
    }

    /// Publishes a job, or writes why it cannot be one.
    async fn feed(&mut self, job: NumberedJob, rows: &mut Rows) -> Option<Confirming> {
        let (line, id) = (job.line, job.id());
        let body = match job.body {
            Ok(body) => body,
            Err(reason) => {
                rows.add(Some(Row::of_unusable(line, &id, &reason, self.output.format())), None);
                return None;
            }
        };
        self.under_way.insert(line, body.len());
        let message = publish::message(body, Some(id));
        let properties = Properties { correlation_id: Some(line.to_string()), ..message.properties };
        let message = Message { properties, ..message };
        let jobs = self.names.jobs();
        match self.session.publisher().send(&jobs, &jobs, true, message).await {
            Ok(confirm) => Some(confirm.answered_or_lost().boxed()),
            Err(error) => Some(ready(Err(error)).boxed()),
        }
    }

    /// Writes the rows, and acks their messages once they are on the disk.
    async fn write(&mut self, rows: &mut Rows) -> Result<(), CommandError> {
        let Rows { rows, receipts, .. } = take(rows);
        let rows = self.output.append(rows).await?;
        for row in rows {
            self.tally.add(row.line, row.class);
        }
        for receipt in receipts {
            // Where the channel is gone, the message is delivered again, and its job is found done.
            let _ = receipt.ack_batched();
        }
        Ok(())
    }

    fn show(&self) {
        self.progress.advance_to(self.tally.done(), || {
            let (solved, failed) = (self.tally.solved, self.tally.failed_lines.len());
            let spent = spent(&self.view).map_or_else(String::new, |cost| format!(", {cost} spent"));
            format!("{solved} solved, {failed} failed, {} in flight{spent}", self.view.in_flight())
        });
    }

    fn note(&mut self, text: &str) {
        let Self { progress, console, .. } = self;
        progress.suspended(|| console.note(text));
    }
}

/// What this run's tasks have cost, as far as that is known.
pub(super) fn spent(view: &WorkerHandle) -> Option<Decimal> {
    let cost: Decimal = view.reading().spent.values().map(Spent::cost).sum();
    (cost > Decimal::ZERO).then(|| cost.normalize())
}

/// Hands a queue's messages on. Those of a refused key stay in their queue: the next run publishes
/// their jobs again.
async fn forward(mut consumer: Consumer, is_account: bool, arrivals: mpsc::Sender<Arrival>) {
    let mut kept = Vec::new();
    while let Some(delivery) = consumer.recv().await {
        let arrival = if is_account {
            kept.push(delivery.receipt);
            Arrival::Refused
        } else {
            Arrival::Outcome(delivery)
        };
        if arrivals.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Rows that wait to be written, with the right to settle their messages.
#[derive(Default)]
struct Rows {
    rows: Vec<Row>,
    receipts: Vec<Receipt>,
    first: Option<Instant>,
    is_due: bool,
}

impl Rows {
    fn add(&mut self, row: Option<Row>, receipt: Option<Receipt>) {
        self.first.get_or_insert_with(Instant::now);
        self.rows.extend(row);
        self.receipts.extend(receipt);
    }

    fn len(&self) -> usize {
        self.rows.len().max(self.receipts.len())
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn due(&self) -> Instant {
        self.first.unwrap_or_else(Instant::now) + ROW_WAIT
    }
}
