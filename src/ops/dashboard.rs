//! The page for people: the fleet as this replica sees it, written whole on the server.
//!
//! Nothing on it is a script, and nothing is fetched from anywhere: its one stylesheet stands in
//! it, and is allowed by its hash alone. What replicas report is foreign text, which the templates
//! escape.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::Uri;
use axum::http::header::{self, HeaderName};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::{Sampler, ready};
use crate::domain::class::Class;
use crate::domain::publishers::PublisherFigures;
use crate::overview::{FailureRow, HISTORY, LaneRow, Overview, Rates, ReplicaRow, Tone, TypeRow, format};

use Column::{Key, Long, Number, Text};

const STYLE: &str = include_str!("dashboard/style.css");
/// As often as there is news.
const REFRESH_SECONDS: u32 = 2;
/// Asks for a page that does not refresh itself.
const HOLD: &str = "refresh=0";

static STYLE_HASH: LazyLock<String> = LazyLock::new(|| STANDARD.encode(Sha256::digest(STYLE.as_bytes())));

/// Where forms of a page may go: nowhere.
const READING: &str = "'none'";
/// To this server.
pub(super) const ACTING: &str = "'self'";

/// The headers of a page.
pub(super) fn headers(form_action: &str) -> [(HeaderName, String); 2] {
    let hash = &*STYLE_HASH;
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action {form_action}; frame-ancestors 'none'"
    );
    [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)]
}

/// A whole page. `refresh`: by itself, after so many seconds.
pub(super) fn shell(title: &str, refresh: Option<u32>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                @if let Some(seconds) = refresh { meta http-equiv="refresh" content=(seconds); }
                title { (title) }
                // Else browsers ask for /favicon.ico.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body { (body) }
        }
    }
}

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
    acts: bool,
}

pub(super) async fn page(State(sampler): State<Sampler>, uri: Uri) -> impl IntoResponse {
    let held = uri.query().is_some_and(|query| query.split('&').any(|part| part == HOLD));
    let page = document(&sampler.overview(), &Here::of(&sampler), held);
    (headers(READING), page.into_string())
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
            acts: sampler.acts,
        }
    }
}

fn document(fleet: &Overview, here: &Here, held: bool) -> Markup {
    let title = format!("{} · {} · captcha-worker", fleet.guard.title(), fleet.namespace);
    let body = html! {
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
                    (publishers(fleet))
                }
                div {
                    (backlog(fleet))
                    (classes(fleet))
                    (this_replica(here))
                }
            }
        }
        (foot(here))
    };
    shell(&title, (!held).then_some(REFRESH_SECONDS), &body)
}

fn masthead(fleet: &Overview, here: &Here, held: bool) -> Markup {
    html! {
        header {
            h1 { (fleet.namespace) " " span { "captcha-worker" } }
            p {
                "As " strong { (here.name) } " sees it at " time datetime=(fleet.at) { (format::moment(fleet.at, fleet.at)) " UTC" } ". "
                @if held { "Held. " a href="/" { "Refresh by itself" } }
                @else { a href={ "/?" (HOLD) } { "Hold this page" } }
                @if here.acts { " · " a href="/act" { "Act" } }
            }
        }
    }
}

