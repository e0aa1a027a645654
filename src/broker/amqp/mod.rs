//! RabbitMQ, by lapin.
//!
//! A session has two connections, one to publish and one to consume, since a broker that is
//! short of memory or disk blocks connections that publish. Every channel has one owner, a task,
//! that the rest of the program reaches only by the seam's queues:
//!
//! * `publish`: publishes in order, confirms awaited together; `returns` finds out whose an
//!   unroutable message was.
//! * `replies`: direct replies to what a publishing channel sends, on that same channel.
//! * `consume` and `get`: deliveries out, settlements in, in order, on the channel their tags
//!   belong to; the consumer's owner keeps the lease.
//! * `filter`: what lapin cannot read is taken out of content headers before it reads them, so that
//!   no message ends a session.
//! * `topology`: declares, and compares.
//! * `connection`: TLS, and the session's lifetime: whatever ends either connection ends the
//!   session, and all that belongs to it is stale. Nothing is repaired: the holder of the session
//!   makes a new one. Dropping the last handle of a session ends it as well.
//!
//! What lapin cannot do: a connection that the broker blocks cannot be closed from here; its thread
//! stays until the broker lets go of it.

mod connection;
mod consume;
mod convert;
mod endpoint;
mod fault;
pub mod filter;
mod get;
mod publish;
mod replies;
mod returns;
mod settle;
mod topology;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::time::timeout;

pub use endpoint::{AmqpOptions, UrlError};

use self::connection::SessionLifetime;
use self::endpoint::Endpoint;
use self::get::Getters;
use self::publish::PublishOwner;
use self::topology as declared;
use super::topology::{Mismatch, Topology};
use super::{
    BoxFuture, BrokerError, ConsumeSpec, Consumer, Delivery, Link, Publisher, QueueDepth, Replies, Session,
    publisher_channel,
};
use crate::domain::message::DIRECT_REPLY;
use crate::linger::Linger;

/// A RabbitMQ to connect to. Cloning is cheap.
#[derive(Clone)]
pub struct Connector {
    options: Arc<AmqpOptions>,
    endpoint: Arc<Endpoint>,
}

impl Connector {
    /// Reads the options. Nothing is connected yet.
    ///
    /// # Errors
    /// Where the URL cannot be used. The error never repeats it.
    pub fn new(options: AmqpOptions) -> Result<Self, UrlError> {
        // Refused where the program has chosen its provider already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let endpoint = Endpoint::parse(&options)?;
        Ok(Self { options: Arc::new(options), endpoint: Arc::new(endpoint) })
    }

    /// The user that sessions are logged in as.
    #[must_use]
    pub fn user(&self) -> &str {
        self.endpoint.user()
    }

    /// Makes a session: two connections, and a publishing channel with confirms.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`], [`BrokerError::Refused`], [`BrokerError::VirtualHost`],
    /// [`BrokerError::Unfit`]; or what a lost connection may answer.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        let (publishing, consuming) = tokio::try_join!(
            connection::open(&self.endpoint, &self.options, "publish"),
            connection::open(&self.endpoint, &self.options, "consume"),
        )?;
        let lifetime = SessionLifetime::default();
        connection::watch(&publishing, "publishing", &lifetime);
        connection::watch(&consuming, "consuming", &lifetime);
        let closed = lifetime.close_signal();
        let link = AmqpLink::new(publishing, consuming, lifetime, &self.options);
        let publisher = link.publisher(true).await?;
        Ok(Session::new(Arc::new(link), publisher, closed))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.endpoint).finish()
    }
}

/// Messages between replicas are few, and each may be as large as the broker allows: any user may
/// send one.
const SUBSCRIBER_PREFETCH: u16 = 8;

/// The two connections of a session: a broker that blocks publishers must not hold up settlements.
struct AmqpLink {
    publishing: Connection,
    consuming: Connection,
    lifetime: SessionLifetime,
    getters: Getters,
    call_timeout: Duration,
    confirm_timeout: Duration,
    publish_depth: usize,
    linger: Linger,
}

