//! The tables of the picture.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::Style;
use ratatui::text::Line;
use ratatui::widgets::{Cell, Paragraph, Row, Table};

use super::layout::{HEADS, WIDE, panel_title, titled};
use super::screen::{Panel, Screen};
use crate::overview::{FailureRow, Overview, ReplicaRow, TypeRow, format};

/// A column: its head, and how wide it is; numbers stand at the right.
struct Column(&'static str, Constraint, Alignment);

const fn text(head: &'static str, width: Constraint) -> Column {
    Column(head, width, Alignment::Left)
}

const fn number(head: &'static str, width: u16) -> Column {
    Column(head, Constraint::Length(width), Alignment::Right)
}

/// A table's rows, each of as many cells as there are columns.
type Cells = Vec<Vec<(String, Style)>>;

fn plain(text: impl Into<String>) -> (String, Style) {
    (text.into(), Style::new())
}

/// Rows of the types' table, or of the classes' beside it.
pub(super) fn middle_rows(fleet: &Overview) -> usize {
    fleet.types.len().max(fleet.classes.len() + 1)
}

fn show(
    frame: &mut Frame<'_>,
    area: Rect,
    screen: &Screen,
    panel: Panel,
    title: &str,
    columns: &[Column],
    cells: Cells,
) {
    let fit = usize::from(area.height.saturating_sub(HEADS));
    let (rows, offset) = (cells.len(), screen.offset(panel, cells.len(), fit));
    let block = titled(panel_title(screen, panel, title, rows, (offset, fit)), &screen.tones);
    if rows == 0 {
        frame.render_widget(Paragraph::new(Line::styled("none", screen.tones.dim)).block(block), area);
        return;
    }
    let head = Row::new(columns.iter().map(|Column(head, _, side)| Line::from(*head).alignment(*side)));
    let seen = cells.into_iter().skip(offset).take(fit).map(|row| {
        Row::new(row.into_iter().zip(columns).map(|((text, style), Column(_, _, side))| {
            Cell::from(Line::styled(text, style).alignment(*side))
        }))
    });
    let widths = columns.iter().map(|Column(_, width, _)| *width);
    let table = Table::new(seen, widths).header(head.style(screen.tones.dim)).column_spacing(1).block(block);
    frame.render_widget(table, area);
}

pub(super) fn replicas(frame: &mut Frame<'_>, area: Rect, screen: &Screen, fleet: &Overview) {
    let is_wide = area.width >= WIDE;
    let mut columns = vec![
        text("name", Constraint::Fill(1)),
        text("jobs", Constraint::Length(if is_wide { 18 } else { 4 })),
        number("in flight", 9),
        number("window", 6),
        number("solved/s", 8),
        number("failed/s", 8),
        number("calls/s", 7),
        number("solved", 9),
        number("failed", 7),
    ];
    if is_wide {
        columns.push(number("runs for", 9));
    }
    let tones = &screen.tones;
    let row = |row: &ReplicaRow| {
        let jobs = match (row.ready, &row.held) {
            (true, None) => ("yes".to_owned(), tones.good),
            (false, None) => ("no".to_owned(), tones.bad),
            (_, Some(reason)) if is_wide => (format!("no, {reason}"), tones.bad),
            (_, Some(_)) => ("no".to_owned(), tones.bad),
        };
        let mut cells = vec![
            plain(format!("{}{}", if row.leads { "★ " } else { "  " }, row.name)),
            jobs,
            plain(row.in_flight.to_string()),
            plain(row.window.to_string()),
            plain(format::known_rate(row.rates.map(|rates| rates.solved))),
            plain(format::known_rate(row.rates.map(|rates| rates.failed))),
            plain(format::known_rate(row.rates.map(|rates| rates.calls))),
            plain(format::count(row.solved)),
            plain(format::count(row.failed)),
            plain(format::span(fleet.at.since(row.started_at))),
        ];
        cells.truncate(columns.len());
        cells
    };
    let cells = fleet.replicas.iter().map(row).collect();
    show(frame, area, screen, Panel::Replicas, "Replicas", &columns, cells);
}

pub(super) fn types(frame: &mut Frame<'_>, area: Rect, screen: &Screen, fleet: &Overview) {
    // Beside the classes there is no room for all of them on a narrow terminal.
    let window = (area.width >= WIDE / 2 + 10).then(|| number("window", 6));
    let is_wide = window.is_some();
    let mut columns = vec![text("type", Constraint::Fill(1)), number("in flight", 9)];
    columns.extend(window);
    columns.extend([number("paid", 8), number("solved", 8), number("failed", 7)]);
    let row = |row: &TypeRow| {
        let name = if row.shut {
            (format!("{}, shut", row.name), screen.tones.wary)
        } else {
            plain(row.name.clone())
        };
        let mut cells = vec![name, plain(row.figures.in_flight.to_string())];
        cells.extend(is_wide.then(|| plain(row.figures.window.to_string())));
        let counts = [row.figures.accepted, row.figures.solved, row.figures.failed];
        cells.extend(counts.map(|number| plain(format::count(number))));
        cells
    };
    let cells = fleet.types.iter().map(row).collect();
    show(frame, area, screen, Panel::Types, "Task types", &columns, cells);
}

/// Moves with the types.
pub(super) fn classes(frame: &mut Frame<'_>, area: Rect, screen: &Screen, fleet: &Overview) {
    let columns = [text("class", Constraint::Fill(1)), number("jobs", 10)];
    let mut cells: Cells = vec![vec![plain("solved"), plain(format::count(fleet.solved))]];
    cells.extend(
        fleet.classes.iter().map(|row| vec![plain(row.class.clone()), plain(format::count(row.jobs))]),
    );
    show(frame, area, screen, Panel::Types, "Classes", &columns, cells);
}

pub(super) fn failures(frame: &mut Frame<'_>, area: Rect, screen: &Screen, fleet: &Overview) {
    let is_wide = area.width >= WIDE;
    let mut columns = vec![
        text("time", Constraint::Length(8)),
        text("job", Constraint::Fill(2)),
        text("class", Constraint::Length(10)),
        text("code", Constraint::Length(if is_wide { 34 } else { 27 })),
    ];
    if area.width >= 72 {
        columns.push(text("type", Constraint::Fill(2)));
    }
    if is_wide {
        columns.push(text("replica", Constraint::Fill(1)));
    }
    let row = |FailureRow { replica, failure }: &FailureRow| {
        let mut cells = vec![
            plain(format::moment(failure.at, fleet.at)),
            plain(failure.id.clone()),
            plain(failure.class.clone()),
            plain(failure.code.clone()),
            plain(failure.task_type.as_deref().unwrap_or(format::UNKNOWN)),
            plain(replica.clone()),
        ];
        cells.truncate(columns.len());
        cells
    };
    let cells = fleet.latest_failures.iter().map(row).collect();
    show(frame, area, screen, Panel::Failures, "Latest failures", &columns, cells);
}
