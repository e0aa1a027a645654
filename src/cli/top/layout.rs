//! The picture: which part goes where. What is in a part is in `panels`.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph};

use super::panels;
use super::screen::Screen;
use super::theme::{HEADS, Tones, WIDE, wrapped};
use crate::overview::{Overview, format};

/// Throughput and backlog: a title, and three lines; where there is room, more of them for the
/// drawing.
const FIGURES: u16 = 4;
const ROOMY: u16 = 6;
/// From here on there is room.
const TALL: u16 = 36;
/// Below, ops servers get a line together.
const SHORT: u16 = 30;
/// Draws all of it.
pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let area = frame.area();
    let tones = &screen.tones;
    let Some(fleet) = &screen.shot().fleet else {
        return empty(frame, screen);
    };
    let lines = head_lines(screen, fleet, area.width, area.height < SHORT && !screen.still);
    let top = count(lines.len()).min(area.height.saturating_sub(1));
    let wanted = figures_height(area.width, screen.still || area.height >= TALL);
    let figures = if area.height >= top + 1 + wanted + 3 { wanted } else { 0 };
    let foot = u16::from(!screen.still);
    let [head, pace, body, keys] = Layout::vertical([
        Constraint::Length(top),
        Constraint::Length(figures),
        Constraint::Min(0),
        Constraint::Length(foot),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(lines), head);
    if figures > 0 {
        panels::draw(frame, pace, fleet, tones);
    }
    tables_in(frame, body, screen, fleet);
    if foot > 0 {
        frame.render_widget(Paragraph::new(key_line(screen)), keys);
    }
    if screen.help {
        help(frame, tones);
    }
}

/// The height that shows every row.
pub(super) fn wanted_height(screen: &Screen, width: u16) -> usize {
    let Some(fleet) = &screen.shot().fleet else { return 12 };
    let rows = fleet.replicas.len().max(1) + panels::middle_rows(fleet) + fleet.latest_failures.len().max(1);
    head_lines(screen, fleet, width, false).len()
        + usize::from(figures_height(width, true) + 3 * HEADS)
        + rows
}

/// Which fleet is shown, what is wrong with polling it, and the state of the account.
fn head_lines<'a>(screen: &Screen, fleet: &Overview, width: u16, is_short: bool) -> Vec<Line<'a>> {
    let mut lines = vec![header(screen, fleet)];
    lines.extend(notices(screen));
    lines.extend(panels::guard(&fleet.guard, fleet.at, &screen.tones));
    lines.extend(panels::stuck(fleet, &screen.tones));
    lines.extend(panels::publishers(fleet, is_short, &screen.tones));
    let ops = &screen.shot().ops;
    if is_short {
        lines.extend(panels::ops_in_short(ops, &screen.tones));
    } else {
        lines.extend(ops.iter().flat_map(|status| panels::ops(status, &screen.tones)));
    }
    lines.iter().flat_map(|line| wrapped(line, usize::from(width))).collect()
}

/// Only what is beside each other can make use of more lines.
fn figures_height(width: u16, is_tall: bool) -> u16 {
    if is_tall && width >= WIDE { ROOMY } else { FIGURES }
}

fn count(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Replicas, then types beside classes, then failures; what finds no room is left out, the last
/// first.
fn tables_in(frame: &mut Frame<'_>, area: Rect, screen: &Screen, fleet: &Overview) {
    let rows = |rows: usize| count(rows).saturating_add(HEADS);
    let first = rows(fleet.replicas.len().max(1));
    let second = rows(panels::middle_rows(fleet));
    let third = rows(fleet.latest_failures.len().max(1));
    // Where not all has room, each of the lower two keeps two rows first.
    let least = HEADS + 2;
    let below = second.min(least).saturating_add(third.min(least));
    let replicas = first.min(area.height.saturating_sub(below).max(area.height / 3)).max(HEADS + 1);
    let left = area.height.saturating_sub(replicas);
    let middle =
        if left < HEADS + 1 { 0 } else { second.min(left.saturating_sub(third.min(least)).max(HEADS + 1)) };
    let [first, second, third] =
        Layout::vertical([Constraint::Length(replicas), Constraint::Length(middle), Constraint::Min(0)])
            .areas(area);
    panels::replicas(frame, first, screen, fleet);
    let classes = if area.width >= WIDE { 44 } else { 22 };
    let [types, classes] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(classes)]).spacing(2).areas(second);
    panels::types(frame, types, screen, fleet);
    panels::classes(frame, classes, screen, fleet);
    if third.height > HEADS {
        panels::failures(frame, third, screen, fleet);
    }
}

