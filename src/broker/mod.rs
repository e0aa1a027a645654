//! The broker seam: what the worker may ask of a message broker, whatever stands behind it.
//!
//! Three brokers stand behind it: [`amqp`] (RabbitMQ), [`memory`] (in process) and [`sqlite`] (in a
//! file, for one machine). All pass one conformance suite. The hot paths (a publish, a delivery, a
//! settlement) are plain channels to the task that owns the AMQP channel, so that there is one
//! owner for each and the types here are the same for all of them.

pub mod amqp;
mod close_signal;
mod consume;
mod error;
pub mod memory;
mod publish;
mod replies;
pub mod sqlite;
pub mod topology;

use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use close_signal::CloseSignal;
pub use consume::{
    Consumer, ConsumerPort, ConsumerWatch, Delivery, Lease, Receipt, Settlement, Stale, consumer_channel,
    receive,
};
pub use error::{BrokerError, PublishError};
pub use publish::{Confirm, Meter, PublishRequest, Publisher, publisher_channel};
pub use replies::Replies;

use crate::domain::message::Message;
use topology::{Mismatch, Topology};

/// A boxed future, for the calls that are too rare to be worth a type of their own.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a consumer is to be.
#[derive(Debug, Clone)]
pub struct ConsumeSpec {
    /// The queue's full name.
    pub queue: String,
    /// How many deliveries may be unsettled at once; never 0, which would mean "no bound".
    pub prefetch: u16,
    /// Shown by the broker's tools; a suffix keeps it unique.
    pub tag: String,
}

/// How full a queue is, as the broker reports it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueDepth {
    /// Messages ready for delivery; those held unacked by consumers are not among them.
    pub ready: u64,
    /// Consumers on the queue.
    pub consumers: u64,
}

/// The calls a broker implements for a session. Each has a time-out of its own inside.
pub trait Link: Send + Sync {
    /// Opens a channel of its own and consumes from a queue on it.
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Consumer, BrokerError>>;
    /// Opens a further publishing channel with confirms, and its owner.
    fn open_publisher(&self) -> BoxFuture<'_, Result<Publisher, BrokerError>>;
    /// Opens a further publishing channel, whose messages can ask for replies to this process.
    fn open_replies(&self) -> BoxFuture<'_, Result<Replies, BrokerError>>;
    /// Takes one message without a consumer (`basic.get`), with the right to settle it; `None`
    /// where the queue is empty.
    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>, BrokerError>>;
    /// Declares everything in the topology; what exists already must have the same arguments.
    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), BrokerError>>;
    /// Compares the topology with what the broker has, and changes nothing that exists. Missing
    /// things are reported, not made.
    fn check<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<Vec<Mismatch>, BrokerError>>;
    /// Declares an exclusive, auto-deleted queue with a fresh name, bound to a fan-out exchange,
    /// and consumes from it.
    fn subscribe<'a>(&'a self, exchange: &'a str) -> BoxFuture<'a, Result<Consumer, BrokerError>>;
    /// The depth of a queue.
    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>>;
    /// Whether the broker takes no publishes now, since it is short of memory or disk.
    fn is_blocked(&self) -> bool {
        false
    }
    /// Closes everything in order, within a bounded time.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// One lifetime of the connections to a broker. When it ends, everything that belongs to it is
/// stale; a new one is made, never repaired.
#[derive(Clone)]
pub struct Session {
    link: Arc<dyn Link>,
    publisher: Publisher,
    closed: CloseSignal,
    /// When a second opinion may be had again.
    new_channel_at: Arc<Mutex<Option<Instant>>>,
}

/// From one second opinion of a session to the next: where a queue is full, each refused message
/// would ask for one.
const NEW_CHANNEL_INTERVAL: Duration = Duration::from_secs(5);

impl Session {
    /// Puts a session together from its parts. `closed` ends with the session.
    #[must_use]
    pub fn new(link: Arc<dyn Link>, publisher: Publisher, closed: CloseSignal) -> Self {
        Self { link, publisher, closed, new_channel_at: Arc::default() }
    }

