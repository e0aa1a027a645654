//! How deliveries come in: one by one while there is little to do, else all that lapin holds, every few milliseconds.

use futures_util::{FutureExt, StreamExt};
use tokio::time::Instant;

use super::consume::delivery;
use super::consume_owner::{ConsumeOwner, Stop};

impl ConsumeOwner {
    /// Forwards all that lapin holds and there is room for, and rests then, since more may be about to come. Tells whether there was any.
    pub(super) fn look(&mut self) -> Result<bool, Stop> {
        let mut found = 0;
        while let Some(deliveries) = &self.deliveries
            && deliveries.capacity() > 0
        {
            let Some(next) = self.stream.next().now_or_never() else {
                // Where most of the prefetch came at once, the broker may be waiting for us, not we for it.
                let is_flowing = found >= usize::from(self.prefetch) * 3 / 4;
                let rests = !self.linger.is_none() && !is_flowing;
                self.look_at = rests.then(|| self.linger.at_or_after(Instant::now()));
                return Ok(found > 0);
            };
            self.forward(taken(next).map_err(Stop::Lost)?);
            found += 1;
        }
        self.look_at = None;
        Ok(found > 0)
    }

    pub(super) fn look_again(&mut self) -> Result<(), Stop> {
        if self.look_at.is_some_and(|at| at <= Instant::now()) && !self.look()? {
            // There is little to do: lapin may wake us for the next one.
            self.look_at = None;
        }
        Ok(())
    }

    pub(super) fn forward(&mut self, from: lapin::message::Delivery) {
        let Some(deliveries) = &self.deliveries else {
            return;
        };
        self.settler.delivered(from.delivery_tag);
        // There is room, since this task alone sends and has just reserved it. A consumer dropped meanwhile drops the receipt,
        // which sends the message back to its queue.
        let _ = deliveries.try_send(delivery(from, self.receipts.clone()));
    }
}

/// What lapin's consumer gave, or why there is no more.
pub(super) fn taken(
    next: Option<lapin::Result<lapin::message::Delivery>>,
) -> Result<lapin::message::Delivery, String> {
    match next {
        Some(Ok(from)) => Ok(from),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the broker cancelled the consumer".to_owned()),
    }
}
