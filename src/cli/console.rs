//! Where a command writes to.

use std::fmt;
use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::domain::sanitize::escaped_json;

/// Standard output and standard error, as a command sees them.
#[derive(Debug)]
pub struct Console<O, E> {
    /// Answers: what a pipe wants.
    pub out: O,
    /// Notes for the person at the terminal.
    pub err: E,
    /// Whether `out` is a terminal.
    pub out_is_terminal: bool,
    /// Whether `err` is a terminal.
    pub err_is_terminal: bool,
    /// Whether `--json` was given.
    pub json: bool,
}

impl Console<Stdout, Stderr> {
    /// The process's own.
    #[must_use]
    pub fn std(json: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        Self { out, err, out_is_terminal, err_is_terminal, json }
    }
}

impl<O: Write, E: Write> Console<O, E> {
    /// Whether answers are for a person to read: a terminal, and no `--json`.
    #[must_use]
    pub fn is_human(&self) -> bool {
        self.out_is_terminal && !self.json
    }

    /// Writes a line of JSON. On a terminal what would steer it is escaped.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn json_line(&mut self, json: &str) -> io::Result<()> {
        let json = if self.out_is_terminal { escaped_json(json) } else { json.into() };
        writeln!(self.out, "{json}")
    }

    /// Writes a line to standard error. That nobody may be able to read it is no reason to stop the
    /// work.
    pub fn note(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.err, "{line}").and_then(|()| self.err.flush());
    }
}

/// Where a command prints, and how.
pub(super) struct Output {
    out: Stdout,
    json: bool,
    asked_for: bool,
}

impl Output {
    pub(super) fn stdout(asked_for: bool) -> Self {
        let out = io::stdout();
        let json = asked_for || !out.is_terminal();
        Self { out, json, asked_for }
    }

    /// Whether JSON was asked for, wherever it goes.
    pub(super) fn is_forced_json(&self) -> bool {
        self.asked_for
    }

    /// Whether JSON is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    pub(super) fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// A JSON value, indented on a terminal.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = if self.out.is_terminal() {
            serde_json::to_string_pretty(value)?
        } else {
            serde_json::to_string(value)?
        };
        self.line(text)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.out.flush()
    }

    pub(super) fn table<const N: usize>(
        &mut self,
        head: [&str; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> io::Result<()> {
        self.line(table(head, rows))
    }
}

/// Columns without lines between them.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    table
}

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

    /// So many are done, with a text about them.
    pub(super) fn advance_to(&self, at: u64, text: impl FnOnce() -> String) {
        if !self.bar.is_hidden() {
            self.bar.set_position(at);
            self.bar.set_message(text());
        }
    }

    /// Begins with so many that were done before: their time does not count.
    pub(super) fn go_on_from(&self, at: u64) {
        self.bar.set_position(at);
        self.bar.reset_eta();
    }

    /// Hides the bar while something else is written to the terminal.
    pub(super) fn suspended<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
