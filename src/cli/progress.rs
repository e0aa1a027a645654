//! The progress bar of `publish` and `dead`: on a terminal only, and on standard error, so that it never mixes with answers.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What the end of the input is measured in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Total {
    /// A file of this many bytes.
    Bytes(u64),
    /// This many jobs or letters.
    Jobs(u64),
    /// A pipe: nobody knows.
    Open,
}

/// A bar that moves with what the broker has confirmed.
pub(super) struct Progress {
    bar: ProgressBar,
    total: Total,
    bytes: u64,
}

impl Progress {
    pub(super) fn new(total: Total, visible: bool) -> Self {
        let (length, template) = match total {
            Total::Bytes(length) | Total::Jobs(length) => {
                (Some(length), "{bar:32} {percent:>3}%  {msg}  {elapsed} (about {eta} left)")
            }
            Total::Open => (None, "{spinner} {msg}  {elapsed}"),
        };
        let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(length, target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { bar, total, bytes: 0 }
    }

    /// A job of so many bytes was confirmed, the `published`th, while `in_flight` wait.
    pub(super) fn confirmed(&mut self, bytes: usize, published: u64, in_flight: usize) {
        if self.bar.is_hidden() {
            return;
        }
        // With its line end, as it stood in the file.
        self.bytes += bytes as u64 + 1;
        self.bar.set_position(match self.total {
            Total::Bytes(_) => self.bytes,
            Total::Jobs(_) | Total::Open => published,
        });
        self.bar.set_message(format!("{published} published, {in_flight} in flight"));
    }

    /// So many letters have been looked at, with what can be told of them.
    pub(super) fn looked(&self, at: u64, told: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_position(at);
            self.bar.set_message(told());
        }
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
