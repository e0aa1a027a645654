//! Fixtures: a client with a planted key, canned answers beneath the seam, and a scripted TCP
//! server.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use captcha_worker::domain::call::{CallError, NoAnswer, Refusal, TaskId, TaskState};
use captcha_worker::solver::{RawReply, Solver, SolverOptions, Transport, TransportError};
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use url::Url;

/// The key of every client here; no output may hold it.
pub(crate) const KEY: &str = "planted-0123456789abcdef__nocache";

/// Awaits the thing itself, but not for ever.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

pub(crate) fn options(base_url: &str) -> SolverOptions {
    SolverOptions {
        base_url: Url::parse(base_url).expect("a URL"),
        api_key: SecretString::from(KEY),
        proxy: None,
        tls_ca_file: None,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(15),
        max_connections: 8,
        idle_timeout: Duration::from_secs(4),
        allow_plain_http: false,
        user_agent: "captcha-worker/test".to_owned(),
    }
}

pub(crate) fn solver(base_url: &str) -> Solver {
    Solver::new(options(base_url)).expect("a client")
}

/// A client whose exchanges end after 400 ms.
pub(crate) fn hasty(base_url: &str) -> Solver {
    let mut options = options(base_url);
    options.connect_timeout = Duration::from_millis(300);
    options.request_timeout = Duration::from_millis(400);
    Solver::new(options).expect("a client")
}

pub(crate) fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).expect("JSON")
}

pub(crate) fn id(json: &str) -> TaskId {
    TaskId::from_raw(&raw(json)).expect("a plausible id")
}

/// Answers every call with the same status and body.
struct Canned(RawReply);

impl Transport for Canned {
    fn post<'a>(&'a self, _: &'static str, _: Bytes) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// A client whose every call is answered with `status` and `body`.
pub(crate) fn answered(status: u16, body: impl AsRef<[u8]>) -> Solver {
    let body = Bytes::copy_from_slice(body.as_ref());
    let reply = RawReply { status, retry_after: None, body };
    Solver::with_transport(SecretString::from(KEY), Arc::new(Canned(reply)))
}

/// The state that a 200 with this body reports.
pub(crate) async fn state(body: impl AsRef<[u8]>) -> Result<TaskState, CallError> {
    answered(200, body).task_state(&id("1")).await
}

/// The id that a createTask with this answer gives, as JSON text.
pub(crate) async fn created(status: u16, body: impl AsRef<[u8]>) -> Result<String, CallError> {
    let accepted = answered(status, body).create_task(b"{}").await?;
    Ok(accepted.task_id.as_json().to_owned())
}

pub(crate) fn solution(state: Result<TaskState, CallError>) -> String {
    match state {
        Ok(TaskState::Ready { solution, .. }) => solution.get().to_owned(),
        other => panic!("not ready: {other:?}"),
    }
}

pub(crate) fn is_processing(state: Result<TaskState, CallError>) -> bool {
    matches!(state, Ok(TaskState::Processing))
}

pub(crate) fn refusal<T: std::fmt::Debug>(end: Result<T, CallError>) -> Refusal {
    match end {
        Err(CallError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub(crate) fn no_answer<T: std::fmt::Debug>(end: Result<T, CallError>) -> (NoAnswer, Option<u16>) {
    match end {
        Err(CallError::NoAnswer { kind, status, .. }) => (kind, status),
        other => panic!("not without an answer: {other:?}"),
    }
}

pub(crate) fn never_sent<T: std::fmt::Debug>(end: Result<T, CallError>) -> String {
    match end {
        Err(CallError::NeverSent(detail)) => detail,
        other => panic!("not never sent: {other:?}"),
    }
}

/// A server that does with each connection what its script says, and reports each request it has
/// read.
pub(crate) struct RawServer {
    pub(crate) url: String,
    requests: UnboundedReceiver<String>,
    accepted: Arc<AtomicUsize>,
}

impl RawServer {
    /// Runs `script` for each connection.
    pub(crate) async fn run<S, F>(script: S) -> Self
    where
        S: Fn(Connection) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let (seen, requests) = unbounded_channel();
        let accepted = Arc::new(AtomicUsize::new(0));
        let counter = accepted.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(script(Connection { stream, seen: seen.clone() }));
            }
        });
        Self { url, requests, accepted }
    }

    /// A server that reads each request and answers with these very bytes, then closes.
    pub(crate) async fn answering(bytes: &'static [u8]) -> Self {
        Self::run(move |mut connection| async move {
            if connection.request().await.is_some() {
                connection.send(bytes).await;
            }
        })
        .await
    }

    /// How many connections were accepted up to now.
    pub(crate) fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// How many requests were read since this was asked last.
    pub(crate) fn seen(&mut self) -> usize {
        std::iter::from_fn(|| self.requests.try_recv().ok()).count()
    }
}

/// One connection of a [`RawServer`].
pub(crate) struct Connection {
    stream: TcpStream,
    seen: UnboundedSender<String>,
}

impl Connection {
    /// Reads one request to the end of its body; `None` where the peer is gone.
    pub(crate) async fn request(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            if self.stream.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else {
                continue;
            };
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
            });
            if body.len() >= length.expect("a request with a length") {
                let request = text.into_owned();
                self.seen.send(request.clone()).ok();
                return Some(request);
            }
        }
    }

    /// Sends; false where the peer is gone.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends a 200 with this JSON and keeps the connection.
    pub(crate) async fn send_json(&mut self, json: &str) -> bool {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{json}", json.len());
        self.send(head.as_bytes()).await
    }

    /// Waits for the peer to go.
    pub(crate) async fn gone(&mut self) {
        let mut rest = [0; 1024];
        while self.stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    }
}
