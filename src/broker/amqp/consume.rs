//! Opening consumers: a channel for each, a prefetch always.

use std::time::Duration;

use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection};
use tokio::sync::mpsc;

use super::connection::channel;
use super::consume_owner::ConsumeOwner;
use super::convert::{TooLong, from_wire, short};
use super::fault::call;
use super::session_lifetime::Life;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, Receipt, Settlement, consumer_channel};
use crate::linger::Linger;

/// Opens a channel of its own and consumes on it.
pub(super) async fn open(
    connection: &Connection,
    spec: ConsumeSpec,
    (patience, linger): (Duration, Linger),
    life: &Life,
) -> Result<Consumer, BrokerError> {
    let channel = channel(connection, patience).await?;
    start(channel, spec, (patience, linger), life).await
}

/// Consumes on a channel that has no consumer yet, and takes it over.
pub(super) async fn start(
    channel: Channel,
    spec: ConsumeSpec,
    (patience, linger): (Duration, Linger),
    life: &Life,
) -> Result<Consumer, BrokerError> {
    let too_long = |error: TooLong| BrokerError::Forbidden(error.to_string());
    let queue = short("the queue's name", &spec.queue).map_err(too_long)?;
    let unique = format!("{}.{}", spec.tag, uuid::Uuid::new_v4().simple());
    let tag = short("the consumer's tag", &unique).map_err(too_long)?;
    // 0 would mean "no bound" to the broker.
    let prefetch = spec.prefetch.max(1);
    call("basic.qos", patience, renewal(&channel, prefetch)).await?;
    // Made before the round trip that it begins with.
    let (consumer, port) = consumer_channel();
    let consuming =
        channel.basic_consume(queue, tag.clone(), BasicConsumeOptions::default(), FieldTable::default());
    let stream = call("basic.consume", patience, consuming).await?;
    let owner = ConsumeOwner::new(channel, (stream, tag, prefetch), (patience, linger), port, life.ending());
    life.owners().spawn(owner.run(spec.queue));
    Ok(consumer)
}

/// Sets the prefetch. Also the round trip that keeps the lease, since to set what is set already changes nothing.
pub(super) async fn renewal(channel: &Channel, prefetch: u16) -> lapin::Result<()> {
    channel.basic_qos(prefetch, BasicQosOptions { global: false }).await
}

/// A lapin delivery as the seam has it.
pub(super) fn delivery(from: lapin::message::Delivery, owner: mpsc::UnboundedSender<Settlement>) -> Delivery {
    Delivery {
        message: from_wire(from.data, &from.properties),
        redelivered: from.redelivered,
        routing_key: from.routing_key.into(),
        receipt: Receipt::new(from.delivery_tag, owner),
    }
}
