//! The one owner of a consuming channel: deliveries out, settlements in, and the lease in between.

mod ending;

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tracing::debug;

use crate::broker::amqp::connection::channel;
use crate::broker::amqp::convert::{from_wire, short};
use crate::broker::amqp::fault::call;
use crate::broker::amqp::life::{Life, ended};
use crate::broker::amqp::settle::{BATCH, Carried, Settler};
use crate::broker::{
    BoxFuture, BrokerError, ConsumeSpec, Consumer, ConsumerPort, Delivery, Lease, Receipt, Settlement,
    consumer_channel,
};

/// A quarter of the lease: three round trips in a row may be late before it runs out.
const RENEW_EVERY: Duration = Duration::from_millis(1_250);

/// Opens a channel of its own and consumes on it.
pub(super) async fn open(
    connection: &Connection,
    spec: ConsumeSpec,
    patience: Duration,
    life: &Life,
) -> Result<Consumer, BrokerError> {
    let channel = channel(connection, patience).await?;
    start(channel, spec, patience, life).await
}

/// Consumes on a channel that has no consumer yet, and takes it over.
pub(super) async fn start(
    channel: Channel,
    spec: ConsumeSpec,
    patience: Duration,
    life: &Life,
) -> Result<Consumer, BrokerError> {
    let too_long = |error: crate::broker::amqp::convert::TooLong| BrokerError::Forbidden(error.to_string());
    let queue = short("the queue's name", &spec.queue).map_err(too_long)?;
    let tag = short("the consumer's tag", &spec.tag).map_err(too_long)?;
    // 0 would mean "no bound" to the broker.
    let prefetch = spec.prefetch.max(1);
    call("basic.qos", patience, renewal(&channel, prefetch)).await?;
    // Made before the round trip that it begins with.
    let (consumer, port) = consumer_channel();
    let consuming =
        channel.basic_consume(queue, tag.clone(), BasicConsumeOptions::default(), FieldTable::default());
    let stream = call("basic.consume", patience, consuming).await?;
    let owner = Owner::new(channel, stream, tag, prefetch, patience, port, life.watch());
    life.owners().spawn(owner.run(spec.queue));
    Ok(consumer)
}

