//! The page for people: the fleet as this replica sees it, written whole on the server.
//!
//! Nothing on it is a script, and nothing is fetched from anywhere: its one stylesheet stands in it, and is allowed by its hash alone. What
//! replicas tell is foreign text, which the templates escape.

mod parts;
mod tables;

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::ready;
use super::sampler::Sampler;
use crate::overview::{Overview, format};

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

/// What the page tells beside the fleet: how the replica stands that serves it.
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
                    (parts::guard(fleet))
                    (parts::figures(fleet))
                    div.columns {
                        div {
                            (tables::replicas(fleet))
                            (tables::types(fleet))
                            (tables::failures(fleet))
                        }
                        div {
                            (tables::backlog(fleet))
                            (tables::classes(fleet))
                            (parts::here(here))
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
