//! The stand-in over HTTP: the API's three methods, and the `_sim` paths by which a trial steers
//! and reads it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use futures_util::stream::{self, StreamExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::callback::send;
use super::control::Control;
use super::wire::{JSON, Reply};
use super::{Simulator, Stats};

/// Longest request body, in bytes.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// A caller that waits for ever must not hold its connection for ever.
const LONGEST_HANG: Duration = Duration::from_secs(600);
/// How long open connections may take to end once the server shall stop.
const DRAIN: Duration = Duration::from_secs(5);

/// A listening simulator.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    simulator: Simulator,
}

#[derive(Clone)]
struct App {
    simulator: Simulator,
    shutdown: CancellationToken,
}

impl Server {
    /// Listens; port 0 takes any free one.
    ///
    /// # Errors
    /// The address cannot be listened on.
    pub async fn bind(address: SocketAddr, simulator: Simulator) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, simulator })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then ends within 5 seconds.
    ///
    /// # Errors
    /// The listener failed.
    pub async fn run(self, shutdown: CancellationToken) -> io::Result<()> {
        self.simulator.on_callback(Box::new(|callback| Box::pin(async move { send(&callback).await })));
        let app = router(App { simulator: self.simulator, shutdown: shutdown.clone() });
        // Answers are one small write each, which Nagle's algorithm would hold back. A socket that
        // refuses the option still works.
        let listener = self.listener.tap_io(|connection| drop(connection.set_nodelay(true)));
        let stop = shutdown.clone();
        let serving =
            axum::serve(listener, app).with_graceful_shutdown(async move { stop.cancelled().await });
        let drained = async {
            shutdown.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            served = serving => served,
            () = drained => Ok(()),
        }
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/_sim/health", get(|| async { "ok" }))
        .route("/_sim/stats", get(|State(app): State<App>| async move { stats(&app.simulator.stats()) }))
        .route("/_sim/control", post(control))
        .fallback(api)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(app)
}

/// Any path ending in a method's name, so that a base address with a path of its own works.
async fn api(State(app): State<App>, method: Method, uri: Uri, body: Bytes) -> Response {
    if method != Method::POST {
        return (StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")], "use POST").into_response();
    }
    let name = uri.path().rsplit('/').next().unwrap_or_default();
    match app.simulator.call(name, &body).await {
        Reply::Answer { status, content_type, retry_after, body } => {
            answer(status, &content_type, retry_after, body)
        }
        Reply::Cut => cut(),
        Reply::Hang => {
            // Either way the wait ends in a closed connection.
            let _ = tokio::time::timeout(LONGEST_HANG, app.shutdown.cancelled()).await;
            cut()
        }
    }
}

fn answer(status: u16, content_type: &str, retry_after: Option<u64>, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    // Scripts are checked when they are read, so neither of these falls back.
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let content_type = HeaderValue::from_str(content_type).unwrap_or(HeaderValue::from_static(JSON));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Half an answer: the declared length never comes, and the failing body makes the server close the
/// connection.
fn cut() -> Response {
    let half = stream::once(async { Ok::<_, io::Error>(Bytes::from_static(br#"{"errorId":0,"#)) });
    let end = stream::once(async {
        // Lets the first half reach the wire before the failure discards what is buffered.
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionReset))
    });
    let mut response = Response::new(Body::from_stream(half.chain(end)));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(64));
    response
}

async fn control(State(app): State<App>, body: Bytes) -> Response {
    let applied = serde_json::from_slice::<Control>(&body)
        .map_err(|error| error.to_string())
        .and_then(|control| app.simulator.control(&control).map_err(|error| error.to_string()));
    match applied {
        Ok(()) => stats(&app.simulator.stats()),
        Err(fault) => (StatusCode::BAD_REQUEST, fault).into_response(),
    }
}

fn stats(stats: &Stats) -> Response {
    match serde_json::to_vec(stats) {
        Ok(body) => answer(200, JSON, None, Bytes::from(body)),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
