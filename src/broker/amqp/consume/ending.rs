//! How a consumer ends: deliveries first, then what has been settled, and the channel last.

use futures_util::{FutureExt, StreamExt};
use lapin::options::BasicCancelOptions;
use tokio::time::timeout;

use super::{Owner, Stop, delivery, renewal};

impl Owner {
    /// Stops deliveries. What lapin holds but nobody has seen yet goes back at once.
    pub(super) async fn cancel(&mut self) {
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
    pub(super) async fn flush(&mut self) {
        if self.channel.status().connected() && !self.cancelled {
            self.cancel_at_broker().await;
            let _ = timeout(self.patience, renewal(&self.channel, self.prefetch)).await;
            self.settler.flushed();
        }
    }

    /// A cancelled consumer stays for its receipts; with the last of them, and the consumer itself, its use ends.
    pub(super) fn stop_if_unused(&self) -> Result<(), Stop> {
        let only_ours = self.receipts.strong_count() == 1;
        if self.deliveries.is_none() && only_ours && self.settlements.is_empty() {
            Err(Stop::Unused)
        } else {
            Ok(())
        }
    }

    /// A session that is being closed still carries out what was asked before.
    pub(super) async fn settle_what_was_asked(&mut self) {
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
