//! The page for people: the fleet as this replica sees it, written whole on the server.
//!
//! Nothing on it is a script, and nothing is fetched from anywhere: its one stylesheet stands in
//! it, and is allowed by its hash alone. What replicas report is foreign text, which the templates
//! escape.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{Sampler, ready};
use crate::overview::{FailureRow, HISTORY, LaneRow, Overview, Rates, ReplicaRow, Tone, TypeRow, format};

const STYLE: &str = include_str!("dashboard/style.css");
/// As often as there is news.
const REFRESH_SECONDS: u32 = 2;
/// Asks for a page that does not refresh itself.
const HOLD: &str = "refresh=0";

static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
});

/// What the page shows beside the fleet: how the replica stands that serves it.
struct Here {
    name: String,
    obstacles: Vec<String>,
    in_flight: usize,
    tickets_open: usize,
    waiting: [(&'static str, usize); 3],
    polls_overdue: usize,
    connected: bool,
    api_answers: bool,
}

pub(super) async fn page(State(sampler): State<Sampler>, uri: Uri) -> impl IntoResponse {
    let held = uri.query().is_some_and(|query| query.split('&').any(|part| part == HOLD));
    let page = document(&sampler.overview(), &Here::of(&sampler), held);
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, &**POLICY)];
    (headers.map(|(name, value)| (name, value.to_owned())), page.into_string())
}

impl Here {
    fn of(sampler: &Sampler) -> Self {
        let view = &sampler.view;
        let buffers = view.buffers();
        Self {
            name: crate::domain::sanitize::shown(view.name(), 40),
            obstacles: ready::obstacles(view),
            in_flight: view.in_flight(),
            tickets_open: view.tickets_open(),
            waiting: [
                ("deliveries not begun", buffers.deliveries),
                ("jobs waiting for createTask", buffers.submissions),
                ("publishes not confirmed", buffers.publishes),
            ],
            polls_overdue: view.overdue_polls(),
            connected: view.is_connected(),
            api_answers: view.reaches_api(),
        }
    }
}

fn document(fleet: &Overview, here: &Here, held: bool) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if !held { meta http-equiv="refresh" content=(REFRESH_SECONDS); }
                title { (fleet.guard.title()) " · " (fleet.namespace) " · captcha-worker" }
                // Else browsers ask for /favicon.ico.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                (masthead(fleet, here, held))
                main {
                    (guard(fleet))
                    (figures(fleet))
                    div.columns {
                        div {
                            (replicas(fleet))
                            (types(fleet))
                            (lanes(fleet))
                            (failures(fleet))
                        }
                        div {
                            (backlog(fleet))
                            (classes(fleet))
                            (this_replica(here))
                        }
                    }
                }
                (foot())
            }
        }
    }
}

fn masthead(fleet: &Overview, here: &Here, held: bool) -> Markup {
    html! {
        header {
            h1 { (fleet.namespace) " " span { "captcha-worker" } }
            p {
                "As " strong { (here.name) } " sees it at " time datetime=(fleet.at) { (format::moment(fleet.at, fleet.at)) " UTC" } ". "
                @if held { "Held. " a href="/" { "Refresh by itself" } }
                @else { a href={ "/?" (HOLD) } { "Hold this page" } }
            }
        }
    }
}

fn foot() -> Markup {
    html! {
        footer {
            p {
                "captcha-worker " (env!("CARGO_PKG_VERSION")) ", read only. For programs: "
                a href="/status" { "/status" } ", " a href="/metrics" { "/metrics" } ", "
                a href="/readyz" { "/readyz" } ", " a href="/healthz" { "/healthz" } "."
            }
        }
    }
}

/// The drawing's size, in its own units.
const WIDTH: usize = 240;
const HEIGHT: usize = 44;

