//! The embedded broker on a disk whose power fails at a seeded moment: what was confirmed is there
//! again, whatever part of the rest the disk has kept.

use std::collections::BTreeMap;
use std::path::Path;

use captcha_worker::broker::{Broker, ConsumeSpec, Consumer, Receipt, Session};
use lossy_disk::Disk;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::conformance::fixtures::{
    consume, dead_letters_to, declare, message, queue, ready, text, topology, within,
};
use crate::queue_file::{broker_in, in_folder, released};

const SEEDS: u64 = 100;
const QUEUES: [&str; 2] = ["a", "b"];
const PREFETCH: u16 = 5;

#[tokio::test]
async fn what_was_confirmed_survives_a_loss_of_power_at_any_moment() {
    let mut losses = BTreeMap::new();
    for seed in 0..SEEDS {
        let broken = History::play(seed, false, &mut losses).await;
        assert!(broken.is_empty(), "seed {seed}:\n{}", broken.join("\n"));
    }
    println!("losses of power by the file that was changed: {losses:?}");
    for file in ["queue.db", "queue.db-journal", "queue.db-wal"] {
        assert!(losses.get(file).is_some_and(|count| *count >= 5), "{losses:?}");
    }
}

#[tokio::test]
async fn a_disk_that_lies_about_syncs_is_found_out() {
    for seed in 0..SEEDS {
        let broken = History::play(seed, true, &mut BTreeMap::new()).await;
        if let Some(what) = broken.first() {
            return println!("seed {seed}: {what}");
        }
    }
    panic!("none of {SEEDS} losses of power broke anything");
}

#[tokio::test]
async fn what_is_confirmed_after_a_failed_sync_survives_a_loss_of_power() {
    for seed in 0..30 {
        let folder = TempDir::new().unwrap();
        let disk = Disk::at(folder.path());
        let broker = broker_in(&in_folder(&folder));
        let mut confirmed = Vec::new();
        for round in 0..3 {
            let session = within("a session", broker.connect()).await.unwrap();
            declare(&session, &topology(Vec::new(), vec![queue("q", &[])], Vec::new())).await;
            for n in 0..5 {
                let body = format!("{round}.{n}");
                within("a confirm", session.publish("", "q", message(&body))).await.unwrap();
                confirmed.push(body);
            }
            disk.fail_next_sync();
            let unknown = within("an error", session.publish("", "q", message("unknown"))).await;
            assert!(unknown.is_err(), "{unknown:?}");
            within("the end", session.closed()).await;
        }
        disk.cut_power();
        let left = TempDir::new().unwrap();
        let _disk = disk.left(seed, left.path());
        let (_session, found) = contents(left.path(), &["q"]).await.unwrap();
        let mut found: Vec<_> = found["q"].iter().map(|(body, _)| body.clone()).collect();
        found.retain(|body| body != "unknown");
        assert_eq!(found, confirmed, "seed {seed}");
    }
}

/// What was sent, and what is known of it.
#[derive(Debug)]
struct Sent {
    queue: &'static str,
    body: String,
    confirmed: bool,
    /// By a consumer.
    received: bool,
    settled: Option<Settled>,
}

#[derive(Debug, Clone, Copy)]
struct Settled {
    /// To the dead letters.
    rejected: bool,
    /// The broker has confirmed it, too.
    stored: bool,
}

/// A consumer, and what it holds by the messages' numbers.
struct Reader {
    queue: &'static str,
    consumer: Consumer,
    held: Vec<(u32, Receipt)>,
}

/// Several lives of one broker, each with a loss of power at its end.
struct History {
    rng: StdRng,
    sent: BTreeMap<u32, Sent>,
    last: u32,
    /// Bodies of up to so many bytes.
    largest: usize,
}

