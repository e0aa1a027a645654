//! A session's calls, and the task that moves each channel's deliveries out and its settlements in.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::core::{ConsumerChannel, Core, delivery};
use super::journal::{Change, Waiter};
use super::queue::QueueState;
use super::requests::missing;
use crate::broker::topology::{Arguments, Mismatch, Topology};
use crate::broker::{
    BoxFuture, BrokerError, CloseSignal, ConsumeSpec, Consumer, Delivery, Lease, Link, PublishError,
    PublishRequest, Publisher, QueueDepth, Receipt, Replies, Settlement, consumer_channel, publisher_channel,
};
use crate::domain::message::{DIRECT_REPLY, Message};

/// Publishes that may wait for the channel's owner.
const PUBLISHER_DEPTH: usize = 1_024;
/// Only a lost confirm is ever waited for that long: everything else is answered at once.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// Unsettled messages of a subscription.
const SUBSCRIPTION_PREFETCH: usize = 256;
/// Replies on their way to their reader.
const REPLIES_PREFETCH: usize = 16;
/// A disk that takes longer is of no use.
const STORED_WITHIN: Duration = Duration::from_secs(30);
/// In one process nothing can separate owner and broker, so a lease needs no renewal: it ends by
/// being revoked.
const WHOLE_LIFE: Duration = Duration::from_secs(100 * 365 * 86_400);

/// What sessions and their tasks share.
#[derive(Debug)]
pub(super) struct BrokerState {
    pub(super) core: Mutex<Core>,
    pub(super) clock: Arc<Notify>,
    pub(super) clock_task: Mutex<Option<JoinHandle<()>>>,
}

impl BrokerState {
    pub(super) fn new(core: Core, clock: Arc<Notify>) -> Self {
        Self { core: Mutex::new(core), clock, clock_task: Mutex::new(None) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic under the lock is a failed assertion of a test elsewhere at worst: the others go
        // on with the state as it is.
        self.core.lock()
    }

    /// Waits until all that has happened so far is stored.
    pub(super) async fn stored(&self) -> Result<(), BrokerError> {
        let (done, answered) = oneshot::channel();
        self.lock().when_stored(Waiter::Done(done));
        match timeout(STORED_WITHIN, answered).await {
            Ok(Ok(())) => Ok(()),
            // Dropped unanswered: with the store the session has ended.
            Ok(Err(_)) => Err(BrokerError::Lost("the queue file cannot be written".to_owned())),
            Err(_) => Err(BrokerError::TimedOut { call: "write" }),
        }
    }
}

impl Drop for BrokerState {
    fn drop(&mut self) {
        self.clock.notify_one();
        self.core.get_mut().journal.end();
    }
}

/// One session's end of the broker. Dropping it ends the session.
pub(super) struct MemoryLink {
    inner: Arc<BrokerState>,
    session: u64,
    closed: CloseSignal,
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.inner.lock().close_session(self.session, "the session was dropped");
    }
}

impl MemoryLink {
    pub(super) fn new(inner: Arc<BrokerState>, session: u64, closed: CloseSignal) -> Self {
        Self { inner, session, closed }
    }

    /// Waits until the broker can be reached: over a connection that carries nothing, to the
    /// session's end.
    async fn reachable(&self) {
        if self.inner.lock().is_cut_off(self.session) {
            self.closed.ended().await;
        }
    }

    /// The state, as long as the session lives.
    fn core(&self) -> Result<MutexGuard<'_, Core>, BrokerError> {
        let core = self.inner.lock();
        if core.sessions.contains_key(&self.session) {
            return Ok(core);
        }
        Err(BrokerError::Lost(self.closed.reason()))
    }

    pub(super) fn publisher(&self) -> Publisher {
        let (publisher, requests) = publisher_channel(PUBLISHER_DEPTH, CONFIRM_TIMEOUT);
        tokio::spawn(serve_publisher(self.inner.clone(), self.session, self.closed.clone(), requests));
        publisher
    }

    fn start_consumer(
        &self,
        mut core: MutexGuard<'_, Core>,
        queue: &str,
        prefetch: usize,
    ) -> Result<Consumer, BrokerError> {
        let id = core.fresh_id();
        core.queues.get_mut(queue).ok_or_else(|| missing("queue", queue))?.consumers.push_back(id);
        let (consumer, port) = consumer_channel();
        port.lease.renew(Instant::now() + WHOLE_LIFE);
        let channel = ConsumerChannel::new(
            (self.session, core.connection(self.session)),
            queue.to_owned(),
            prefetch.max(1),
            port.settlements,
            Some(port.owner),
            port.lease,
        );
        let bell = channel.bell();
        core.channels.insert(id, channel);
        core.run([queue.to_owned()].into());
        tokio::spawn(serve(self.inner.clone(), id, bell, Some(port.deliveries)));
        Ok(consumer)
    }

    fn take_one(&self, queue: &str) -> Result<Option<Delivery>, BrokerError> {
        let mut core = self.core()?;
        let id = core.fresh_id();
        let state = core.queues.get_mut(queue).ok_or_else(|| missing("queue", queue))?;
        if state.rules.single_active {
            return Err(BrokerError::Forbidden(format!(
                "405 RESOURCE_LOCKED - queue '{queue}' has a single active consumer, so nothing can be got from it"
            )));
        }
        let quorum = state.rules.quorum;
        let Some(entry) = state.take() else {
            return Ok(None);
        };
        core.journal.note(entry.id, |id| Change::Delivered { id });
        let (owner, settlements) = mpsc::unbounded_channel();
        let mut channel = ConsumerChannel::new(
            (self.session, core.connection(self.session)),
            queue.to_owned(),
            0,
            settlements,
            None,
            Lease::begin(),
        );
        let bell = channel.bell();
        let tag = channel.hold(entry.clone());
        core.channels.insert(id, channel);
        drop(core);
        tokio::spawn(serve(self.inner.clone(), id, bell, None));
        Ok(Some(delivery(&entry, quorum, Receipt::new(tag, owner))))
    }

    fn start_subscription(&self, exchange: &str) -> Result<Consumer, BrokerError> {
        let mut core = self.core()?;
        let name = format!("amq.gen-{}", core.fresh_id());
        let source = core.exchanges.get_mut(exchange).ok_or_else(|| missing("exchange", exchange))?;
        source.bindings.insert((String::new(), name.clone()));
        core.queues.insert(name.clone(), QueueState::new(Arguments::new(), Some(self.session)));
        self.start_consumer(core, &name, SUBSCRIPTION_PREFETCH)
    }

    /// An exclusive queue under a name that begins as a direct reply's address does.
    fn start_replies(&self) -> Result<Replies, BrokerError> {
        let mut core = self.core()?;
        let address = format!("{DIRECT_REPLY}.{}", core.fresh_id());
        core.queues.insert(address.clone(), QueueState::new(Arguments::new(), Some(self.session)));
        let consumer = self.start_consumer(core, &address, REPLIES_PREFETCH)?;
        let (replies, messages) = Replies::new(self.publisher(), address);
        tokio::spawn(forward_replies(consumer, messages));
        Ok(replies)
    }
}

