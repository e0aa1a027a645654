//! Every exchange, queue and binding, as data: what `topology declare` makes, `check` compares and
//! `export` prints.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::class::Class;
use crate::domain::lane::Lane;
use crate::domain::message::Value;
pub use crate::domain::retry_delay::{RETRY_DELAYS, RetryDelay};

/// Deliveries of one job before the broker itself dead-letters it: a backstop against a job that
/// kills workers, never a decision about a job.
const JOB_DELIVERY_LIMIT: i64 = 20;
/// The same for every other queue. High, since a crash charges every unacked neighbour.
const DELIVERY_LIMIT: i64 = 1_000;

/// The names of everything on the broker, all prefixed by the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    namespace: String,
}

impl Names {
    /// Names under a namespace, such as `captcha`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    /// The namespace itself.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    fn under(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// Queue, and direct exchange, that publishers publish jobs to.
    #[must_use]
    pub fn jobs(&self) -> String {
        self.under("jobs")
    }

    /// Queue of a lane's jobs, and exchange for publishers that may use this lane only.
    #[must_use]
    pub fn jobs_of(&self, lane: &Lane) -> String {
        self.in_lane("jobs", lane)
    }

    fn in_lane(&self, name: &str, lane: &Lane) -> String {
        match lane.is_default() {
            true => self.under(name),
            false => self.under(&format!("{name}.{lane}")),
        }
    }

    /// Queue of accepted, paid tasks.
    #[must_use]
    pub fn tickets(&self) -> String {
        self.under("tickets")
    }

    /// Queue of one delay.
    #[must_use]
    pub fn retry(&self, delay: RetryDelay) -> String {
        self.under(&format!("retry.{}", delay.label))
    }

    /// Queue of one delay of a lane's jobs.
    #[must_use]
    pub fn retry_of(&self, delay: RetryDelay, lane: &Lane) -> String {
        self.in_lane(&format!("retry.{}", delay.label), lane)
    }

    /// What every retry queue's name begins with.
    #[must_use]
    pub fn retry_prefix(&self) -> String {
        self.under("retry.")
    }

    /// Topic exchange of outcomes.
    #[must_use]
    pub fn outcomes(&self) -> String {
        self.under("outcomes")
    }

    /// Queue of solved jobs.
    #[must_use]
    pub fn results(&self) -> String {
        self.under("results")
    }

    /// Dead-letter queue of a class.
    #[must_use]
    pub fn dead(&self, class: Class) -> String {
        self.under(&format!("dead.{class}"))
    }

    /// Queue of what the broker itself dead-lettered.
    #[must_use]
    pub fn dead_raw(&self) -> String {
        self.under("dead.raw")
    }

    /// Queue, and fan-out exchange, of outcomes that no queue was bound for.
    #[must_use]
    pub fn unrouted(&self) -> String {
        self.under("unrouted")
    }

    /// Queue that holds the guard's one state message.
    #[must_use]
    pub fn guard(&self) -> String {
        self.under("guard")
    }

    /// Fan-out exchange of news between replicas.
    #[must_use]
    pub fn control(&self) -> String {
        self.under("control")
    }
}

/// The kinds of exchange in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExchangeKind {
    /// By exact routing key.
    Direct,
    /// By routing-key pattern.
    Topic,
    /// To every bound queue.
    Fanout,
}

impl ExchangeKind {
    /// AMQP's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ExchangeKind::Direct => "direct",
            ExchangeKind::Topic => "topic",
            ExchangeKind::Fanout => "fanout",
        }
    }
}

/// Arguments of a queue or exchange (`x-…`, `alternate-exchange`).
pub type Arguments = BTreeMap<String, Value>;

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Full name.
    pub name: String,
    /// Kind.
    pub kind: ExchangeKind,
    /// Arguments.
    pub arguments: Arguments,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Queue {
    /// Full name.
    pub name: String,
    /// Arguments.
    pub arguments: Arguments,
}

