//! Somebody who sees what the broker does, in order, and may have it fail there: for tests that
//! judge a whole run by what truly happened.

use std::fmt;
use std::sync::Arc;

use crate::broker::PublishError;
use crate::domain::message::Message;

/// One delivery: its channel, and its tag there.
pub type DeliveryId = (u64, u64);

/// What the broker has just done.
#[derive(Debug)]
pub enum BrokerEvent<'a> {
    /// A publish has been stored, returned or refused; it is not confirmed yet. Over a store it has
    /// been written; what a store loses is never shown.
    Published {
        /// Over which connection.
        connection: &'a str,
        /// Where to.
        exchange: &'a str,
        /// With which key.
        routing_key: &'a str,
        /// What.
        message: &'a Message,
        /// The answer that the publisher is about to get.
        fate: &'a Result<(), PublishError>,
    },
    /// A message has left for its consumer.
    Delivered {
        /// Over which connection.
        connection: &'a str,
        /// Off which queue.
        queue: &'a str,
        /// Which delivery.
        delivery: DeliveryId,
        /// What.
        message: &'a Message,
        /// It was delivered before.
        redelivered: bool,
    },
    /// A delivery has ended. One whose channel went may never have left for its consumer. Over a
    /// store an ack has been written; one that a store loses is shown as returned.
    Settled {
        /// Over which connection.
        connection: &'a str,
        /// Which delivery.
        delivery: DeliveryId,
        /// In which way.
        how: DeliveryEnd,
    },
    /// A settlement of a delivery that is not, or no longer, in flight: RabbitMQ closes the channel
    /// for that.
    UnknownTag {
        /// Over which connection.
        connection: &'a str,
        /// The delivery that it named.
        delivery: DeliveryId,
    },
    /// The broker has dead-lettered a message, for whatever reason.
    DeadLettered {
        /// Off which queue.
        queue: &'a str,
        /// The letter.
        message: &'a Message,
        /// How often it has arrived: more than once where the broker repeats itself.
        copies: usize,
    },
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// Done with.
    Acked,
    /// Back to its queue, as its consumer asked.
    Requeued,
    /// To the dead letters, as its consumer asked.
    Rejected,
    /// Back to its queue, since its channel went.
    Returned,
}

/// What is to happen after a publish or an ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageFate {
    /// What happens always.
    Usual,
    /// No confirm is sent before the session ends.
    Unconfirmed,
    /// The session ends at once; a confirm is not sent any more.
    Cut,
}

/// Who sees everything.
pub trait Observer: Send + Sync {
    /// Called under the broker's lock: it must not call the broker. What it wants for other events
    /// than publishes and acks is ignored.
    fn saw(&self, event: &BrokerEvent<'_>) -> MessageFate;
}

/// The observer, if there is one.
#[derive(Default)]
pub(super) struct ObserverSlot(Option<Arc<dyn Observer>>);

impl ObserverSlot {
    pub(super) fn set(&mut self, observer: Arc<dyn Observer>) {
        self.0 = Some(observer);
    }

    /// Whether there is one.
    pub(super) fn is_anybody(&self) -> bool {
        self.0.is_some()
    }

    /// Shows it the event, and returns what is to happen.
    pub(super) fn of(&self, event: &BrokerEvent<'_>) -> MessageFate {
        self.0.as_ref().map_or(MessageFate::Usual, |observer| observer.saw(event))
    }
}

impl fmt::Debug for ObserverSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObserverSlot").field(&self.0.is_some()).finish()
    }
}