/// Hands replies on, each settled before: a reply is sent once.
async fn forward_replies(mut consumer: Consumer, replies: mpsc::Sender<Message>) {
    loop {
        let reply = tokio::select! {
            biased;
            () = replies.closed() => return,
            reply = consumer.recv() => reply,
        };
        let Some(Delivery { message, receipt, .. }) = reply else { return };
        if receipt.ack().is_err() || replies.send(message).await.is_err() {
            return;
        }
    }
}

impl Link for MemoryLink {
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            self.start_consumer(self.core()?, &spec.queue, usize::from(spec.prefetch))
        })
    }

    fn open_publisher(&self) -> BoxFuture<'_, Result<Publisher, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            self.core().map(drop).map(|()| self.publisher())
        })
    }

    fn open_replies(&self) -> BoxFuture<'_, Result<Replies, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            self.start_replies()
        })
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            let taken = self.take_one(queue)?;
            self.inner.stored().await?;
            Ok(taken)
        })
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            self.core()?.declare(topology)?;
            self.inner.stored().await
        })
    }

    fn check<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<Vec<Mismatch>, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            Ok(self.core()?.check(topology))
        })
    }

    fn subscribe<'a>(&'a self, exchange: &'a str) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            self.start_subscription(exchange)
        })
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(async move {
            self.reachable().await;
            let core = self.core()?;
            let state = core.queues.get(queue).ok_or_else(|| missing("queue", queue))?;
            // RabbitMQ counts the consumers that are served, and with a single active consumer that
            // is one.
            let most = if state.rules.single_active { 1 } else { usize::MAX };
            Ok(QueueDepth { ready: state.ready() as u64, consumers: state.consumers.len().min(most) as u64 })
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            {
                let mut core = self.inner.lock();
                core.settle_waiting(self.session);
                core.close_session(self.session, "closed by this side");
            }
            // What cannot be stored is delivered again.
            let _ = self.inner.stored().await;
        })
    }
}

/// The owner of a publishing channel.
async fn serve_publisher(
    inner: Arc<BrokerState>,
    session: u64,
    closed: CloseSignal,
    mut requests: mpsc::Receiver<PublishRequest>,
) {
    loop {
        tokio::select! {
            biased;
            _ = closed.ended() => break,
            request = requests.recv() => match request {
                Some(request) => inner.lock().publish(session, request),
                None => return,
            },
        }
    }
    requests.close();
    while let Some(request) = requests.recv().await {
        let reason = "the session has ended".to_owned();
        let _ = request.reply.send(Err(PublishError::NotSent(reason)));
    }
}

/// Serves a channel until it is gone.
pub(super) async fn serve(
    inner: Arc<BrokerState>,
    id: u64,
    bell: Arc<Notify>,
    mut deliveries: Option<mpsc::Sender<Delivery>>,
) {
    loop {
        if deliveries.as_ref().is_some_and(mpsc::Sender::is_closed) {
            // Before its unread deliveries go back, or it would be given them again.
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
                    // Before the answer, so that the consumer's stream has its end when `cancel`
                    // returns.
                    deliveries = None;
                }
                core.settle(id, settlement);
            }
            () = hand_out(&inner, id, deliveries.as_ref(), waits) => {}
            () = bell.notified() => {}
        }
    }
}

/// Moves one delivery out when there is one and room for it. Returns, too, when the consumer has
/// been dropped.
async fn hand_out(inner: &BrokerState, id: u64, deliveries: Option<&mpsc::Sender<Delivery>>, waits: bool) {
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
