//! The parts of the page that are no tables.

use maud::{Markup, html};

use super::Here;
use crate::overview::{Guard, HISTORY, Overview, Rates, format};

/// The drawing's size, in its own units.
const WIDTH: usize = 240;
const HEIGHT: usize = 44;

/// How the account stands, and what to do.
pub(super) fn guard(fleet: &Overview) -> Markup {
    let guard = &fleet.guard;
    html! {
        section.guard.(tone(guard)) aria-labelledby="guard" {
            h2 #guard { span.sign aria-hidden="true" { (sign(guard)) } " Guard: " (guard.title()) }
            p { (guard.meaning) @if let Some(since) = guard.since { ", since " (format::moment(since, fleet.at)) " UTC" } "." }
            @if let Some(next) = guard.next_look {
                p { "Looked at again at " (format::moment(next, fleet.at)) " UTC"
                    @if guard.failed_looks > 0 { "; looks that found it unchanged: " (guard.failed_looks) } "." }
            }
            @if let Some(paused) = &guard.paused {
                p { "Paused since " (format::moment(paused.since, fleet.at)) " UTC by " strong { (paused.by) } ": "
                    @match &paused.reason { Some(reason) => q { (reason) }, None => "no reason given" } "." }
            }
            @for advice in &guard.advice { p.advice { strong { "What to do: " } (spoken(advice)) "." } }
            @if !fleet.shut_types.is_empty() {
                p { "The API has no slots for " (fleet.shut_types.join(", ")) "." }
            }
        }
    }
}

/// A sentence with its commands set apart, which stand between backticks.
fn spoken(text: &str) -> Markup {
    html! {
        @for (place, part) in text.split('`').enumerate() {
            @if place % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

fn tone(guard: &Guard) -> &'static str {
    match &*guard.state {
        "tripped" => "bad",
        "active" if guard.is_open() => "good",
        _ => "wary",
    }
}

fn sign(guard: &Guard) -> &'static str {
    match tone(guard) {
        "bad" => "✕",
        "good" => "✓",
        _ => "!",
    }
}

/// The figures that are looked for first.
pub(super) fn figures(fleet: &Overview) -> Markup {
    let rates = fleet.rates;
    let of = |which: fn(&Rates) -> f64| format::known_rate(rates.as_ref().map(which));
    html! {
        section.figures aria-label="Throughput and balance" {
            div.figure.wide {
                (figure("Solved a second", &of(|rates| rates.solved), &format!("{} since the replicas run", format::count(fleet.solved))))
                (past(&fleet.history))
            }
            (tile("Failed a second", &of(|rates| rates.failed), &format!("{} since the replicas run", format::count(fleet.failed))))
            (tile("Paid a second", &of(|rates| rates.paid), "submissions accepted"))
            (tile("Calls a second", &of(|rates| rates.calls), "createTask and getTaskResult"))
            @match &fleet.balance {
                Some(balance) => {
                    @let rate = balance.per_hour.map_or_else(String::new, |rate| format!(", {}", format::per_hour(rate)));
                    (tile("Balance", &balance.text, &format!("at {} UTC{rate}", format::moment(balance.at, fleet.at))))
                }
                None => { (tile("Balance", format::UNKNOWN, "not told yet")) }
            }
        }
    }
}

fn tile(name: &str, value: &str, note: &str) -> Markup {
    html! { div.figure { (figure(name, value, note)) } }
}

fn figure(name: &str, value: &str, note: &str) -> Markup {
    html! { div { h2 { (name) } p.value { (value) } p.note { (note) } } }
}

/// What was solved over the last minutes, drawn.
fn past(history: &[Rates]) -> Markup {
    let solved = || history.iter().map(|rates| rates.solved);
    let most = solved().fold(0.0, f64::max);
    let step = WIDTH as f64 / (HISTORY - 1) as f64;
    let begin = WIDTH as f64 - step * history.len().saturating_sub(1) as f64;
    let height = |rate: f64| HEIGHT as f64 - 2.0 - rate / most.max(0.1) * (HEIGHT as f64 - 6.0);
    let point =
        |(place, rate): (usize, f64)| format!("{:.1},{:.1}", begin + step * place as f64, height(rate));
    let line = solved().enumerate().map(point).collect::<Vec<_>>().join(" ");
    let least = solved().fold(most, f64::min);
    let told = format!(
        "Solved a second over the last two minutes: between {} and {}",
        format::rate(least),
        format::rate(most)
    );
    html! {
        @if history.len() > 1 {
            svg.past viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(told) {
                polygon points={ (format!("{begin:.1},{HEIGHT} ")) (line) " " (WIDTH) "," (HEIGHT) } {}
                polyline points=(line) {}
            }
        }
    }
}

/// The replica that serves the page.
pub(super) fn here(here: &Here) -> Markup {
    let yes = |yes: bool| if yes { "yes" } else { "no" };
    html! {
        section aria-labelledby="here" {
            h2 #here { "This replica" }
            @if here.obstacles.is_empty() { p { "Ready." } }
            @else { p { "Not ready:" } ul { @for obstacle in &here.obstacles { li { (spoken(obstacle)) } } } }
            dl {
                dt { "session with the broker" } dd { (yes(here.connected)) }
                dt { "the API answers" } dd { (yes(here.api_answers)) }
                dt { "in flight" } dd { (here.in_flight) }
                dt { "paid tasks held" } dd { (here.tickets_open) }
                @for (what, how_many) in here.waiting { dt { (what) } dd { (how_many) } }
                dt { "polls overdue" } dd { (here.polls_overdue) }
            }
        }
    }
}
