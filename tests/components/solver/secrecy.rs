//! The key is in the requests' bodies and nowhere else.

use std::io;
use std::sync::{Arc, Mutex};

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
