//! Connections, bounded in number and in time.
//!
//! They share file descriptors with the worker: whoever opened a thousand and said nothing would
//! keep it from its broker and the API.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::acts::Peer;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct ServerLimits {
    /// At once. The oldest makes room for a new one, so that a request is answered whatever the
    /// others do.
    connections: usize,
    /// For a request to arrive in.
    header: Duration,
    /// For a connection from its beginning to its end.
    life: Duration,
    /// The longest head of a request, in bytes; `None`: the HTTP library's own bound.
    head: Option<usize>,
}

impl ServerLimits {
    /// Probes, a scraper or two and some browsers need a handful of connections. The slowest answer
    /// is that of a stuck runtime's health, after 5 s.
    pub(super) const OPS: Self =
        Self { connections: 64, header: Duration::from_secs(5), life: Duration::from_secs(15), head: None };
    /// The API drops a callback after 2 s. The head is the least that the HTTP library allows.
    pub(super) const CALLBACKS: Self = Self {
        connections: 256,
        header: Duration::from_secs(2),
        life: Duration::from_secs(2),
        head: Some(8_192),
    };
}

/// Without file descriptors there is nothing to accept; a moment later there may be.
const BREATH: Duration = Duration::from_secs(1);

/// Answers until asked to stop.
pub(super) async fn serve(
    listener: TcpListener,
    routes: Router,
    bounds: ServerLimits,
    stop: CancellationToken,
) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::with_capacity(bounds.connections);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == bounds.connections {
                    open.pop_front();
                }
                let routes = routes.clone().layer(Extension(Peer(from.ip().to_canonical())));
                open.push_back(AbortOnDropHandle::new(tokio::spawn(answer(stream, routes, bounds))));
            }
            Err(error) if is_the_clients(&error) => {}
            Err(_) => sleep(BREATH).await,
        }
    }
}

/// Who went away while it was being accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// One request a connection: an idle one would hold its place for nothing.
async fn answer(stream: TcpStream, routes: Router, bounds: ServerLimits) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(bounds.header).keep_alive(false);
    if let Some(head) = bounds.head {
        protocol.max_buf_size(head);
    }
    let connection = protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // How it ended is the client's affair.
    let _ = timeout(bounds.life, connection).await;
}

const REFUSAL: &str =
    "this server listens on loopback and answers to an IP address or localhost only, not to other names\n";

/// Whether other names than addresses and `localhost` are answered to.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnyName(bool);

impl AnyName {
    pub(super) fn at(address: SocketAddr) -> Self {
        Self(!address.ip().to_canonical().is_loopback())
    }
}

/// Refuses who calls this machine by a name that is not its own, and forbids browsers whatever no
/// page here needs.
pub(super) async fn guarded(State(AnyName(any)): State<AnyName>, request: Request, next: Next) -> Response {
    let mut response = if any || names_this_machine(request.uri(), request.headers()) {
        next.run(request).await
    } else {
        (StatusCode::MISDIRECTED_REQUEST, REFUSAL).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

fn names_this_machine(uri: &Uri, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    // No browser leaves it out.
    let Some(host) = hosts.next() else { return uri.host().is_none_or(is_own) };
    let own = host.to_str().is_ok_and(|host| is_own(without_port(host)));
    own && hosts.next().is_none() && uri.host().is_none_or(is_own)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') && !name.is_empty() => name,
        _ => host,
    }
}

fn is_own(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_localhost_are_answered_and_no_other_name_is() {
        let asked = |host: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            names_this_machine(&Uri::from_static("/"), &headers)
        };
        for own in
            ["127.0.0.1", "127.0.0.1:9464", "localhost", "LOCALHOST:1", "[::1]:9464", "[::1]", "10.0.0.7:80"]
        {
            assert!(asked(own), "{own}");
        }
        for other in
            ["", "example.com", "example.com:9464", "localhost.example.com", "127.0.0.1.example.com:1", "[x]"]
        {
            assert!(!asked(other), "{other}");
        }
        assert!(names_this_machine(&Uri::from_static("/"), &HeaderMap::new()));
        assert!(!names_this_machine(&Uri::from_static("http://example.com/"), &HeaderMap::new()));
    }
}
