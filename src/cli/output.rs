//! Standard output: for people on a terminal, JSON in a pipe or on request.

use std::io::{self, IsTerminal, Stdout, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

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
