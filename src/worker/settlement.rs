//! The one place that acks: a successor is published and confirmed first, then the delivery is
//! settled.

use super::context::{Context, Scope};
use super::job_index::Left;
use super::job_log;
use super::stats::counters::StaleDelivery;
use crate::broker::{PublishError, Receipt};
use crate::clock::Backoff;
use crate::domain::history::History;
use crate::domain::job::RejectedMessage;
use crate::domain::lane::Lane;
use crate::domain::lifecycle::{Disposition, JobRun, OpenTask, Origin, Verdict};
use crate::domain::message::{Message, is_direct_reply};
use crate::domain::outcome::{self, Outcome, failure_of};
use crate::domain::retry_delay::RetryDelay;
use crate::domain::ticket;
use crate::domain::time::Timestamp;
use crate::failpoint::Failpoint;
use crate::trace;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What is to be published before the delivery is acked.
pub(super) enum End {
    /// The ticket of a paid task.
    Ticket(Box<Message>),
    /// The job, to the retry queue of this delay in its lane.
    Retry(RetryDelay, Lane, Box<Message>),
    /// The outcome.
    Outcome(Box<Outcome>),
    /// The same of what was refused at admission, with its type where it has one.
    Refused(Box<(Outcome, Option<String>)>),
    /// Nothing: its successor is safe already.
    Known,
    /// Nothing: the broker dead-letters it whole.
    Rejected,
    /// Nothing: back to its queue, where it came from.
    Returned,
    /// The open task's ticket, with its polls, when so much time has passed; before that moment its
    /// next owner may not poll.
    HandedOver(Duration, Option<Timestamp>),
}

/// What a run's disposition publishes.
pub(super) fn end_of(ctx: &Context, run: &mut JobRun, disposition: Disposition) -> End {
    let task = run.task().map(OpenTask::shown);
    match (disposition, task) {
        (Disposition::Ticket, Some(task)) => {
            let callback = run.task().and_then(|task| task.callback);
            End::Ticket(Box::new(ticket::ticket(&run.job, &run.history, task, callback)))
        }
        (Disposition::HandOver { after, not_before }, _) => End::HandedOver(after, not_before),
        (Disposition::Outcome(Verdict::Solved(solution)), Some(task)) => {
            let outcome = outcome::solved(&run.job, &run.history, task, &solution, ctx.finish());
            End::Outcome(Box::new(outcome))
        }
        (Disposition::Outcome(Verdict::Failed(fault)), task) => {
            let outcome = outcome::failed(&run.job, &run.history, task, &fault, ctx.finish());
            End::Outcome(Box::new(outcome))
        }
        (Disposition::Retry(delay), _) => {
            if Failpoint::HistoryForgotten.in_force() {
                run.history = History::begin(ctx.clock.now());
            }
            End::Retry(delay, run.job.lane.clone(), Box::new(ticket::retried(&run.job, &run.history)))
        }
        (Disposition::Requeue, _) => End::Returned,
        // Neither comes about without a task; were it to, nothing must be lost.
        (Disposition::Ticket | Disposition::Outcome(Verdict::Solved(_)), None) => End::Returned,
    }
}

pub(super) fn refused(ctx: &Context, no_job: &RejectedMessage) -> End {
    let outcome = outcome::refused(no_job, ctx.clock.now(), ctx.finish());
    End::Refused(Box::new((outcome, no_job.task_type.clone())))
}

/// How an end was carried out.
pub(super) struct Done {
    /// A successor of the delivery is safe now.
    pub(super) safe: bool,
    /// What has truly come of it, in a word.
    pub(super) end_name: &'static str,
    /// Of an outcome that is published.
    pub(super) routing_key: Option<String>,
}

