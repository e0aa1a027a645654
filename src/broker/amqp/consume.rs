//! Consumers: a channel for each, a prefetch always, and one owner, a task: deliveries out,
//! settlements in, and the lease in between.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tracing::debug;

use super::connection::{SessionLifetime, channel};
use super::convert::{TooLong, from_wire, short};
use super::fault::call;
use super::settle::{BATCH, Carried, Settler};
use crate::broker::{
    BoxFuture, BrokerError, CloseSignal, ConsumeSpec, Consumer, ConsumerPort, Delivery, Lease, Receipt,
    Settlement, consumer_channel,
};
use crate::linger::{Batch, Linger, until};

/// A quarter of the lease: three round trips in a row may be late before it runs out.
const RENEW_EVERY: Duration = Duration::from_millis(1_250);

/// Opens a channel of its own and consumes on it.
pub(super) async fn open(
    connection: &Connection,
    spec: ConsumeSpec,
    (max_wait, linger): (Duration, Linger),
    lifetime: &SessionLifetime,
) -> Result<Consumer, BrokerError> {
    let channel = channel(connection, max_wait).await?;
    start(channel, spec, (max_wait, linger), lifetime).await
}

/// Consumes on a channel that has no consumer yet, and takes it over.
pub(super) async fn start(
    channel: Channel,
    spec: ConsumeSpec,
    (max_wait, linger): (Duration, Linger),
    lifetime: &SessionLifetime,
) -> Result<Consumer, BrokerError> {
    let too_long = |error: TooLong| BrokerError::Forbidden(error.to_string());
    let queue = short("the queue's name", &spec.queue).map_err(too_long)?;
    let unique = format!("{}.{}", spec.tag, uuid::Uuid::new_v4().simple());
    let tag = short("the consumer's tag", &unique).map_err(too_long)?;
    // 0 would mean "no bound" to the broker.
    let prefetch = spec.prefetch.max(1);
    call("basic.qos", max_wait, renewal(&channel, prefetch)).await?;
    // Made before the round trip that it begins with.
    let (consumer, port) = consumer_channel();
    let consuming =
        channel.basic_consume(queue, tag.clone(), BasicConsumeOptions::default(), FieldTable::default());
    let stream = call("basic.consume", max_wait, consuming).await?;
    let owner = ConsumeOwner::new(
        channel,
        (stream, tag, prefetch),
        (max_wait, linger),
        port,
        lifetime.close_signal(),
    );
    lifetime.owners().spawn(owner.run(spec.queue));
    Ok(consumer)
}

/// Sets the prefetch. Also the round trip that keeps the lease, since to set what is set already
/// changes nothing.
async fn renewal(channel: &Channel, prefetch: u16) -> lapin::Result<()> {
    channel.basic_qos(prefetch, BasicQosOptions { global: false }).await
}

