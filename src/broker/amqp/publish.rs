//! The one owner of a publishing channel.
//!
//! Only this task publishes on its channel: lapin takes the delivery tag and the frames' order
//! under two locks, so concurrent publishers get each other's confirms. Publishes are issued in the
//! order of arrival, and their confirms awaited together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, ConnectionStatus};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::convert::{TooLong, short, to_wire};
use super::returns::{ReturnKey, Returns};
use crate::broker::{BoxFuture, CloseSignal, PublishError, PublishRequest};
use crate::domain::message::wire_size;
use crate::linger::{Batch, Linger, until};

/// A publish whose confirm is awaited.
struct Pending {
    reply: oneshot::Sender<Result<(), PublishError>>,
    since: Instant,
}

/// A confirm that has not arrived by then will not arrive: no task lives longer, and the broker
/// ends consumers that ack nothing for 30 minutes.
const LOST_AFTER: Duration = Duration::from_secs(600);

/// How often missing confirms are checked for.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The most that properties other than headers take in a frame, and the frame itself: nine short
/// strings, and what has a size of its own.
const OTHER_PROPERTIES: usize = 3 * 1024;

type ConfirmResult = (u64, lapin::Result<Confirmation>);

/// Owns a channel in confirm mode.
pub(super) struct PublishOwner {
    channel: Channel,
    connection: ConnectionStatus,
    requests: mpsc::Receiver<PublishRequest>,
    frame_max: usize,
    depth: usize,
    confirm_timeout: Duration,
    batch: Batch<PublishRequest>,
    close_signal: CloseSignal,
    // By the order of issue. An answered publish stays out of here, its confirm may still arrive.
    pending: BTreeMap<u64, Pending>,
    confirms: FuturesUnordered<BoxFuture<'static, ConfirmResult>>,
    returns: Returns,
    issued: u64,
    /// No confirm can be expected from before.
    waiting_since: Instant,
}

impl PublishOwner {
    pub(super) fn new(
        channel: Channel,
        (connection, frame_max): (ConnectionStatus, u32),
        requests: mpsc::Receiver<PublishRequest>,
        (depth, confirm_timeout, linger): (usize, Duration, Linger),
        close_signal: CloseSignal,
    ) -> Self {
        Self {
            channel,
            connection,
            requests,
            frame_max: usize::try_from(frame_max).unwrap_or(usize::MAX),
            depth: depth.max(1),
            confirm_timeout,
            batch: Batch::new(linger),
            close_signal,
            pending: BTreeMap::new(),
            confirms: FuturesUnordered::new(),
            returns: Returns::default(),
            issued: 0,
            waiting_since: Instant::now(),
        }
    }

    /// Serves until the publishers, the channel or the session are gone, and returns why it
    /// stopped.
    pub(super) async fn run(mut self) -> String {
        let reason = self.serve().await;
        self.requests.close();
        let mut unsent = self.batch.take();
        unsent.extend(std::iter::from_fn(|| self.requests.try_recv().ok()));
        for request in unsent {
            let _ = request.reply.send(Err(PublishError::NotSent(reason.clone())));
        }
        self.await_the_rest().await;
        for (_, pending) in std::mem::take(&mut self.pending) {
            let _ = pending.reply.send(Err(PublishError::Unknown(reason.clone())));
        }
        reason
    }