/// Carries an end out. Who waits for a copy of the outcome goes with it, and when the API's answer
/// to it was read, if it is one.
pub(super) async fn carry_out(
    ctx: &Context,
    scope: &Scope,
    held: Settling<'_>,
    origin: Origin,
    end: End,
    wanted: (Option<String>, Option<Instant>),
) -> Done {
    let done = |safe, end_name| Done { safe, end_name, routing_key: None };
    match end {
        End::Ticket(ticket) => {
            ctx.keep_ticket(held, *ticket, origin).await;
            done(true, "ticket")
        }
        End::Retry(delay, lane, job) => {
            let retried = ctx.retry(scope, held, (delay, &lane), *job).await;
            done(retried, if retried { "retry" } else { "returned" })
        }
        End::Outcome(outcome) => deliver(ctx, scope, held, (*outcome, None), wanted).await,
        End::Refused(refused) => deliver(ctx, scope, held, *refused, wanted).await,
        End::Known => {
            ctx.known(held);
            done(true, "known")
        }
        // Carried out by the channel's owner; where that is gone, the broker has requeued the
        // message already.
        End::Rejected => done(false, if held.receipt.reject().is_ok() { "rejected" } else { "returned" }),
        End::Returned => {
            give_back(scope, origin, held.receipt).await;
            done(false, "returned")
        }
        // Not safe in the sense of another copy that waits here: that one may be the successor.
        End::HandedOver(after, not_before) => {
            let is_handed_over = ctx.hand_over(scope, held, after, not_before).await;
            done(false, if is_handed_over { "handed over" } else { "returned" })
        }
    }
}

/// Publishes an outcome, counts it, and sends the copy that the publisher asked for.
async fn deliver(
    ctx: &Context,
    scope: &Scope,
    held: Settling<'_>,
    (outcome, refused_type): (Outcome, Option<String>),
    (reply_to, answered_at): (Option<String>, Option<Instant>),
) -> Done {
    let Outcome { routing_key, message, reason } = outcome;
    let failure = failure_of(&routing_key);
    let lane = Lane::of_outcome(&message.properties.headers);
    let copy = reply_to.map(|reply_to| (reply_to, message.clone()));
    let (run, trace) = (held.run, held.trace);
    // What was no job has its id from the message alone.
    let id = if run.is_some() { None } else { message.properties.message_id.clone() };
    let settled = ctx.settle(scope, held, &routing_key, message).await;
    if settled == Settled::Published {
        ctx.lanes.ended(&lane, failure.is_none());
        match failure {
            Some((class, code)) => {
                ctx.counters.failed(class, code);
                let (id, task_type) = match run {
                    Some(run) => (Some(&*run.job.id), Some(run.job.kind())),
                    None => (id.as_deref(), refused_type.as_deref()),
                };
                ctx.counters.failures.note(ctx.clock.now(), id, task_type, (class, code), reason.as_deref());
            }
            None => ctx.counters.solved(),
        }
        if let Some(id) = run.map(|run| &*run.job.id).or(id.as_deref()) {
            let left = failure.map_or(Left::Solved, |(class, _)| Left::Failed(class));
            ctx.job_index.note(id, ctx.clock.now(), left);
        }
        if let Some(answered_at) = answered_at {
            ctx.counters.times.delivery.note(answered_at.elapsed());
        }
        job_log::finished(
            ctx,
            run,
            id.as_deref(),
            failure.map(|(class, code)| (class, code, reason.as_deref())),
        );
        if let Some((reply_to, message)) = copy {
            ctx.reply(scope, trace, &reply_to, message).await;
        }
    }
    let end_name = match (settled, failure) {
        (Settled::Published, None) => "solved",
        (Settled::Published, Some(_)) => "failed",
        (Settled::Kept, _) => "kept",
        (Settled::No, _) => "returned",
    };
    let published = (settled == Settled::Published).then_some(routing_key);
    Done { safe: settled != Settled::No, end_name, routing_key: published }
}

/// Returns a delivery once its consumer is cancelled: before that it would come straight in again,
/// and be charged for it each time.
async fn give_back(scope: &Scope, origin: Origin, receipt: Receipt) {
    if receipt.is_live() {
        scope.cancelled(origin).cancelled().await;
    }
    drop(receipt);
}

/// How long an outcome is held in memory while nobody takes it; then it is kept on the ticket
/// queue.
const HOLD: Duration = Duration::from_secs(60);
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long a refusal lasts before a second channel is asked.
const RECHECK_AFTER: Duration = Duration::from_secs(2);
/// Why a session ends whose channel was proved wrong.
const STALE_CHANNEL: &str = "the publishing channel refuses what another one takes";

