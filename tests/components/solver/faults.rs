//! Connections that fail, each reported as what it is: never sent, or perhaps sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use captcha_worker::domain::call::NoAnswer;
use captcha_worker::solver::Solver;
use futures_util::future::join_all;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;

use crate::solver::support::{
    Connection, RawServer, hasty, id, is_processing, never_sent, no_answer, options, refusal, solver, within,
};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";

#[tokio::test]
async fn a_refused_connection_was_never_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let detail = never_sent(within(solver(&url).create_task(b"{}")).await);
    assert!(detail.contains("refused"), "{detail}");
}

#[tokio::test]
async fn a_name_that_does_not_resolve_was_never_sent() {
    never_sent(within(solver("https://no-such-host.invalid").create_task(b"{}")).await);
}

#[tokio::test]
async fn a_failed_tls_handshake_was_never_sent() {
    let server = RawServer::run(|mut connection| async move {
        connection.send(b"HTTP/1.1 400 this is not TLS\r\n\r\n").await;
        connection.gone().await;
    })
    .await;
    let url = server.url.replace("http://", "https://");
    never_sent(within(solver(&url).create_task(b"{}")).await);
}

#[tokio::test]
async fn a_time_out_of_connecting_was_never_sent() {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let listener = socket.listen(1).expect("listening");
    let address = listener.local_addr().expect("bound");
    // Nobody accepts: once the backlog is full, the kernel leaves further connections unanswered.
    let mut backlog = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(200), TcpStream::connect(address)).await
    {
        backlog.push(stream);
    }
    never_sent(within(hasty(&format!("http://{address}")).create_task(b"{}")).await);
}

#[tokio::test]
async fn a_request_that_was_read_and_not_answered_is_cut_and_sent_once() {
    let mut server = RawServer::run(|mut connection| async move {
        connection.request().await;
    })
    .await;
    let end = within(solver(&server.url).create_task(b"{}")).await;
    assert_eq!(no_answer(end), (NoAnswer::Cut, None));
    assert_eq!(server.seen(), 1);
}