impl History {
    /// What was broken.
    async fn play(seed: u64, lies: bool, losses: &mut BTreeMap<String, u32>) -> Vec<String> {
        let mut rng = StdRng::seed_from_u64(seed);
        // Some fill the log, so that it is written into the file meanwhile.
        let is_large = rng.random_bool(0.15);
        let largest = if is_large { 200_000 } else { 3_000 };
        let mut history = History { rng, sent: BTreeMap::new(), last: 0, largest };
        let mut folder = TempDir::new().unwrap();
        let mut disk = Disk::at(folder.path());
        for _ in 0..3 {
            if lies {
                disk.lie();
            }
            // The first ones while the file is made.
            let most = if is_large { 4_000 } else { [40, 500][history.rng.random_range(0..2)] };
            disk.cut_power_at(history.rng.random_range(1..most));
            // Where it cannot even be opened, the power has failed.
            let _ = history.live(folder.path(), &disk).await;
            disk.cut_power();
            *losses.entry(disk.failed_in().unwrap_or_default()).or_default() += 1;
            let loss = history.rng.random();
            let broken = history.judge(&disk, loss).await;
            if !broken.is_empty() {
                return broken;
            }
            let next = TempDir::new().unwrap();
            disk = disk.left(loss, next.path());
            folder = next;
        }
        Vec::new()
    }

    /// Works until the power fails, or for a while.
    async fn live(&mut self, folder: &Path, disk: &Disk) -> Option<()> {
        let path = folder.join("queue.db");
        let broker = broker_in(&path);
        let session = open(&broker).await.ok()?;
        let mut readers = Vec::new();
        for queue in QUEUES {
            let spec = ConsumeSpec { queue: queue.to_owned(), prefetch: PREFETCH, tag: String::new() };
            let consumer = session.link().consume(spec).await.ok()?;
            readers.push(Reader { queue, consumer, held: Vec::new() });
        }
        for _ in 0..self.rng.random_range(1..60) {
            let reader = self.rng.random_range(0..readers.len());
            let done = match self.rng.random_range(0..10) {
                0..4 => self.publish(&session).await,
                4..7 => self.receive(&mut readers[reader]).await,
                7..9 => self.settle(&mut readers[reader]),
                _ => self.flush(&mut readers[reader]).await,
            };
            done?;
        }
        if self.rng.random_bool(0.3) {
            within("the close", session.link().close()).await;
            if !disk.is_off() {
                self.settlements_are_stored(&QUEUES);
            }
            drop((readers, session, broker));
            released(&path).await;
        }
        Some(())
    }

    /// Sends some messages, and waits for their confirms.
    async fn publish(&mut self, session: &Session) -> Option<()> {
        let queue = QUEUES[self.rng.random_range(0..2)];
        let mut confirms = Vec::new();
        for _ in 0..self.rng.random_range(1..8) {
            self.last += 1;
            let size = self.rng.random_range(0..self.largest);
            let body = format!("{} {}", self.last, "x".repeat(size));
            let sent = Sent { queue, body: body.clone(), confirmed: false, received: false, settled: None };
            self.sent.insert(self.last, sent);
            let confirm = session.publisher().send("", queue, true, message(&body)).await.ok()?;
            confirms.push((self.last, confirm));
        }
        let mut all = Some(());
        for (number, confirm) in confirms {
            match within("a confirm", confirm.answered()).await {
                Ok(()) => self.sent.get_mut(&number)?.confirmed = true,
                Err(_) => all = None,
            }
        }
        all
    }

    /// Takes what must come, if anything.
    async fn receive(&mut self, reader: &mut Reader) -> Option<()> {
        let open = |sent: &&Sent| sent.queue == reader.queue && sent.settled.is_none();
        let waiting = self.sent.values().filter(open).count() - reader.held.len();
        if waiting == 0 || reader.held.len() == usize::from(PREFETCH) {
            return Some(());
        }
        let delivery = within("a delivery", reader.consumer.recv()).await?;
        let number = number(&text(&delivery.message));
        self.sent.get_mut(&number)?.received = true;
        reader.held.push((number, delivery.receipt));
        Some(())
    }

    /// Acks most, gives some back, and rejects some.
    fn settle(&mut self, reader: &mut Reader) -> Option<()> {
        if reader.held.is_empty() {
            return Some(());
        }
        let (number, receipt) = reader.held.remove(self.rng.random_range(0..reader.held.len()));
        let what = self.rng.random_range(0..10);
        if what == 0 {
            return receipt.requeue().ok();
        }
        let rejected = what == 1;
        self.sent.get_mut(&number)?.settled = Some(Settled { rejected, stored: false });
        if rejected { receipt.reject() } else { receipt.ack() }.ok()
    }

    async fn flush(&mut self, reader: &mut Reader) -> Option<()> {
        within("a flush", reader.consumer.flush()).await.ok()?;
        self.settlements_are_stored(&[reader.queue]);
        Some(())
    }