/// How the account stands, and what to do.
fn guard(fleet: &Overview) -> Markup {
    let guard = &fleet.guard;
    let (tone, sign) = match guard.tone() {
        Tone::Good => ("good", "✓"),
        Tone::Wary => ("wary", "!"),
        Tone::Bad => ("bad", "✕"),
    };
    html! {
        section.guard.(tone) aria-labelledby="guard" {
            h2 #guard { span.sign aria-hidden="true" { (sign) } " Guard: " (guard.title()) }
            p { (guard.meaning) @if let Some(since) = guard.since { ", since " (format::moment(since, fleet.at)) " UTC" } "." }
            @for note in guard.notes(fleet.at) { p { (note) } }
            @for advice in &guard.advice { p.advice { strong { "What to do: " } (spoken(advice)) "." } }
            @if !fleet.shut_types.is_empty() {
                p { "The API has no slots for " (fleet.shut_types.join(", ")) "." }
            }
            @if let Some(callbacks) = &fleet.callbacks { p { "Callbacks: " (callbacks) "." } }
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

/// The figures that are looked for first.
fn figures(fleet: &Overview) -> Markup {
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
            @if let Some(spending) = &fleet.guard.spending {
                (tile("Spent this hour", &spending.hour.to_string(), &spending.text(fleet.at)))
            }
            @match &fleet.guard.balance {
                Some(balance) => {
                    @let rate = balance.per_hour.map_or_else(String::new, |rate| format!(", {}", format::per_hour(rate)));
                    (tile("Balance", &balance.text, &format!("at {} UTC{rate}", format::moment(balance.at, fleet.at))))
                }
                None => { (tile("Balance", format::UNKNOWN, "not reported yet")) }
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
    let label = format!(
        "Solved a second over the last two minutes: between {} and {}",
        format::rate(least),
        format::rate(most)
    );
    html! {
        @if history.len() > 1 {
            svg.past viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label=(label) {
                polygon points={ (format!("{begin:.1},{HEIGHT} ")) (line) " " (WIDTH) "," (HEIGHT) } {}
                polyline points=(line) {}
            }
        }
    }
}

/// The replica that serves the page.
fn this_replica(here: &Here) -> Markup {
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

/// A table under its heading. Where it is wider than the window it is moved by itself, by keys too,
/// and never the page.
fn table(
    id: &str,
    title: &str,
    note: &str,
    head: &[(&str, bool)],
    rows: &Markup,
    empty: Option<&str>,
) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            @if let Some(empty) = empty { p.empty { (empty) } }
            @else {
                div.scroll tabindex="0" role="region" aria-labelledby=(id) {
                    table {
                        caption { span { (note) } }
                        thead { tr { @for (name, is_number) in head { th.number[*is_number] scope="col" { (name) } } } }
                        tbody { (rows) }
                    }
                }
            }
        }
    }
}

fn replicas(fleet: &Overview) -> Markup {
    let head = [
        ("name", false),
        ("takes jobs", false),
        ("in flight", true),
        ("window", true),
        ("solved/s", true),
        ("failed/s", true),
        ("calls/s", true),
        ("solved", true),
        ("failed", true),
        ("runs for", true),
    ];
    let missing = fleet.expected_replicas.saturating_sub(fleet.heard_replicas);
    let mut note = "Rates are the mean of 10 s; counts are since each runs.".to_owned();
    if missing > 0 {
        note.push_str(&format!(" {missing} more should be there and are not heard."));
    }
    if fleet.heard_replicas > fleet.replicas.len() {
        note.push_str(&format!(" {} of {} are shown.", fleet.replicas.len(), fleet.heard_replicas));
    }
    if fleet.terse_replicas > 0 {
        note.push_str(&format!(
            " {} of an earlier version report no types, classes and failures.",
            fleet.terse_replicas
        ));
    }
    let rows = html! { @for row in &fleet.replicas { (replica(fleet, row)) } };
    let empty = fleet.replicas.is_empty().then_some(
        "None is heard: there is no session with the broker, or this replica is stuck (see /healthz).",
    );
    table("replicas", &format!("Replicas: {}", fleet.heard_replicas), &note, &head, &rows, empty)
}

fn replica(fleet: &Overview, row: &ReplicaRow) -> Markup {
    html! {
        tr {
            th scope="row" { (row.name) @if row.leads { " " span.badge { "leader" } } }
            td { @if row.ready { "yes" } @else { strong.bad { "no" } } @if let Some(held) = &row.held { " " strong.bad { (held) } } }
            td.number { (row.in_flight) }
            td.number { (row.window) }
            td.number { (format::known_rate(row.rates.map(|rates| rates.solved))) }
            td.number { (format::known_rate(row.rates.map(|rates| rates.failed))) }
            td.number { (format::known_rate(row.rates.map(|rates| rates.calls))) }
            td.number { (format::count(row.solved)) }
            td.number { (format::count(row.failed)) }
            td.number { (format::span(fleet.at.since(row.started_at))) }
        }
    }
}

fn types(fleet: &Overview) -> Markup {
    let head = [
        ("type", false),
        ("in flight", true),
        ("window", true),
        ("paid", true),
        ("solved", true),
        ("failed", true),
        ("slots", false),
        ("median", true),
        ("p95", true),
        ("polls at", true),
        ("mean wait", true),
    ];
    let row = |row: &TypeRow| {
        let learned = row.figures.learned;
        let polls =
            learned.map(|learned| learned.polls_ms.map(|age| format::known_seconds(Some(age))).join(", "));
        html! {
            tr {
                th scope="row" { (row.name) }
                td.number { (row.figures.in_flight) }
                td.number { (row.figures.window) }
                td.number { (format::count(row.figures.accepted)) }
                td.number { (format::count(row.figures.solved)) }
                td.number { (format::count(row.figures.failed)) }
                td { @if row.shut { strong.bad { "none at the API" } } @else { "yes" } }
                td.number { (format::known_seconds(learned.map(|learned| learned.median_ms))) }
                td.number { (format::known_seconds(learned.map(|learned| learned.p95_ms))) }
                td.number { (polls.as_deref().unwrap_or(format::UNKNOWN)) }
                td.number { (format::known_seconds(learned.map(|learned| learned.mean_wait_ms))) }
            }
        }
    };
    let rows = html! { @for entry in &fleet.types { (row(entry)) } };
    let note = "All replicas together; counts are since they run. The window bounds submissions at once. \
                Median, p95, polls and mean wait (of a ready answer for its poll) are learned from answers.";
    let empty = fleet.types.is_empty().then_some("No job has been taken yet.");
    table("types", "Task types", note, &head, &rows, empty)
}

fn failures(fleet: &Overview) -> Markup {
    let head = [
        ("time", false),
        ("job", false),
        ("class", false),
        ("code", false),
        ("type", false),
        ("replica", false),
    ];
    let row = |FailureRow { replica, failure }: &FailureRow| {
        html! {
            tr {
                td { time datetime=(failure.at) { (format::moment(failure.at, fleet.at)) } }
                th.id scope="row" { (failure.id) }
                td { (failure.class) }
                td { code { (failure.code) } }
                td { (failure.task_type.as_deref().unwrap_or(format::UNKNOWN)) }
                td { (replica) }
            }
        }
    };
    let rows = html! { @for failure in &fleet.latest_failures { (row(failure)) } };
    let note = "The latest 20 of each replica's last 10, the latest first, in UTC. What each means stands in the contract.";
    let empty = fleet.latest_failures.is_empty().then_some("No job has failed.");
    table("failures", "Latest failures", note, &head, &rows, empty)
}

/// Only where there are lanes beside the default one.
fn lanes(fleet: &Overview) -> Markup {
    if fleet.lanes.is_empty() {
        return html! {};
    }
    let head = [("lane", false), ("weight", true), ("in flight", true), ("jobs ready", true)];
    let ready = |lane: &LaneRow| lane.ready.map_or_else(|| "unknown".to_owned(), format::count);
    let rows = html! {
        @for lane in &fleet.lanes {
            tr {
                th scope="row" { (lane.name) @if lane.is_removed { " (in no settings)" } }
                td.number { (lane.weight) }
                td.number { (lane.in_flight) }
                td.number { (ready(lane)) }
            }
        }
    };
    let note = "While several lanes have work, each gets its weight of it.";
    table("lanes", "Lanes", note, &head, &rows, None)
}

fn backlog(fleet: &Overview) -> Markup {
    let head = [("queue", false), ("ready", true)];
    let Some(backlog) = &fleet.backlog else {
        return table(
            "backlog",
            "Backlog",
            "",
            &head,
            &html! {},
            Some("The leader has not reported it yet."),
        );
    };
    let row = |name: &str, ready: u64| {
        html! { tr { th scope="row" { (name) } td.number { (format::count(ready)) } } }
    };
    let rows = html! {
        (row("jobs", backlog.jobs)) (row("tickets", backlog.tickets)) (row("retry", backlog.retry)) (row("results", backlog.results))
        @for (class, ready) in &backlog.dead { (row(&format!("dead.{class}"), *ready)) }
        @if backlog.raw > 0 { (row("dead.raw", backlog.raw)) }
        @if backlog.unrouted > 0 { (row("unrouted", backlog.unrouted)) }
        @if backlog.dead_letters() == 0 { (row("dead letters", 0)) }
    };
    let note = format!(
        "Messages that nobody holds, at {} UTC; the leader looks every 15 s.",
        format::moment(backlog.at, fleet.at)
    );
    table("backlog", "Backlog", &note, &head, &rows, None)
}

fn classes(fleet: &Overview) -> Markup {
    let head = [("class", false), ("jobs", true), ("share", true)];
    let all = fleet.solved.saturating_add(fleet.failed);
    let share = |jobs: u64| jobs as f64 / all.max(1) as f64 * 100.0;
    let row = |class: &str, jobs: u64| {
        html! { tr { th scope="row" { (class) } td.number { (format::count(jobs)) } td.number { (format!("{:.1} %", share(jobs))) } } }
    };
    let rows = html! {
        (row("solved", fleet.solved))
        @for entry in &fleet.classes { (row(&entry.class, entry.jobs)) }
    };
    let empty = (all == 0).then_some("No job has ended yet.");
    table("classes", "Jobs by class", "Ended since the replicas run.", &head, &rows, empty)
}
