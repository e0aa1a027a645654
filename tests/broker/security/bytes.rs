//! Bytes that a publisher with the least rights can send, and that no client library sends: each
//! costs the message that has them, and nothing else.

use std::collections::BTreeSet;
use std::time::Duration;

use captcha_worker::broker::{ConsumeSpec, Consumer, Session};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::security::broker::{Broker, NAMESPACE};
use crate::support::fleet::{Replica, Simulator};
use crate::support::jobs;
use crate::support::rabbit::connect;
use crate::support::raw::{FRAME, Properties, RawPublisher, SHORT_STRINGS, array, entry, table, text};
use crate::within;

/// Good jobs before a hostile message, and as many behind it.
const NEIGHBOURS: usize = 12;
/// Hostile messages at a time, each among neighbours of its own: most of a round is waiting.
const AT_ONCE: usize = 8;
/// For what a round has sent.
const BOUND: Duration = Duration::from_secs(5);
const BAD: &[u8] = b"M\xfcller";

/// A hostile message: what it is called, its routing key, properties, body, and where it ends.
struct Case {
    name: String,
    key: &'static [u8],
    properties: Properties,
    body: Vec<u8>,
    end: &'static str,
}

fn nested(depth: usize) -> Vec<u8> {
    (0..depth).fold(b"V".to_vec(), |inner, _| array(&[inner]))
}

/// Headers that make the frame as large as this.
fn filling(frame: usize, properties: Properties) -> Properties {
    let size = properties.clone().with_headers(&[entry(b"note", &text(b""))]).frame();
    properties.with_headers(&[entry(b"note", &text(&vec![b'x'; frame - size]))])
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let job = |name: &str| jobs::image(&format!("hostile {name}"), &json!({})).into_bytes();
    let mut add = |name: String, properties: Properties| {
        let body = job(&name);
        cases.push(Case { name, key: b"", properties, body, end: "dead.malformed" });
    };
    for property in SHORT_STRINGS {
        add(property.to_owned(), Properties::default().with(property, BAD));
    }
    for bytes in [&[0xff; 255][..], b"\xed\xa0\x80", b"cut \xc3", b"\0\x80"] {
        add(format!("app_id {}", bytes[..2].escape_ascii()), Properties::default().with("app_id", bytes));
    }
    let headers = |entries: &[Vec<u8>]| Properties::default().with_headers(entries);
    let bad = entry(BAD, b"V");
    add("header's name".to_owned(), headers(&[entry(b"tenant", &text(b"blue")), bad.clone()]));
    add("name in a table".to_owned(), headers(&[entry(b"a", &table(std::slice::from_ref(&bad)))]));
    add("name in an array".to_owned(), headers(&[entry(b"a", &array(&[table(std::slice::from_ref(&bad))]))]));
    let deep = (0..10).fold(table(&[bad]), |inner, _| table(&[entry(b"a", &array(&[inner]))]));
    add("name far inside".to_owned(), headers(&[entry(b"a", &deep)]));
    // RabbitMQ 4 takes a second and more of its own for 20,000: see tests/broker/amqp.
    for depth in [33, 1_000, 5_000] {
        add(format!("{depth} levels"), headers(&[entry(b"a", &nested(depth))]));
    }
    for tag in [b"Z\0\0\0\0", b"U\0\0\0\0", b"S\0\0\xff\xff"] {
        add(format!("type {}", tag.escape_ascii()), headers(&[entry(b"a", tag)]));
    }
    for frame in [FRAME, FRAME - 40] {
        add(format!("{frame} bytes"), filling(frame, Properties::default()));
    }
    let with_key = |keys: &[Vec<u8>]| headers(&[entry(b"CC", &array(keys))]);
    let many: Vec<_> = (0..480).map(|_| text(&[b'k'; 250])).chain([text(b"")]).collect();
    let large = vec![b' '; 1024 * 1024 + 1];
    for (name, key, properties, body, end) in [
        ("routing key", BAD, with_key(&[text(b"")]), job("routing key"), "dead.malformed"),
        ("body and header's name", b"", headers(&[entry(BAD, b"V")]), large.clone(), "dead.raw"),
        ("body and id", b"", Properties::default().with("message_id", BAD), large.clone(), "dead.raw"),
        ("body and routing key", BAD, with_key(&[text(b"")]), large.clone(), "dead.raw"),
        ("body and headers", b"", filling(FRAME, Properties::default()), large.clone(), "dead.raw"),
        ("body and many keys", b"", with_key(&many), large, "dead.raw"),
    ] {
        cases.push(Case { name: name.to_owned(), key, properties, body, end });
    }
    cases
}

