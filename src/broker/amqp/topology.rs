//! Declaring the topology, and comparing it with what the broker has.

use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind as WireKind};

use super::connection::channel;
use super::convert::{TooLong, short, table_to_wire};
use super::fault::call;
use crate::broker::topology::{Binding, Exchange, ExchangeKind, Mismatch, Queue, Topology};
use crate::broker::{BrokerError, QueueDepth};

fn too_long(error: TooLong) -> BrokerError {
    BrokerError::Forbidden(error.to_string())
}

fn name(text: &str) -> Result<ShortString, BrokerError> {
    short("a name", text).map_err(too_long)
}

/// Declares everything, in order.
pub(super) async fn declare(
    connection: &Connection,
    topology: &Topology,
    max_wait: Duration,
) -> Result<(), BrokerError> {
    let channel = channel(connection, max_wait).await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange, false, max_wait).await?;
    }
    for queue in &topology.queues {
        declare_queue(&channel, queue, false, max_wait).await?;
    }
    for binding in &topology.bindings {
        bind(&channel, binding, max_wait).await?;
    }
    Ok(())
}

/// Compares exchanges and queues. Bindings are left out: AMQP cannot ask for one without making it.
///
/// A passive declare ignores arguments, and an active one creates what is missing; so each thing is
/// first declared passively, then, where it exists, declared again as it ought to be.
pub(super) async fn check(
    connection: &Connection,
    topology: &Topology,
    max_wait: Duration,
) -> Result<Vec<Mismatch>, BrokerError> {
    let mut checker = Checker { connection, max_wait, open: None, found: Vec::new() };
    for exchange in &topology.exchanges {
        checker.compare(Thing::Exchange(exchange)).await?;
    }
    for queue in &topology.queues {
        checker.compare(Thing::Queue(queue)).await?;
    }
    Ok(checker.found)
}

/// How full a queue is.
pub(super) async fn depth(
    connection: &Connection,
    queue: &str,
    max_wait: Duration,
) -> Result<QueueDepth, BrokerError> {
    let channel = channel(connection, max_wait).await?;
    let passive = QueueDeclareOptions { passive: true, durable: true, ..QueueDeclareOptions::default() };
    let declaring = channel.queue_declare(name(queue)?, passive, FieldTable::default());
    let declared = call("queue.declare", max_wait, declaring).await?;
    Ok(QueueDepth { ready: declared.message_count().into(), consumers: declared.consumer_count().into() })
}

/// A fresh queue for this connection alone, bound to a fan-out exchange. Exclusive queues are
/// classic ones; it is bounded, since a subscriber may be slow, and drops its oldest message first.
pub(super) async fn subscription(
    channel: &Channel,
    exchange: &str,
    max_wait: Duration,
) -> Result<String, BrokerError> {
    const KEPT: i32 = 1_000;
    let queue = format!("{exchange}.{}", uuid::Uuid::new_v4().simple());
    let options =
        QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("classic".into()));
    arguments.insert("x-max-length".into(), KEPT.into());
    let declaring = channel.queue_declare(name(&queue)?, options, arguments);
    call("queue.declare", max_wait, declaring).await?;
    let binding = Binding { exchange: exchange.to_owned(), queue: queue.clone(), routing_key: String::new() };
    bind(channel, &binding, max_wait).await?;
    Ok(queue)
}

async fn declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    passive: bool,
    max_wait: Duration,
) -> Result<(), BrokerError> {
    let kind = match exchange.kind {
        ExchangeKind::Direct => WireKind::Direct,
        ExchangeKind::Topic => WireKind::Topic,
        ExchangeKind::Fanout => WireKind::Fanout,
    };
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    let arguments = table_to_wire(&exchange.arguments).map_err(too_long)?;
    let declaring = channel.exchange_declare(name(&exchange.name)?, kind, options, arguments);
    call("exchange.declare", max_wait, declaring).await
}

async fn declare_queue(
    channel: &Channel,
    queue: &Queue,
    passive: bool,
    max_wait: Duration,
) -> Result<(), BrokerError> {
    let options = QueueDeclareOptions { passive, durable: true, ..QueueDeclareOptions::default() };
    let arguments = table_to_wire(&queue.arguments).map_err(too_long)?;
    let declaring = channel.queue_declare(name(&queue.name)?, options, arguments);
    call("queue.declare", max_wait, declaring).await.map(|_| ())
}

async fn bind(channel: &Channel, binding: &Binding, max_wait: Duration) -> Result<(), BrokerError> {
    let binding = channel.queue_bind(
        name(&binding.queue)?,
        name(&binding.exchange)?,
        name(&binding.routing_key)?,
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    call("queue.bind", max_wait, binding).await
}

#[derive(Clone, Copy)]
enum Thing<'a> {
    Exchange(&'a Exchange),
    Queue(&'a Queue),
}

struct Checker<'a> {
    connection: &'a Connection,
    max_wait: Duration,
    // Every difference costs the channel it was found on.
    open: Option<Channel>,
    found: Vec<Mismatch>,
}

impl Checker<'_> {
    async fn compare(&mut self, thing: Thing<'_>) -> Result<(), BrokerError> {
        for passive in [true, false] {
            let (kind, name, problem) = match self.declare(thing, passive).await {
                Ok(()) => continue,
                Err(BrokerError::Missing { kind, name }) => {
                    (kind, name, format!("{}; run `captcha-worker topology declare`", Mismatch::MISSING))
                }
                Err(BrokerError::Mismatch { kind, name, detail }) => (kind, name, detail),
                // It exists; a user who may not declare it cannot compare more.
                Err(BrokerError::Forbidden(_)) if !passive => return Ok(()),
                Err(other) => return Err(other),
            };
            self.found.push(Mismatch { kind, name, problem });
            return Ok(());
        }
        Ok(())
    }

    async fn declare(&mut self, thing: Thing<'_>, passive: bool) -> Result<(), BrokerError> {
        let channel = match self.open.take() {
            Some(open) => open,
            None => channel(self.connection, self.max_wait).await?,
        };
        match thing {
            Thing::Exchange(exchange) => declare_exchange(&channel, exchange, passive, self.max_wait).await?,
            Thing::Queue(queue) => declare_queue(&channel, queue, passive, self.max_wait).await?,
        }
        self.open = Some(channel);
        Ok(())
    }
}
