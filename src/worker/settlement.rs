//! The one place that acks: a successor is published and confirmed first, then what came to hand is settled.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::context::{Context, Scope};
use super::stats::counters::Stale;
use crate::broker::{PublishError, Receipt};
use crate::clock::Backoff;
use crate::domain::lifecycle::{JobRun, Origin};
use crate::domain::message::Message;
use crate::domain::ticket;
use crate::failpoint::Failpoint;

/// How long an outcome is held in memory while nobody takes it; then it is kept on the ticket queue.
const HOLD: Duration = Duration::from_secs(60);
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a refusal lasts before a second channel is asked.
const DOUBT_AFTER: Duration = Duration::from_secs(2);
/// Why a session ends whose channel was proved wrong.
const STALE_CHANNEL: &str = "the publishing channel refuses what another one takes";
/// RabbitMQ's pseudo-queue for answers: what a consumer of it puts into `reply_to`.
const DIRECT_REPLY: &str = "amq.rabbitmq.reply-to.";

/// What is to be settled: the right to, and what came to hand, where that is known.
pub(super) struct Settling<'a> {
    pub(super) receipt: Receipt,
    pub(super) case: Option<&'a JobRun>,
}

/// What has become of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its consumers have it.
    Published,
    /// It is on the ticket queue.
    Kept,
    /// Nothing: what came to hand is no longer ours.
    No,
}

/// The end of trying to publish a successor.
enum PublishResult {
    /// The broker has it.
    Yes,
    /// The broker has it by a second channel, and refuses it on the session's own: once what came
    /// to hand is settled, the session ends.
    Elsewhere,
    /// What came to hand is no longer ours: the broker delivers it again, so its successor is somebody else's.
    Stale,
    /// Not taken within the time given.
    Refused(Arc<Message>),
}

impl Context {
    /// Publishes a ticket, whatever happens to the session in between: its task is paid, and nobody else knows its id.
    pub(super) async fn keep_ticket(&self, held: Settling<'_>, ticket: Message, origin: Origin) {
        let (mut backoff, ticket) = (Backoff::new(RETRY.0, RETRY.1), Arc::new(ticket));
        let (mut expected, mut doubted) = (None, None);
        let began = Instant::now();
        while !Failpoint::TicketSkipped.in_force() {
            // Should what came to hand be delivered here again before the ticket is safe, it must not be paid once more.
            if expected.is_none() && !held.receipt.is_live() {
                expected = held.case.map(|case| self.memory.succession.expect(case.identity()));
            }
            let session = self.live.session().await;
            if Failpoint::AckBeforeConfirm.in_force() {
                drop(session.publisher().send("", &self.names.tickets(), true, ticket).await);
                break;
            }
            match session.publish_once("", &self.names.tickets(), Arc::clone(&ticket)).await {
                Ok(()) => break,
                Err(PublishError::Rejected)
                    if began.elapsed() >= DOUBT_AFTER
                        && session
                            .publish_elsewhere("", &self.names.tickets(), Arc::clone(&ticket))
                            .await =>
                {
                    doubted = Some(session);
                    break;
                }
                Err(error) => warn_unpublished("ticket", &ticket, &self.names.tickets(), &error),
            }
            if Failpoint::TicketGivenUp.in_force() {
                return;
            }
            sleep(backoff.jittered(self.dice.jitter())).await;
        }
        let what = match origin {
            Origin::Job => Stale::Job,
            Origin::Ticket => Stale::Ticket,
        };
        match expected {
            Some(safe) => {
                safe.cancel();
                self.tally.stale(what);
            }
            None => self.acked(held, what),
        }
        if let Some(session) = doubted {
            session.end(STALE_CHANNEL);
        }
    }

    /// Parks a job in a retry queue.
    pub(super) async fn park(&self, scope: &Scope, held: Settling<'_>, queue: &str, job: Message) -> bool {
        if !held.receipt.is_live() {
            return false;
        }
        if Failpoint::AckBeforeParked.in_force() {
            self.acked(held, Stale::Parked);
            drop(scope.session.publish_once("", queue, job).await);
            return true;
        }
        let safe = self.publish_for(&held.receipt, scope, "", queue, job, None).await;
        let parked = matches!(safe, PublishResult::Yes | PublishResult::Elsewhere);
        if parked {
            self.tally.parked();
            self.acked(held, Stale::Parked);
        } else {
            self.tally.stale(Stale::Parked);
        }
        if matches!(safe, PublishResult::Elsewhere) {
            scope.session.end(STALE_CHANNEL);
        }
        parked
    }