/// The same with a time-out, and when it was sent.
async fn round_trip(channel: Channel, prefetch: u16, max_wait: Duration) -> Result<Instant, String> {
    let sent_at = Instant::now();
    match timeout(max_wait, renewal(&channel, prefetch)).await {
        Ok(Ok(())) => Ok(sent_at),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the broker did not answer on the consuming channel in time".to_owned()),
    }
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

/// What lapin's consumer gave, or why there is no more.
fn taken(next: Option<lapin::Result<lapin::message::Delivery>>) -> Result<lapin::message::Delivery, String> {
    match next {
        Some(Ok(from)) => Ok(from),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the broker cancelled the consumer".to_owned()),
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

/// Owns a consuming channel.
struct ConsumeOwner {
    channel: Channel,
    settler: Settler,
    stream: lapin::Consumer,
    tag: ShortString,
    prefetch: u16,
    max_wait: Duration,
    // Gone once the consumer is cancelled, so that it ends on the other side.
    deliveries: Option<mpsc::Sender<Delivery>>,
    /// Read, and without room at the consumer yet. The prefetch bounds it. Reading never waits for
    /// room: a cancel by the broker stands behind the deliveries.
    waiting: VecDeque<lapin::message::Delivery>,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    batch: Batch<Settlement>,
    linger: Linger,
    /// When deliveries are read again; not before, so that lapin does not wake this task for each
    /// of many.
    read_at: Option<Instant>,
    receipts: mpsc::UnboundedSender<Settlement>,
    lease: Lease,
    cancelled: bool,
    renewing: Option<BoxFuture<'static, Result<Instant, String>>>,
    tick: Interval,
    close_signal: CloseSignal,
}

impl ConsumeOwner {
    fn new(
        channel: Channel,
        (stream, tag, prefetch): (lapin::Consumer, ShortString, u16),
        (max_wait, linger): (Duration, Linger),
        port: ConsumerPort,
        close_signal: CloseSignal,
    ) -> Self {
        let mut tick = interval(RENEW_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            settler: Settler::new(channel.clone(), max_wait),
            channel,
            stream,
            tag,
            prefetch,
            max_wait,
            deliveries: Some(port.deliveries),
            waiting: VecDeque::new(),
            settlements: port.settlements,
            batch: Batch::new(linger.clone()),
            linger,
            read_at: None,
            receipts: port.owner,
            lease: port.lease,
            cancelled: false,
            renewing: None,
            tick,
            close_signal,
        }
    }

    /// Serves until nobody needs the channel or nobody has it, and closes it then.
    async fn run(mut self, queue: String) {
        let stop = self.serve().await;
        self.lease.revoke();
        // In this order: a caller that sees the consumer end finds its receipts stale, and neither
        // is left once the channel is closing.
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
                OwnerEvent::Lost(reason) => Err(Stop::Lost(reason)),
                OwnerEvent::Renewed(sent_at) => {
                    self.renewing = None;
                    // A cancel by the broker may stand before this answer: our deliveries belong to
                    // others then.
                    self.read_all().map(|_| self.lease.renew(sent_at))
                }
                OwnerEvent::Tick => {
                    self.begin_renewal();
                    self.stop_if_unused()
                }
                OwnerEvent::Abandoned => {
                    self.cancel().await;
                    Ok(())
                }
                OwnerEvent::Delivered(from) => {
                    self.forward(from);
                    self.read_all().map(|_| ())
                }
                OwnerEvent::Room => {
                    self.hand_out();
                    Ok(())
                }
                OwnerEvent::Settlements(count) => {
                    self.batch.note(count, Settlement::may_linger);
                    Ok(())
                }
                OwnerEvent::Moment => self.read_again(),
            };
            if let Err(stop) = outcome {
                return stop;
            }
            if let Some(settlements) = self.batch.take_due()
                && let Err(stop) = self.settle(settlements).await
            {
                return stop;
            }
        }
    }

    async fn next_event(&mut self) -> OwnerEvent {
        let renewing = async {
            match &mut self.renewing {
                Some(renewing) => renewing.await,
                None => std::future::pending().await,
            }
        };
        let resting = self.read_at.is_some();
        let delivering = async {
            if resting || self.deliveries.is_none() {
                return std::future::pending().await;
            }
            taken(self.stream.next().await).map_or_else(OwnerEvent::Lost, OwnerEvent::Delivered)
        };
        let room_for_waiting = async {
            match self.deliveries.as_ref().filter(|_| !self.waiting.is_empty()) {
                Some(deliveries) => deliveries.reserve().await.is_ok(),
                None => std::future::pending().await,
            }
        };
        let abandoned = async {
            match &self.deliveries {
                Some(deliveries) => deliveries.closed().await,
                None => std::future::pending().await,
            }
        };
        let moment = [self.batch.due(), self.read_at].into_iter().flatten().min();
        let room = BATCH.saturating_sub(self.batch.len()).max(1);
        tokio::select! {
            biased;
            reason = self.close_signal.ended() => OwnerEvent::Lost(reason),
            outcome = renewing => outcome.map_or_else(OwnerEvent::Lost, OwnerEvent::Renewed),
            _ = self.tick.tick() => OwnerEvent::Tick,
            count = self.settlements.recv_many(self.batch.room(), room) => OwnerEvent::Settlements(count),
            () = abandoned => OwnerEvent::Abandoned,
            _ = room_for_waiting => OwnerEvent::Room,
            event = delivering => event,
            () = until(moment) => OwnerEvent::Moment,
        }
    }

    /// Reads all that lapin holds, and rests then, since more may be about to arrive. Returns
    /// whether there was any.
    fn read_all(&mut self) -> Result<bool, Stop> {
        let mut found = 0;
        while self.deliveries.is_some() {
            let Some(next) = self.stream.next().now_or_never() else {
                // Where most of the prefetch arrived at once, the broker may be waiting for us, not
                // we for it.
                let is_flowing = found >= usize::from(self.prefetch) * 3 / 4;
                let rests = !self.linger.is_none() && !is_flowing;
                self.read_at = rests.then(|| self.linger.at_or_after(Instant::now()));
                return Ok(found > 0);
            };
            self.forward(taken(next).map_err(Stop::Lost)?);
            found += 1;
        }
        self.read_at = None;
        Ok(found > 0)
    }

    fn read_again(&mut self) -> Result<(), Stop> {
        if self.read_at.is_some_and(|at| at <= Instant::now()) && !self.read_all()? {
            // There is little to do: lapin may wake us for the next one.
            self.read_at = None;
        }
        Ok(())
    }

    fn forward(&mut self, from: lapin::message::Delivery) {
        self.settler.delivered(from.delivery_tag);
        self.waiting.push_back(from);
        self.hand_out();
    }

    /// Hands out what waits, as far as there is room.
    fn hand_out(&mut self) {
        while let Some(deliveries) = &self.deliveries
            && deliveries.capacity() > 0
            && let Some(from) = self.waiting.pop_front()
        {
            // There is room, since this task alone sends. Where there is nobody, the receipt sends
            // the message back to its queue.
            let _ = deliveries.try_send(delivery(from, self.receipts.clone()));
        }
    }

    /// A synchronous call on this very channel: its answer proves that the broker still has the
    /// channel, and with it our deliveries. The prefetch is what it was; a call that is already
    /// waiting is not joined by a second one.
    fn begin_renewal(&mut self) {
        if self.renewing.is_some() {
            return;
        }
        self.renewing = Some(Box::pin(round_trip(self.channel.clone(), self.prefetch, self.max_wait)));
    }

    async fn settle(&mut self, mut settlements: Vec<Settlement>) -> Result<(), Stop> {
        let mut rest = settlements.drain(..);
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

    /// A call that is answered after the settlements before it: the broker has handed them to the
    /// queue then, behind which alone this channel's end can come.
    async fn go_past(&mut self) -> Result<(), Stop> {
        let gone_past = round_trip(self.channel.clone(), self.prefetch, self.max_wait).await;
        gone_past.map_err(Stop::Lost)?;
        self.settler.flushed();
        Ok(())
    }

    /// Stops deliveries. What lapin holds but nobody has seen yet is handed out as far as there is
    /// room, and the rest goes back at once.
    async fn cancel(&mut self) {
        self.cancel_at_broker().await;
        while let Some(Some(Ok(unseen))) = self.stream.next().now_or_never() {
            self.forward(unseen);
        }
        // Their receipts send them back.
        self.waiting.drain(..).for_each(|from| drop(delivery(from, self.receipts.clone())));
        self.deliveries = None;
    }

    async fn cancel_at_broker(&mut self) {
        if !self.cancelled && self.channel.status().connected() {
            self.cancelled = true;
            let cancelling = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
            let _ = timeout(self.max_wait, cancelling).await;
        }
    }

    /// Sees to it that settlements still waiting inside the broker are not lost with the channel. A
    /// cancel goes through a quorum queue's log behind what was sent on before it; the call after
    /// it lets the rest follow. For a consumer cancelled earlier there is no such call.
    async fn flush(&mut self) {
        if self.channel.status().connected() && !self.cancelled {
            self.cancel_at_broker().await;
            let _ = round_trip(self.channel.clone(), self.prefetch, self.max_wait).await;
            self.settler.flushed();
        }
    }

    /// A cancelled consumer stays for its receipts; with the last of them, and the consumer itself,
    /// its use ends.
    fn stop_if_unused(&self) -> Result<(), Stop> {
        let only_ours = self.receipts.strong_count() == 1;
        let nothing_asked = self.settlements.is_empty() && self.batch.is_empty();
        if self.deliveries.is_none() && only_ours && nothing_asked { Err(Stop::Unused) } else { Ok(()) }
    }

    /// A session that is being closed still carries out what was asked before.
    async fn settle_what_was_asked(&mut self) {
        let mut settlements = self.batch.take();
        settlements.extend(std::iter::from_fn(|| self.settlements.try_recv().ok()));
        let mut rest = settlements.drain(..);
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
enum OwnerEvent {
    Lost(String),
    Renewed(Instant),
    Tick,
    Settlements(usize),
    Moment,
    Abandoned,
    Room,
    Delivered(lapin::message::Delivery),
}
