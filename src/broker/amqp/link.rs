//! A session's rare calls, on its two connections.

use std::time::Duration;

use lapin::Connection;
use lapin::options::ConfirmSelectOptions;
use tokio::time::timeout;

use super::endpoint::AmqpOptions;
use super::get::Getters;
use super::publish::PublishOwner;
use super::session_lifetime::Life;
use super::{connection, consume, fault, topology as declared};
use crate::broker::topology::{Mismatch, Topology};
use crate::broker::{
    BoxFuture, BrokerError, ConsumeSpec, Consumer, Delivery, Link, Publisher, QueueDepth, publisher_channel,
};
use crate::linger::Linger;

/// News between replicas are few, and each message may be as large as the broker allows, whoever sends it.
const SUBSCRIBER_PREFETCH: u16 = 8;

/// The two connections of a session: a broker that blocks publishers must not hold up settlements.
pub(super) struct AmqpLink {
    pub(super) publishing: Connection,
    pub(super) consuming: Connection,
    pub(super) life: Life,
    pub(super) getters: Getters,
    pub(super) call_timeout: Duration,
    pub(super) confirm_timeout: Duration,
    pub(super) publish_depth: usize,
    pub(super) linger: Linger,
}

impl AmqpLink {
    pub(super) fn new(
        publishing: Connection,
        consuming: Connection,
        life: Life,
        options: &AmqpOptions,
    ) -> Self {
        Self {
            publishing,
            consuming,
            life,
            getters: Getters::default(),
            call_timeout: options.call_timeout,
            confirm_timeout: options.confirm_timeout,
            publish_depth: options.publish_depth.max(1),
            linger: options.linger,
        }
    }

    /// Opens a publishing channel. `vital`: the session ends with it.
    pub(super) async fn publisher(&self, vital: bool) -> Result<Publisher, BrokerError> {
        let patience = self.call_timeout;
        let channel = connection::channel(&self.publishing, patience).await?;
        let selecting = channel.confirm_select(ConfirmSelectOptions::default());
        fault::call("confirm.select", patience, selecting).await?;
        let (publisher, requests) = publisher_channel(self.publish_depth, self.confirm_timeout);
        let owner = PublishOwner::new(
            channel,
            (self.publishing.status().clone(), self.publishing.configuration().frame_max()),
            requests,
            (self.publish_depth, self.confirm_timeout, self.linger),
            self.life.ending(),
        );
        let life = self.life.clone();
        self.life.owners().spawn(async move {
            let reason = owner.run().await;
            if vital {
                life.end(&format!("publishing channel: {reason}"));
            }
        });
        Ok(publisher)
    }
}

/// With the last handle of a session, what came from it ends too, and at once rather than when its connections happen to.
impl Drop for AmqpLink {
    fn drop(&mut self) {
        self.life.end("the session was dropped");
    }
}

impl Link for AmqpLink {
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(consume::open(&self.consuming, spec, (self.call_timeout, self.linger), &self.life))
    }

    fn open_publisher(&self) -> BoxFuture<'_, Result<Publisher, BrokerError>> {
        Box::pin(self.publisher(false))
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>, BrokerError>> {
        Box::pin(self.getters.get(&self.consuming, queue, self.call_timeout, &self.life))
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
            consume::start(channel, spec, (self.call_timeout, Linger::none()), &self.life).await
        })
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(declared::depth(&self.consuming, queue, self.call_timeout))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.life.end("closed");
            self.life.owners().close();
            // First the owners: settlements that were made, and confirms that are on their way, are worth a moment.
            let _ = timeout(self.call_timeout, self.life.owners().wait()).await;
            tokio::join!(
                connection::close(&self.consuming, self.call_timeout),
                connection::close(&self.publishing, self.call_timeout),
            );
        })
    }
}
