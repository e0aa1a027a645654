//! What a replica tells about itself over HTTP: whether it lives, whether it is ready, and what it has done.

use std::io;
use std::net::SocketAddr;

use axum::http::StatusCode;
use axum::routing::get;
use axum::{Router, extract::State, response::IntoResponse};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::domain::guard::Guard;
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
            .with_state(view);
        axum::serve(self.listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

/// Why a replica takes no jobs now; empty where it does.
fn obstacles(view: &View) -> Vec<String> {
    let mut reasons = Vec::new();
    if !view.is_connected() {
        reasons.push("no session with the broker".to_owned());
    }
    if let Guard::Tripped { reason, since } = view.guard() {
        reasons.push(format!("{reason} since {since}: {}", reason.advice()));
    }
    reasons
}

async fn ready(State(view): State<View>) -> impl IntoResponse {
    let reasons = obstacles(&view);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, body(&json!({"ready": reasons.is_empty(), "reasons": reasons})))
}

async fn status(State(view): State<View>) -> impl IntoResponse {
    let guard = match view.guard() {
        Guard::Open => json!({"state": "open"}),
        Guard::Tripped { reason, since } => {
            json!({"state": "tripped", "reason": reason.name(), "since": since})
        }
    };
    body(&json!({
        "guard": guard,
        "connected": view.is_connected(),
        "api_answers": view.reaches_api(),
        "in_flight": view.in_flight(),
        "counters": view.reading(),
    }))
}

fn body(json: &Value) -> impl IntoResponse + use<> {
    ([("content-type", "application/json")], format!("{json}\n"))
}
