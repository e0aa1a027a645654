//! `captcha-worker outcomes`: what became of jobs, shown or taken.

use std::io::{self, Write};
use std::num::NonZeroU64;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::console::Console;
use super::queue_reader::{NextMessage, QueueReader};
use super::render::{ndjson, table_head, table_row};
use super::{CommandError, Exit};
use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError, Delivery, Session};
use crate::clock::{Reconnect, Rng};
use crate::domain::class::Class;

/// The most that a look may hold at once: no other consumer can have them meanwhile.
const MOST_SHOWN: u64 = 2_000;
/// A look without `--limit`.
const DEFAULT_LIMIT: u64 = 100;

/// Print outcomes: results, dead letters, or what no queue was bound for.
///
/// Without --ack it peeks: it takes up to --limit outcomes off the queue, prints them, and puts
/// them back. That counts as a delivery of each (the broker dead-letters a message after 1,000 of
/// them), and hides them from other consumers meanwhile. With --ack each outcome is printed and
/// flushed first and removed then, so that a crash may print one twice but loses none.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  captcha-worker outcomes                            look at up to 100 results
  captcha-worker outcomes --dead proxy --limit 20    look at dead letters
  captcha-worker outcomes --ack > results.ndjson     take all results there are
  captcha-worker outcomes --ack --follow | consumer  take them as they come

Of failed jobs, `captcha-worker dead list` counts them by class, code and type, and `dead replay` publishes them again.

Exit codes: 0 fine, 1 failed (or output closed early with --ack), 2 wrong usage.")]
pub struct OutcomesArgs {
    /// Dead letters of this class instead of results; 'raw' is what the broker itself dead-lettered
    #[arg(long, value_name = "CLASS", value_parser = dead_letters())]
    pub dead: Option<DeadLetters>,
    /// Outcomes that no queue was bound for, instead of results
    #[arg(long, conflicts_with = "dead")]
    pub unrouted: bool,
    /// Print at most so many. Without it: 100 for a look (2,000 at most), all that is there with
    /// --ack, no end with --follow
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroU64>,
    /// Remove each outcome once it is printed
    #[arg(long)]
    pub ack: bool,
    /// Wait for more until Ctrl-C
    #[arg(long, requires = "ack")]
    pub follow: bool,
    /// Print proxy credentials of failed jobs in NDJSON, as replaying them needs
    #[arg(long)]
    pub show_secrets: bool,
}

/// Which dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadLetters {
    /// Failed jobs of a class.
    Class(Class),
    /// What the broker itself dead-lettered.
    Raw,
}

impl DeadLetters {
    /// Every queue of them.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        Class::finals().map(DeadLetters::Class).chain([DeadLetters::Raw])
    }

    /// The class's name, or `raw`.
    pub(super) fn name(self) -> &'static str {
        self.class().map_or("raw", Class::name)
    }

    pub(super) fn class(self) -> Option<Class> {
        match self {
            DeadLetters::Class(class) => Some(class),
            DeadLetters::Raw => None,
        }
    }

    /// The queue's full name.
    pub(super) fn queue(self, names: &Names) -> String {
        match self {
            DeadLetters::Class(class) => names.dead(class),
            DeadLetters::Raw => names.dead_raw(),
        }
    }
}

pub(super) fn dead_letters() -> impl TypedValueParser<Value = DeadLetters> {
    let names = Class::finals().map(Class::name).chain(["raw"]);
    // Every listed name save `raw` is a class.
    PossibleValuesParser::new(names).map(|name| name.parse().map_or(DeadLetters::Raw, DeadLetters::Class))
}

impl OutcomesArgs {
    /// The queue to read.
    #[must_use]
    pub fn queue(&self, names: &Names) -> String {
        match self.dead {
            Some(letters) => letters.queue(names),
            None if self.unrouted => names.unrouted(),
            None => names.results(),
        }
    }

    fn limit(&self) -> Result<u64, CommandError> {
        let limit = self.limit.map(NonZeroU64::get);
        if self.ack {
            return Ok(limit.unwrap_or(u64::MAX));
        }
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if limit > MOST_SHOWN {
            return Err(CommandError::Usage(format!(
                "--limit {limit}: without --ack at most {MOST_SHOWN} outcomes are read, because other consumers cannot get them meanwhile; add --ack to take more"
            )));
        }
        Ok(limit)
    }
}

/// Runs the command. When `stop` is cancelled, what was printed is settled and the rest goes back.
///
/// # Errors
/// Where the arguments do not go together, the broker cannot be reached or is lost (with
/// `--follow` it is connected to again), the queue does not exist, or the output cannot be written.
/// A closed pipe is no error.
pub async fn outcomes<O: Write, E: Write>(
    args: OutcomesArgs,
    broker: &Broker,
    names: &Names,
    console: &mut Console<O, E>,
    stop: &CancellationToken,
) -> Result<Exit, CommandError> {
    let follow = args.follow;
    let mut reading = OutcomeReading::try_new(args, broker, names, console, stop)?;
    reading.warn();
    if follow { reading.follow().await } else { reading.once().await }
}

/// Deliveries ahead of printing. Whatever is not printed goes back, with its delivery counted.
const PREFETCH: u16 = 256;
/// Nothing arriving for so long means that somebody else has the rest.
const IDLE: Duration = Duration::from_secs(1);

/// Why reading stopped.
enum Stopped {
    /// The limit, or all there was.
    Done,
    /// Cancelled.
    Cancelled,
    /// The consumer has ended, or the broker cannot be reached for now.
    Lost(BrokerError),
    /// Nobody reads the output any more, or it cannot be written.
    Output(io::Error),
}

