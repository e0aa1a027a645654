//! The key is in the requests' bodies and nowhere else.

use std::io;
use std::sync::{Arc, Mutex};

use captcha_worker::solver::Solver;
use tracing_subscriber::fmt::MakeWriter;

use crate::solver::support::{KEY, RawServer, answered, created, hasty, id, options, solver, state, within};

#[test]
fn debug_of_options_and_client_does_not_show_the_key() {
    let mut options = options("https://api.example.com");
    options.base_url.set_password(Some("hunter2")).expect("a URL that can hold one");
    let shown = format!("{options:?} {:?}", solver("https://api.example.com"));
    assert!(shown.contains("api.example.com") && shown.contains("Solver"), "{shown}");
    assert!(!shown.contains(KEY) && !shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn no_error_shows_the_key_that_the_api_echoed() {
    for padding in 0..140 {
        let gap = " x".repeat(padding / 2);
        for body in [
            format!("<html>{gap}{KEY}</html>"),
            format!(r#"{{"errorId":0,"echo":"{gap}{KEY}"}}"#),
            format!(r#"{{"errorId":1,"errorCode":"{gap}{KEY}","errorDescription":{{"key":"{gap}{KEY}"}}}}"#),
        ] {
            let ends = (created(200, &body).await, created(503, &body).await, state(&body).await);
            assert!(!format!("{ends:?}").contains(&KEY[..12]), "{ends:?}");
        }
    }
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("sound").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_log_line_shows_the_key_even_at_trace() {
    let log = Log::default();
    // For the whole process, since callsites that other tests' threads have seen without it stay
    // silent. Of those tests' lines only the stand-in servers' are left out: they may show the
    // requests that they got.
    let filter = tracing_subscriber::EnvFilter::new("trace,wiremock=off");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).init();
    let good = RawServer::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
    let cut = RawServer::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}").await;
    let silent = RawServer::run(|mut connection| async move { connection.gone().await }).await;
    within(solver(&good.url).task_state(&id("1"))).await.expect("a state");
    within(solver(&cut.url).create_task(b"{}")).await.expect_err("cut");
    within(hasty(&silent.url).balance()).await.expect_err("timed out");
    answered(200, "{}").balance().await.expect_err("unreadable");
    let text = String::from_utf8_lossy(&log.0.lock().expect("sound")).into_owned();
    assert!(text.contains("hyper"), "the HTTP client's own lines are here");
    assert!(!text.contains(KEY), "{text}");
}

#[tokio::test]
async fn a_proxys_password_goes_to_the_proxy_and_into_no_error_or_debug_text() {
    let with = |address: &str| {
        let mut options = options("http://api.invalid");
        options.allow_plain_http = true;
        options.proxy = Some(format!("http://user:pl4nted@{address}").into());
        let shown = format!("{options:?}");
        (Solver::new(options).expect("a client"), shown)
    };
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 27\r\n\r\n{\"errorId\":0,\"balance\":7.5}";
    let (heard, mut request) = tokio::sync::mpsc::unbounded_channel();
    let proxy = RawServer::run(move |mut connection| {
        let heard = heard.clone();
        async move {
            if let Some(request) = connection.request().await {
                connection.send(answer).await;
                let _ = heard.send(request);
            }
        }
    })
    .await;
    let (solver, shown) = with(proxy.url.trim_start_matches("http://"));
    assert_eq!(within(solver.balance()).await.expect("the proxy answers").text, "7.5");
    let request = within(request.recv()).await.expect("one request");
    assert!(request.starts_with("POST http://api.invalid/getBalance "), "{request}");
    assert!(request.to_lowercase().contains("proxy-authorization: basic dxnlcjpwbdrudgvk"), "{request}");
    // Nobody listens on port 1.
    let (unreached, _) = with("127.0.0.1:1");
    let error = format!("{:?}", within(unreached.balance()).await.expect_err("no proxy"));
    for text in [shown, error, format!("{solver:?}")] {
        assert!(!text.contains("pl4nted"), "{text}");
    }
}

/// A server with TLS that answers each connection's request.
fn tls_server(config: rustls::ServerConfig) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let config = Arc::new(config);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let session = rustls::ServerConnection::new(config.clone()).expect("a session");
            let mut stream = rustls::StreamOwned::new(session, stream.expect("a connection"));
            let mut bytes = [0; 4096];
            // Refused by a client that does not trust it.
            if io::Read::read(&mut stream, &mut bytes).is_ok() {
                let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 27\r\n\r\n{\"errorId\":0,\"balance\":7.5}";
                let _ = io::Write::write_all(&mut stream, answer);
                stream.conn.send_close_notify();
                let _ = io::Write::flush(&mut stream);
            }
        }
    });
    port
}

#[tokio::test]
async fn the_authorities_of_a_file_are_trusted_instead_of_the_systems() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), issued.cert.pem()).expect("written");
    let key = rustls::pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .expect("a configuration");
    let url = format!("https://localhost:{}", tls_server(config));
    let untrusted = within(solver(&url).balance()).await.expect_err("nobody knows its authority");
    assert!(format!("{untrusted:?}").contains("NeverSent"), "{untrusted:?}");
    let mut options = options(&url);
    options.tls_ca_file = Some(file.path().to_owned());
    let solver = Solver::new(options).expect("a client");
    assert_eq!(within(solver.balance()).await.expect("it is trusted").text, "7.5");
}
