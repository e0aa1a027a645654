//! The embedded broker's file: what is in it after an end of any kind, and files that cannot be
//! used.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use captcha_worker::broker::sqlite::{IfMissing, SqliteBroker, SqliteOptions};
use captcha_worker::broker::{Broker, BrokerError, PublishError};
use captcha_worker::domain::message::Value;
use captcha_worker::linger::Linger;
use rusqlite::Connection;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Duration, Instant, sleep};

use crate::conformance::fixtures::{
    connect, consume, dead_letters_to, get, message, next, put, queue, ready, text, with_queues, within,
};

fn options(path: &Path) -> SqliteOptions {
    let second = Duration::from_secs(1);
    SqliteOptions {
        path: path.to_owned(),
        if_missing: IfMissing::Make,
        topology: None,
        connect_timeout: second,
        call_timeout: 10 * second,
        confirm_timeout: 10 * second,
        heartbeat: 10 * second,
        connection_name: "test".to_owned(),
        linger: Linger::none(),
    }
}

pub(crate) fn broker_in(path: &Path) -> Broker {
    Broker::Sqlite(SqliteBroker::new(options(path)))
}

/// Of a process that only looks at what is there.
fn looking_at(path: &Path) -> Broker {
    Broker::Sqlite(SqliteBroker::new(SqliteOptions { if_missing: IfMissing::Fail, ..options(path) }))
}

pub(crate) fn in_folder(folder: &TempDir) -> PathBuf {
    folder.path().join("queue.db")
}

