//! The parts of the picture: guard, throughput, backlog, what ops servers report, and the tables.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::ops::OpsStatus;
use super::screen::{Panel, Screen};
use super::theme::{HEADS, Tones, WIDE, titled, wrapped};
use crate::domain::time::Timestamp;
use crate::overview::{
    Backlog, FailureRow, Guard, LaneRow, Overview, Rates, ReplicaRow, Tone, TypeRow, format,
};

/// A name that is shorter says little.
const LEAST_NAME: u16 = 14;
/// Rates are drawn to a tenth.
const TENTHS: f64 = 10.0;

/// How the account stands, what to do, and the balance.
pub(in crate::cli) fn guard<'a>(guard: &Guard, now: Timestamp, tones: &Tones) -> Vec<Line<'a>> {
    let since =
        guard.since.map(|since| format!(", since {}", format::moment(since, now))).unwrap_or_default();
    let tone = match guard.tone() {
        Tone::Good => tones.good,
        Tone::Wary => tones.wary,
        Tone::Bad => tones.bad,
    };
    let mut lines = vec![Line::from(vec![
        Span::raw("Guard    "),
        Span::styled(guard.title(), tone),
        Span::raw(format!("{since}: {}", guard.meaning)),
    ])];
    lines.extend(guard.notes(now).iter().map(|note| Line::raw(format!("         {note}"))));
    lines.extend(guard.advice.iter().map(|advice| Line::raw(format!("To do    {advice}"))));
    if let Some(balance) = &guard.balance {
        let rate = balance.per_hour.map(|rate| format!(", {}", format::per_hour(rate))).unwrap_or_default();
        lines.push(Line::from(vec![
            Span::raw("Balance  "),
            Span::styled(balance.text.clone(), tones.bold),
            Span::raw(format!(" at {}{rate}", format::moment(balance.at, now))),
        ]));
    }
    lines.extend(
        guard.spending.as_ref().map(|spending| Line::raw(format!("Spent    {}", spending.text(now)))),
    );
    lines
}

/// What stands still beside the account: paused types, callbacks that are off, and outcomes without
/// a queue.
pub(super) fn stuck<'a>(fleet: &Overview, tones: &Tones) -> Vec<Line<'a>> {
    let mut lines = Vec::new();
    if !fleet.shut_types.is_empty() {
        lines.push(Line::styled(format!("Paused   {}", fleet.shut_types.join(", ")), tones.wary));
    }
    if !fleet.lanes.is_empty() {
        let lane = |lane: &LaneRow| {
            let ready = lane.ready.map_or_else(|| "?".to_owned(), |ready| ready.to_string());
            let removed = if lane.is_removed { ", not in the settings" } else { "" };
            format!(
                "{} {ready} waiting, {} in flight, weight {}{removed}",
                lane.name, lane.in_flight, lane.weight
            )
        };
        let lanes: Vec<_> = fleet.lanes.iter().map(lane).collect();
        lines.push(Line::raw(format!("Lanes    {}", lanes.join(" · "))));
    }
    if let Some(callbacks) = &fleet.callbacks {
        let tone = if callbacks == "on" { tones.dim } else { tones.wary };
        lines.push(Line::styled(format!("Callback {callbacks}"), tone));
    }
    if let Some(unrouted) = fleet.backlog.as_ref().map(|backlog| backlog.unrouted).filter(|count| *count > 0)
    {
        let text = format!(
            "Unrouted {unrouted} outcomes have no queue: run `captcha-worker topology declare`, then `captcha-worker reroute`"
        );
        lines.push(Line::styled(text, tones.wary));
    }
    lines
}

/// Who has brought the most jobs within the hour; where lines are few, only if jobs of somebody
/// wait for that.
pub(super) fn publishers<'a>(fleet: &Overview, is_short: bool, tones: &Tones) -> Option<Line<'a>> {
    let shown = fleet.publishers.iter().take(3);
    let is_over = shown.clone().any(|row| row.delayed > 0);
    let text = shown.map(|row| {
        let delayed = match row.delayed {
            0 => String::new(),
            delayed => format!(" ({} delayed)", format::count(delayed.into())),
        };
        format!("{} {}{delayed}", row.name, format::count(row.hour.into()))
    });
    let text = text.collect::<Vec<_>>().join(", ");
    let tone = if is_over { tones.wary } else { tones.dim };
    (is_over || !is_short && !text.is_empty()).then(|| Line::styled(format!("Jobs/h   {text}"), tone))
}

