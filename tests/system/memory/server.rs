//! An API that answers endlessly, or hardly at all. Written by hand: no library would send such
//! answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, interval, timeout};

/// 1 GB.
const GIGABYTE: usize = 1_000_000_000;
const TIMEOUT: Duration = Duration::from_secs(120);
const PIECE: usize = 64 * 1024;

/// An answer that does not come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 1 GB, announced.
    Announced,
    /// 1 GB in chunks.
    Chunked,
    /// Header lines, 1 GB of them.
    Headers,
    /// A body, a byte a second.
    SlowBody,
    /// A body in chunks that never end, a byte a second.
    SlowChunks,
    /// The headers, a byte a second.
    SlowHeaders,
}

/// An API on a free port that gives one kind of answer to one call, and decent answers to all
/// others.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    answers: watch::Sender<usize>,
    longest_ms: AtomicU64,
    well: AtomicBool,
}

impl Server {
    pub(crate) async fn start(call: &'static str, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let seen = Arc::new(Seen::default());
        let counting = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, call, answer, Arc::clone(&counting)));
            }
        });
        Self { url, seen }
    }

    /// Waits until so many such answers have been begun.
    pub(crate) async fn begun(&self, answers: usize) {
        let mut seen = self.seen.answers.subscribe();
        let enough = seen.wait_for(|begun| *begun >= answers);
        timeout(TIMEOUT, enough).await.expect("such answers are asked for").expect("the server lives");
    }

    /// Answers every call decently from now on, or no longer.
    pub(crate) fn set_well(&self, well: bool) {
        self.seen.well.store(well, Ordering::SeqCst);
    }

    /// The longest time that a caller has listened to one.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_millis(self.seen.longest_ms.load(Ordering::SeqCst))
    }
}

/// Serves one connection until the caller leaves it.
async fn serve(mut stream: TcpStream, call: &str, answer: Answer, seen: Arc<Seen>) {
    let mut bytes = Vec::new();
    while let Some(path) = request(&mut stream, &mut bytes).await {
        if path != call || seen.well.load(Ordering::SeqCst) {
            let body = decent(&path);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(head.as_bytes()).await.is_err() {
                return;
            }
            continue;
        }
        seen.answers.send_modify(|begun| *begun += 1);
        let began = Instant::now();
        indecent(stream, answer).await;
        let span = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        seen.longest_ms.fetch_max(span, Ordering::SeqCst);
        return;
    }
}

fn decent(path: &str) -> &'static str {
    match path {
        "/createTask" => r#"{"errorId":0,"taskId":7654321}"#,
        "/getTaskResult" => r#"{"errorId":0,"status":"ready","solution":{"text":"answer"}}"#,
        _ => r#"{"errorId":0,"balance":345.678}"#,
    }
}

/// The path of the next request, its body read.
async fn request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
            let length: usize = lengths.next().expect("a length").1.parse().expect("a number");
            if body.len() >= length {
                bytes.clear();
                return head.split(' ').nth(1).map(str::to_owned);
            }
        }
        if stream.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Sends until the caller has enough.
async fn indecent(mut stream: TcpStream, answer: Answer) {
    const HEAD: &str = "HTTP/1.1 200 OK\r\n";
    let (start, piece) = match answer {
        Answer::Announced => (format!("{HEAD}content-length: {GIGABYTE}\r\n\r\n"), vec![b' '; PIECE]),
        Answer::Chunked => (format!("{HEAD}transfer-encoding: chunked\r\n\r\n"), chunk(PIECE)),
        Answer::Headers => (HEAD.to_owned(), "x-more: y\r\n".repeat(PIECE / 11).into_bytes()),
        Answer::SlowBody => (format!("{HEAD}content-length: 1000\r\n\r\n"), b" ".to_vec()),
        Answer::SlowChunks => (format!("{HEAD}transfer-encoding: chunked\r\n\r\n"), chunk(1)),
        Answer::SlowHeaders => (HEAD.to_owned(), b"x".to_vec()),
    };
    let slow = matches!(answer, Answer::SlowBody | Answer::SlowChunks | Answer::SlowHeaders);
    if stream.write_all(start.as_bytes()).await.is_err() {
        return;
    }
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        let mut second = interval(Duration::from_secs(1));
        let mut sent = 0;
        while sent < GIGABYTE && writing.write_all(&piece).await.is_ok() {
            sent += piece.len();
            if slow {
                second.tick().await;
            }
        }
    };
    let leaving = async {
        let mut rest = [0; 1024];
        while reading.read(&mut rest).await.is_ok_and(|n| n > 0) {}
    };
    tokio::select! {
        () = sending => {}
        () = leaving => {}
    }
}

fn chunk(size: usize) -> Vec<u8> {
    format!("{size:x}\r\n{}\r\n", " ".repeat(size)).into_bytes()
}