/// A copy of the file, with its log, as a loss of power leaves it.
fn copied(folder: &TempDir) -> (TempDir, PathBuf) {
    let copy = TempDir::new().unwrap();
    for name in ["queue.db", "queue.db-wal"] {
        fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let path = in_folder(&copy);
    (copy, path)
}

/// Waits until nobody has the file: its broker ends after its last session.
pub(crate) async fn released(path: &Path) {
    let lock = OpenOptions::new().write(true).open(path.with_extension("db-lock")).unwrap();
    let free = async {
        while lock.try_lock().is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within("the file is free", free).await;
}

async fn refused(path: &Path) -> BrokerError {
    refused_by(&broker_in(path)).await
}

async fn refused_by(broker: &Broker) -> BrokerError {
    match within("an error", broker.connect()).await {
        Ok(_) => panic!("the file was opened"),
        Err(error) => error,
    }
}

/// A client by hand, which does what it is asked to and nothing else.
struct RawClient(UnixStream);

impl RawClient {
    async fn ask(&mut self, head: Json) {
        let head = head.to_string();
        let lengths = [u32::try_from(head.len()).unwrap().to_be_bytes(), [0; 4]].concat();
        self.0.write_all(&[&lengths, head.as_bytes()].concat()).await.unwrap();
    }

    /// The head of the next frame; `None` once the other side has closed the connection.
    async fn next(&mut self) -> Option<Json> {
        let lengths = self.0.read_u64().await.ok()?;
        let mut frame = vec![0; (lengths >> 32) as usize + (lengths & 0xffff_ffff) as usize];
        self.0.read_exact(&mut frame).await.unwrap();
        Some(serde_json::from_slice(&frame[..(lengths >> 32) as usize]).unwrap())
    }
}

#[tokio::test]
async fn what_was_confirmed_and_not_acked_is_there_again_in_its_order() {
    let folder = TempDir::new().unwrap();
    let broker = broker_in(&in_folder(&folder));
    let session = with_queues(&broker, vec![queue("q", &[])]).await;
    put(&session, "q", &["acked", "delivered", "waiting", "last"]).await;
    let mut consumer = consume(&session, "q", 2).await;
    next(&mut consumer).await.receipt.ack().unwrap();
    let delivered = next(&mut consumer).await;
    within("the ack", consumer.flush()).await.unwrap();
    // The process is killed: nobody says anything to the broker.
    let (_copy, path) = copied(&folder);
    let session = connect(&broker_in(&path)).await;
    let mut found = Vec::new();
    for _ in 0..3 {
        let delivery = get(&session, "q").await;
        found.push((text(&delivery.message), delivery.redelivered));
        delivery.receipt.ack().unwrap();
    }
    // The consumer had room for "waiting" once the first was acked, so it may have left.
    assert_eq!(found[0], ("delivered".to_owned(), true));
    assert_eq!(found[1], ("waiting".to_owned(), true));
    assert_eq!(found[2], ("last".to_owned(), false));
    assert_eq!(ready(&session, "q").await, 0);
    drop(delivered);
}

#[tokio::test]
async fn a_confirm_means_that_the_message_is_in_the_file() {
    let folder = TempDir::new().unwrap();
    let session = with_queues(&broker_in(&in_folder(&folder)), vec![queue("q", &[])]).await;
    for count in 1..=20 {
        put(&session, "q", &["m"]).await;
        let (_copy, path) = copied(&folder);
        let database = Connection::open(path).unwrap();
        let kept: u64 = database
            .query_row("SELECT count(*) FROM messages", [], |row| row.get::<_, i64>(0))
            .map(|count| count.try_into().unwrap())
            .unwrap();
        assert_eq!(kept, count);
    }
}

#[tokio::test]
async fn a_delivery_counts_toward_the_limit_though_the_process_is_killed_each_time() {
    let mut folder = TempDir::new().unwrap();
    let limit = [("x-delivery-limit", Value::Int(2))];
    let further: Vec<_> = limit.into_iter().chain(dead_letters_to("dead")).collect();
    let session =
        with_queues(&broker_in(&in_folder(&folder)), vec![queue("q", &further), queue("dead", &[])]).await;
    put(&session, "q", &["m"]).await;
    drop(session);
    for delivery in 0..3 {
        let session = connect(&broker_in(&in_folder(&folder))).await;
        let mut consumer = consume(&session, "q", 1).await;
        assert_eq!(next(&mut consumer).await.redelivered, delivery > 0);
        folder = copied(&folder).0;
    }
    let session = connect(&broker_in(&in_folder(&folder))).await;
    assert_eq!(ready(&session, "q").await, 0, "nobody is killed by it a fourth time");
    let mut dead = consume(&session, "dead", 1).await;
    assert_eq!(text(&next(&mut dead).await.message), "m");
}

#[tokio::test]
async fn the_time_to_live_runs_on_while_nobody_has_the_file() {
    let folder = TempDir::new().unwrap();
    let ttl = [("x-message-ttl", Value::Int(1_500))];
    let further: Vec<_> = ttl.into_iter().chain(dead_letters_to("target")).collect();
    let path = in_folder(&folder);
    let session = with_queues(&broker_in(&path), vec![queue("retry", &further), queue("target", &[])]).await;
    let published = Instant::now();
    put(&session, "retry", &["m"]).await;
    within("the close", session.link().close()).await;
    drop(session);
    let session = connect(&broker_in(&path)).await;
    assert_eq!(ready(&session, "target").await, 0);
    let mut target = consume(&session, "target", 1).await;
    assert_eq!(text(&next(&mut target).await.message), "m");
    let waited = published.elapsed();
    assert!(waited >= Duration::from_millis(1_400) && waited < Duration::from_secs(5), "{waited:?}");
}

#[tokio::test]
async fn when_the_process_that_has_the_file_ends_the_next_session_takes_it() {
    let folder = TempDir::new().unwrap();
    let (first, second) = (broker_in(&in_folder(&folder)), broker_in(&in_folder(&folder)));
    let session = with_queues(&first, vec![queue("q", &[])]).await;
    let other = connect(&second).await;
    put(&other, "q", &["m"]).await;
    let mut consumer = consume(&other, "q", 1).await;
    let held = next(&mut consumer).await;
    drop((session, first));
    // Its own client still holds the broker: the file changes hands with the last session.
    drop(other);
    assert!(within("the end", consumer.recv()).await.is_none());
    assert!(held.receipt.ack().is_err());
    let session = connect(&second).await;
    let delivery = get(&session, "q").await;
    assert_eq!((text(&delivery.message).as_str(), delivery.redelivered), ("m", true));
    delivery.receipt.ack().unwrap();
}

#[tokio::test]
async fn a_process_that_stays_takes_the_file_at_once_when_its_owner_ends() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let (first, second) = (broker_in(&path), broker_in(&path));
    let session = connect(&first).await;
    let other = connect(&second).await;
    drop((session, first));
    within("the end", other.closed()).await;
    // Nobody asks for a session.
    let taken = async {
        while UnixStream::connect(path.with_extension("db-sock")).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within("the file is taken", taken).await;
    drop(connect(&second).await);
}

#[tokio::test]
async fn a_client_that_is_frozen_loses_its_session_and_what_it_held_goes_back() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let owner = broker_in(&path);
    let session = with_queues(&owner, vec![queue("q", &[])]).await;
    put(&session, "q", &["m"]).await;
    let mut client = RawClient(UnixStream::connect(path.with_extension("db-sock")).await.unwrap());
    client.ask(json!({"ask": "hello", "version": 2, "connection": "frozen", "heartbeat_ms": 200})).await;
    client.ask(json!({"ask": "consume", "n": 1, "queue": "q", "prefetch": 1, "tag": "t"})).await;
    client.ask(json!({"ask": "ping", "at": 7})).await;
    let mut said = Vec::new();
    while let Some(response) = within("an end", client.next()).await {
        said.push(response);
    }
    for one in ["welcome", "answer", "delivered"] {
        assert!(said.iter().any(|response| response["say"] == one), "{one}: {said:?}");
    }
    assert!(said.contains(&json!({"say": "pong", "at": 7})), "{said:?}");
    let end = said.last().unwrap();
    assert_eq!(end["reason"], "this process was silent for 400ms", "{said:?}");
    let again = get(&session, "q").await;
    assert_eq!((text(&again.message).as_str(), again.redelivered), ("m", true));
    again.receipt.ack().unwrap();
}

#[tokio::test]
async fn when_the_owner_is_frozen_the_others_say_so_and_try_again() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    // It waits for jobs.
    let mut owner = Process::new(env!("CARGO_BIN_EXE_captcha-worker"))
        .args(["publish", "-"])
        .current_dir(folder.path())
        .env("CAPTCHA_WORKER__BROKER__URL", "sqlite:queue.db")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let signal = |name: &str| {
        let sent = Process::new("kill").args([name, &owner.id().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let (millis, second) = (Duration::from_millis(1), Duration::from_secs(1));
    let client = Broker::Sqlite(SqliteBroker::new(SqliteOptions {
        heartbeat: 200 * millis,
        call_timeout: second,
        ..options(&path)
    }));
    let there = async {
        while UnixStream::connect(path.with_extension("db-sock")).await.is_err() {
            sleep(5 * millis).await;
        }
    };
    within("the owner", there).await;
    let session = connect(&client).await;
    let consumer = consume(&session, "captcha.jobs", 1).await;
    signal("-STOP");
    let why = within("the end", session.closed()).await;
    assert!(why.contains("has not answered for 400ms"), "{why}");
    assert!(!consumer.lease().holds(Instant::now()));
    let error = refused_by(&client).await;
    assert!(error.is_passing(), "{error}");
    for words in ["another process has the file, and does not answer", "queue.db-lock` names it"] {
        assert!(error.to_string().contains(words), "{error}");
    }
    signal("-CONT");
    drop(connect(&client).await);
    // The end of its input ends it.
    drop(owner.stdin.take());
    assert!(owner.wait().unwrap().success());
}

#[tokio::test]
async fn a_socket_that_somebody_has_deleted_is_made_again() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let owner = broker_in(&path);
    let session = with_queues(&owner, vec![queue("q", &[])]).await;
    fs::remove_file(path.with_extension("db-sock")).unwrap();
    let connect_timeout = Duration::from_secs(15);
    let other = Broker::Sqlite(SqliteBroker::new(SqliteOptions { connect_timeout, ..options(&path) }));
    let other = connect(&other).await;
    put(&other, "q", &["m"]).await;
    assert_eq!(ready(&session, "q").await, 1);
}

#[tokio::test]
async fn who_only_looks_makes_no_file_neither_at_first_nor_when_its_owner_deletes_it() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let error = refused_by(&looking_at(&path)).await.to_string();
    assert!(error.contains("there is no file") && error.contains("correct the path"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let Broker::Sqlite(owner) = broker_in(&path) else { unreachable!("it is in a file") };
    assert!(owner.take().await.unwrap());
    // Each of them takes the file as soon as its owner gives it up.
    let mut clients = Vec::new();
    for client in std::iter::repeat_with(|| looking_at(&path)).take(16) {
        clients.push((connect(&client).await, client));
    }
    assert!(owner.delete().await.unwrap());
    for (session, client) in clients {
        within("the end", session.closed()).await;
        assert!(refused_by(&client).await.to_string().contains("there is no file"));
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    drop(with_queues(&broker_in(&path), vec![queue("q", &[])]).await);
    released(&path).await;
    assert_eq!(ready(&connect(&looking_at(&path)).await, "q").await, 0, "it can have the file, too");
}

#[tokio::test]
async fn a_dead_letter_without_a_target_stays_one_and_goes_on_when_there_is_a_target() {
    let mut folder = TempDir::new().unwrap();
    let further = dead_letters_to("dead");
    let session = with_queues(&broker_in(&in_folder(&folder)), vec![queue("q", &further)]).await;
    put(&session, "q", &["m"]).await;
    get(&session, "q").await.receipt.reject().unwrap();
    // A confirm: what came before is in the file, too.
    put(&session, "q", &["next"]).await;
    for _ in 0..2 {
        folder = copied(&folder).0;
        let session = connect(&broker_in(&in_folder(&folder))).await;
        assert_eq!(ready(&session, "q").await, 1, "the rejected one is not delivered again");
    }
    let session = with_queues(&broker_in(&in_folder(&folder)), vec![queue("dead", &[])]).await;
    folder = copied(&folder).0;
    drop(session);
    let session = connect(&broker_in(&in_folder(&folder))).await;
    let letter = get(&session, "dead").await;
    assert_eq!((text(&letter.message).as_str(), ready(&session, "q").await), ("m", 1));
    letter.receipt.ack().unwrap();
}

#[tokio::test]
async fn a_file_of_an_earlier_version_is_brought_up_to_date() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let session = with_queues(&broker_in(&path), vec![queue("q", &[])]).await;
    put(&session, "q", &["m"]).await;
    within("the close", session.link().close()).await;
    drop(session);
    released(&path).await;
    let version = |database: &Connection| {
        database.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).unwrap()
    };
    let database = Connection::open(&path).unwrap();
    assert_eq!(version(&database), 2);
    database.execute_batch("ALTER TABLE deliveries DROP COLUMN died; PRAGMA user_version = 1").unwrap();
    drop(database);
    let session = connect(&broker_in(&path)).await;
    let delivery = get(&session, "q").await;
    assert_eq!(text(&delivery.message), "m");
    delivery.receipt.ack().unwrap();
    within("the close", session.link().close()).await;
    drop(session);
    released(&path).await;
    assert_eq!(version(&Connection::open(&path).unwrap()), 2);
}

#[tokio::test]
async fn one_process_takes_it_sees_what_waits_and_deletes_it_with_all_beside() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let (Broker::Sqlite(first), Broker::Sqlite(second)) = (broker_in(&path), broker_in(&path)) else {
        unreachable!("both are in a file")
    };
    assert!(first.take().await.unwrap() && first.take().await.unwrap());
    assert!(!second.take().await.unwrap() && second.waiting().await.is_empty());
    let session = with_queues(&Broker::Sqlite(first.clone()), vec![queue("q", &[]), queue("r", &[])]).await;
    put(&session, "r", &["c"]).await;
    put(&session, "q", &["a", "b"]).await;
    let waiting = first.waiting().await;
    let waiting: Vec<_> = waiting.iter().map(|(queue, message)| (queue.as_str(), text(message))).collect();
    assert_eq!(waiting, [("q", "a".to_owned()), ("q", "b".to_owned()), ("r", "c".to_owned())]);
    within("the close", session.link().close()).await;
    drop(session);
    assert!(first.delete().await.unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(second.take().await.unwrap() && second.waiting().await.is_empty());
}

#[tokio::test]
async fn a_session_over_the_socket_closes_though_nobody_reads_its_deliveries() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let owner = broker_in(&path);
    let session = with_queues(&owner, vec![queue("q", &[])]).await;
    for _ in 0..200 {
        put(&session, "q", &["m"]).await;
    }
    let other = connect(&broker_in(&path)).await;
    let unread = consume(&other, "q", 200).await;
    within("the close", other.link().close()).await;
    drop(unread);
    let other = connect(&broker_in(&path)).await;
    let mut dropped = consume(&other, "q", 200).await;
    next(&mut dropped).await.receipt.ack().unwrap();
    drop(dropped);
    let all_back = async {
        while ready(&session, "q").await < 199 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within("a dropped consumer gives back what it did not take", all_back).await;
    // Its session goes on.
    put(&other, "q", &["m"]).await;
}

#[tokio::test]
async fn nobody_else_may_read_it() {
    let folder = TempDir::new().unwrap();
    let _session = connect(&broker_in(&in_folder(&folder))).await;
    for name in ["queue.db", "queue.db-lock", "queue.db-sock", "queue.db-wal"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name}");
    }
}

#[tokio::test]
async fn a_path_that_is_longer_than_a_sockets_address_is_served_too() {
    let folder = TempDir::new().unwrap();
    let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let path = deep.join("queue.db");
    let (first, second) = (broker_in(&path), broker_in(&path));
    let session = with_queues(&first, vec![queue("q", &[])]).await;
    let other = connect(&second).await;
    put(&other, "q", &["m"]).await;
    assert_eq!(text(&get(&session, "q").await.message), "m");
}

#[tokio::test]
async fn a_file_that_is_not_a_queue_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    fs::write(&path, "a letter to a friend, long enough to be taken for something else".repeat(100)).unwrap();
    let before = fs::read(&path).unwrap();
    assert!(refused(&path).await.to_string().contains("not an SQLite database"));
    assert_eq!(fs::read(&path).unwrap(), before);

    fs::remove_file(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE accounts (name TEXT)").unwrap();
    let before = fs::read(&path).unwrap();
    assert!(refused(&path).await.to_string().contains("of another program"));
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_file_of_a_later_version_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    drop(connect(&broker_in(&path)).await);
    released(&path).await;
    let database = Connection::open(&path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    let error = refused(&path).await.to_string();
    assert!(error.contains("later version") && error.contains("schema 99"), "{error}");
}

#[tokio::test]
async fn a_damaged_page_is_reported() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let session = with_queues(&broker_in(&path), vec![queue("q", &[])]).await;
    for _ in 0..200 {
        put(&session, "q", &["some text that takes room".repeat(40).as_str()]).await;
    }
    within("the close", session.link().close()).await;
    drop(session);
    released(&path).await;
    let length = fs::metadata(&path).unwrap().len();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 4_096], (length / 2) & !4_095).unwrap();
    let error = refused(&path).await.to_string();
    assert!(error.contains("damaged") && error.contains("sqlite3 FILE .recover"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_named() {
    for path in ["/proc/self/queue.db", "/no/such/folder/queue.db"] {
        let error = refused(Path::new(path)).await;
        assert!(!error.is_passing(), "{error}");
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_another_program_writes_is_reported() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    drop(connect(&broker_in(&path)).await);
    released(&path).await;
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = refused(&path).await;
    assert!(error.is_passing() && error.to_string().contains("another program"), "{error}");
}

#[tokio::test]
async fn many_jobs_through_it_leave_a_small_file() {
    let folder = TempDir::new().unwrap();
    let path = in_folder(&folder);
    let session = with_queues(&broker_in(&path), vec![queue("q", &[])]).await;
    let body = "x".repeat(10_000);
    // 40 MB wait at once.
    for _ in 0..40 {
        let all = (0..100).map(|_| session.publish("", "q", message(&body)));
        for fate in futures_util::future::join_all(all).await {
            assert_eq!(fate, Ok::<(), PublishError>(()));
        }
    }
    let size = |name: &str| fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(size("queue.db") + size("queue.db-wal") > 40_000_000);
    let mut consumer = consume(&session, "q", 1_000).await;
    for _ in 0..4_000 {
        next(&mut consumer).await.receipt.ack_batched().unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    while size("queue.db") + size("queue.db-wal") > 20_000_000 {
        assert!(Instant::now() < deadline, "{} + {}", size("queue.db"), size("queue.db-wal"));
        sleep(Duration::from_millis(50)).await;
    }
}