fn foot(here: &Here) -> Markup {
    html! {
        footer {
            p {
                "captcha-worker " (env!("CARGO_PKG_VERSION")) @if !here.acts { ", read only" } ". For programs: "
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
                p { "Paused types: " (fleet.shut_types.join(", ")) "." }
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

/// A column: its head, and what stands in it.
#[derive(Clone, Copy)]
enum Column {
    /// What a row is about.
    Key(&'static str),
    Text(&'static str),
    Number(&'static str),
    /// Text that may have several lines.
    Long(&'static str),
}

/// A table under its heading. Where it is wider than the window it is moved by itself, by keys too,
/// and never the page. On a phone each row is a card, so that nothing is moved there.
fn table(
    id: &str,
    title: &str,
    note: &str,
    columns: &[Column],
    rows: Vec<Vec<Markup>>,
    empty: Option<&str>,
) -> Markup {
    let cell = |(column, cell): (&Column, Markup)| {
        html! {
            @match column {
                Key(_) => th scope="row" { (cell) },
                Text(name) => td data-label=(name) { (cell) },
                Number(name) => td.number data-label=(name) { (cell) },
                Long(name) => td.long data-label=(name) { (cell) },
            }
        }
    };
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (title) }
            @if let Some(empty) = empty { p.empty { (empty) } }
            @else {
                div.scroll tabindex="0" role="region" aria-labelledby=(id) {
                    table {
                        caption { span { (note) } }
                        thead { tr { @for column in columns { @match column {
                            Number(name) => th.number scope="col" { (name) },
                            Key(name) | Text(name) | Long(name) => th scope="col" { (name) },
                        } } } }
                        tbody { @for row in rows { tr { @for pair in columns.iter().zip(row) { (cell(pair)) } } } }
                    }
                }
            }
        }
    }
}

fn replicas(fleet: &Overview) -> Markup {
    let columns = [
        Key("name"),
        Text("takes jobs"),
        Number("in flight"),
        Number("window"),
        Number("solved/s"),
        Number("failed/s"),
        Number("calls/s"),
        Number("solved"),
        Number("failed"),
        Number("runs for"),
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
    let row = |row: &ReplicaRow| {
        let rate = |of: fn(&Rates) -> f64| html! { (format::known_rate(row.rates.as_ref().map(of))) };
        vec![
            html! { (row.name) @if row.leads { " " span.badge { "leader" } } },
            html! { @if row.ready { "yes" } @else { strong.bad { "no" } } @if let Some(held) = &row.held { " " strong.bad { (held) } } },
            html! { (row.in_flight) },
            html! { (row.window) },
            rate(|rates| rates.solved),
            rate(|rates| rates.failed),
            rate(|rates| rates.calls),
            html! { (format::count(row.solved)) },
            html! { (format::count(row.failed)) },
            html! { (format::span(fleet.at.since(row.started_at))) },
        ]
    };
    let rows = fleet.replicas.iter().map(row).collect();
    let empty = fleet.replicas.is_empty().then_some(
        "None is heard: there is no session with the broker, or this replica is stuck (see /healthz).",
    );
    table("replicas", &format!("Replicas: {}", fleet.heard_replicas), &note, &columns, rows, empty)
}

fn types(fleet: &Overview) -> Markup {
    let columns = [
        Key("type"),
        Number("in flight"),
        Number("window"),
        Number("paid"),
        Number("solved"),
        Number("failed"),
        Text("submits"),
        Number("median"),
        Number("p95"),
        Number("polls at"),
        Number("mean wait"),
    ];
    let row = |row: &TypeRow| {
        let learned = row.figures.learned;
        let polls =
            learned.map(|learned| learned.polls_ms.map(|age| format::known_seconds(Some(age))).join(", "));
        vec![
            html! { (row.name) },
            html! { (row.figures.in_flight) },
            html! { (row.figures.window) },
            html! { (format::count(row.figures.accepted)) },
            html! { (format::count(row.figures.solved)) },
            html! { (format::count(row.figures.failed)) },
            html! { @if row.shut { strong.bad { "paused" } } @else { "yes" } },
            html! { (format::known_seconds(learned.map(|learned| learned.median_ms))) },
            html! { (format::known_seconds(learned.map(|learned| learned.p95_ms))) },
            html! { (polls.as_deref().unwrap_or(format::UNKNOWN)) },
            html! { (format::known_seconds(learned.map(|learned| learned.mean_wait_ms))) },
        ]
    };
    let rows = fleet.types.iter().map(row).collect();
    let note = "All replicas together; counts are since they run. The window bounds submissions at once. \
                Median, p95, polls and mean wait (of a ready answer for its poll) are learned from answers.";
    let empty = fleet.types.is_empty().then_some("No job has been taken yet.");
    table("types", "Task types", note, &columns, rows, empty)
}

fn failures(fleet: &Overview) -> Markup {
    let columns = [
        Text("time"),
        Key("job"),
        Text("class"),
        Long("reason"),
        Text("type"),
        Text("replica"),
        Long("command"),
    ];
    let row = |FailureRow { replica, failure }: &FailureRow| {
        let class: Option<Class> = failure.class.parse().ok();
        vec![
            html! { time datetime=(failure.at) { (format::moment(failure.at, fleet.at)) } },
            html! { code { (failure.id) } },
            html! { (failure.class) },
            html! { code { (failure.code) } @if let Some(class) = class { " " span.note { (class.meaning()) } } },
            html! { (failure.task_type.as_deref().unwrap_or(format::UNKNOWN)) },
            html! { (replica) },
            html! { code { (format::dead_command(&failure.id, &failure.class)) } },
        ]
    };
    let rows = fleet.latest_failures.iter().map(row).collect();
    let note = "The latest 20 of each replica's last 10, the latest first, in UTC. docs/CONTRACT.md explains classes and codes.";
    let empty = fleet.latest_failures.is_empty().then_some("No job has failed.");
    table("failures", "Latest failures", note, &columns, rows, empty)
}

fn publishers(fleet: &Overview) -> Markup {
    let columns = [Key("publisher"), Number("last minute"), Number("last hour"), Number("delayed")];
    let row = |row: &PublisherFigures| {
        let counts = [row.minute, row.hour, row.delayed];
        let counts = counts.map(|count| html! { (format::count(count.into())) });
        [html! { (row.name) }].into_iter().chain(counts).collect()
    };
    let rows = fleet.publishers.iter().map(row).collect();
    let note = "Jobs taken, of the publishers with the most. Delayed, in the last hour: above limits.per_publisher_per_minute.";
    let empty = fleet.publishers.is_empty().then_some("No job has been taken within the hour.");
    table("publishers", "Publishers", note, &columns, rows, empty)
}

/// Only where there are lanes beside the default one.
fn lanes(fleet: &Overview) -> Markup {
    if fleet.lanes.is_empty() {
        return html! {};
    }
    let columns = [Key("lane"), Number("weight"), Number("in flight"), Number("jobs ready")];
    let ready = |lane: &LaneRow| lane.ready.map_or_else(|| "unknown".to_owned(), format::count);
    let row = |lane: &LaneRow| {
        vec![
            html! { (lane.name) @if lane.is_removed { " (not in the settings)" } },
            html! { (lane.weight) },
            html! { (lane.in_flight) },
            html! { (ready(lane)) },
        ]
    };
    let rows = fleet.lanes.iter().map(row).collect();
    let note = "While several lanes have work, each gets its weight of it.";
    table("lanes", "Lanes", note, &columns, rows, None)
}

fn backlog(fleet: &Overview) -> Markup {
    let columns = [Key("queue"), Number("ready")];
    let Some(backlog) = &fleet.backlog else {
        let empty = Some("The leader has not reported it yet.");
        return table("backlog", "Backlog", "", &columns, Vec::new(), empty);
    };
    let row = |name: &str, ready: u64| vec![html! { (name) }, html! { (format::count(ready)) }];
    let mut rows = vec![
        row("jobs", backlog.jobs),
        row("tickets", backlog.tickets),
        row("retry", backlog.retry),
        row("results", backlog.results),
    ];
    rows.extend(backlog.dead.iter().map(|(class, ready)| row(&format!("dead.{class}"), *ready)));
    rows.extend((backlog.raw > 0).then(|| row("dead.raw", backlog.raw)));
    rows.extend((backlog.unrouted > 0).then(|| row("unrouted", backlog.unrouted)));
    rows.extend((backlog.dead_letters() == 0).then(|| row("dead letters", 0)));
    let note = format!(
        "Messages that nobody holds, at {} UTC; the leader looks every 15 s.",
        format::moment(backlog.at, fleet.at)
    );
    table("backlog", "Backlog", &note, &columns, rows, None)
}

fn classes(fleet: &Overview) -> Markup {
    let columns = [Key("class"), Number("jobs"), Number("share")];
    let all = fleet.solved.saturating_add(fleet.failed);
    let row = |class: &str, jobs: u64| {
        let share = jobs as f64 / all.max(1) as f64 * 100.0;
        vec![html! { (class) }, html! { (format::count(jobs)) }, html! { (format!("{share:.1} %")) }]
    };
    let mut rows = vec![row("solved", fleet.solved)];
    rows.extend(fleet.classes.iter().map(|entry| row(&entry.class, entry.jobs)));
    let empty = (all == 0).then_some("No job has ended yet.");
    table("classes", "Jobs by class", "Ended since the replicas run.", &columns, rows, empty)
}