#[tokio::test]
async fn a_request_that_was_read_on_a_kept_connection_and_not_answered_is_cut_and_sent_once() {
    let mut server = RawServer::run(|mut connection| async move {
        connection.request().await;
        connection.send_json(r#"{"errorId":0,"balance":1}"#).await;
        connection.request().await;
    })
    .await;
    let solver = solver(&server.url);
    within(solver.balance()).await.expect("funds");
    let end = within(solver.create_task(b"{}")).await;
    assert_eq!(no_answer(end), (NoAnswer::Cut, None));
    assert_eq!((server.connections(), server.seen()), (1, 2));
}

#[tokio::test]
async fn connections_are_kept_for_the_next_call() {
    let mut server = RawServer::run(|mut connection| async move {
        for _ in 0..3 {
            connection.request().await;
            connection.send_json(r#"{"errorId":0,"balance":1}"#).await;
        }
    })
    .await;
    let solver = solver(&server.url);
    for _ in 0..3 {
        within(solver.balance()).await.expect("funds");
    }
    assert_eq!((server.connections(), server.seen()), (1, 3));
}

#[tokio::test]
async fn a_connection_closed_while_idle_is_replaced_unseen() {
    let closed = Arc::new(Notify::new());
    let mut server = RawServer::run({
        let closed = closed.clone();
        move |mut connection| {
            let closed = closed.clone();
            async move {
                connection.request().await;
                connection.send_json(r#"{"errorId":0,"taskId":1}"#).await;
                drop(connection);
                closed.notify_one();
            }
        }
    })
    .await;
    let solver = solver(&server.url);
    for _ in 0..2 {
        within(solver.create_task(b"{}")).await.expect("accepted");
        within(closed.notified()).await;
    }
    assert_eq!((server.connections(), server.seen()), (2, 2));
}

/// What a server sees that closes idle connections after `idle`, at the end of a way of half the
/// `latency` each way: a request that leaves within `latency` of the end arrives when the
/// connection is closed already.
async fn closes_idle_connections(mut connection: Connection, idle: Duration, latency: Duration) {
    connection.request().await;
    connection.send_json(r#"{"errorId":0,"taskId":1}"#).await;
    let answered = Instant::now();
    let request = tokio::time::timeout(idle, connection.request()).await;
    if let Ok(Some(_)) = request
        && answered.elapsed() < idle - latency
    {
        connection.send_json(r#"{"errorId":0,"taskId":2}"#).await;
    }
}

#[tokio::test]
async fn no_create_task_meets_a_server_that_closes_the_idle_connection() {
    // A tenth of the real times: 10 s idle and 2 s of latency.
    let (idle, latency) = (Duration::from_millis(1_000), Duration::from_millis(200));
    let server = RawServer::run(move |connection| closes_idle_connections(connection, idle, latency)).await;
    // Each pause around the server's time, on a connection of its own.
    let pauses = (400..1_150).step_by(50).map(Duration::from_millis);
    let pairs = pauses.map(|pause| {
        let mut options = options(&server.url);
        options.idle_timeout = Duration::from_millis(600);
        async move {
            let solver = Solver::new(options).expect("a client");
            solver.create_task(b"{}").await.expect("accepted");
            // The pause is what is tried here.
            tokio::time::sleep(pause).await;
            (pause, solver.create_task(b"{}").await)
        }
    });
    for (pause, end) in within(join_all(pairs)).await {
        end.unwrap_or_else(|error| panic!("after {pause:?}: {error}"));
    }
}

#[tokio::test]
async fn an_answer_cut_in_its_head_or_body_is_cut() {
    for (bytes, status) in [(&b"HTTP/1.1 200 OK\r\ncont"[..], None), (HEAD, Some(200))] {
        let mut server = RawServer::answering(bytes).await;
        let end = within(solver(&server.url).create_task(b"{}")).await;
        assert_eq!(no_answer(end), (NoAnswer::Cut, status));
        assert_eq!(server.seen(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_is_cut() {
    let server = RawServer::answering(b"220 mail.example.com ESMTP\r\n").await;
    let end = within(solver(&server.url).create_task(b"{}")).await;
    assert_eq!(no_answer(end), (NoAnswer::Cut, None));
}

#[tokio::test]
async fn no_answer_in_time_is_timed_out_and_sent_once() {
    let mut server = RawServer::run(|mut connection| async move {
        connection.request().await;
        connection.gone().await;
    })
    .await;
    let end = within(hasty(&server.url).create_task(b"{}")).await;
    assert_eq!(no_answer(end), (NoAnswer::TimedOut, None));
    assert_eq!(server.seen(), 1);
}

#[tokio::test]
async fn a_body_that_drips_is_timed_out_as_a_whole() {
    let server = RawServer::run(|mut connection| async move {
        connection.request().await;
        connection.send(HEAD).await;
        let mut drip = tokio::time::interval(Duration::from_millis(20));
        while connection.send(b" ").await {
            drip.tick().await;
        }
    })
    .await;
    let end = within(hasty(&server.url).task_state(&id("1"))).await;
    assert_eq!(no_answer(end), (NoAnswer::TimedOut, Some(200)));
}

#[tokio::test]
async fn an_endless_body_is_given_up_and_its_connection_ended() {
    let ended = Arc::new(Notify::new());
    let server = RawServer::run({
        let ended = ended.clone();
        move |mut connection| {
            let ended = ended.clone();
            async move {
                connection.request().await;
                connection.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
                let piece = [b"1000\r\n".as_slice(), &[b' '; 0x1000], b"\r\n"].concat();
                while connection.send(&piece).await {}
                ended.notify_one();
            }
        }
    })
    .await;
    let end = within(solver(&server.url).task_state(&id("1"))).await;
    assert_eq!(no_answer(end), (NoAnswer::TooLong, Some(200)));
    within(ended.notified()).await;
}

#[tokio::test]
async fn a_body_announced_as_too_long_is_not_waited_for() {
    let server = RawServer::run(|mut connection| async move {
        connection.request().await;
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1048577\r\n\r\n").await;
        connection.gone().await;
    })
    .await;
    let end = within(solver(&server.url).task_state(&id("1"))).await;
    assert_eq!(no_answer(end), (NoAnswer::TooLong, Some(200)));
}

#[tokio::test]
async fn a_body_of_just_1_mib_is_read() {
    let server = RawServer::run(|mut connection| async move {
        connection.request().await;
        connection.send_json(&format!("{{\"status\":\"processing\"}}{}", " ".repeat(1_048_576 - 23))).await;
    })
    .await;
    assert!(is_processing(within(solver(&server.url).task_state(&id("1"))).await));
}

#[tokio::test]
async fn redirects_are_refusals_and_the_key_does_not_reach_the_other_server() {
    for status in [301, 302, 303, 307, 308] {
        let mut other = RawServer::answering(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
        let target = other.url.clone();
        let server = RawServer::run(move |mut connection| {
            let head = format!("HTTP/1.1 {status} X\r\nlocation: {target}/\r\ncontent-length: 0\r\n\r\n");
            async move {
                connection.request().await;
                connection.send(head.as_bytes()).await;
            }
        })
        .await;
        assert_eq!(refusal(within(solver(&server.url).create_task(b"{}")).await).status, status);
        assert_eq!(other.seen(), 0);
    }
}
