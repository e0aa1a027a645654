//! `basic.get`: one message at a time, with the right to settle it.

use std::collections::HashMap;
use std::time::Duration;

use lapin::options::BasicGetOptions;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, mpsc, oneshot};

use super::connection::SessionLifetime;
use super::connection::channel;
use super::consume::delivery;
use super::convert::short;
use super::fault::call;
use super::settle::{BATCH, Carried, Settler};
use crate::broker::{BrokerError, CloseSignal, Delivery, Settlement};

/// A channel that messages of one queue were got on, and its owner's ear.
struct Getter {
    channel: Channel,
    owner: mpsc::UnboundedSender<Settlement>,
    // Dropped with the getter, which ends the owner, makes the receipts stale and closes the
    // channel.
    _kept: oneshot::Sender<()>,
}

/// The channels for getting, one for each queue: a queue that is not there costs only the receipts
/// of its own channel.
#[derive(Default)]
pub(super) struct Getters {
    by_queue: Mutex<HashMap<String, Getter>>,
}

impl Getters {
    /// Takes one message, or `None` where the queue is empty.
    pub(super) async fn get(
        &self,
        connection: &Connection,
        queue: &str,
        max_wait: Duration,
        lifetime: &SessionLifetime,
    ) -> Result<Option<Delivery>, BrokerError> {
        let name =
            short("the queue's name", queue).map_err(|error| BrokerError::Forbidden(error.to_string()))?;
        let mut by_queue = self.by_queue.lock().await;
        // Out of the map during the call: one that fails, or is given up half-way, may have fetched
        // a message, which only its channel's end sends back.
        let getter = match by_queue.remove(queue) {
            Some(getter) if getter.channel.status().connected() => getter,
            _ => Getter::open(connection, max_wait, lifetime).await?,
        };
        let getting = getter.channel.basic_get(name, BasicGetOptions { no_ack: false });
        let got = call("basic.get", max_wait, getting).await?;
        let got = got.map(|message| delivery(message.delivery, getter.owner.clone()));
        by_queue.insert(queue.to_owned(), getter);
        Ok(got)
    }
}

impl Getter {
    async fn open(
        connection: &Connection,
        max_wait: Duration,
        lifetime: &SessionLifetime,
    ) -> Result<Self, BrokerError> {
        let channel = channel(connection, max_wait).await?;
        let (owner, settlements) = mpsc::unbounded_channel();
        let (kept, dropped) = oneshot::channel();
        let settler = Settler::new(channel.clone(), max_wait);
        lifetime.owners().spawn(serve(settler, settlements, dropped, lifetime.close_signal()));
        Ok(Self { channel, owner, _kept: kept })
    }
}

async fn serve(
    mut settler: Settler,
    mut settlements: mpsc::UnboundedReceiver<Settlement>,
    mut dropped: oneshot::Receiver<()>,
    lifetime: CloseSignal,
) {
    let mut batch = Vec::new();
    loop {
        // Nothing arrives any more once getter and receipts are gone.
        let last = tokio::select! {
            count = settlements.recv_many(&mut batch, BATCH) => count == 0,
            _ = &mut dropped => true,
            _ = lifetime.ended() => true,
        };
        if last {
            settlements.close();
            while let Ok(settlement) = settlements.try_recv() {
                batch.push(settlement);
            }
        }
        let carried = settler.carry_out(&mut batch.drain(..)).await;
        if last || !matches!(carried, Ok(Carried::All)) {
            break;
        }
    }
    // Receipts are stale before the channel closes, so that none is accepted in vain.
    drop(settlements);
    settler.close().await;
}