/// What an ops server reports of its replica.
pub(super) fn ops<'a>(status: &OpsStatus, tones: &Tones) -> Vec<Line<'a>> {
    let Some(replica) = &status.replica else {
        let why = status.error.as_deref().unwrap_or("nothing");
        return vec![Line::styled(format!("/status  {}: {why}", status.address), tones.dim)];
    };
    let buffers = replica.buffers;
    let ready = if replica.ready { "ready" } else { "not ready" };
    let mut lines = vec![Line::styled(
        format!(
            "/status  {} {}: {ready}; waiting: deliveries {}, submissions {}, publishes {}; polls overdue: {}",
            status.address,
            replica.name,
            buffers.deliveries,
            buffers.submissions,
            buffers.publishes,
            replica.polls_overdue
        ),
        if replica.ready { tones.dim } else { tones.wary },
    )];
    lines.extend(status.error.as_ref().map(|error| Line::styled(format!("         {error}"), tones.dim)));
    let own = replica.reasons.iter().filter(|reason| !is_shown_above(reason));
    lines.extend(own.take(3).map(|reason| Line::styled(format!("         {reason}"), tones.wary)));
    lines
}

/// The guard's lines already show a trip and a pause. The texts are those of /readyz.
fn is_shown_above(reason: &str) -> bool {
    reason.contains(", next probe at ") || reason.starts_with("operator: paused since ")
}

/// The same of all of them in a line, where lines are few.
pub(super) fn ops_in_short<'a>(all: &[OpsStatus], tones: &Tones) -> Option<Line<'a>> {
    let ready =
        all.iter().filter(|status| status.replica.as_ref().is_some_and(|replica| replica.ready)).count();
    let answer = all.iter().filter(|status| status.replica.is_some()).count();
    let tone = if ready == all.len() { tones.dim } else { tones.wary };
    let text = format!("/status  {answer} of {} answer, {ready} ready", all.len());
    (!all.is_empty()).then(|| Line::styled(text, tone))
}

/// Throughput beside the backlog, or above it.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, fleet: &Overview, tones: &Tones) {
    let is_wide = area.width >= WIDE;
    let [pace, queues] = if is_wide {
        Layout::horizontal([Constraint::Min(0), Constraint::Length(44)]).spacing(2).areas(area)
    } else {
        Layout::vertical([Constraint::Length(2), Constraint::Min(0)]).areas(area)
    };
    throughput(frame, pace, fleet, tones);
    let block = titled(Line::styled("Backlog ", tones.bold), tones);
    let lines = match &fleet.backlog {
        Some(backlog) if is_wide => queue_lines(backlog, tones),
        Some(backlog) => vec![queue_line(backlog, tones)],
        None => vec![Line::styled("not reported yet", tones.dim)],
    };
    let lines: Vec<Line<'_>> =
        lines.iter().flat_map(|line| wrapped(line, usize::from(queues.width))).collect();
    frame.render_widget(Paragraph::new(lines).block(block), queues);
}

/// Rates, and what was solved over the last minutes: under them, or where that is one line beside
/// them.
fn throughput(frame: &mut Frame<'_>, area: Rect, fleet: &Overview, tones: &Tones) {
    let block = titled(Line::styled("Throughput ", tones.bold), tones);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rates = rate_line(fleet, tones);
    let [figures, past] = if inner.height > 1 {
        Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(inner)
    } else {
        let width = u16::try_from(rates.width()).unwrap_or(u16::MAX);
        Layout::horizontal([Constraint::Length(width), Constraint::Min(0)]).areas(inner)
    };
    frame.render_widget(Paragraph::new(rates), figures);
    // A point for each column, the latest at the right; never negative, and far from what does not
    // fit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float's cast saturates")]
    let tenths = |rates: &Rates| (rates.solved * TENTHS).round() as u64;
    let width = usize::from(past.width);
    let points: Vec<u64> = fleet.history.iter().rev().take(width).rev().map(tenths).collect();
    let drawn = u16::try_from(points.len()).unwrap_or(past.width).min(past.width);
    let right = Rect { x: past.right() - drawn, width: drawn, ..past };
    frame.render_widget(Sparkline::default().data(points).style(tones.accent), right);
}

