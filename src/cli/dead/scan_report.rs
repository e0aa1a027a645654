//! What of the queues was looked at, and why no more: told by every command alike.

use std::io::{ErrorKind, Write};

use serde_json::{Value as Json, json};
use tokio_util::sync::CancellationToken;

use super::scan::Seen;
use crate::cli::console::Console;
use crate::cli::{CommandError, Exit};

/// The queues that a run has come to.
#[derive(Default)]
pub(super) struct ScanReport {
    queues: Vec<Seen>,
    stopped: Option<String>,
}

impl ScanReport {
    /// A queue was left.
    pub(super) fn left(&mut self, seen: Seen) {
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

    /// Whether all that was to be looked at has been.
    pub(super) fn is_whole(&self) -> bool {
        self.stopped.is_none() && !self.took_too_long() && !self.ended_early()
    }

    pub(super) fn scanned(&self) -> u64 {
        self.queues.iter().map(|seen| seen.looked_at).sum()
    }

    pub(super) fn not_scanned(&self) -> u64 {
        self.queues.iter().map(Seen::not_scanned).sum()
    }

    fn took_too_long(&self) -> bool {
        self.queues.iter().any(|seen| seen.took_too_long)
    }

    fn ended_early(&self) -> bool {
        self.queues.iter().any(|seen| seen.ended_early)
    }

    /// A report with all of it.
    pub(super) fn told_in(&self, mut report: Json) -> Json {
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

    /// Tells whoever watches why not everything was looked at.
    pub(super) fn tell<O: Write, E: Write>(&self, console: &mut Console<O, E>) {
        for seen in &self.queues {
            let (queue, there, missed) = (seen.queue.name(), seen.there, seen.not_scanned());
            if seen.took_too_long {
                console.note(format_args!(
                    "{queue}: stopped after 20 minutes, {missed} of {there} letters not scanned: the broker takes back what is held for 30; run it again"
                ));
            } else if seen.ended_early {
                console.note(format_args!(
                    "{queue}: {missed} of {there} letters did not come within 10 s: somebody else has them, or they are gone; run it again"
                ));
            } else if missed > 0 {
                console.note(format_args!("{queue}: {missed} of {there} letters not scanned; see --scan"));
            }
        }
        if let Some(why) = &self.stopped {
            console.note(format_args!("stopped: {why}; what was not come to stays, run it again then"));
        }
    }
}

fn queue_json(seen: &Seen) -> Json {
    json!({
        "queue": seen.queue.name(), "there": seen.there, "scanned": seen.looked_at, "not_scanned": seen.not_scanned(),
        "took_too_long": seen.took_too_long, "ended_early": seen.ended_early,
    })
}

/// How a run ends. What failed comes first: a report that nobody could read must not hide it, nor end as if all were well.
pub(super) fn ended(
    failure: Option<CommandError>,
    told: Result<(), CommandError>,
    fine: bool,
) -> Result<Exit, CommandError> {
    match failure.or(told.err()) {
        None => Ok(Exit::when(fine)),
        Some(CommandError::Io(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(Exit::Failed),
        Some(failure) => Err(failure),
    }
}
