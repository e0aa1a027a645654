//! The one owner of a consuming channel: deliveries out, settlements in, and the lease in between.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::BasicCancelOptions;
use lapin::types::ShortString;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::consume::{delivery, renewal};
use super::settle::{BATCH, Carried, Settler};
use crate::broker::{BoxFuture, ConsumerPort, Delivery, Ending, Lease, Settlement};

/// A quarter of the lease: three round trips in a row may be late before it runs out.
const RENEW_EVERY: Duration = Duration::from_millis(1_250);

/// When an owner stops.
enum Stop {
    /// Channel, connection or session are gone, or the broker cancelled the consumer.
    Lost(String),
    /// It was asked to, and answers when it is done.
    Asked(oneshot::Sender<()>),
    /// Nobody is left to settle anything.
    Unused,
}

/// Owns a consuming channel.
pub(super) struct ConsumeOwner {
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
    ending: Ending,
}

impl ConsumeOwner {
    pub(super) fn new(
        channel: Channel,
        stream: lapin::Consumer,
        tag: ShortString,
        prefetch: u16,
        patience: Duration,
        port: ConsumerPort,
        ending: Ending,
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
            ending,
        }
    }

    /// Serves until nobody needs the channel or nobody has it, and closes it then.
    pub(super) async fn run(mut self, queue: String) {
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
            reason = self.ending.ended() => Event::Lost(reason),
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

    /// Stops deliveries. What lapin holds but nobody has seen yet goes back at once.
    async fn cancel(&mut self) {
        self.deliveries = None;
        self.cancel_at_broker().await;
        while let Some(Some(Ok(unseen))) = self.stream.next().now_or_never() {
            drop(delivery(unseen, self.receipts.clone()));
        }
    }

    async fn cancel_at_broker(&mut self) {
        if !self.cancelled && self.channel.status().connected() {
            self.cancelled = true;
            let cancelling = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
            let _ = timeout(self.patience, cancelling).await;
        }
    }

    /// Sees to it that settlements still waiting inside the broker are not lost with the channel. A cancel goes through a quorum queue's log
    /// behind what was sent on before it; the call after it lets the rest follow. For a consumer cancelled earlier there is no such call.
    async fn flush(&mut self) {
        if self.channel.status().connected() && !self.cancelled {
            self.cancel_at_broker().await;
            let _ = timeout(self.patience, renewal(&self.channel, self.prefetch)).await;
            self.settler.flushed();
        }
    }

    /// A cancelled consumer stays for its receipts; with the last of them, and the consumer itself, its use ends.
    fn stop_if_unused(&self) -> Result<(), Stop> {
        let only_ours = self.receipts.strong_count() == 1;
        if self.deliveries.is_none() && only_ours && self.settlements.is_empty() {
            Err(Stop::Unused)
        } else {
            Ok(())
        }
    }

    /// A session that is being closed still carries out what was asked before.
    async fn settle_what_was_asked(&mut self) {
        let mut batch = Vec::new();
        while let Ok(settlement) = self.settlements.try_recv() {
            batch.push(settlement);
        }
        let mut rest = batch.drain(..);
        while rest.len() > 0 && self.channel.status().connected() {
            if self.settler.carry_out(&mut rest).await.is_err() {
                return;
            }
        }
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