fn header<'a>(screen: &Screen, fleet: &Overview) -> Line<'a> {
    let tones = &screen.tones;
    let mut parts = vec![
        Span::styled(fleet.namespace.clone(), tones.bold),
        Span::raw(format!("  {} UTC", format::moment(fleet.at, fleet.at))),
        Span::raw(format!("  {} of {} replicas", fleet.heard_replicas, fleet.expected_replicas)),
        Span::raw(format!("  leader {}", fleet.leader.as_deref().unwrap_or("none"))),
    ];
    if let Some(age) = screen.age() {
        parts.push(Span::styled(format!("  {} old", format::span(age)), tones.wary));
    }
    if screen.is_frozen() {
        parts.push(Span::styled("  FROZEN, p continues", tones.wary));
    }
    parts.into()
}

/// What is wrong with polling the fleet.
fn notices<'a>(screen: &Screen) -> Vec<Line<'a>> {
    let (shot, tones) = (screen.shot(), &screen.tones);
    let mut lines = Vec::new();
    if let Some(error) = &shot.broker {
        lines.push(Line::styled(format!("The broker does not answer: {error}"), tones.bad));
    }
    if let Some(address) = &shot.told_by {
        lines.push(Line::styled(format!("Source: /status of {address}."), tones.wary));
    }
    lines
}

fn empty(frame: &mut Frame<'_>, screen: &Screen) {
    let mut lines = vec![Line::styled("captcha-worker top", screen.tones.bold)];
    if screen.shot().broker.is_none() {
        lines.push(Line::raw("Asking the replicas…"));
    }
    lines.extend(notices(screen));
    for status in &screen.shot().ops {
        lines.extend(panels::ops(status, &screen.tones));
    }
    if !screen.still {
        lines.extend([Line::raw(""), key_line(screen)]);
    }
    let width = usize::from(frame.area().width);
    let lines: Vec<Line<'_>> = lines.iter().flat_map(|line| wrapped(line, width)).collect();
    frame.render_widget(Paragraph::new(lines), frame.area());
}

fn key_line<'a>(screen: &Screen) -> Line<'a> {
    let freeze = if screen.is_frozen() { "continue" } else { "freeze" };
    let keys = [("q", "quit"), ("p", freeze), ("Tab ↑ ↓", "tables"), ("?", "help")];
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::styled(key, screen.tones.accent));
        spans.push(Span::raw(format!(" {what}   ")));
    }
    spans.into()
}

const HELP: [&str; 12] = [
    "q, Esc, Ctrl-C   quit",
    "p                freeze the picture, continue",
    "Tab, Shift-Tab   choose a table (marked ▸)",
    "↑ ↓ PgUp PgDn    move its rows, Home: to the first",
    "?                this help",
    "",
    "Rates are the mean of 10 s, or of --interval if that is longer.",
    "Counts are since replicas run.",
    "Backlog: messages that are ready, and that nobody holds.",
    "★ leader: it alone schedules probes, and decides.",
    "window: calls, or submissions of a type, at once.",
    "What classes and codes mean: docs/CONTRACT.md.",
];

fn help(frame: &mut Frame<'_>, tones: &Tones) {
    let area = frame.area();
    let [_, middle, _] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(14), Constraint::Min(0)]).areas(area);
    let [_, middle, _] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(66), Constraint::Min(0)]).areas(middle);
    let block = Block::bordered().title_top(Line::styled(" Keys and words ", tones.bold));
    frame.render_widget(Clear, middle);
    frame.render_widget(Paragraph::new(HELP.map(Line::raw).to_vec()).block(block), middle);
}
