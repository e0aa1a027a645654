//! What a replica tells about itself over HTTP.
//!
//! * `/healthz`: it lives.
//! * `/readyz`: whether it takes jobs, and if not why.
//! * `/status`: all that it knows, as JSON.
//! * `/metrics`: its figures for Prometheus, by the names in docs/METRICS.md.

mod metrics;

use std::io;
use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Router, extract::State, response::IntoResponse};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::domain::guard::{self, KeyStanding, Phase, Reason};
use crate::worker::View;

/// A listening ops server.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Listens; port 0 takes any free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await? })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until told to stop.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn run(self, view: View, stop: CancellationToken) -> io::Result<()> {
        let routes = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/status", get(status))
            .route("/metrics", get(measured))
            .with_state(view);
        axum::serve(self.listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

/// Why a replica takes no jobs now; empty where it does, or would if there were any.
fn obstacles(view: &View) -> Vec<String> {
    let mut reasons = Vec::new();
    if !view.is_connected() {
        reasons.push("no session with the broker".to_owned());
    }
    let seen = view.seen();
    let Some(state) = &seen.state else {
        reasons.push("the state of the account is not known yet: no word from a leader".to_owned());
        return reasons;
    };
    if state.phase == Phase::Probing {
        reasons.push("the account is being looked at".to_owned());
    }
    if state.phase == Phase::Tripped
        && let Some(trip) = &state.trip
    {
        let (reason, since, next) = (trip.reason, trip.since, trip.next_probe_at);
        reasons.push(format!("{reason} since {since}, looked at again at {next}: {}", reason.advice()));
    }
    if let Some(paused) = &state.paused {
        let why = paused.reason.as_deref().unwrap_or("no reason given");
        let advice = Reason::Operator.advice();
        reasons.push(format!("operator: paused since {} by {} ({why}): {advice}", paused.since, paused.by));
    }
    if let Some(reason) = seen.held() {
        reasons.push(format!("{reason}, met by this replica: {}", reason.advice()));
    }
    match state.keys.standing(&view.key()) {
        KeyStanding::Refused if state.phase != Phase::Tripped => {
            reasons.push("the API refuses this replica's key, and takes that of others".to_owned());
        }
        KeyStanding::Unknown if !state.keys.good.is_empty() => {
            reasons.push("this replica's key has not been tried yet".to_owned());
        }
        KeyStanding::Good | KeyStanding::Refused | KeyStanding::Unknown => {}
    }
    reasons
}

async fn ready(State(view): State<View>) -> impl IntoResponse {
    let reasons = obstacles(&view);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body(&json!({"ready": reasons.is_empty(), "reasons": reasons})))
}

async fn status(State(view): State<View>) -> impl IntoResponse {
    let seen = view.seen();
    body(&json!({
        "guard": guard::told(seen.state.as_deref()),
        "leader": seen.leader,
        "leads": seen.leads,
        "held": seen.held(),
        "replicas": seen.replicas,
        "shut_types": view.shut_types(),
        "connected": view.is_connected(),
        "api_answers": view.reaches_api(),
        "in_flight": view.in_flight(),
        "vitals": view.vitals(),
        "counters": view.reading(),
    }))
}

async fn measured(State(view): State<View>) -> impl IntoResponse {
    ([("content-type", metrics::CONTENT_TYPE)], metrics::rendered(&view))
}

fn body(json: &Value) -> impl IntoResponse + use<> {
    ([("content-type", "application/json")], format!("{json}\n"))
}