    /// Publishes an outcome, or keeps it on the ticket queue where it is not taken.
    pub(super) async fn settle(
        &self,
        scope: &Scope,
        held: Settling<'_>,
        routing_key: &str,
        message: Message,
    ) -> Settled {
        let exchange = self.names.outcomes();
        match self.publish_for(&held.receipt, scope, &exchange, routing_key, message, Some(HOLD)).await {
            PublishResult::Yes => {
                self.acked(held, Stale::Outcome);
                Settled::Published
            }
            PublishResult::Elsewhere => {
                self.acked(held, Stale::Outcome);
                scope.session.end(STALE_CHANNEL);
                Settled::Published
            }
            PublishResult::Stale => {
                self.tally.stale(Stale::Outcome);
                Settled::No
            }
            PublishResult::Refused(message) => {
                let id = message.properties.message_id.as_deref();
                tracing::warn!(
                    id,
                    routing_key,
                    "no queue takes this outcome; it is kept on the ticket queue until one does"
                );
                let kept = ticket::answered(routing_key, &message);
                let kept =
                    self.publish_for(&held.receipt, scope, "", &self.names.tickets(), kept, None).await;
                if !matches!(kept, PublishResult::Yes | PublishResult::Elsewhere) {
                    return Settled::No;
                }
                self.acked(held, Stale::Outcome);
                if matches!(kept, PublishResult::Elsewhere) {
                    scope.session.end(STALE_CHANNEL);
                }
                Settled::Kept
            }
        }
    }

    /// Publishes until the broker has the message, the receipt is stale, or the time given is over.
    async fn publish_for(
        &self,
        receipt: &Receipt,
        scope: &Scope,
        exchange: &str,
        routing_key: &str,
        message: Message,
        patience: Option<Duration>,
    ) -> PublishResult {
        let (began, message) = (Instant::now(), Arc::new(message));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut tried = false;
        while receipt.is_live() {
            let copy = Arc::clone(&message);
            // An outcome is fetched again where it is lost; a parked job waits for nobody, since its own copy may be paid for.
            let end = match patience {
                Some(_) => scope.session.publish_soon(exchange, routing_key, copy).await,
                None => scope.session.publish_once(exchange, routing_key, copy).await,
            };
            match end {
                Ok(()) => return PublishResult::Yes,
                Err(PublishError::Rejected) if Failpoint::RefusedIsConfirmed.in_force() => {
                    return PublishResult::Yes;
                }
                Err(_) if scope.session.is_closed() => return PublishResult::Stale,
                Err(PublishError::Rejected) if began.elapsed() >= DOUBT_AFTER => {
                    let copy = Arc::clone(&message);
                    if scope.session.publish_elsewhere(exchange, routing_key, copy).await {
                        return PublishResult::Elsewhere;
                    }
                    warn_unpublished("message", &message, routing_key, &PublishError::Rejected);
                }
                Err(error) => warn_unpublished("message", &message, routing_key, &error),
            }
            // A worker that leaves has no time to wait, and once it has left nobody else knows the answer. Tried twice, since the ticket may
            // come straight back to it.
            let leaving = tried && scope.submissions_shut.is_cancelled();
            tried = true;
            if patience.is_some_and(|patience| leaving || began.elapsed() >= patience) {
                return PublishResult::Refused(message);
            }
            sleep(backoff.jittered(self.dice.jitter())).await;
        }
        PublishResult::Stale
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

    /// Acks what has a successor now. What can no longer be acked is remembered, since it will be delivered again.
    fn acked(&self, held: Settling<'_>, what: Stale) {
        let Settling { receipt, case } = held;
        // What comes again for a job or a parked copy may be paid for again; what comes again for an outcome is only repeated.
        let acked = if what == Stale::Outcome { receipt.ack_batched() } else { receipt.ack() };
        if acked.is_err() {
            self.tally.stale(what);
            if let Some(case) = case {
                self.memory.succession.note(case.identity());
            }
        }
    }

    /// Acks a delivery that was known again.
    pub(super) fn known(&self, held: Settling<'_>) {
        self.tally.recognised();
        self.acked(held, Stale::Outcome);
    }
}

fn warn_unpublished(what: &str, message: &Message, to: &str, error: &PublishError) {
    // Whatever is published for a job goes by the job's id.
    let id = message.properties.message_id.as_deref();
    tracing::warn!(id, to, %error, "a {what} could not be published; trying again");
}