    /// The same session, whose publishes are counted and timed by a meter.
    #[must_use]
    pub fn metered(mut self, meter: &Arc<Meter>) -> Self {
        self.publisher.meter = Arc::clone(meter);
        self
    }

    /// The rare calls.
    #[must_use]
    pub fn link(&self) -> &dyn Link {
        &*self.link
    }

    /// The publishing channel of this session.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Publishes on this session and awaits the broker's confirm; see [`Publisher::publish`].
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish(
        &self,
        exchange: &str,
        routing_key: &str,
        message: impl Into<Arc<Message>>,
    ) -> Result<(), PublishError> {
        self.publisher.publish(exchange, routing_key, true, message).await
    }

    /// The same, waiting for the confirm as long as the session lives: for what must not be
    /// published twice.
    ///
    /// # Errors
    /// As [`Publisher::publish`], but never for a confirm that is late.
    pub async fn publish_once(
        &self,
        exchange: &str,
        routing_key: &str,
        message: impl Into<Arc<Message>>,
    ) -> Result<(), PublishError> {
        self.publisher.send(exchange, routing_key, true, message).await?.answered_or_lost().await
    }

    /// The same for a message that may linger until others go with it: where nothing is lost or
    /// paid by the moment's delay.
    ///
    /// # Errors
    /// As [`Session::publish_once`].
    pub async fn publish_batched(
        &self,
        exchange: &str,
        routing_key: &str,
        message: impl Into<Arc<Message>>,
    ) -> Result<(), PublishError> {
        self.publisher.ask(exchange, routing_key, (true, true), message).await?.answered_or_lost().await
    }

    /// A second opinion on a message that the broker refuses: published once more, on a channel of
    /// its own. RabbitMQ 3.10 goes on refusing what a channel brings to a queue that was full, for
    /// as long as the channel is open and whatever room the queue has by now.
    ///
    /// Whether the broker has the message now. The session's own channel is of no use then: the
    /// caller settles what was delivered, and ends the session ([`Session::end`]). It returns false
    /// if it is called too often, or on a session that fails.
    pub async fn publish_on_new_channel(
        &self,
        exchange: &str,
        routing_key: &str,
        message: impl Into<Arc<Message>>,
    ) -> bool {
        {
            let now = Instant::now();
            let mut from = self.new_channel_at.lock();
            if from.is_some_and(|from| now < from) {
                return false;
            }
            *from = Some(now + NEW_CHANNEL_INTERVAL);
        }
        let Ok(publisher) = self.link.open_publisher().await else { return false };
        match publisher.send(exchange, routing_key, true, message).await {
            Ok(confirm) => confirm.answered_or_lost().await.is_ok(),
            Err(_) => false,
        }
    }

    /// Ends the session, so that a new one is made.
    pub fn end(&self, reason: &str) {
        self.closed.end(reason);
    }

    /// Waits until the session has ended, and returns why.
    pub async fn closed(&self) -> String {
        self.closed.ended().await
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.is_ended()
    }
}

/// A broker to connect to.
#[derive(Clone)]
pub enum Broker {
    /// RabbitMQ.
    Amqp(amqp::Connector),
    /// In process.
    Memory(memory::MemoryBroker),
    /// In a file, for the processes of one machine.
    Sqlite(sqlite::SqliteBroker),
}

impl Broker {
    /// The user that its sessions are logged in as, and that a message's `user_id` must name.
    #[must_use]
    pub fn user(&self) -> &str {
        match self {
            Broker::Amqp(connector) => connector.user(),
            Broker::Memory(broker) => broker.user(),
            Broker::Sqlite(broker) => broker.user(),
        }
    }

    /// Makes a new session, or returns why it cannot be made.
    ///
    /// # Errors
    /// Where the broker cannot be reached, refuses the log-in or does not have the virtual host.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        match self {
            Broker::Amqp(connector) => connector.connect().await,
            Broker::Memory(broker) => broker.connect().await,
            Broker::Sqlite(broker) => broker.connect().await,
        }
    }
}
