//! Where a command writes to.

use std::fmt;
use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use crate::domain::sanitize::escaped_json;

/// Standard output and standard error, as a command sees them.
#[derive(Debug)]
pub struct Console<O, E> {
    /// Answers: what a pipe wants.
    pub out: O,
    /// Notes to whoever watches.
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

    /// Writes a line to standard error. That nobody may be able to read it is no reason to stop the work.
    pub fn note(&mut self, line: impl fmt::Display) {
        let _ = writeln!(self.err, "{line}").and_then(|()| self.err.flush());
    }
}