/// A binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Source exchange.
    pub exchange: String,
    /// Target queue.
    pub queue: String,
    /// Key or pattern.
    pub routing_key: String,
}

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Topology {
    /// In an order in which they can be declared.
    pub exchanges: Vec<Exchange>,
    /// Queues.
    pub queues: Vec<Queue>,
    /// Bindings.
    pub bindings: Vec<Binding>,
}

/// One difference between the topology and the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// `queue`, `exchange` or `binding`.
    pub kind: &'static str,
    /// Full name.
    pub name: String,
    /// What differs, and how it can be fixed.
    pub problem: String,
}

impl Mismatch {
    /// How the problem of a thing begins that does not exist.
    pub(super) const MISSING: &str = "does not exist";

    /// Whether it does not exist, so that declaring the topology is enough.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.problem.starts_with(Self::MISSING)
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}': {}", self.kind, self.name, self.problem)
    }
}

impl Topology {
    /// The topology under a namespace.
    #[must_use]
    pub fn new(names: &Names) -> Self {
        Self { exchanges: exchanges(names), queues: queues(names), bindings: bindings(names) }
    }

    /// The same with lanes beside the default one.
    #[must_use]
    pub fn with_lanes<'a>(names: &Names, lanes: impl IntoIterator<Item = &'a Lane>) -> Self {
        let mut all = Self::new(names);
        for lane in lanes.into_iter().filter(|lane| !lane.is_default()) {
            let jobs = names.jobs_of(lane);
            let arguments = Arguments::new();
            all.exchanges.push(Exchange { name: jobs.clone(), kind: ExchangeKind::Fanout, arguments });
            all.queues.push(queue(jobs.clone(), JOB_DELIVERY_LIMIT, names.dead_raw()));
            all.queues.extend(retry_queues(names, lane));
            let bind = |exchange: &str, routing_key: &str| Binding {
                exchange: exchange.to_owned(),
                queue: jobs.clone(),
                routing_key: routing_key.to_owned(),
            };
            all.bindings.push(bind(&names.jobs(), &format!("jobs.{lane}")));
            all.bindings.push(bind(&names.jobs(), &jobs));
            all.bindings.push(bind(&jobs, ""));
        }
        all
    }
}

fn exchanges(names: &Names) -> Vec<Exchange> {
    let plain = |name, kind| Exchange { name, kind, arguments: Arguments::new() };
    let mut outcomes = plain(names.outcomes(), ExchangeKind::Topic);
    outcomes.arguments.insert("alternate-exchange".into(), names.unrouted().into());
    vec![
        plain(names.jobs(), ExchangeKind::Direct),
        plain(names.unrouted(), ExchangeKind::Fanout),
        outcomes,
        plain(names.control(), ExchangeKind::Fanout),
    ]
}

/// A quorum queue whose dead letters go straight to another queue, by way of the default exchange.
///
/// At-least-once dead-lettering falls back silently to at-most-once unless the overflow is
/// `reject-publish`.
fn queue(name: String, delivery_limit: i64, dead_letters_to: String) -> Queue {
    let arguments = Arguments::from([
        ("x-queue-type".into(), "quorum".into()),
        ("x-delivery-limit".into(), delivery_limit.into()),
        ("x-overflow".into(), "reject-publish".into()),
        ("x-dead-letter-strategy".into(), "at-least-once".into()),
        ("x-dead-letter-exchange".into(), "".into()),
        ("x-dead-letter-routing-key".into(), dead_letters_to.into()),
    ]);
    Queue { name, arguments }
}