async fn renewal(channel: &Channel, prefetch: u16) -> lapin::Result<()> {
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

/// When an owner stops.
enum Stop {
    /// Channel, connection or session are gone, or the broker cancelled the consumer.
    Lost(String),
    /// It was asked to, and answers when it is done.
    Asked(oneshot::Sender<()>),
    /// Nobody is left to settle anything.
    Unused,
}

struct Owner {
    channel: Channel,
    settler: Settler,
    stream: lapin::Consumer,
    tag: ShortString,
    prefetch: u16,
    patience: Duration,
    // Gone once the consumer is cancelled, so that it ends on the other side.
    deliveries: Option<mpsc::Sender<Delivery>>,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    receipts: mpsc::UnboundedSender<Settlement>,
    lease: Lease,
    cancelled: bool,
    renewing: Option<BoxFuture<'static, Result<Instant, String>>>,
    tick: Interval,
    ended: watch::Receiver<Option<String>>,
}

impl Owner {
    fn new(
        channel: Channel,
        stream: lapin::Consumer,
        tag: ShortString,
        prefetch: u16,
        patience: Duration,
        port: ConsumerPort,
        ended: watch::Receiver<Option<String>>,
    ) -> Self {
        let mut tick = interval(RENEW_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            settler: Settler::new(channel.clone(), patience),
            channel,
            stream,
            tag,
            prefetch,
            patience,
            deliveries: Some(port.deliveries),
            settlements: port.settlements,
            receipts: port.owner,
            lease: port.lease,
            cancelled: false,
            renewing: None,
            tick,
            ended,
        }
    }

    async fn run(mut self, queue: String) {
        let stop = self.serve().await;
        self.lease.revoke();
        // In this order: whoever sees the consumer end finds its receipts stale, and neither is left once the channel is closing.
        self.settlements.close();
        self.deliveries = None;
        if let Stop::Lost(reason) = &stop {
            debug!(queue, reason, "consumer ended");
            self.settle_what_was_asked().await;
        }
        self.flush().await;
        self.settler.close().await;
        if let Stop::Asked(done) = stop {
            let _ = done.send(());
        }
    }

    async fn serve(&mut self) -> Stop {
        let mut batch = Vec::new();
        loop {
            let outcome = match self.next_event(&mut batch).await {
                Event::Lost(reason) => Err(Stop::Lost(reason)),
                Event::Renewed(sent_at) => {
                    self.renewing = None;
                    self.lease.renew(sent_at);
                    Ok(())
                }
                Event::Tick => {
                    self.begin_renewal();
                    self.stop_if_unused()
                }
                Event::Abandoned => {
                    self.cancel().await;
                    Ok(())
                }
                Event::Delivered(from) => {
                    self.forward(from);
                    Ok(())
                }
                Event::Settlements => self.settle(&mut batch).await,
            };
            if let Err(stop) = outcome {
                return stop;
            }
        }
    }

    async fn next_event(&mut self, batch: &mut Vec<Settlement>) -> Event {
        let renewing = async {
            match &mut self.renewing {
                Some(renewing) => renewing.await,
                None => std::future::pending().await,
            }
        };
        let delivering = async {
            let Some(deliveries) = &self.deliveries else {
                return std::future::pending().await;
            };
            // Only what there is room for is taken from lapin; the rest waits there, bounded by the prefetch.
            match deliveries.reserve().await {
                Ok(_) => match self.stream.next().await {
                    Some(Ok(from)) => Event::Delivered(from),
                    Some(Err(error)) => Event::Lost(error.to_string()),
                    None => Event::Lost("the broker cancelled the consumer".to_owned()),
                },
                Err(_) => Event::Abandoned,
            }
        };
        let abandoned = async {
            match &self.deliveries {
                Some(deliveries) => deliveries.closed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            reason = ended(&mut self.ended) => Event::Lost(reason),
            outcome = renewing => outcome.map_or_else(Event::Lost, Event::Renewed),
            _ = self.tick.tick() => Event::Tick,
            _ = self.settlements.recv_many(batch, BATCH) => Event::Settlements,
            () = abandoned => Event::Abandoned,
            event = delivering => event,
        }
    }

    /// A synchronous call on this very channel: its answer proves that the broker still has the channel, and with it our deliveries.
    /// The prefetch is what it was; a call that is already waiting is not joined by a second one.
    fn begin_renewal(&mut self) {
        if self.renewing.is_some() {
            return;
        }
        let (channel, prefetch, patience) = (self.channel.clone(), self.prefetch, self.patience);
        self.renewing = Some(Box::pin(async move {
            let sent_at = Instant::now();
            match timeout(patience, renewal(&channel, prefetch)).await {
                Ok(Ok(())) => Ok(sent_at),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the broker did not answer on the consuming channel in time".to_owned()),
            }
        }));
    }

    fn forward(&mut self, from: lapin::message::Delivery) {
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        // There is room, since this task alone sends and has just reserved it. A consumer dropped meanwhile drops the receipt,
        // which sends the message back to its queue.
        let _ = deliveries.try_send(delivery(from, self.receipts.clone()));
    }

    async fn settle(&mut self, batch: &mut Vec<Settlement>) -> Result<(), Stop> {
        let mut rest = batch.drain(..);
        while rest.len() > 0 {
            match self.settler.carry_out(&mut rest).await.map_err(Stop::Lost)? {
                Carried::All => {}
                Carried::Cancel(done) => {
                    self.cancel().await;
                    let _ = done.send(());
                }
                Carried::Close(done) => return Err(Stop::Asked(done)),
            }
        }
        self.stop_if_unused()
    }
}

#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, on the stack; a box for each delivery would cost more"
)]
enum Event {
    Lost(String),
    Renewed(Instant),
    Tick,
    Settlements,
    Abandoned,
    Delivered(lapin::message::Delivery),
}