    fn settlements_are_stored(&mut self, queues: &[&str]) {
        for sent in self.sent.values_mut().filter(|sent| queues.contains(&sent.queue)) {
            if let Some(settled) = &mut sent.settled {
                settled.stored = true;
            }
        }
    }

    /// Compares what is left with what was promised, and goes on from there.
    async fn judge(&mut self, disk: &Disk, loss: u64) -> Vec<String> {
        let folder = TempDir::new().unwrap();
        let _disk = disk.left(loss, folder.path());
        let sound = Connection::open(in_folder(&folder)).and_then(|database| {
            database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
        });
        if sound.as_deref() != Ok("ok") {
            return vec![format!("the file is damaged: {sound:?}")];
        }
        let folder = TempDir::new().unwrap();
        let _disk = disk.left(loss, folder.path());
        let found = match contents(folder.path(), &["a", "b", "dead"]).await {
            Ok((_session, found)) => found,
            Err(error) => return vec![format!("it cannot be opened: {error}")],
        };
        let mut broken = Vec::new();
        let mut places: BTreeMap<u32, (&str, bool)> = BTreeMap::new();
        for (queue, messages) in &found {
            let order: Vec<_> =
                messages.iter().map(|(body, redelivered)| (!redelivered, number(body))).collect();
            if *queue != "dead" && !order.is_sorted() {
                broken.push(format!("out of order in {queue}: {order:?}"));
            }
            for (body, redelivered) in messages {
                let number = number(body);
                if places.insert(number, (queue, *redelivered)).is_some() {
                    broken.push(format!("{number} is there twice"));
                }
                if self.sent.get(&number).is_none_or(|sent| sent.body != *body) {
                    broken.push(format!("{number} is another one"));
                }
            }
        }
        let last_found = places.keys().next_back().copied().unwrap_or_default();
        for (number, sent) in &self.sent {
            let place = places.get(number).map(|(queue, _)| *queue);
            let right = match (place, sent.settled) {
                // What was sent before something that is there is there, too.
                (None, None) => !sent.confirmed && *number > last_found,
                (Some(queue), None) => queue == sent.queue,
                (None, Some(settled)) => !settled.rejected,
                (Some("dead"), Some(settled)) => settled.rejected,
                (Some(queue), Some(settled)) => queue == sent.queue && !settled.stored,
            };
            if !right {
                broken.push(format!("{number} is in {place:?}: {} {:?}", sent.queue, sent.settled));
            }
            if sent.received && places.get(number).is_some_and(|place| *place == (sent.queue, false)) {
                broken.push(format!("{number} has been received, and does not say so"));
            }
        }
        self.sent.retain(|number, sent| {
            let Some((queue, redelivered)) = places.get(number) else { return false };
            let rejected = *queue == "dead";
            (sent.confirmed, sent.received) = (true, *redelivered);
            sent.settled = rejected.then_some(Settled { rejected, stored: true });
            true
        });
        broken
    }
}

fn number(body: &str) -> u32 {
    body.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// A session, with the queues declared.
async fn open(broker: &Broker) -> Result<Session, String> {
    let session = within("a session", broker.connect()).await.map_err(|error| error.to_string())?;
    let mut queues = vec![queue("dead", &[])];
    queues.extend(QUEUES.map(|name| queue(name, &dead_letters_to("dead"))));
    let all = topology(Vec::new(), queues, Vec::new());
    let declared = within("a declaration", session.link().declare(&all)).await;
    declared.map(|()| session).map_err(|error| error.to_string())
}

type Found = BTreeMap<&'static str, Vec<(String, bool)>>;

/// What is in the queues of a file: bodies in their order, and whether they were delivered before.
async fn contents(folder: &Path, queues: &[&'static str]) -> Result<(Session, Found), String> {
    let session = open(&broker_in(&folder.join("queue.db"))).await?;
    let mut found = Found::new();
    for queue in queues {
        let count = ready(&session, queue).await;
        let mut consumer = consume(&session, queue, 10_000).await;
        let mut messages = Vec::new();
        for _ in 0..count {
            let delivery = within("a message", consumer.recv()).await.ok_or("the consumer has ended")?;
            messages.push((text(&delivery.message), delivery.redelivered));
        }
        found.insert(queue, messages);
    }
    Ok((session, found))
}
