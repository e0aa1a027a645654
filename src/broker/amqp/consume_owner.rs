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
use super::intake::taken;
use super::settle::{BATCH, Carried, Settler};
use crate::broker::{BoxFuture, ConsumerPort, Delivery, Ending, Lease, Settlement};
use crate::linger::{Batch, Linger, until};

/// A quarter of the lease: three round trips in a row may be late before it runs out.
const RENEW_EVERY: Duration = Duration::from_millis(1_250);

/// When an owner stops.
pub(super) enum Stop {
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
    pub(super) settler: Settler,
    pub(super) stream: lapin::Consumer,
    tag: ShortString,
    pub(super) prefetch: u16,
    patience: Duration,
    // Gone once the consumer is cancelled, so that it ends on the other side.
    pub(super) deliveries: Option<mpsc::Sender<Delivery>>,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    gathered: Batch<Settlement>,
    pub(super) linger: Linger,
    /// When it is looked for deliveries again; not before, so that lapin wakes nobody for each of many.
    pub(super) look_at: Option<Instant>,
    pub(super) receipts: mpsc::UnboundedSender<Settlement>,
    lease: Lease,
    cancelled: bool,
    renewing: Option<BoxFuture<'static, Result<Instant, String>>>,
    tick: Interval,
    ending: Ending,
}

impl ConsumeOwner {
    pub(super) fn new(
        channel: Channel,
        (stream, tag, prefetch): (lapin::Consumer, ShortString, u16),
        (patience, linger): (Duration, Linger),
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
            gathered: Batch::new(linger),
            linger,
            look_at: None,
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
        loop {
            let outcome = match self.next_event().await {
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
                    self.look().map(|_| ())
                }
                Event::Settlements(count) => {
                    self.gathered.note(count, Settlement::may_linger);
                    Ok(())
                }
                Event::Moment => self.look_again(),
            };
            if let Err(stop) = outcome {
                return stop;
            }
            if let Some(settlements) = self.gathered.take_due()
                && let Err(stop) = self.settle(settlements).await
            {
                return stop;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let renewing = async {
            match &mut self.renewing {
                Some(renewing) => renewing.await,
                None => std::future::pending().await,
            }
        };
        let resting = self.look_at.is_some();
        let delivering = async {
            let Some(deliveries) = self.deliveries.as_ref().filter(|_| !resting) else {
                return std::future::pending().await;
            };
            // Only what there is room for is taken from lapin; the rest waits there, bounded by the prefetch.
            match deliveries.reserve().await {
                Ok(_) => taken(self.stream.next().await).map_or_else(Event::Lost, Event::Delivered),
                Err(_) => Event::Abandoned,
            }
        };
        let abandoned = async {
            match &self.deliveries {
                Some(deliveries) => deliveries.closed().await,
                None => std::future::pending().await,
            }
        };
        let moment = [self.gathered.due(), self.look_at].into_iter().flatten().min();
        let room = BATCH.saturating_sub(self.gathered.len()).max(1);
        tokio::select! {
            biased;
            reason = self.ending.ended() => Event::Lost(reason),
            outcome = renewing => outcome.map_or_else(Event::Lost, Event::Renewed),
            _ = self.tick.tick() => Event::Tick,
            count = self.settlements.recv_many(self.gathered.room(), room) => Event::Settlements(count),
            () = abandoned => Event::Abandoned,
            event = delivering => event,
            () = until(moment) => Event::Moment,
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

    async fn settle(&mut self, mut batch: Vec<Settlement>) -> Result<(), Stop> {
        let mut rest = batch.drain(..);
        while rest.len() > 0 {
            match self.settler.carry_out(&mut rest).await.map_err(Stop::Lost)? {
                Carried::All => {}
                Carried::Cancel(done) => {
                    self.cancel().await;
                    let _ = done.send(());
                }
                Carried::Flush(done) => {
                    self.go_past().await?;
                    let _ = done.send(());
                }
                Carried::Close(done) => return Err(Stop::Asked(done)),
            }
        }
        self.stop_if_unused()
    }

    /// A call that is answered after the settlements before it: the broker has handed them to the queue then, behind which alone this channel's
    /// end can come.
    async fn go_past(&mut self) -> Result<(), Stop> {
        match timeout(self.patience, renewal(&self.channel, self.prefetch)).await {
            Ok(Ok(())) => {
                self.settler.flushed();
                Ok(())
            }
            Ok(Err(error)) => Err(Stop::Lost(error.to_string())),
            Err(_) => {
                Err(Stop::Lost("the broker did not answer on the consuming channel in time".to_owned()))
            }
        }
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
        let nothing_asked = self.settlements.is_empty() && self.gathered.is_empty();
        if self.deliveries.is_none() && only_ours && nothing_asked { Err(Stop::Unused) } else { Ok(()) }
    }

    /// A session that is being closed still carries out what was asked before.
    async fn settle_what_was_asked(&mut self) {
        let mut batch = self.gathered.take();
        batch.extend(std::iter::from_fn(|| self.settlements.try_recv().ok()));
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
    Settlements(usize),
    Moment,
    Abandoned,
    Delivered(lapin::message::Delivery),
}