/// One run of the command.
pub(super) struct OutcomeReading<'a, O, E> {
    args: OutcomesArgs,
    queue: String,
    broker: &'a Broker,
    console: &'a mut Console<O, E>,
    stop: &'a CancellationToken,
    /// Of a table.
    width: usize,
    /// Outcomes that may still be printed.
    left: u64,
    printed: u64,
    /// Printed, but the channel was lost before they were settled.
    stale: u64,
}

impl<'a, O: Write, E: Write> OutcomeReading<'a, O, E> {
    /// # Errors
    /// Where the limit is more than a look may hold back.
    pub(super) fn try_new(
        args: OutcomesArgs,
        broker: &'a Broker,
        names: &Names,
        console: &'a mut Console<O, E>,
        stop: &'a CancellationToken,
    ) -> Result<Self, CommandError> {
        Ok(Self {
            queue: args.queue(names),
            width: console.width(),
            left: args.limit()?,
            args,
            broker,
            console,
            stop,
            printed: 0,
            stale: 0,
        })
    }

    /// Notes what a look costs.
    pub(super) fn warn(&mut self) {
        if !self.args.ack {
            self.console.note(format_args!(
                "reading '{}' without --ack: each outcome is put back; that counts as one of its 1,000 deliveries, and hides it from other consumers meanwhile",
                self.queue
            ));
        }
    }

    pub(super) async fn once(mut self) -> Result<Exit, CommandError> {
        let stopped = self.session(Some(IDLE)).await?;
        self.end(stopped)
    }

    /// Goes on over lost connections: with --follow the outcomes after them are wanted too.
    pub(super) async fn follow(mut self) -> Result<Exit, CommandError> {
        let mut reconnect = Reconnect::default();
        let mut connected = false;
        loop {
            let before = self.printed;
            let stopped = match self.session(None).await {
                Err(CommandError::Broker(error)) if connected && error.is_passing() => Stopped::Lost(error),
                other => other?,
            };
            let Stopped::Lost(error) = stopped else {
                return self.end(stopped);
            };
            connected = true;
            if self.printed > before {
                reconnect.reset();
            }
            let pause = reconnect.wait(Rng::Thread.jitter());
            self.console.note(format_args!("{error}; connecting again in {:.1} s", pause.as_secs_f64()));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.end(Stopped::Cancelled),
                () = sleep(pause) => {}
            }
        }
    }

    /// Reads over one session. `idle`: read what is there now, and wait no longer than that for
    /// each.
    async fn session(&mut self, idle: Option<Duration>) -> Result<Stopped, CommandError> {
        let (stop, broker) = (self.stop, self.broker);
        let session = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Stopped::Cancelled),
            session = broker.connect() => session?,
        };
        let stopped = self.read(&session, idle).await;
        session.link().close().await;
        stopped
    }

    /// Prints outcomes. Each is acked once it is out, or kept to go back.
    async fn read(&mut self, session: &Session, idle: Option<Duration>) -> Result<Stopped, CommandError> {
        let depth = session.link().depth(&self.queue).await?;
        let most = match idle {
            Some(_) => self.left.min(depth.ready),
            None => self.left,
        };
        let mut reader = QueueReader::new(session, &self.queue, "outcomes", PREFETCH, most);
        let stopped = loop {
            let delivery = match reader.next(self.stop, idle).await {
                Ok(NextMessage::Delivery(delivery)) => delivery,
                Ok(NextMessage::Done | NextMessage::Idle) => break Stopped::Done,
                Ok(NextMessage::Stopped) => break Stopped::Cancelled,
                Err(error) if error.is_passing() => break Stopped::Lost(error),
                Err(error) => return Err(error.into()),
            };
            if let Err(error) = self.print(&delivery) {
                reader.keep(delivery.receipt);
                break Stopped::Output(error);
            }
            self.printed += 1;
            self.left -= 1;
            if !self.args.ack {
                reader.keep(delivery.receipt);
            } else if reader.ack(delivery.receipt).is_err() {
                self.stale += 1;
            }
        };
        let (in_time, _held) = reader.close().await;
        if !in_time && self.args.ack {
            self.console.note("the broker did not confirm the last removals: they may come again");
        }
        Ok(stopped)
    }

    fn print(&mut self, delivery: &Delivery) -> io::Result<()> {
        let message = &delivery.message;
        if self.console.is_human() {
            if self.printed == 0 {
                writeln!(self.console.out, "{}", table_head(self.width))?;
            }
            writeln!(self.console.out, "{}", table_row(message, self.width))?;
        } else {
            self.console.json_line(&ndjson(message, self.args.show_secrets))?;
        }
        self.console.out.flush()
    }

    fn end(self, stopped: Stopped) -> Result<Exit, CommandError> {
        let done = if self.args.ack { "printed and removed" } else { "printed" };
        let (printed, queue) = (self.printed, &self.queue);
        if self.stale > 0 {
            let stale = self.stale;
            self.console.note(format_args!(
                "{stale} printed outcomes could not be removed and may come again: drop repeated ids"
            ));
        }
        let closed = matches!(&stopped, Stopped::Output(error) if error.kind() == io::ErrorKind::BrokenPipe);
        if self.console.err_is_terminal || (closed && self.args.ack) {
            self.console.note(format_args!("{printed} outcomes of '{queue}' {done}"));
        }
        match stopped {
            Stopped::Done | Stopped::Cancelled => Ok(Exit::Fine),
            Stopped::Lost(error) => Err(error.into()),
            // What was printed last may not have been read any more.
            Stopped::Output(_) if closed && self.args.ack => Ok(Exit::Failed),
            Stopped::Output(_) if closed => Ok(Exit::Fine),
            Stopped::Output(error) => Err(CommandError::Output(error)),
        }
    }
}
