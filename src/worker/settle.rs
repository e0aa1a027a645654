//! The one place that acks: a successor is published and confirmed first, then what came to hand is settled.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::context::{Context, Scope};
use super::tally::Stale;
use crate::broker::{PublishError, Receipt, Session};
use crate::domain::envelope::Message;
use crate::domain::lifecycle::Origin;
use crate::domain::outcome::Outcome;
use crate::domain::ticket;

/// How long an outcome is held in memory while nobody takes it; then it is kept on the ticket queue.
const HOLD: Duration = Duration::from_secs(60);
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// RabbitMQ's pseudo-queue for answers: what a consumer of it puts into `reply_to`.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// A wait that doubles, with jitter.
struct Pause(Duration);

impl Pause {
    fn new() -> Self {
        Self(SHORTEST_PAUSE)
    }

    async fn wait(&mut self, luck: f64) {
        sleep(self.0.mul_f64(0.5 + luck)).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
    }
}

/// The end of trying to publish a successor.
enum Safe {
    /// The broker has it.
    Yes,
    /// What came to hand is no longer ours: the broker delivers it again, so its successor is somebody else's.
    Stale,
    /// Not taken within the time given.
    Refused(Box<Message>),
}

impl Context {
    /// Publishes a ticket, whatever happens to the session in between: its task is paid, and nobody else knows its id.
    pub(super) async fn keep_ticket(&self, receipt: Receipt, ticket: Message, origin: Origin) {
        let mut pause = Pause::new();
        let mut live = self.live.subscribe();
        loop {
            let session = live.wait_for(Option::is_some).await.ok().and_then(|session| session.clone());
            let Some(session) = session else { return };
            match session.publish_once("", &self.names.tickets(), ticket.clone()).await {
                Ok(()) => break,
                Err(error) => warn_unpublished("ticket", &self.names.tickets(), &error),
            }
            pause.wait(self.dice.luck()).await;
        }
        self.acked(
            receipt,
            match origin {
                Origin::Job => Stale::Job,
                Origin::Ticket => Stale::Ticket,
            },
        );
    }

    /// Parks a job in a retry queue.
    pub(super) async fn park(&self, scope: &Scope, receipt: Receipt, queue: &str, job: Message) {
        if !receipt.is_live() {
            return;
        }
        if let Safe::Yes = self.publish_for(&receipt, &scope.session, "", queue, job, None).await {
            self.tally.parked();
            self.acked(receipt, Stale::Parked);
        } else {
            self.tally.stale(Stale::Parked);
        }
    }

    /// Publishes an outcome, or keeps it on the ticket queue where it is not taken. Tells whether it was published.
    pub(super) async fn settle(&self, scope: &Scope, receipt: Receipt, outcome: Outcome) -> bool {
        let Outcome { routing_key, message } = outcome;
        let exchange = self.names.outcomes();
        match self.publish_for(&receipt, &scope.session, &exchange, &routing_key, message, Some(HOLD)).await {
            Safe::Yes => {
                self.acked(receipt, Stale::Outcome);
                true
            }
            Safe::Stale => {
                self.tally.stale(Stale::Outcome);
                false
            }
            Safe::Refused(message) => {
                tracing::warn!(%routing_key, "no queue takes this outcome; it is kept on the ticket queue until one does");
                let kept = ticket::answered(&routing_key, &message);
                if let Safe::Yes =
                    self.publish_for(&receipt, &scope.session, "", &self.names.tickets(), kept, None).await
                {
                    self.acked(receipt, Stale::Outcome);
                }
                false
            }
        }
    }

    /// Publishes until the broker has the message, the receipt is stale, or the time given is over.
    async fn publish_for(
        &self,
        receipt: &Receipt,
        session: &Session,
        exchange: &str,
        routing_key: &str,
        message: Message,
        patience: Option<Duration>,
    ) -> Safe {
        let began = Instant::now();
        let mut pause = Pause::new();
        while receipt.is_live() {
            match session.publish_once(exchange, routing_key, message.clone()).await {
                Ok(()) => return Safe::Yes,
                Err(_) if session.is_closed() => return Safe::Stale,
                Err(error) => warn_unpublished("message", routing_key, &error),
            }
            if patience.is_some_and(|patience| began.elapsed() >= patience) {
                return Safe::Refused(Box::new(message));
            }
            pause.wait(self.dice.luck()).await;
        }
        Safe::Stale
    }

    /// A copy of an outcome to whom the publisher named. It may fail: the durable one is safe already.
    pub(super) async fn reply(&self, scope: &Scope, reply_to: &str, outcome: &Message) {
        let prefix = &self.reply_to_prefix;
        let allowed = reply_to.starts_with(DIRECT_REPLY)
            || (!prefix.is_empty() && reply_to.starts_with(prefix.as_str()));
        let copy = Message { transient: true, ..outcome.clone() };
        // Not mandatory: RabbitMQ returns what goes to a direct reply-to although it delivers it.
        if !allowed || scope.session.publisher().publish("", reply_to, false, copy).await.is_err() {
            self.tally.reply_failed();
        }
    }

    fn acked(&self, receipt: Receipt, what: Stale) {
        if receipt.ack().is_err() {
            self.tally.stale(what);
        }
    }
}

fn warn_unpublished(what: &str, to: &str, error: &PublishError) {
    tracing::warn!(to, %error, "a {what} could not be published; trying again");
}