struct Arrivals {
    results: Consumer,
    malformed: Consumer,
    raw: Consumer,
}

impl Arrivals {
    async fn open(session: &Session) -> Self {
        let open = async |queue: &str| {
            let queue = format!("{NAMESPACE}.{queue}");
            let spec = ConsumeSpec { tag: queue.clone(), queue, prefetch: 100 };
            session.link().consume(spec).await.unwrap()
        };
        Self {
            results: open("results").await,
            malformed: open("dead.malformed").await,
            raw: open("dead.raw").await,
        }
    }

    /// Takes so many in all, and returns of each where it ended and by which id. What is dead
    /// stays.
    async fn take(&mut self, count: usize, by: Instant) -> Vec<(&'static str, String, Value)> {
        let mut came = Vec::new();
        while came.len() < count {
            let next = async {
                tokio::select! {
                    result = self.results.recv() => ("results", result.unwrap()),
                    dead = self.malformed.recv() => ("dead.malformed", dead.unwrap()),
                    raw = self.raw.recv() => ("dead.raw", raw.unwrap()),
                }
            };
            let Ok((queue, delivery)) = timeout_at(by, next).await else { break };
            let outcome: Value = serde_json::from_slice(&delivery.message.body).unwrap_or_default();
            if queue == "results" {
                delivery.receipt.ack().unwrap();
            } else {
                std::mem::forget(delivery.receipt);
            }
            came.push((queue, outcome["id"].as_str().unwrap_or_default().to_owned(), outcome));
        }
        came
    }
}

