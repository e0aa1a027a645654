//! The listener for callbacks, and those who should not be there.

use std::time::Duration;

use captcha_worker::broker::Broker;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::domain::callback::CallbackToken;
use captcha_worker::domain::policy::Policy;
use captcha_worker::fleet::CallbackCounts;
use captcha_worker::ops::Server;
use captcha_worker::worker::WorkerHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ops::{Solvent, worker};

struct Listener {
    address: std::net::SocketAddr,
    view: WorkerHandle,
    _stop: DropGuard,
}

fn listener() -> Listener {
    let worker = worker(
        Broker::Memory(MemoryBroker::new()),
        "key",
        std::sync::Arc::new(Solvent),
        Policy::default(),
        true,
    );
    let (view, stop) = (worker.view(), CancellationToken::new());
    let server = Server::bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let address = server.local_addr().expect("bound");
    server.start_callbacks(view.clone(), stop.clone()).expect("a thread");
    Listener { address, view, _stop: stop.drop_guard() }
}

impl Listener {
    /// Sends bytes and reads to the end of the connection; what came.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        // It may be closed before all is written.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("in time");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn status(&self, method: &str, path: &str) -> String {
        let answer = self.ask(format!("{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    fn counts(&self) -> CallbackCounts {
        self.view.callbacks().counts()
    }
}

#[tokio::test]
async fn known_and_unknown_tokens_have_one_answer_and_everything_else_is_not_found() {
    let listener = listener();
    let token = CallbackToken::new(7);
    for path in [format!("/callback/a/{token}"), format!("/some/gateway/callback/b-1/{token}")] {
        assert_eq!(listener.status("POST", &path).await, "204");
    }
    for (method, path) in [
        ("GET", format!("/callback/a/{token}")),
        ("POST", "/".to_owned()),
        ("POST", format!("/callback/{token}")),
        ("POST", format!("/callback/a/{token}/")),
        ("POST", format!("/callback/a/{token}0")),
        ("POST", format!("/callback/a/{}", token.to_string().to_uppercase().replace('0', "G"))),
        ("POST", "/status".to_owned()),
        ("GET", "/metrics".to_owned()),
    ] {
        assert_eq!(listener.status(method, &path).await, "404", "{method} {path}");
    }
    let counts = CallbackCounts { received: 2, unknown: 2, forwarded: 1, rejected: 8, ..listener.counts() };
    assert_eq!((listener.counts(), counts.woke), (counts, 0));
}

#[tokio::test]
async fn large_bodies_are_not_read_and_large_heads_are_refused() {
    let listener = listener();
    let path = format!("/callback/a/{}", CallbackToken::new(8));
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    // Answered although the body never comes.
    assert!(listener.ask(head.as_bytes()).await.starts_with("HTTP/1.1 204"));
    let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let answer = listener.ask(head.as_bytes()).await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    assert_eq!(listener.counts().received, 1);
}

#[tokio::test]
async fn slow_ones_are_cut_off_after_two_seconds_and_keep_nobody_else_out() {
    let listener = listener();
    let began = Instant::now();
    // More than there are places, each with half a request.
    let mut slow = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(listener.address).await.expect("connected");
        let _ = stream.write_all(b"POST /callback/a/").await;
        slow.push(stream);
    }
    let path = format!("/callback/a/{}", CallbackToken::new(9));
    assert_eq!(listener.status("POST", &path).await, "204");
    for mut stream in slow {
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await.expect("cut off");
    }
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&took), "{took:?}");
    assert_eq!(listener.counts().received, 1);
}

#[tokio::test]
async fn bytes_that_are_no_http_change_nothing() {
    let listener = listener();
    for garbage in
        [&b"\x16\x03\x01\x02\x00\x01\x00\x01"[..], b"\0\0\0\0\r\n\r\n", b"POST\r\n\r\n", &[0xff; 5_000]]
    {
        let answer = listener.ask(garbage).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    }
    assert_eq!(listener.counts(), CallbackCounts::default());
}