fn queues(names: &Names) -> Vec<Queue> {
    let mut all = vec![queue(names.jobs(), JOB_DELIVERY_LIMIT, names.dead_raw())];
    let mut plain = vec![names.tickets(), names.results()];
    plain.extend(Class::finals().map(|class| names.dead(class)));
    plain.push(names.unrouted());
    all.extend(plain.into_iter().map(|name| queue(name, DELIVERY_LIMIT, names.dead_raw())));
    // The last stop needs a way out too, or a message past the limit would be dropped.
    all.push(queue(names.dead_raw(), DELIVERY_LIMIT, names.unrouted()));
    all.extend(retry_queues(names, &Lane::default()));
    let mut guard = queue(names.guard(), DELIVERY_LIMIT, names.dead_raw());
    guard.arguments.insert("x-single-active-consumer".into(), Value::Bool(true));
    all.push(guard);
    all
}

/// Each lane has its own, since what a queue dead-letters to is fixed by the queue.
fn retry_queues(names: &Names, lane: &Lane) -> impl Iterator<Item = Queue> {
    RETRY_DELAYS.into_iter().map(move |delay| {
        let mut retry = queue(names.retry_of(delay, lane), DELIVERY_LIMIT, names.jobs_of(lane));
        let millis = i64::try_from(delay.millis).unwrap_or(i64::MAX);
        retry.arguments.insert("x-message-ttl".into(), millis.into());
        retry
    })
}

fn bindings(names: &Names) -> Vec<Binding> {
    let bind = |exchange: String, queue: String, routing_key: &str| Binding {
        exchange,
        queue,
        routing_key: routing_key.to_owned(),
    };
    // A publisher who leaves the key empty, or repeats the queue's name as it would for the default
    // exchange, means this queue.
    let mut all: Vec<Binding> =
        ["", "jobs", &names.jobs()].into_iter().map(|key| bind(names.jobs(), names.jobs(), key)).collect();
    all.push(bind(names.unrouted(), names.unrouted(), ""));
    all.push(bind(names.outcomes(), names.results(), "solved.#"));
    all.extend(
        Class::finals().map(|class| bind(names.outcomes(), names.dead(class), &format!("dead.{class}.#"))),
    );
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_a_limit_and_a_way_out_that_exists() {
        let names = Names::new("other");
        let topology = Topology::with_lanes(&names, &["urgent".parse().unwrap(), Lane::default()]);
        for queue in &topology.queues {
            assert!(queue.name.starts_with("other."), "{}", queue.name);
            assert!(matches!(queue.arguments["x-delivery-limit"], Value::Int(20 | 1_000)));
            let target = queue.arguments["x-dead-letter-routing-key"].as_text().unwrap();
            assert!(topology.queues.iter().any(|other| other.name == target), "{target} is not declared");
            assert_ne!(target, queue.name, "a queue must not dead-letter to itself");
        }
    }

    #[test]
    fn every_final_class_has_a_bound_dead_letter_queue() {
        let names = Names::new("captcha");
        let topology = Topology::new(&names);
        for class in Class::finals() {
            let name = names.dead(class);
            assert!(topology.queues.iter().any(|queue| queue.name == name));
            assert!(
                topology
                    .bindings
                    .iter()
                    .any(|b| b.queue == name && b.routing_key == format!("dead.{class}.#"))
            );
        }
    }

    #[test]
    fn a_retry_queue_gives_its_jobs_back_to_the_queue_of_their_lane() {
        let names = Names::new("captcha");
        let lane: Lane = "urgent".parse().unwrap();
        let topology = Topology::with_lanes(&names, [&lane]);
        for (queue, jobs) in
            [("captcha.retry.30s", "captcha.jobs"), ("captcha.retry.30s.urgent", "captcha.jobs.urgent")]
        {
            let queue = topology.queues.iter().find(|known| known.name == queue).unwrap();
            assert_eq!(queue.arguments["x-dead-letter-routing-key"], jobs.into());
            assert_eq!(queue.arguments["x-message-ttl"], 30_000.into());
        }
        assert_eq!(Topology::with_lanes(&names, [&Lane::default()]), Topology::new(&names));
    }
}