fn rate_line<'a>(fleet: &Overview, tones: &Tones) -> Line<'a> {
    let of = |which: fn(&Rates) -> f64| format::known_rate(fleet.rates.as_ref().map(which));
    let rates = [
        ("solved", of(|rates| rates.solved)),
        ("failed", of(|rates| rates.failed)),
        ("paid", of(|rates| rates.paid)),
        ("calls", of(|rates| rates.calls)),
    ];
    let mut spans = Vec::new();
    for (name, rate) in rates {
        spans.push(Span::raw(format!("{name} ")));
        spans.push(Span::styled(rate, tones.bold));
        spans.push(Span::styled("/s  ", tones.dim));
    }
    spans.into()
}

/// The queues in columns, and the dead letters by class.
fn queue_lines<'a>(backlog: &Backlog, tones: &Tones) -> Vec<Line<'a>> {
    let line = |parts: [(&str, u64); 3]| {
        let mut spans = Vec::new();
        for (place, (name, ready)) in parts.into_iter().enumerate() {
            // The last is not filled up: it would seem too long for its line.
            let width = if place < 2 { 9 } else { 0 };
            spans.push(Span::raw(format!("{name} ")));
            spans.push(Span::styled(format!("{:<width$}", format::count(ready)), tones.bold));
        }
        Line::from(spans)
    };
    let mut lines = vec![
        line([("jobs   ", backlog.jobs), ("tickets", backlog.tickets), ("retry   ", backlog.retry)]),
        line([
            ("results", backlog.results),
            ("dead   ", backlog.dead_letters()),
            ("unrouted", backlog.unrouted),
        ]),
    ];
    if backlog.dead_letters() > 0 {
        lines.push(Line::styled(format!("of dead: {}", dead(backlog)), tones.dim));
    }
    lines
}

/// The same in one line.
fn queue_line<'a>(backlog: &Backlog, tones: &Tones) -> Line<'a> {
    let parts = [
        ("jobs", backlog.jobs),
        ("tickets", backlog.tickets),
        ("retry", backlog.retry),
        ("results", backlog.results),
        ("unrouted", backlog.unrouted),
        ("dead", backlog.dead_letters()),
    ];
    let mut spans = Vec::new();
    for (name, ready) in parts {
        spans.push(Span::raw(format!("{name} ")));
        spans.push(Span::styled(format!("{}  ", format::count(ready)), tones.bold));
    }
    spans.into()
}

fn dead(backlog: &Backlog) -> String {
    let raw = (backlog.raw > 0).then_some(("raw", &backlog.raw));
    let classes = backlog.dead.iter().map(|(class, ready)| (class.as_str(), ready));
    let parts = classes.chain(raw).map(|(class, ready)| format!("{class} {}", format::count(*ready)));
    parts.collect::<Vec<_>>().join(", ")
}