fn connections(broker: &Broker) -> BTreeSet<String> {
    let listed = broker.node.ctl(&["-q", "list_connections", "user", "pid"]);
    listed.lines().filter(|line| line.contains("-worker")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_bytes_of_a_publisher_cost_anything_but_their_own_message() {
    let broker = Broker::with_users().await;
    let simulator = Simulator::start("balance = 1000.0\n").await;
    let settings = [("BROKER__DECLARE_TOPOLOGY", "false"), ("OPS__LISTEN", "")];
    let (amqp, exchange) = (broker.url("worker"), format!("{NAMESPACE}.jobs"));
    let replica = Replica { amqp: &amqp, namespace: NAMESPACE, simulator: &simulator, settings: &settings };
    let mut fleet = [replica.start(), replica.start()];
    let session = connect(&broker.url("guest:guest")).await;
    let mut arrivals = Arrivals::open(&session).await;
    let publisher = || RawPublisher::connect(broker.node.port(), "lane.a-publisher", "publisher-pass w0rd");
    let mut good = publisher().await;

    let plain = Properties::default();
    let solved = |id: &str| jobs::image(id, &json!({"solve_ms": 300})).into_bytes();
    // Both replicas at work: a job proves the key, and each has its connections.
    good.publish(&exchange, b"", &plain, &solved("first")).await.unwrap();
    assert_eq!(arrivals.take(1, Instant::now() + Duration::from_secs(60)).await.len(), 1);
    within("both replicas", async {
        while session.link().depth(&format!("{NAMESPACE}.jobs")).await.unwrap().consumers < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let before = connections(&broker);
    assert_eq!(before.len(), 4, "{before:?}");

    let (mut wrong, mut refused, mut jobs_sent) = (Vec::new(), 0, 1);
    let cases = cases();
    for (round, group) in cases.chunks(AT_ONCE).enumerate() {
        // The ids of the good jobs, and where the hostile messages are to end.
        let (mut good_ids, mut ends, began) = (BTreeSet::new(), Vec::new(), Instant::now());
        for (place, case) in group.iter().enumerate() {
            let ids: Vec<String> = (0..2 * NEIGHBOURS).map(|n| format!("{round}-{place}-{n}")).collect();
            for id in &ids[..NEIGHBOURS] {
                good.publish(&exchange, b"", &plain, &solved(id)).await.unwrap();
            }
            // The broker itself ends the connection of some.
            let taken = publisher().await.publish(&exchange, case.key, &case.properties, &case.body).await;
            for id in &ids[NEIGHBOURS..] {
                good.publish(&exchange, b"", &plain, &solved(id)).await.unwrap();
            }
            println!("{:<24} {:>5} ms {taken:?}", case.name, began.elapsed().as_millis());
            match taken {
                Ok(()) => ends.push(case.end),
                Err(_) => refused += 1,
            }
            good_ids.extend(ids);
        }
        let sent = Instant::now();
        jobs_sent += good_ids.len() as u64;
        let came = arrivals.take(good_ids.len() + ends.len(), sent + BOUND).await;
        println!("round {round}: {} in {:?}", came.len(), sent.elapsed());
        let mut dead: Vec<_> =
            came.iter().filter(|(queue, ..)| *queue != "results").map(|(queue, ..)| *queue).collect();
        let solved: Vec<_> =
            came.iter().filter(|(queue, ..)| *queue == "results").map(|(_, id, _)| id).collect();
        dead.sort_unstable();
        ends.sort_unstable();
        if dead != ends || solved.len() != good_ids.len() || !solved.iter().all(|id| good_ids.contains(*id)) {
            let names: Vec<_> = group.iter().map(|case| &case.name).collect();
            let missing: Vec<_> = good_ids.iter().filter(|id| !solved.contains(id)).collect();
            wrong.push(format!("{names:?}: ended in {dead:?} and not {ends:?}, not solved: {missing:?}"));
        }
    }
    println!("{refused} of {} were refused by the broker", cases.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(refused < cases.len() / 2, "most reach the worker");
    assert_eq!(connections(&broker), before, "no session was lost");
    let stats = simulator.stats().await;
    assert_eq!(
        stats["calls"]["create_task"],
        json!(jobs_sent),
        "each good job was submitted once, and no other"
    );

    within("the close", session.link().close()).await;
    commands_cope_with_what_is_dead(&broker);
    for replica in &mut fleet {
        assert_eq!(replica.terminate(Duration::from_secs(30)).await, Some(0));
    }
}

/// Every command that comes to queues with such messages gets through them.
fn commands_cope_with_what_is_dead(broker: &Broker) {
    let report =
        |arguments: &[&str]| -> Value { serde_json::from_str(&broker.done("operator", arguments)).unwrap() };
    for class in ["malformed", "raw"] {
        let letters = report(&["dead", "list", "--class", class])["letters"].as_u64().unwrap();
        assert!(letters >= 5, "{class} has {letters}");
        let looked = broker.done("operator", &["outcomes", "--dead", class, "--format", "ndjson"]);
        assert_eq!(looked.lines().count() as u64, letters);
        let exported = broker.done("operator", &["dead", "export", "--class", class]);
        assert_eq!(exported.lines().count() as u64, letters, "{class}");
        let replayed = report(&["dead", "replay", "--all", "--class", class, "--dry-run"]);
        println!("{class}: {letters} letters, {replayed}");
        assert_eq!(replayed["unreadable"].as_u64().unwrap_or(0), 0, "{replayed}");
        let replayed = report(&["dead", "replay", "--class", class, "--code", "PROPERTIES_NOT_UTF8"]);
        assert_eq!(replayed["replayed"], 0, "what has lost properties is no job any more: {replayed}");
    }
    let shown = broker.done("operator", &["dead", "show", "hostile correlation_id", "--json"]);
    assert!(shown.contains("PROPERTIES_NOT_UTF8") && shown.contains(r"M\\xfcller"), "{shown}");
    for class in ["malformed", "raw"] {
        let letters = report(&["dead", "list", "--class", class])["letters"].as_u64().unwrap();
        let purged = report(&["dead", "purge", "--class", class, "--yes"]);
        assert_eq!(purged["removed"].as_u64(), Some(letters), "{purged}");
        assert_eq!(report(&["dead", "list", "--class", class])["letters"], 0);
    }
}