    async fn serve(&mut self) -> String {
        // Checked on an interval, since a timer for each publish would cost more than it is worth.
        let mut checks = interval(self.confirm_timeout.min(CHECK_EVERY));
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let room = self.depth.saturating_sub(self.confirms.len() + self.batch.len());
            let due = self.batch.due();
            tokio::select! {
                biased;
                Some(answer) = self.confirms.next() => {
                    if let Err(reason) = self.conclude(answer) {
                        return reason;
                    }
                }
                reason = self.close_signal.ended() => return reason,
                count = self.requests.recv_many(self.batch.room(), room), if room > 0 => {
                    if count == 0 {
                        self.batch.take().into_iter().for_each(|request| self.issue(request));
                        return "no publisher is left".to_owned();
                    }
                    // The last room is taken: the next request waits for a confirm.
                    self.batch.note(count, |request| request.may_batch && count < room);
                }
                () = until(due) => {}
                _ = checks.tick() => {
                    // Unconfirmed publishes are forgotten only with their channel: else a broker
                    // that confirms nothing would hold it for ever.
                    if self.overdue(room).is_some_and(|overdue| overdue <= Instant::now()) {
                        if !self.connection.blocked() {
                            return format!("{} publishes unconfirmed for too long", self.pending.len());
                        }
                        self.waiting_since = Instant::now();
                    }
                }
            }
            if let Some(requests) = self.batch.take_due() {
                requests.into_iter().for_each(|request| self.issue(request));
                if !self.channel.status().connected() {
                    return "the publishing channel is closed".to_owned();
                }
            }
        }
    }

    /// When the oldest confirm is taken for lost. While others can still be published there is
    /// time: what is published again may be stored twice, and a job whose ticket is not confirmed
    /// is paid for again once its session has ended.
    fn overdue(&self, room: usize) -> Option<Instant> {
        let (_, oldest) = self.pending.first_key_value()?;
        let max_wait = self.confirm_timeout * 2;
        let max_wait = if room == 0 { max_wait } else { max_wait.max(LOST_AFTER) };
        Some(oldest.since.max(self.waiting_since) + max_wait)
    }

    fn issue(&mut self, request: PublishRequest) {
        // A publisher that stopped waiting got the result "unknown". Not publishing avoids a
        // duplicate.
        if request.reply.is_closed() {
            return;
        }
        let refusal = if self.connection.blocked() {
            Some("the broker blocks publishing (memory or disk alarm)".to_owned())
        } else if !self.channel.status().connected() {
            Some("the publishing channel is closed".to_owned())
        } else {
            None
        };
        let prepared = match refusal {
            Some(reason) => Err(reason),
            // The broker ends the connection over a frame that is too large, and everybody's
            // publishes with it.
            None if wire_size(&request.message.properties.headers) + OTHER_PROPERTIES > self.frame_max => {
                Err("its headers take more than a frame of this broker holds".to_owned())
            }
            None => Prepared::new(&request).map_err(|error| error.to_string()),
        };
        let prepared = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => {
                let _ = request.reply.send(Err(PublishError::NotSent(reason)));
                return;
            }
        };
        let number = self.issued;
        self.issued += 1;
        if request.mandatory {
            let key = ReturnKey::new(request.exchange, request.routing_key, &request.message);
            self.returns.expect(number, key);
        }
        let pending = Pending { reply: request.reply, since: Instant::now() };
        self.pending.insert(number, pending);
        let sending = prepared.send(self.channel.clone(), request.message.body.clone());
        self.confirms.push(Box::pin(async move { (number, sending.await) }));
    }

    /// Answers every publish whose confirm has arrived: this one and all others with it.
    fn conclude(&mut self, first: ConfirmResult) -> Result<(), String> {
        let mut answers = vec![first];
        self.collect(&mut answers);
        for (_, answer) in &mut answers {
            let returned = match answer {
                Ok(Confirmation::Ack(returned) | Confirmation::Nack(returned)) => returned.take(),
                Ok(Confirmation::NotRequested) | Err(_) => None,
            };
            let Some(returned) = returned else { continue };
            let Some(number) = self.returns.take_back(&ReturnKey::of_returned(&returned)) else {
                return Err("the broker returned a message that was not in flight".to_owned());
            };
            self.answer(number, Err(PublishError::Unroutable(returned.reply_text.as_str().to_owned())));
        }
        let mut failure = None;
        for (number, answer) in answers {
            let in_doubt = self.returns.conclude(number);
            let outcome = match answer {
                Ok(Confirmation::Ack(_)) if in_doubt => Err(PublishError::Unknown(
                    "one of several messages of the same id and route was returned".to_owned(),
                )),
                Ok(Confirmation::Ack(_)) => Ok(()),
                Ok(Confirmation::Nack(_)) => Err(PublishError::Rejected),
                Ok(Confirmation::NotRequested) => Err(PublishError::Unknown("confirms are off".to_owned())),
                Err(error) => {
                    let reason = error.to_string();
                    failure.get_or_insert_with(|| reason.clone());
                    Err(PublishError::Unknown(reason))
                }
            };
            self.answer(number, outcome);
        }
        failure.map_or(Ok(()), Err)
    }

    fn answer(&mut self, number: u64, outcome: Result<(), PublishError>) {
        if let Some(pending) = self.pending.remove(&number) {
            // The publisher may have stopped waiting; nobody else wants to know.
            let _ = pending.reply.send(outcome);
        }
    }

    /// Takes every confirm that is there. Complete, which [`Returns`] relies on: a returned message
    /// may ride on another confirm of the same `basic.ack`, and lapin's thread may be half-way
    /// through handing those out.
    fn collect(&mut self, answers: &mut Vec<ConfirmResult>) {
        // Polled once, this takes the lock that lapin's thread holds while it works off one
        // `basic.ack`: a fence, and nothing else.
        let _ = self.channel.wait_for_confirms().now_or_never();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        loop {
            match self.confirms.poll_next_unpin(&mut context) {
                Poll::Ready(Some(answer)) => answers.push(answer),
                Poll::Ready(None) => return,
                // The set may yield before it has polled all of its futures; it wakes its waker
                // then.
                Poll::Pending if woken.0.swap(false, Ordering::AcqRel) => {}
                Poll::Pending => return,
            }
        }
    }

    /// When publishers or session are gone, what was sent still gets its confirm, within a bounded
    /// time.
    async fn await_the_rest(&mut self) {
        let deadline = Instant::now() + self.confirm_timeout;
        while self.channel.status().connected() && !self.pending.is_empty() {
            let wait = deadline.saturating_duration_since(Instant::now());
            let Ok(Some(answer)) = timeout(wait, self.confirms.next()).await else {
                return;
            };
            if self.conclude(answer).is_err() {
                return;
            }
        }
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A publish in AMQP's terms.
struct Prepared {
    exchange: lapin::types::ShortString,
    routing_key: lapin::types::ShortString,
    mandatory: bool,
    properties: BasicProperties,
}

impl Prepared {
    fn new(request: &PublishRequest) -> Result<Self, TooLong> {
        Ok(Self {
            exchange: short("the exchange's name", &request.exchange)?,
            routing_key: short("the routing key", &request.routing_key)?,
            mandatory: request.mandatory,
            properties: to_wire(&request.message)?,
        })
    }

    /// Tag and frames are taken in one poll, so in one order, whatever the order in which the
    /// futures are polled.
    async fn send(self, channel: Channel, body: Bytes) -> lapin::Result<Confirmation> {
        let options = BasicPublishOptions { mandatory: self.mandatory, immediate: false };
        let publishing =
            channel.basic_publish(self.exchange, self.routing_key, options, &body, self.properties);
        let confirm = publishing.await?;
        // Written to the socket: waiting for the confirm must not hold the bytes a second time.
        drop(body);
        confirm.await
    }
}