/// A column: its head, and how wide it is; numbers stand at the right.
struct PanelColumn(&'static str, Constraint, Alignment);

const fn text(head: &'static str, width: Constraint) -> PanelColumn {
    PanelColumn(head, width, Alignment::Left)
}

const fn number(head: &'static str, width: u16) -> PanelColumn {
    PanelColumn(head, Constraint::Length(width), Alignment::Right)
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
    columns: &[PanelColumn],
    cells: Cells,
) {
    // Where names would have no room, the last numbers are left out.
    let is_number = |PanelColumn(_, _, side): &PanelColumn| *side == Alignment::Right;
    let used = |columns: &[PanelColumn]| -> u16 {
        columns
            .iter()
            .map(|PanelColumn(_, width, _)| if let Constraint::Length(width) = width { width + 1 } else { 0 })
            .sum()
    };
    let mut columns = columns;
    while let [kept @ .., last] = columns
        && is_number(last)
        && kept.len() > 1
        && used(columns) + LEAST_NAME > area.width
    {
        columns = kept;
    }
    let fit = usize::from(area.height.saturating_sub(HEADS));
    let (rows, offset) = (cells.len(), screen.offset(panel, cells.len(), fit));
    let block = titled(panel_title(screen, panel, title, rows, (offset, fit)), &screen.tones);
    if rows == 0 {
        frame.render_widget(Paragraph::new(Line::styled("none", screen.tones.dim)).block(block), area);
        return;
    }
    let head = Row::new(columns.iter().map(|PanelColumn(head, _, side)| Line::from(*head).alignment(*side)));
    let seen = cells.into_iter().skip(offset).take(fit).map(|row| {
        Row::new(row.into_iter().zip(columns).map(|((text, style), PanelColumn(_, _, side))| {
            Cell::from(Line::styled(text, style).alignment(*side))
        }))
    });
    let widths = columns.iter().map(|PanelColumn(_, width, _)| *width);
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
    // How long tasks take, as learned, and how long a ready answer waits for its poll.
    let shows_times = area.width >= WIDE;
    if shows_times {
        columns.extend([number("median", 7), number("p95", 7), number("wait", 7)]);
    }
    let row = |row: &TypeRow| {
        let name = if row.shut {
            (format!("{}, paused", row.name), screen.tones.wary)
        } else {
            plain(row.name.clone())
        };
        let mut cells = vec![name, plain(row.figures.in_flight.to_string())];
        cells.extend(is_wide.then(|| plain(row.figures.window.to_string())));
        let counts = [row.figures.accepted, row.figures.solved, row.figures.failed];
        cells.extend(counts.map(|number| plain(format::count(number))));
        if shows_times {
            let times =
                row.figures.learned.map(|learned| [learned.median_ms, learned.p95_ms, learned.mean_wait_ms]);
            cells.extend((0..3).map(|n| plain(format::known_seconds(times.map(|times| times[n])))));
        }
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
        text("job", Constraint::Fill(if is_wide { 5 } else { 1 })),
        text("class", Constraint::Length(10)),
        text("code", Constraint::Length(27)),
    ];
    if area.width >= 72 {
        columns.push(text("type", Constraint::Fill(if is_wide { 4 } else { 1 })));
    }
    if is_wide {
        columns.push(text("reason", Constraint::Fill(5)));
    }
    let row = |FailureRow { failure, .. }: &FailureRow| {
        let mut cells = vec![
            plain(format::moment(failure.at, fleet.at)),
            plain(failure.id.clone()),
            plain(failure.class.clone()),
            plain(failure.code.clone()),
            plain(failure.task_type.as_deref().unwrap_or(format::UNKNOWN)),
            plain(failure.reason.as_deref().unwrap_or(format::UNKNOWN)),
        ];
        cells.truncate(columns.len());
        cells
    };
    let cells = fleet.latest_failures.iter().map(row).collect();
    // With the commands that act on them.
    let title = match area.width {
        WIDE.. => "Latest failures: captcha-worker dead show JOB, dead replay --id JOB",
        80.. => "Latest failures: captcha-worker dead show JOB",
        _ => "Latest failures",
    };
    show(frame, area, screen, Panel::Failures, title, &columns, cells);
}

/// A panel's title, marked where arrows move it. Where not all rows fit, it names those shown.
fn panel_title<'a>(
    screen: &Screen,
    panel: Panel,
    title: &str,
    rows: usize,
    (offset, fit): (usize, usize),
) -> Line<'a> {
    let mark = if screen.is_focused(panel) { "▸ " } else { "" };
    let seen =
        if rows > fit { format!(" ({}–{} of {rows})", offset + 1, offset + fit) } else { String::new() };
    Line::styled(format!("{mark}{title}{seen} "), screen.tones.bold)
}
