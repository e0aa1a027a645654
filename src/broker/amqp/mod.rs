//! RabbitMQ, by lapin.
//!
//! A session has two connections, one to publish and one to consume, since a broker in need blocks whoever publishes. Every channel has
//! one owner, a task, that the rest of the program reaches only by the seam's queues:
//!
//! * `publish`: publishes in order, confirms awaited together; `returns` finds out whose an unroutable message was.
//! * `consume` and `get`: deliveries out, settlements in, in order, on the channel their tags belong to; the consumer's owner keeps the lease.
//! * `tls`: for `amqps://`.
//! * `filter`: what lapin cannot read is taken out of content headers before it reads them, so that no message ends a session.
//! * `topology`: declares, and compares.
//! * `connection` and `life`: whatever ends either connection ends the session, and all that came from it is stale. Nothing is repaired:
//!   whoever holds the session makes a new one. Dropping the last handle of a session ends it as well.
//!
//! What lapin cannot do: a connection that the broker blocks cannot be closed from here; its thread
//! stays until the broker lets go of it.

mod connection;
mod consume;
mod consume_owner;
mod convert;
mod endpoint;
mod fault;
pub mod filter;
mod get;
mod intake;
mod link;
mod publish;
mod returns;
mod session_lifetime;
mod settle;
mod tls;
mod topology;

use std::fmt;
use std::sync::Arc;

pub use endpoint::{AmqpOptions, UrlError};

use self::endpoint::Target;
use self::link::AmqpLink;
use self::session_lifetime::Life;
use super::{BrokerError, Session};

/// A RabbitMQ to connect to. Cloning is cheap.
#[derive(Clone)]
pub struct Connector {
    options: Arc<AmqpOptions>,
    target: Arc<Target>,
}

impl Connector {
    /// Reads the options. Nothing is connected yet.
    ///
    /// # Errors
    /// Where the URL cannot be used. The error never repeats it.
    pub fn new(options: AmqpOptions) -> Result<Self, UrlError> {
        // Refused where the program has chosen its provider already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let target = Target::parse(&options)?;
        Ok(Self { options: Arc::new(options), target: Arc::new(target) })
    }

    /// The user that sessions are logged in as.
    #[must_use]
    pub fn user(&self) -> &str {
        self.target.user()
    }

    /// Makes a session: two connections, and a publishing channel with confirms.
    ///
    /// # Errors
    /// [`BrokerError::Unreachable`], [`BrokerError::Refused`], [`BrokerError::VirtualHost`],
    /// [`BrokerError::Unfit`]; or what a lost connection may answer.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        let (publishing, consuming) = tokio::try_join!(
            connection::open(&self.target, &self.options, "publish"),
            connection::open(&self.target, &self.options, "consume"),
        )?;
        let life = Life::default();
        connection::watch(&publishing, "publishing", &life);
        connection::watch(&consuming, "consuming", &life);
        let closed = life.ending();
        let link = AmqpLink::new(publishing, consuming, life, &self.options);
        let publisher = link.publisher(true).await?;
        Ok(Session::new(Arc::new(link), publisher, closed))
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(&self.target).finish()
    }
}
