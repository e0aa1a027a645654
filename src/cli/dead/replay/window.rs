//! Jobs on their way to the broker, with the letters that they were made of.

use std::time::Duration;

use tokio::time::Instant;

use super::report::Report;
use crate::broker::{Confirm, Receipt};
use crate::cli::CommandError;
use crate::cli::dead::scan::{Scan, WINDOW, lost};
use crate::domain::dead_letter::DeadLetter;
use crate::domain::message::Message;

/// Bodies that may be on their way at once, in bytes.
const MOST_BYTES: usize = 8 << 20;
/// A job that is confirmed keeps its letter no longer than this.
const PATIENCE: Duration = Duration::from_millis(250);

/// A job that was handed over, and is not known to be safe.
struct UnderWay {
    confirm: Confirm,
    letter: DeadLetter,
    receipt: Receipt,
}

/// Up to [`WINDOW`] of them. They are settled together: every confirm is awaited, then the letters are removed, and the broker is waited for; so that an
/// end at any moment repeats no more than one window, and what the broker may not yet have written down of the one before.
pub(super) struct Window {
    jobs: String,
    under_way: Vec<UnderWay>,
    bytes: usize,
    began: Option<Instant>,
}

impl Window {
    /// `jobs`: the name of exchange and queue.
    pub(super) fn new(jobs: String) -> Self {
        Self { jobs, under_way: Vec::with_capacity(WINDOW), bytes: 0, began: None }
    }

    pub(super) fn is_full(&self) -> bool {
        self.under_way.len() >= WINDOW || self.bytes >= MOST_BYTES
    }

    /// Whether what is in hand would wait too long for something that is due then.
    pub(super) fn is_old_by(&self, due: Instant) -> bool {
        self.began.is_some_and(|began| due.max(Instant::now()) > began + PATIENCE)
    }

    /// Hands a job over.
    ///
    /// # Errors
    /// It was not sent: its letter is kept, or was taken back by the broker.
    pub(super) async fn publish(
        &mut self,
        job: Message,
        letter: DeadLetter,
        receipt: Receipt,
        scan: &mut Scan,
    ) -> Result<(), CommandError> {
        if !receipt.is_live() {
            // Its letter is back in its queue already, and would be published again.
            return Err(lost());
        }
        let bytes = job.body.len();
        let publisher = scan.session().publisher();
        match publisher.send(&self.jobs, &self.jobs, true, job).await {
            Ok(confirm) => {
                self.began.get_or_insert_with(Instant::now);
                self.bytes += bytes;
                self.under_way.push(UnderWay { confirm, letter, receipt });
                Ok(())
            }
            Err(error) => {
                scan.keep(receipt);
                Err(CommandError::failed(error))
            }
        }
    }

    /// Removes the letters whose jobs the broker has confirmed. The others are kept.
    ///
    /// # Errors
    /// A job was not confirmed: refused, returned by an exchange without its queue, or not answered in time. Or the connection is lost.
    pub(super) async fn settle(&mut self, scan: &mut Scan, report: &mut Report) -> Result<(), CommandError> {
        let (mut removed, mut failure) = (Vec::with_capacity(self.under_way.len()), None);
        let mut letters = Vec::with_capacity(self.under_way.len());
        for UnderWay { confirm, letter, receipt } in self.under_way.drain(..) {
            match confirm.answered().await {
                Ok(()) => {
                    removed.push(receipt);
                    letters.push(letter);
                }
                Err(error) => {
                    scan.keep(receipt);
                    failure.get_or_insert_with(|| CommandError::failed(error));
                }
            }
        }
        (self.bytes, self.began) = (0, None);
        // They are published, whatever becomes of their letters.
        for letter in &letters {
            report.chosen.add(letter);
        }
        scan.remove(removed).await?;
        failure.map_or(Ok(()), Err)
    }
}
