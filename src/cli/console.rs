//! Where a command writes to.

use std::fmt;
use std::io::{self, IsTerminal, Stderr, Stdout, Write};
use std::os::unix::fs::MetadataExt;

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ratatui::crossterm::terminal;
use rustix::fs::OFlags;
use serde::Serialize;

use crate::domain::sanitize::escaped_json;
use crate::telemetry::is_dumb_terminal;

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
    /// What `--format` or `--json` asks for.
    pub format: Option<Format>,
}

/// How a command prints what it has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Text for people, with or without a terminal
    Table,
    /// JSON; one value for the whole answer is indented on a terminal
    Json,
    /// JSON, each value on one line
    Ndjson,
}

impl Format {
    /// Whether text for people is wanted: by default, on a terminal.
    fn is_human(format: Option<Self>, is_terminal: bool) -> bool {
        format.map_or(is_terminal, |format| format == Format::Table)
    }

    /// Whether JSON was asked for, wherever it goes.
    fn is_forced_json(format: Option<Self>) -> bool {
        matches!(format, Some(Format::Json | Format::Ndjson))
    }
}

/// One JSON value for a whole answer: indented on a terminal, unless each value is to have one
/// line. On a terminal what would steer it is escaped.
fn json_text(value: &impl Serialize, is_terminal: bool, format: Option<Format>) -> io::Result<String> {
    let is_indented = is_terminal && format != Some(Format::Ndjson);
    let text = if is_indented { serde_json::to_string_pretty } else { serde_json::to_string }(value)?;
    Ok(if is_terminal { escaped_json(&text).into_owned() } else { text })
}

/// A table without a terminal is this wide, unless COLUMNS says otherwise.
const PLAIN_WIDTH: u16 = 80;

/// How wide a table may be.
fn width(is_terminal: bool) -> usize {
    let terminal = if is_terminal { terminal::size().ok() } else { None };
    let wanted = || std::env::var("COLUMNS").ok()?.parse().ok();
    let width = terminal.map(|(columns, _)| columns).or_else(wanted).unwrap_or(PLAIN_WIDTH);
    usize::from(width.clamp(40, 300))
}

impl Console<Stdout, Stderr> {
    /// The process's own.
    #[must_use]
    pub fn std(format: Option<Format>) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let (out_is_terminal, err_is_terminal) = (out.is_terminal(), err.is_terminal());
        Self { out, err, out_is_terminal, err_is_terminal, format }
    }
}

impl<O: Write, E: Write> Console<O, E> {
    /// Whether answers are for a person to read.
    #[must_use]
    pub fn is_human(&self) -> bool {
        Format::is_human(self.format, self.out_is_terminal)
    }

    /// Whether JSON was asked for, wherever it goes.
    #[must_use]
    pub fn is_forced_json(&self) -> bool {
        Format::is_forced_json(self.format)
    }

    /// How wide a table may be.
    #[must_use]
    pub fn width(&self) -> usize {
        width(self.out_is_terminal)
    }

    /// Writes a line of JSON. On a terminal what would steer it is escaped.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn json_line(&mut self, json: &str) -> io::Result<()> {
        let json = if self.out_is_terminal { escaped_json(json) } else { json.into() };
        writeln!(self.out, "{json}")
    }

    /// Writes the one JSON value of a whole answer.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = json_text(value, self.out_is_terminal, self.format)?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line to standard error. That nobody may be able to read it is no reason to stop the
    /// work.
    pub fn note(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.err, "{line}").and_then(|()| self.err.flush());
    }
}

/// Whether standard output was closed when the program began. Rust opens /dev/null in its place,
/// for reading and writing, so that all writes succeed; a shell's `> /dev/null` is for writing.
pub(super) fn is_stdout_closed() -> bool {
    let Ok(null) = std::fs::metadata("/dev/null") else { return false };
    let (stat, flags) = (rustix::fs::fstat(io::stdout()), rustix::fs::fcntl_getfl(io::stdout()));
    let is_null = stat.is_ok_and(|stat| stat.st_rdev == null.rdev());
    is_null && flags.is_ok_and(|flags| flags.contains(OFlags::RDWR))
}

/// Where a command prints, and how.
pub(super) struct Output {
    out: Stdout,
    /// What `--format` or `--json` asks for.
    pub(super) format: Option<Format>,
}

impl Output {
    pub(super) fn stdout(format: Option<Format>) -> Self {
        Self { out: io::stdout(), format }
    }

    /// The same for a command that writes to both ends.
    pub(super) fn console(&self) -> Console<Stdout, Stderr> {
        Console::std(self.format)
    }

    /// Whether JSON was asked for, wherever it goes.
    pub(super) fn is_forced_json(&self) -> bool {
        Format::is_forced_json(self.format)
    }

    /// Whether JSON is wanted.
    pub(super) fn is_json(&self) -> bool {
        !Format::is_human(self.format, self.is_terminal())
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.out.is_terminal()
    }

    pub(super) fn width(&self) -> usize {
        width(self.is_terminal())
    }

    pub(super) fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes the one JSON value of a whole answer.
    pub(super) fn value(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = json_text(value, self.is_terminal(), self.format)?;
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
        let mut table = table(head, rows);
        let width = u16::try_from(self.width()).unwrap_or(PLAIN_WIDTH);
        self.line(table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width))
    }
}

/// Columns without lines between them.
pub(super) fn table<const N: usize>(head: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head).add_rows(rows);
    table
}

/// A text in lines of at most so many characters, broken between words; what follows the first
/// line is indented. A longer word stays whole, so that an address can be copied.
pub(super) fn filled(text: &str, width: usize, indent: usize) -> String {
    let (mut filled, mut used) = (String::new(), indent);
    for (n, line) in text.lines().enumerate() {
        for (m, word) in line.split(' ').enumerate() {
            let needed = word.chars().count();
            if m == 0 && n == 0 {
            } else if m == 0 || used + 1 + needed > width && used > indent {
                filled.push_str(&format!("\n{:indent$}", ""));
                used = indent;
            } else {
                filled.push(' ');
                used += 1;
            }
            filled.push_str(word);
            used += needed;
        }
    }
    filled
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
        let target = if visible && !is_dumb_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
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
