//! Connections, bounded in number and in time.
//!
//! They share file descriptors with the worker: whoever opened a thousand and said nothing would keep it from its broker and the API.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Connections at once. Probes, a scraper or two and some browsers need a handful; the oldest makes room for a new one, so that a probe is
/// answered whatever the others do.
const MOST: usize = 64;
/// For a request to arrive in.
const HEADER: Duration = Duration::from_secs(5);
/// For a connection from its beginning to its end. The slowest answer is that of a stuck runtime's health, after 5 s.
const LIFE: Duration = Duration::from_secs(15);
/// Without file descriptors there is nothing to accept; a moment later there may be.
const BREATH: Duration = Duration::from_secs(1);

/// Answers until told to stop.
pub(super) async fn serve(listener: TcpListener, routes: Router, stop: CancellationToken) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::with_capacity(MOST);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == MOST {
                    open.pop_front();
                }
                open.push_back(AbortOnDropHandle::new(tokio::spawn(answer(stream, routes.clone()))));
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
async fn answer(stream: TcpStream, routes: Router) {
    let mut protocol = http1::Builder::new();
    protocol.timer(TokioTimer::new()).header_read_timeout(HEADER).keep_alive(false);
    let connection = protocol.serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // How it ended is the client's affair.
    let _ = timeout(LIFE, connection).await;
}