impl AmqpLink {
    fn new(
        publishing: Connection,
        consuming: Connection,
        lifetime: SessionLifetime,
        options: &AmqpOptions,
    ) -> Self {
        Self {
            publishing,
            consuming,
            lifetime,
            getters: Getters::default(),
            call_timeout: options.call_timeout,
            confirm_timeout: options.confirm_timeout,
            publish_depth: options.publish_depth.max(1),
            linger: options.linger.clone(),
        }
    }

    /// Opens a publishing channel. `vital`: the session ends with it.
    async fn publisher(&self, vital: bool) -> Result<Publisher, BrokerError> {
        let channel = connection::channel(&self.publishing, self.call_timeout).await?;
        self.publisher_on(channel, vital).await
    }

    /// Publishes on a channel that nobody publishes on yet, and takes it over.
    async fn publisher_on(&self, channel: Channel, vital: bool) -> Result<Publisher, BrokerError> {
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        fault::call("confirm.select", self.call_timeout, selecting).await?;
        let (publisher, requests) = publisher_channel(self.publish_depth, self.confirm_timeout);
        let owner = PublishOwner::new(
            channel,
            (self.publishing.status().clone(), self.publishing.configuration().frame_max()),
            requests,
            (self.publish_depth, self.confirm_timeout, self.linger.clone()),
            self.lifetime.close_signal(),
        );
        let lifetime = self.lifetime.clone();
        self.lifetime.owners().spawn(async move {
            let reason = owner.run().await;
            if vital {
                lifetime.end(&format!("publishing channel: {reason}"));
            }
        });
        Ok(publisher)
    }
}

/// With the last handle of a session, all that belongs to it ends too: at once, and not when its
/// connections happen to.
impl Drop for AmqpLink {
    fn drop(&mut self) {
        self.lifetime.end("the session was dropped");
    }
}

impl Link for AmqpLink {
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(consume::open(
            &self.consuming,
            spec,
            (self.call_timeout, self.linger.clone()),
            &self.lifetime,
        ))
    }

    fn open_publisher(&self) -> BoxFuture<'_, Result<Publisher, BrokerError>> {
        Box::pin(self.publisher(false))
    }

    fn open_replies(&self) -> BoxFuture<'_, Result<Replies, BrokerError>> {
        Box::pin(async move {
            let channel = connection::channel(&self.publishing, self.call_timeout).await?;
            let stream = replies::consume(&channel, self.call_timeout).await?;
            let publisher = self.publisher_on(channel, false).await?;
            let (replies, messages) = Replies::new(publisher, DIRECT_REPLY.to_owned());
            let forwarding = replies::forward(stream, messages, self.lifetime.close_signal());
            self.lifetime.owners().spawn(forwarding);
            Ok(replies)
        })
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>, BrokerError>> {
        Box::pin(self.getters.get(&self.consuming, queue, self.call_timeout, &self.lifetime))
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(declared::declare(&self.consuming, topology, self.call_timeout))
    }

    fn check<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<Vec<Mismatch>, BrokerError>> {
        Box::pin(declared::check(&self.consuming, topology, self.call_timeout))
    }

    fn subscribe<'a>(&'a self, exchange: &'a str) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            let channel = connection::channel(&self.consuming, self.call_timeout).await?;
            let queue = declared::subscription(&channel, exchange, self.call_timeout).await?;
            let spec = ConsumeSpec { tag: queue.clone(), queue, prefetch: SUBSCRIBER_PREFETCH };
            consume::start(channel, spec, (self.call_timeout, Linger::none()), &self.lifetime).await
        })
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(declared::depth(&self.consuming, queue, self.call_timeout))
    }

    fn is_blocked(&self) -> bool {
        self.publishing.status().blocked()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.lifetime.end("closed");
            self.lifetime.owners().close();
            // First the owners: settlements that were made, and confirms that are on their way, are
            // worth a moment.
            let _ = timeout(self.call_timeout, self.lifetime.owners().wait()).await;
            tokio::join!(
                connection::close(&self.consuming, self.call_timeout),
                connection::close(&self.publishing, self.call_timeout),
            );
        })
    }
}
