//! Guard, throughput, backlog, and what ops servers tell.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::draw::{Tones, WIDE, titled};
use super::ops::Told;
use crate::overview::{Backlog, Guard, Overview, Rates, words};

/// Rates are drawn to a tenth.
const TENTHS: f64 = 10.0;

fn tone(guard: &Guard, tones: &Tones) -> Style {
    match &*guard.state {
        "tripped" => tones.bad,
        "open" if guard.is_open() => tones.good,
        _ => tones.wary,
    }
}

/// How the account stands, what to do, and the balance.
pub(super) fn guard<'a>(fleet: &Overview, tones: &Tones) -> Vec<Line<'a>> {
    let guard = &fleet.guard;
    let since =
        guard.since.map(|since| format!(", since {}", words::moment(since, fleet.at))).unwrap_or_default();
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
            words::moment(next, fleet.at)
        )));
    }
    if let Some(paused) = &guard.paused {
        let why = paused.reason.as_deref().unwrap_or("no reason given");
        let since = words::moment(paused.since, fleet.at);
        lines.push(Line::raw(format!("         paused since {since} by {}: {why}", paused.by)));
    }
    lines.extend(guard.advice.iter().map(|advice| Line::raw(format!("To do    {advice}"))));
    if let Some(balance) = &fleet.balance {
        let rate = balance.per_hour.map(|rate| format!(", {}", words::per_hour(rate))).unwrap_or_default();
        lines.push(Line::from(vec![
            Span::raw("Balance  "),
            Span::styled(balance.text.clone(), tones.bold),
            Span::raw(format!(" at {}{rate}", words::moment(balance.at, fleet.at))),
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
    // The account's own trouble stands above already.
    let own = replica.reasons.iter().filter(|reason| !reason.contains(" since "));
    lines.extend(own.take(3).map(|reason| Line::styled(format!("         {reason}"), tones.wary)));
    lines
}

/// Throughput beside the backlog.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, fleet: &Overview, tones: &Tones) {
    let backlog = if area.width >= WIDE { 44 } else { 38 };
    let [pace, queues] =
        Layout::horizontal([Constraint::Min(0), Constraint::Length(backlog)]).spacing(2).areas(area);
    throughput(frame, pace, fleet, tones);
    let block = titled(Line::styled("Backlog ", tones.bold), tones);
    let lines = match &fleet.backlog {
        Some(backlog) => queue_lines(backlog, fleet, tones),
        None => vec![Line::styled("not told yet", tones.dim)],
    };
    frame.render_widget(Paragraph::new(lines).block(block), queues);
}

fn throughput(frame: &mut Frame<'_>, area: Rect, fleet: &Overview, tones: &Tones) {
    let block = titled(Line::styled("Throughput ", tones.bold), tones);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let [words, past] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(inner);
    let of = |which: fn(&Rates) -> f64| words::known_rate(fleet.rates.as_ref().map(which));
    let mut spans = Vec::new();
    let rates = [
        ("solved", of(|rates| rates.solved)),
        ("failed", of(|rates| rates.failed)),
        ("paid", of(|rates| rates.paid)),
        ("calls", of(|rates| rates.calls)),
    ];
    for (name, rate) in rates {
        spans.push(Span::raw(format!("{name} ")));
        spans.push(Span::styled(rate, tones.bold));
        spans.push(Span::styled("/s  ", tones.dim));
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), words);
    // A point for each column, the latest at the right; never negative, and far from what does not fit.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float's cast saturates")]
    let tenths = |rates: &Rates| (rates.solved * TENTHS).round() as u64;
    let width = usize::from(past.width);
    let points: Vec<u64> = fleet.history.iter().rev().take(width).rev().map(tenths).collect();
    let drawn = u16::try_from(points.len()).unwrap_or(past.width).min(past.width);
    let right = Rect { x: past.right() - drawn, width: drawn, ..past };
    frame.render_widget(Sparkline::default().data(points).style(tones.accent), right);
}

fn queue_lines<'a>(backlog: &Backlog, fleet: &Overview, tones: &Tones) -> Vec<Line<'a>> {
    let line = |parts: &[(&str, u64)]| {
        let mut spans = Vec::new();
        for (name, ready) in parts {
            spans.push(Span::raw(format!("{name} ")));
            spans.push(Span::styled(format!("{:<9}", words::count(*ready)), tones.bold));
        }
        Line::from(spans)
    };
    let mut last = Vec::new();
    for (class, ready) in backlog.dead.iter().chain([(&"raw".to_owned(), &backlog.raw)]) {
        if *ready > 0 {
            last.push(format!("{class} {}", words::count(*ready)));
        }
    }
    let last = if last.is_empty() {
        format!("at {}", words::moment(backlog.at, fleet.at))
    } else {
        format!("dead: {}", last.join(", "))
    };
    vec![
        line(&[("jobs   ", backlog.jobs), ("tickets", backlog.tickets), ("retry", backlog.retry)]),
        line(&[
            ("results", backlog.results),
            ("dead   ", backlog.dead_letters()),
            ("unrouted", backlog.unrouted),
        ]),
        Line::styled(last, tones.dim),
    ]
}
