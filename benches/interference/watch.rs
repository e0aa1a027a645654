//! The guard as replicas show it: when it was not active, and why.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

/// Between two looks: a guard that trips takes seconds to open again.
const LOOK: Duration = Duration::from_millis(250);
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Below the kernel's ephemeral range, and apart from those of chaos.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 29_999;
static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);

/// What was seen of all replicas at a moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    open: usize,
    /// Why work was stopped, by any replica.
    reasons: BTreeSet<String>,
}

/// Looks at replicas for as long as it lives.
#[derive(Debug)]
pub(crate) struct Watch {
    ports: Vec<u16>,
    looks: Arc<Mutex<Vec<Look>>>,
    _looking: AbortOnDropHandle<()>,
}

impl Watch {
    /// Looks at so many replicas, on ports that are free.
    pub(crate) fn start(replicas: usize) -> Self {
        let ports: Vec<u16> = (0..replicas).map(|_| free_port()).collect();
        let looks = Arc::default();
        let looking = tokio::spawn(look(ports.clone(), Arc::clone(&looks)));
        Self { ports, looks, _looking: AbortOnDropHandle::new(looking) }
    }

    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }

    fn looks(&self) -> MutexGuard<'_, Vec<Look>> {
        self.looks.lock()
    }

    /// Whether every replica is connected and its guard open.
    pub(crate) fn all_open(&self) -> bool {
        self.looks().last().is_some_and(|look| look.open == self.ports.len())
    }

    /// Why the guard stopped work in a span, and for how long it was not open; empty where it never
    /// did.
    pub(crate) fn trips(&self, from: Instant, until: Instant) -> Trips {
        let looks = self.looks();
        let shut = looks.iter().filter(|look| from <= look.at && look.at < until && !look.reasons.is_empty());
        let mut trips = Trips::default();
        for look in shut {
            trips.reasons.extend(look.reasons.iter().cloned());
            trips.shut += LOOK;
        }
        trips
    }
}

/// Stops of the whole fleet's work.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trips {
    reasons: BTreeSet<String>,
    shut: Duration,
}

impl Trips {
    pub(crate) fn is_none(&self) -> bool {
        self.reasons.is_empty()
    }

    pub(crate) fn summary(&self) -> String {
        let reasons: Vec<&str> = self.reasons.iter().map(String::as_str).collect();
        if self.is_none() {
            "none".to_owned()
        } else {
            format!("{} for {:.0} s", reasons.join(" and "), self.shut.as_secs_f64())
        }
    }
}

fn free_port() -> u16 {
    loop {
        let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
        assert!(port <= LAST_PORT, "ports are free");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

async fn look(ports: Vec<u16>, looks: Arc<Mutex<Vec<Look>>>) {
    let client = reqwest::Client::builder().timeout(ANSWER_WITHIN).pool_max_idle_per_host(0).build();
    let client = client.expect("a client of plain HTTP");
    let mut due = interval(LOOK);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let said = futures_util::future::join_all(ports.iter().map(|port| ask(&client, *port))).await;
        let mut look = Look { at: Instant::now(), open: 0, reasons: BTreeSet::new() };
        for said in said.into_iter().flatten() {
            look.open +=
                usize::from(said.lines().any(|line| line == "captcha_guard_state{state=\"active\"} 1"));
            look.reasons.extend(said.lines().filter_map(reason));
        }
        looks.lock().push(look);
    }
}

async fn ask(client: &reqwest::Client, port: u16) -> Option<String> {
    let reply = client.get(format!("http://127.0.0.1:{port}/metrics")).send().await.ok()?;
    String::from_utf8(reply.bytes().await.ok()?.to_vec()).ok()
}

fn reason(line: &str) -> Option<String> {
    let reason = line.strip_prefix("captcha_guard_reason{reason=\"")?.strip_suffix("\"} 1")?;
    Some(reason.to_owned())
}
