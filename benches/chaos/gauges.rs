//! What replicas report of themselves while they live: payments that may have been repeated, by
//! window, and whether they work.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks; what a replica counts after the last one before it dies is not known.
const LOOK: Duration = Duration::from_millis(500);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const WINDOWS: [&str; 5] = ["a", "c", "d", "e", "g"];
/// Below the kernel's ephemeral range: no outgoing connection takes them while a replica is away.
const PORTS: std::ops::Range<u16> = 15_000..20_000;

type Counts = BTreeMap<&'static str, u64>;

/// Of one replica, over all of its lives.
#[derive(Debug, Clone, Default)]
struct Replica {
    ended: Counts,
    living: Counts,
    /// Jobs taken in this life: what sets it apart from the one before.
    taken: f64,
    works: bool,
}

/// Of all.
#[derive(Debug)]
pub(crate) struct Gauges {
    ports: Vec<u16>,
    seen: Arc<Mutex<Vec<Replica>>>,
    _looking: AbortOnDropHandle<()>,
}

/// Payments that may have been repeated, by window.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Letters(Counts);

impl Letters {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let grown = |(letter, count): (&&'static str, &u64)| {
            (*letter, count - before.0.get(letter).copied().unwrap_or(0).min(*count))
        };
        Self(self.0.iter().map(grown).collect())
    }

    pub(crate) fn sum(&self) -> u64 {
        self.0.values().sum()
    }

    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for (letter, count) in self.0.iter().filter(|(_, count)| **count > 0) {
            write!(text, "{letter}{count} ").expect("a string takes it");
        }
        if text.is_empty() { "-".to_owned() } else { text.trim_end().to_owned() }
    }
}

impl Gauges {
    /// Looks at so many replicas, on ports that are free.
    pub(crate) fn start(replicas: usize) -> Self {
        let ports: Vec<u16> =
            PORTS.filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).take(replicas).collect();
        assert_eq!(ports.len(), replicas, "ports are free");
        let seen = Arc::new(Mutex::new(vec![Replica::default(); replicas]));
        let looking = tokio::spawn(look(ports.clone(), Arc::clone(&seen)));
        Self { ports, seen, _looking: AbortOnDropHandle::new(looking) }
    }

    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    pub(crate) fn letters(&self) -> Letters {
        let mut sum = Counts::new();
        for replica in self.seen.lock().iter() {
            for (letter, count) in replica.ended.iter().chain(&replica.living) {
                *sum.entry(letter).or_default() += count;
            }
        }
        Letters(sum)
    }

    /// Replicas that are connected and know the account's state.
    pub(crate) fn working(&self) -> usize {
        self.seen.lock().iter().filter(|replica| replica.works).count()
    }
}

async fn look(ports: Vec<u16>, seen: Arc<Mutex<Vec<Replica>>>) {
    // Each look connects anew: a kept connection could belong to a life that is over.
    let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).pool_max_idle_per_host(0).build();
    let client = client.expect("a client of plain HTTP");
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let listed = ports.iter().map(|port| ask(&client, *port));
        let listed = futures_util::future::join_all(listed).await;
        let mut seen = seen.lock();
        for (replica, listed) in seen.iter_mut().zip(listed) {
            replica.hear(listed.as_deref());
        }
    }
}

async fn ask(client: &reqwest::Client, port: u16) -> Option<String> {
    let reply = client.get(format!("http://127.0.0.1:{port}/metrics")).send().await.ok()?;
    String::from_utf8(reply.bytes().await.ok()?.to_vec()).ok()
}

impl Replica {
    fn hear(&mut self, listed: Option<&str>) {
        let Some(listed) = listed else {
            self.works = false;
            return;
        };
        let value = |name: &str| -> Option<f64> {
            listed.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        };
        let counts: Counts = WINDOWS
            .iter()
            .map(|letter| {
                let name = format!("captcha_possibly_paid_twice_total{{window=\"{letter}\"}}");
                (*letter, value(&name).map_or(0, |count| count as u64))
            })
            .collect();
        let taken = value("captcha_jobs_taken_total").unwrap_or(0.0);
        // Counters begin at 0 with each life.
        if std::mem::replace(&mut self.taken, taken) > taken {
            for (letter, count) in std::mem::take(&mut self.living) {
                *self.ended.entry(letter).or_default() += count;
            }
        }
        self.living = counts;
        self.works = value("captcha_connected") == Some(1.0)
            && value("captcha_guard_state{state=\"active\"}") == Some(1.0);
    }
}
