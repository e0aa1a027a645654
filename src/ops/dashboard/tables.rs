//! The tables of the page.

use maud::{Markup, html};

use crate::overview::{FailureRow, Overview, ReplicaRow, TypeRow, format};

/// A table under its heading. Where it is wider than the window it is moved by itself, by keys too, and never the page.
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

pub(super) fn replicas(fleet: &Overview) -> Markup {
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
            " {} of an earlier version tell no types, classes and failures.",
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

pub(super) fn types(fleet: &Overview) -> Markup {
    let head = [
        ("type", false),
        ("in flight", true),
        ("window", true),
        ("paid", true),
        ("solved", true),
        ("failed", true),
        ("slots", false),
    ];
    let row = |row: &TypeRow| {
        html! {
            tr {
                th scope="row" { (row.name) }
                td.number { (row.figures.in_flight) }
                td.number { (row.figures.window) }
                td.number { (format::count(row.figures.accepted)) }
                td.number { (format::count(row.figures.solved)) }
                td.number { (format::count(row.figures.failed)) }
                td { @if row.shut { strong.bad { "none at the API" } } @else { "yes" } }
            }
        }
    };
    let rows = html! { @for told in &fleet.types { (row(told)) } };
    let note = "All replicas together; counts are since they run. The window bounds submissions at once.";
    let empty = fleet.types.is_empty().then_some("No job has been taken yet.");
    table("types", "Task types", note, &head, &rows, empty)
}

pub(super) fn failures(fleet: &Overview) -> Markup {
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
    let rows = html! { @for told in &fleet.latest_failures { (row(told)) } };
    let note = "The latest 20 of each replica's last 10, the latest first, in UTC. What each means stands in the contract.";
    let empty = fleet.latest_failures.is_empty().then_some("No job has failed.");
    table("failures", "Latest failures", note, &head, &rows, empty)
}

pub(super) fn backlog(fleet: &Overview) -> Markup {
    let head = [("queue", false), ("ready", true)];
    let Some(backlog) = &fleet.backlog else {
        return table("backlog", "Backlog", "", &head, &html! {}, Some("The leader has not told it yet."));
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

pub(super) fn classes(fleet: &Overview) -> Markup {
    let head = [("class", false), ("jobs", true), ("share", true)];
    let all = fleet.solved.saturating_add(fleet.failed);
    let share = |jobs: u64| jobs as f64 / all.max(1) as f64 * 100.0;
    let row = |class: &str, jobs: u64| {
        html! { tr { th scope="row" { (class) } td.number { (format::count(jobs)) } td.number { (format!("{:.1} %", share(jobs))) } } }
    };
    let rows = html! {
        (row("solved", fleet.solved))
        @for told in &fleet.classes { (row(&told.class, told.jobs)) }
    };
    let empty = (all == 0).then_some("No job has ended yet.");
    table("classes", "Jobs by class", "Ended since the replicas run.", &head, &rows, empty)
}
