//! The task that moves a channel's deliveries out and its settlements in.

use std::future::poll_fn;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};

use super::Inner;
use crate::broker::{Delivery, Settlement};

/// Serves a channel until it is gone.
pub(super) async fn serve(
    inner: Arc<Inner>,
    id: u64,
    bell: Arc<Notify>,
    mut deliveries: Option<mpsc::Sender<Delivery>>,
) {
    loop {
        if deliveries.as_ref().is_some_and(mpsc::Sender::is_closed) {
            // Before its unread deliveries come back, or it would be given them again.
            deliveries = None;
            inner.lock().abandon(id);
        }
        let waits = inner.lock().outbox_waits(id);
        tokio::select! {
            biased;
            settlement = poll_fn(|cx| inner.lock().poll_settlement(id, cx)) => {
                let mut core = inner.lock();
                let Some(settlement) = settlement else {
                    core.close_channel(id);
                    return;
                };
                if matches!(settlement, Settlement::Cancel(_)) {
                    // Before the answer, so that the consumer's stream has its end when `cancel` returns.
                    deliveries = None;
                }
                core.settle(id, settlement);
            }
            () = hand_out(&inner, id, deliveries.as_ref(), waits) => {}
            () = bell.notified() => {}
        }
    }
}

/// Moves one delivery out when there is one and room for it. Returns, too, when the consumer has been dropped.
async fn hand_out(inner: &Inner, id: u64, deliveries: Option<&mpsc::Sender<Delivery>>, waits: bool) {
    let Some(deliveries) = deliveries else {
        return std::future::pending().await;
    };
    if !waits {
        return deliveries.closed().await;
    }
    if let Ok(room) = deliveries.reserve().await {
        let delivery = inner.lock().take_outbox(id);
        if let Some(delivery) = delivery {
            room.send(delivery);
        }
    }
}
