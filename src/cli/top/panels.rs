//! Guard, throughput, backlog, and what ops servers tell.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::layout::{Tones, WIDE, titled};
use super::ops::Told;
use super::wrap::wrapped;
use crate::overview::{Backlog, Guard, Overview, Rates, format};

/// Rates are drawn to a tenth.
const TENTHS: f64 = 10.0;

fn tone(guard: &Guard, tones: &Tones) -> Style {
    match &*guard.state {
        "tripped" => tones.bad,
        "active" if guard.is_open() => tones.good,
        _ => tones.wary,
    }
}

/// How the account stands, what to do, and the balance.
pub(super) fn guard<'a>(fleet: &Overview, tones: &Tones) -> Vec<Line<'a>> {
    let guard = &fleet.guard;
    let since =
        guard.since.map(|since| format!(", since {}", format::moment(since, fleet.at))).unwrap_or_default();
    let mut lines = vec![Line::from(vec![
        Span::raw("Guard    "),
        Span::styled(guard.title(), tone(guard, tones)),
        Span::raw(format!("{since}: {}", guard.meaning)),
    ])];
    if let Some(next) = guard.next_look {
        let failed = match guard.failed_looks {
            0 => String::new(),
            looks => format!(", looks that found it unchanged: {looks}"),
        };
        lines.push(Line::raw(format!(
            "         looked at again at {}{failed}",
            format::moment(next, fleet.at)
        )));
    }
    if let Some(paused) = &guard.paused {
        let why = paused.reason.as_deref().unwrap_or("no reason given");
        let since = format::moment(paused.since, fleet.at);
        lines.push(Line::raw(format!("         paused since {since} by {}: {why}", paused.by)));
    }
    lines.extend(guard.advice.iter().map(|advice| Line::raw(format!("To do    {advice}"))));
    if let Some(balance) = &fleet.balance {
        let rate = balance.per_hour.map(|rate| format!(", {}", format::per_hour(rate))).unwrap_or_default();
        lines.push(Line::from(vec![
            Span::raw("Balance  "),
            Span::styled(balance.text.clone(), tones.bold),
            Span::raw(format!(" at {}{rate}", format::moment(balance.at, fleet.at))),
        ]));
    }
    if !fleet.shut_types.is_empty() {
        lines.push(Line::styled(format!("No slots {}", fleet.shut_types.join(", ")), tones.wary));
    }
    lines
}

/// What an ops server tells of its replica.
pub(super) fn ops<'a>(told: &Told, tones: &Tones) -> Vec<Line<'a>> {
    let Some(replica) = &told.replica else {
        let why = told.error.as_deref().unwrap_or("nothing");
        return vec![Line::styled(format!("/status  {}: {why}", told.address), tones.dim)];
    };
    let buffers = replica.buffers;
    let ready = if replica.ready { "ready" } else { "not ready" };
    let mut lines = vec![Line::styled(
        format!(
            "/status  {} {}: {ready}; waiting: deliveries {}, submissions {}, publishes {}; polls overdue: {}",
            told.address,
            replica.name,
            buffers.deliveries,
            buffers.submissions,
            buffers.publishes,
            replica.polls_overdue
        ),
        if replica.ready { tones.dim } else { tones.wary },
    )];
    lines.extend(told.error.as_ref().map(|error| Line::styled(format!("         {error}"), tones.dim)));
    let own = replica.reasons.iter().filter(|reason| !is_told_above(reason));
    lines.extend(own.take(3).map(|reason| Line::styled(format!("         {reason}"), tones.wary)));
    lines
}

/// The account's own trouble stands with the guard already: a trip and a pause, in the words of /readyz.
fn is_told_above(reason: &str) -> bool {
    reason.contains(", looked at again at ") || reason.starts_with("operator: paused since ")
}

/// The same of all of them in a line, where lines are few.
pub(super) fn ops_in_short<'a>(all: &[Told], tones: &Tones) -> Option<Line<'a>> {
    let ready = all.iter().filter(|told| told.replica.as_ref().is_some_and(|replica| replica.ready)).count();
    let answer = all.iter().filter(|told| told.replica.is_some()).count();
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
        None => vec![Line::styled("not told yet", tones.dim)],
    };
    let lines: Vec<Line<'_>> =
        lines.iter().flat_map(|line| wrapped(line, usize::from(queues.width))).collect();
    frame.render_widget(Paragraph::new(lines).block(block), queues);
}

/// Rates, and what was solved over the last minutes: under them, or where that is one line beside them.
fn throughput(frame: &mut Frame<'_>, area: Rect, fleet: &Overview, tones: &Tones) {
    let block = titled(Line::styled("Throughput ", tones.bold), tones);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let rates = rate_line(fleet, tones);
    let [words, past] = if inner.height > 1 {
        Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(inner)
    } else {
        let width = u16::try_from(rates.width()).unwrap_or(u16::MAX);
        Layout::horizontal([Constraint::Length(width), Constraint::Min(0)]).areas(inner)
    };
    frame.render_widget(Paragraph::new(rates), words);
    // A point for each column, the latest at the right; never negative, and far from what does not fit.
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
    let told = classes.chain(raw).map(|(class, ready)| format!("{class} {}", format::count(*ready)));
    told.collect::<Vec<_>>().join(", ")
}
