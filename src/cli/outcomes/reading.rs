//! One run of `outcomes`: deliveries printed, and then settled.

use std::io::{self, Write};
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::OutcomesArgs;
use crate::broker::topology::Names;
use crate::broker::{Broker, BrokerError, ConsumeSpec, Consumer, Delivery, Receipt, Session};
use crate::cli::console::Console;
use crate::cli::render::{Format, ndjson, table_head, table_row};
use crate::cli::{CommandError, Exit};

/// Deliveries ahead of printing. Whatever is not printed goes back, with its delivery counted.
const PREFETCH: u16 = 256;
/// Nothing arriving for so long means that somebody else has the rest.
const IDLE: Duration = Duration::from_secs(1);
/// For carrying out the last settlements and closing.
const CLOSE: Duration = Duration::from_secs(10);
/// Between two attempts to connect again, at first and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

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
pub(super) struct Reading<'a, O, E> {
    args: OutcomesArgs,
    queue: String,
    broker: &'a Broker,
    console: &'a mut Console<O, E>,
    stop: &'a CancellationToken,
    format: Format,
    /// Outcomes that may still be printed.
    left: u64,
    printed: u64,
    /// Printed, but the channel was lost before they were settled.
    stale: u64,
}

impl<'a, O: Write, E: Write> Reading<'a, O, E> {
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
            format: args.format(console.is_human(), console.json),
            left: args.limit()?,
            args,
            broker,
            console,
            stop,
            printed: 0,
            stale: 0,
        })
    }

    /// Says what a look costs.
    pub(super) fn warn(&mut self) {
        if !self.args.ack {
            self.console.note(format_args!(
                "a look at '{}': each outcome is put back, with one more of its 1,000 deliveries counted, and is hidden from other consumers meanwhile",
                self.queue
            ));
        }
    }

    pub(super) async fn once(mut self) -> Result<Exit, CommandError> {
        let stopped = self.session(Some(IDLE)).await?;
        self.end(stopped)
    }

    /// Goes on over lost connections, since whoever follows wants what comes after them too.
    pub(super) async fn follow(mut self) -> Result<Exit, CommandError> {
        let mut pause = RECONNECT.0;
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
                pause = RECONNECT.0;
            }
            let seconds = pause.as_secs();
            self.console.note(format_args!("{error}; connecting again in {seconds} s"));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.end(Stopped::Cancelled),
                () = sleep(pause) => pause = (pause * 2).min(RECONNECT.1),
            }
        }
    }

    /// Reads over one session. `idle`: read what is there now, and wait no longer than that for each.
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

    async fn read(&mut self, session: &Session, idle: Option<Duration>) -> Result<Stopped, CommandError> {
        let depth = session.link().depth(&self.queue).await?;
        let most = match idle {
            Some(_) => self.left.min(depth.ready),
            None => self.left,
        };
        if most == 0 {
            return Ok(Stopped::Done);
        }
        let prefetch = if self.args.ack { most.min(u64::from(PREFETCH)) } else { most };
        let spec = ConsumeSpec {
            queue: self.queue.clone(),
            prefetch: u16::try_from(prefetch).unwrap_or(PREFETCH),
            tag: "outcomes".to_owned(),
        };
        let mut consumer = session.link().consume(spec).await?;
        let mut held = Vec::new();
        let stopped = self.print_all(&mut consumer, most, idle, &mut held).await;
        // Closed with those still unsettled, so that the broker puts them back as one, in their order.
        if timeout(CLOSE, consumer.close()).await.is_err() && self.args.ack {
            self.console.note("the broker did not confirm the last removals: they may come again");
        }
        drop(held);
        Ok(stopped)
    }

    /// Prints up to `most` outcomes. Each is acked once it is out; the receipts of those that are to go back are kept in `held`.
    async fn print_all(
        &mut self,
        consumer: &mut Consumer,
        most: u64,
        idle: Option<Duration>,
        held: &mut Vec<Receipt>,
    ) -> Stopped {
        for _ in 0..most {
            let delivery = match self.arrival(consumer, idle).await {
                Ok(delivery) => delivery,
                Err(stopped) => return stopped,
            };
            if let Err(error) = self.print(&delivery) {
                held.push(delivery.receipt);
                return Stopped::Output(error);
            }
            self.printed += 1;
            self.left -= 1;
            if !self.args.ack {
                held.push(delivery.receipt);
            } else if delivery.receipt.ack().is_err() {
                self.stale += 1;
            }
        }
        Stopped::Done
    }

    /// The next delivery, or why there is none.
    async fn arrival(&self, consumer: &mut Consumer, idle: Option<Duration>) -> Result<Delivery, Stopped> {
        let within = async {
            match idle {
                Some(idle) => timeout(idle, consumer.recv()).await.map_err(|_| Stopped::Done),
                None => Ok(consumer.recv().await),
            }
        };
        let delivery = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped::Cancelled),
            delivery = within => delivery?,
        };
        delivery.ok_or_else(|| Stopped::Lost(BrokerError::Lost("the consumer has ended".to_owned())))
    }

    fn print(&mut self, delivery: &Delivery) -> io::Result<()> {
        let message = &delivery.message;
        match self.format {
            Format::Ndjson => self.console.json_line(&ndjson(message, self.args.show_secrets))?,
            Format::Table => {
                if self.printed == 0 {
                    writeln!(self.console.out, "{}", table_head())?;
                }
                writeln!(self.console.out, "{}", table_row(message))?;
            }
        }
        self.console.out.flush()
    }

    fn end(self, stopped: Stopped) -> Result<Exit, CommandError> {
        let done = if self.args.ack { "printed and removed" } else { "printed" };
        let (printed, queue) = (self.printed, &self.queue);
        if self.stale > 0 {
            let stale = self.stale;
            self.console.note(format_args!(
                "{stale} printed outcomes could not be removed, and may come again: drop what has an id twice"
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