/// What is to be settled: the right to, and the job, where that is known.
pub(super) struct Settling<'a> {
    pub(super) receipt: Receipt,
    pub(super) run: Option<&'a JobRun>,
    /// Of the run: each message that is sent for it has a span below it, and comes from that.
    pub(super) trace: &'a trace::Span,
}

/// What has become of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Settled {
    /// Its consumers have it.
    Published,
    /// It is on the ticket queue.
    Kept,
    /// Nothing: the delivery is no longer ours.
    No,
}

/// The end of trying to publish a successor.
enum PublishResult<'a> {
    /// The broker has it, by this routing key. `by_second_channel`: it refuses it on the session's
    /// own; once the delivery is settled, the session ends.
    Taken { routing_key: &'a str, by_second_channel: bool },
    /// The delivery is no longer ours: the broker delivers it again, so its successor is
    /// somebody else's.
    Stale,
    /// Not taken within the time given.
    Refused(Arc<Message>),
}

impl Context {
    /// Publishes a ticket, whatever happens to the session in between: its task is paid, and nobody
    /// else knows its id.
    pub(super) async fn keep_ticket(&self, held: Settling<'_>, mut ticket: Message, origin: Origin) {
        let sending = held.trace.send(("", &self.names.tickets()), &mut ticket);
        let (mut backoff, ticket) = (Backoff::new(RETRY.0, RETRY.1), Arc::new(ticket));
        let mut doubted = None;
        let began = Instant::now();
        // Should the message be delivered here again before the ticket is safe, it must not be paid
        // once more.
        let expect = || held.run.map(|run| self.dedup.succession.expect(run.identity()));
        let mut expected = if held.receipt.is_live() { None } else { expect() };
        while !Failpoint::TicketSkipped.in_force() {
            let session = self.live.session().await;
            if Failpoint::AckBeforeConfirm.in_force() {
                drop(session.publisher().send("", &self.names.tickets(), true, ticket).await);
                break;
            }
            match session.publish_once("", &self.names.tickets(), Arc::clone(&ticket)).await {
                Ok(()) => break,
                Err(PublishError::Rejected)
                    if began.elapsed() >= RECHECK_AFTER
                        && session
                            .publish_on_new_channel("", &self.names.tickets(), Arc::clone(&ticket))
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
            // The session may be lost, and the message come again, before this wait is over.
            expected = expected.or_else(expect);
            sleep(backoff.jittered(self.rng.jitter())).await;
        }
        sending.sent();
        let what = match origin {
            Origin::Job => StaleDelivery::Job,
            Origin::Ticket => StaleDelivery::Ticket,
        };
        match expected {
            Some(safe) if !held.receipt.is_live() => {
                safe.cancel();
                self.counters.stale(what);
            }
            was_expected => {
                if let (Some(_), Some(run)) = (was_expected, held.run) {
                    self.dedup.succession.take(run.identity());
                }
                self.acked(held, what);
            }
        }
        if let Some(session) = doubted {
            session.end(STALE_CHANNEL);
        }
    }

    /// Gives an open ticket to another replica. It is published anew, since what is merely put back
    /// comes as redelivered: its next owner would have to assume the most polls, the last of them
    /// just now. Returns whether it was; else it is put back. Its copy may be stored all the
    /// same, where the confirm did not come.
    async fn hand_over(
        &self,
        scope: &Scope,
        held: Settling<'_>,
        after: Duration,
        not_before: Option<Timestamp>,
    ) -> bool {
        let is_sent = AtomicBool::new(false);
        let publishing = async {
            if !Failpoint::HandedOverEarly.in_force() {
                sleep(after).await;
            }
            let _turn = self.handing_over.acquire().await;
            let (run, task) = (held.run?, held.run?.task()?);
            // Past the lease the broker may have given it to another already.
            if !scope.owns(Origin::Ticket) {
                return None;
            }
            let (shown, assumed) = (task.shown(), task.assumed_polls());
            let mut copy = ticket::handed_over(&run.job, &run.history, shown, assumed, not_before);
            let sending = held.trace.send(("", &self.names.tickets()), &mut copy);
            is_sent.store(true, Ordering::Relaxed);
            let published = scope.session.publish_once("", &self.names.tickets(), copy).await;
            match published {
                Ok(_) => sending.sent(),
                Err(_) => sending.failed("not_confirmed"),
            }
            Some(published)
        };
        let published = tokio::select! {
            biased;
            () = scope.ended.cancelled() => None,
            published = publishing => published,
        };
        match published {
            Some(Ok(_)) => {
                self.acked(held, StaleDelivery::Ticket);
                return true;
            }
            Some(Err(PublishError::Unknown(_))) => self.counters.stale(StaleDelivery::Ticket),
            None if is_sent.load(Ordering::Relaxed) => self.counters.stale(StaleDelivery::Ticket),
            // Not published.
            Some(Err(_)) | None => {}
        }
        false
    }

    /// Puts a copy of a job into a retry queue of its lane.
    pub(super) async fn retry(
        &self,
        scope: &Scope,
        held: Settling<'_>,
        (delay, lane): (RetryDelay, &Lane),
        job: Message,
    ) -> bool {
        let queue = self.names.retry_of(delay, lane);
        // The queues of a lane may be deleted while a ticket of it is open.
        let instead = (!lane.is_default()).then(|| self.names.retry(delay));
        if !held.receipt.is_live() {
            return false;
        }
        if Failpoint::AckBeforeRetried.in_force() {
            self.acked(held, StaleDelivery::Retried);
            drop(scope.session.publish_once("", &queue, job).await);
            return true;
        }
        let published = self.publish_for(&held, scope, ("", &queue, instead.as_deref()), job, None).await;
        let PublishResult::Taken { routing_key, by_second_channel } = published else {
            self.counters.stale(StaleDelivery::Retried);
            return false;
        };
        self.counters.retried();
        if let Some(run) = held.run {
            self.job_index.note(&run.job.id, self.clock.now(), Left::Retried(routing_key.into()));
        }
        self.succeeded(held, scope, StaleDelivery::Retried, by_second_channel);
        true
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
        match self.publish_for(&held, scope, (&exchange, routing_key, None), message, Some(HOLD)).await {
            PublishResult::Taken { by_second_channel, .. } => {
                self.succeeded(held, scope, StaleDelivery::Outcome, by_second_channel);
                Settled::Published
            }
            PublishResult::Stale => {
                self.counters.stale(StaleDelivery::Outcome);
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
                let tickets = self.names.tickets();
                let kept = self.publish_for(&held, scope, ("", &tickets, None), kept, None).await;
                let PublishResult::Taken { by_second_channel, .. } = kept else { return Settled::No };
                self.succeeded(held, scope, StaleDelivery::Outcome, by_second_channel);
                Settled::Kept
            }
        }
    }

    /// Publishes until the broker has the message, the receipt is stale, or the time given is over.
    /// `instead`: by which key, if no queue takes it by the first one.
    async fn publish_for<'a>(
        &self,
        Settling { receipt, trace, .. }: &Settling<'_>,
        scope: &Scope,
        (exchange, key, mut instead): (&str, &'a str, Option<&'a str>),
        mut message: Message,
        max_wait: Option<Duration>,
    ) -> PublishResult<'a> {
        let mut sending = trace.send((exchange, key), &mut message);
        let (began, message) = (Instant::now(), Arc::new(message));
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let (mut routing_key, mut tried) = (key, false);
        while receipt.is_live() {
            let copy = Arc::clone(&message);
            // An outcome is fetched again where it is lost; a retried job waits for nobody, since
            // its own copy may be paid for.
            let end = match max_wait {
                Some(_) => scope.session.publish_batched(exchange, routing_key, copy).await,
                None => scope.session.publish_once(exchange, routing_key, copy).await,
            };
            let taken = |by_second_channel| PublishResult::Taken { routing_key, by_second_channel };
            match end {
                Ok(()) => {
                    sending.sent();
                    return taken(false);
                }
                Err(PublishError::Rejected) if Failpoint::RefusedIsConfirmed.in_force() => {
                    return taken(false);
                }
                Err(_) if scope.session.is_closed() => break,
                Err(PublishError::Rejected) if began.elapsed() >= RECHECK_AFTER => {
                    let copy = Arc::clone(&message);
                    if scope.session.publish_on_new_channel(exchange, routing_key, copy).await {
                        sending.sent();
                        return taken(true);
                    }
                    warn_unpublished("message", &message, routing_key, &PublishError::Rejected);
                }
                Err(error) => {
                    warn_unpublished("message", &message, routing_key, &error);
                    if matches!(error, PublishError::Unroutable(_))
                        && let Some(instead) = instead.take()
                    {
                        sending.goes_to(instead);
                        routing_key = instead;
                    }
                }
            }
            // A worker that leaves has no time to wait, and once it has left nobody else knows the
            // answer. Tried twice, since the ticket may come straight back to it.
            let leaving = tried && scope.submissions_shut.is_cancelled();
            tried = true;
            if max_wait.is_some_and(|max_wait| leaving || began.elapsed() >= max_wait) {
                sending.failed("refused");
                return PublishResult::Refused(message);
            }
            sleep(backoff.jittered(self.rng.jitter())).await;
        }
        sending.failed("stale");
        PublishResult::Stale
    }

    /// A copy of an outcome to whom the publisher named. It may fail: the durable one is safe
    /// already.
    async fn reply(&self, scope: &Scope, trace: &trace::Span, reply_to: &str, outcome: Message) {
        let prefix = &self.reply_to_prefix;
        let allowed =
            is_direct_reply(reply_to) || (!prefix.is_empty() && reply_to.starts_with(prefix.as_str()));
        if !allowed {
            return self.counters.reply_failed();
        }
        let mut copy = Message { transient: true, ..outcome };
        let sending = trace.reply(reply_to, &mut copy);
        // Not mandatory: RabbitMQ returns what goes to a direct reply-to although it delivers it.
        match scope.session.publisher().publish("", reply_to, false, copy).await {
            Ok(()) => sending.sent(),
            Err(_) => {
                sending.failed("not_confirmed");
                self.counters.reply_failed();
            }
        }
    }

    /// Acks what has a successor now, and then ends a session whose own channel refuses it.
    fn succeeded(&self, held: Settling<'_>, scope: &Scope, what: StaleDelivery, by_second_channel: bool) {
        self.acked(held, what);
        if by_second_channel {
            scope.session.end(STALE_CHANNEL);
        }
    }

    /// Acks what has a successor now. What can no longer be acked is remembered, since it will be
    /// delivered again.
    fn acked(&self, held: Settling<'_>, what: StaleDelivery) {
        let Settling { receipt, run, .. } = held;
        // What comes again for a job or a retried copy may be paid for again; what comes again for
        // an outcome is only repeated.
        let acked = if what == StaleDelivery::Outcome { receipt.ack_batched() } else { receipt.ack() };
        match (acked, run) {
            // Of a delivery that comes again the cost is counted then.
            (Ok(()), Some(run)) => self.count_cost(run),
            (Ok(()), None) => {}
            (Err(_), run) => {
                self.counters.stale(what);
                if let Some(run) = run {
                    self.dedup.succession.note(run.identity());
                }
            }
        }
    }

    /// Counts what a solved task has cost.
    fn count_cost(&self, run: &JobRun) {
        let (lane, kind) = (run.job.lane.name(), run.job.kind());
        if let Some(task) = run.task().filter(|task| task.is_ready()) {
            self.counters.cost((lane, kind), task.shown().cost);
            if let Some(by) = task.correction() {
                self.fleet.ledger().corrected(lane, kind, by);
            }
        }
    }

    /// Acks a delivery that was known again.
    pub(super) fn known(&self, held: Settling<'_>) {
        self.counters.recognised();
        self.acked(held, StaleDelivery::Outcome);
    }
}

fn warn_unpublished(what: &str, message: &Message, to: &str, error: &PublishError) {
    // Whatever is published for a job goes by the job's id.
    let id = message.properties.message_id.as_deref();
    tracing::warn!(id, to, %error, "a {what} could not be published; trying again");
}
