//! What the broker does, written into the ledger; and the broker's part in faults that are tied to
//! steps.

use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

use captcha_worker::broker::memory::{BatchFate, BrokerEvent, DeliveryEnd, MessageFate, Observer};
use tokio::time::Instant;

use super::chronicle::Chronicle;
use super::fault::{Step, Then};
use super::ledger::Ledger;
use super::steps::Snares;
use super::world::BROKER;

/// The ledger, which the witnesses share.
pub(crate) type Books = Arc<Mutex<Ledger>>;

pub(crate) fn open(books: &Books) -> MutexGuard<'_, Ledger> {
    books.lock()
}

/// The broker's witness.
#[derive(Clone)]
pub(crate) struct BrokerWitness {
    pub(crate) books: Books,
    pub(crate) snares: Snares,
    pub(crate) chronicle: Chronicle,
}

impl BrokerWitness {
    /// What becomes of the batch that the broker's store is about to write.
    pub(crate) fn batch(&self) -> BatchFate {
        let Some(then) = self.snares.step(BROKER, Step::Batch) else { return BatchFate::Stored };
        self.chronicle.record(|| format!("the broker ends with a batch of changes: {then:?}"));
        open(&self.books).broker_ends(then == Then::Lose);
        if then == Then::Lose { BatchFate::Unanswered } else { BatchFate::Lost }
    }

    fn published(&self, replica: &str, event: &BrokerEvent<'_>) -> MessageFate {
        let BrokerEvent::Published { exchange, routing_key, message, fate, .. } = event else {
            return MessageFate::Usual;
        };
        let id = message.properties.message_id.as_deref().unwrap_or_default();
        let is_record = exchange.is_empty() && routing_key.ends_with(".guard");
        if fate.is_err() || !(is_record || open(&self.books).accounts.contains_key(id)) {
            return MessageFate::Usual;
        }
        let then = self.snares.step(replica, Step::Publish);
        // Its broker ends before it answers.
        let then = then.or(open(&self.books).answers_nobody.then_some(Then::Lose));
        if then.is_some() {
            open(&self.books).disturb(replica);
        }
        open(&self.books).stored(replica, exchange, routing_key, message, then.is_none(), Instant::now());
        self.chronicle.record(|| {
            let what =
                if is_record { String::from_utf8_lossy(&message.body).into_owned() } else { id.to_owned() };
            let end = then.map_or(String::new(), |then| format!(", and then: {then:?}"));
            format!("{replica} published to {exchange:?} {routing_key}: {what}{end}")
        });
        match then {
            None => MessageFate::Usual,
            Some(Then::Lose) => MessageFate::Unconfirmed,
            Some(Then::Cut | Then::Kill) => MessageFate::Cut,
        }
    }

    fn settled(&self, replica: &str, event: &BrokerEvent<'_>) -> MessageFate {
        let BrokerEvent::Settled { delivery, how, .. } = event else { return MessageFate::Usual };
        let known = open(&self.books).settled(*delivery, *how);
        let Some(what) = known else { return MessageFate::Usual };
        self.chronicle.record(|| format!("{replica}: {what} {how:?}"));
        if *how != DeliveryEnd::Acked {
            return MessageFate::Usual;
        }
        let then = self.snares.step(replica, Step::Ack);
        if then.is_some() {
            open(&self.books).disturb(replica);
            self.chronicle.record(|| format!("{replica}: and then {then:?}"));
        }
        if then.is_some() { MessageFate::Cut } else { MessageFate::Usual }
    }
}

impl Observer for BrokerWitness {
    fn saw(&self, event: &BrokerEvent<'_>) -> MessageFate {
        match event {
            BrokerEvent::Published { connection, .. } => self.published(connection, event),
            BrokerEvent::Settled { connection, .. } => self.settled(connection, event),
            BrokerEvent::Delivered { connection, queue, delivery, message, redelivered } => {
                let known = open(&self.books).delivered(connection, queue, *delivery, message, *redelivered);
                if let Some(what) = known {
                    let again = if *redelivered { " again" } else { "" };
                    self.chronicle.record(|| format!("{connection} was given {what}{again}"));
                }
                MessageFate::Usual
            }
            BrokerEvent::UnknownTag { connection, delivery } => {
                open(&self.books)
                    .break_promise(format!("{connection} settled {delivery:?}, which is not in its hands"));
                MessageFate::Usual
            }
            BrokerEvent::DeadLettered { queue, message, copies } => {
                let id = message.properties.message_id.as_deref().unwrap_or_default();
                for _ in 1..*copies {
                    open(&self.books).another_copy(id);
                }
                self.chronicle.record(|| format!("{id} left {queue} as a dead letter, {copies} times"));
                MessageFate::Usual
            }
        }
    }
}
