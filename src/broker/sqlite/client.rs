//! A session with the process that has the file.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::SocketAddress;
use super::store::unfit;
use super::wire::{
    CallResult, ConsumerCall, DEPTH, Envelope, Frame, How, Request, Response, VERSION, kind_of, most_silence,
    ping_every, read_frame, write_frames,
};
use crate::broker::topology::{Mismatch, Topology};
use crate::broker::{
    BoxFuture, BrokerError, CloseSignal, ConsumeSpec, Consumer, ConsumerPort, Delivery, Lease, Link,
    PublishError, PublishRequest, Publisher, QueueDepth, Receipt, Replies, Session, Settlement,
    consumer_channel, publisher_channel,
};
use crate::domain::message::Message;

/// Publishes that may wait for the channel's owner.
const PUBLISHER_DEPTH: usize = 1_024;
/// Why everything ends with the other process.
const GONE: &str = "the process that has the queue file has ended";

/// Time-outs, as set.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeOuts {
    /// One that lives welcomes a client at once.
    pub(super) welcome: Duration,
    pub(super) call: Duration,
    pub(super) confirm: Duration,
    pub(super) heartbeat: Duration,
}

/// A session over the socket. An error of the connection itself: nobody serves there (yet).
pub(super) async fn connect(
    socket: &Path,
    connection: &str,
    time_outs: TimeOuts,
) -> io::Result<Result<Session, BrokerError>> {
    let address = SocketAddress::of(socket)?;
    let (reader, writer) = UnixStream::connect(address.path()).await?.into_split();
    let mut reader = BufReader::new(reader);
    let (out, frames) = mpsc::channel(DEPTH);
    let writing = AbortOnDropHandle::new(tokio::spawn(write_frames(writer, frames)));
    let heartbeat_ms = u64::try_from(time_outs.heartbeat.as_millis()).unwrap_or(u64::MAX);
    let hello = Request::Hello { version: VERSION, connection: connection.to_owned(), heartbeat_ms };
    out.send(Frame::new(&hello, Bytes::new())?).await.map_err(|_| io::ErrorKind::BrokenPipe)?;
    let welcome = timeout(time_outs.welcome, read_frame::<Response>(&mut reader)).await??;
    match welcome {
        Some((Response::Welcome, _)) => {}
        // The file changes hands: another try reaches the next process that has it.
        Some((Response::Refused { reason, for_good: false }, _)) => return Err(io::Error::other(reason)),
        Some((Response::Refused { reason, for_good: true }, _)) => {
            return Ok(Err(unfit(socket, reason)));
        }
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    let shared = Arc::new(Shared {
        out,
        waiting: Mutex::default(),
        closed: CloseSignal::default(),
        last: AtomicU64::new(0),
        longest: time_outs.call,
        began: Instant::now(),
    });
    tokio::spawn(read_all(reader, Arc::clone(&shared), time_outs.heartbeat, writing));
    let link = SocketLink { shared: Arc::clone(&shared), confirm_timeout: time_outs.confirm };
    let publisher = link.publisher();
    Ok(Ok(Session::new(Arc::new(link), publisher, shared.closed.clone())))
}

/// What a session's tasks share.
struct Shared {
    out: mpsc::Sender<Frame>,
    waiting: Mutex<PendingCalls>,
    closed: CloseSignal,
    last: AtomicU64,
    /// How long the other process may take for anything.
    longest: Duration,
    /// Pings count from here.
    began: Instant,
}

/// The callers that wait for answers of the other process.
#[derive(Default)]
struct PendingCalls {
    ended: bool,
    answers: HashMap<u64, oneshot::Sender<Result<CallResult, BrokerError>>>,
    confirms: HashMap<u64, oneshot::Sender<Result<(), PublishError>>>,
    consumers: HashMap<u64, Known>,
}

/// The way to a consumer.
struct Known {
    /// Bounded by its prefetch.
    arrive: mpsc::UnboundedSender<Arrived>,
    /// Answered once everything that was settled here is on its way. Apart, since what arrives can
    /// wait for a reader.
    drain: mpsc::UnboundedSender<oneshot::Sender<()>>,
    /// Renewed by each ping that is answered; a single message has none.
    lease: Option<Lease>,
}

/// A consumer's end of that.
struct DeliveryStream {
    arrived: mpsc::UnboundedReceiver<Arrived>,
    drain: mpsc::UnboundedReceiver<oneshot::Sender<()>>,
}

/// What arrives for a consumer.
#[expect(clippy::large_enum_variant, reason = "nearly all are deliveries")]
enum Arrived {
    Delivery { tag: u64, message: Message, redelivered: bool, routing_key: String },
    Ended,
}

impl Shared {
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn send(&self, request: &Request) -> Result<(), BrokerError> {
        let frame =
            Frame::new(request, Bytes::new()).map_err(|error| BrokerError::Lost(error.to_string()))?;
        let sent = timeout(self.longest, self.out.send(frame)).await.map_err(|_| self.frozen())?;
        sent.map_err(|_| self.lost())
    }

    /// The other process does nothing: the session is of no use any more.
    fn frozen(&self) -> BrokerError {
        self.end("the process that has the queue file does not answer");
        self.lost()
    }

    fn lost(&self) -> BrokerError {
        BrokerError::Lost(if self.closed.is_ended() { self.closed.reason() } else { GONE.to_owned() })
    }

    /// Shows that this side lives, and asks for the same of the other, again and again.
    async fn ping(&self, heartbeat: Duration) {
        let mut pings = interval(ping_every(heartbeat));
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pings.tick().await;
            let at = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if let Ok(frame) = Frame::new(&Request::Ping { at }, Bytes::new()) {
                // Refused once the connection is gone, which the reader sees.
                let _ = self.out.send(frame).await;
            }
        }
    }

    /// Sends a request and waits for its answer.
    async fn ask(&self, n: u64, request: Request) -> Result<CallResult, BrokerError> {
        let answered = {
            let mut waiting = self.waiting.lock();
            if waiting.ended || self.closed.is_ended() {
                return Err(self.lost());
            }
            let (answer, answered) = oneshot::channel();
            waiting.answers.insert(n, answer);
            answered
        };
        self.send(&request).await?;
        match timeout(self.longest, answered).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(self.lost())),
            Err(_) => {
                self.waiting.lock().answers.remove(&n);
                Err(self.frozen())
            }
        }
    }

    /// Nobody reads under this number any more; what still arrives goes back.
    async fn give_up(&self, n: u64) {
        self.waiting.lock().consumers.remove(&n);
        // Where the connection is gone, so is the consumer.
        let _ = self.send(&Request::Forget { consumer: n }).await;
    }

    /// The connection is gone: nobody is answered any more.
    fn end(&self, reason: &str) {
        let mut waiting = self.waiting.lock();
        waiting.ended = true;
        // Before anybody can learn of it otherwise: no receipt outlives the session.
        self.closed.end(reason);
        waiting.answers.clear();
        waiting.consumers.clear();
        let confirms = std::mem::take(&mut waiting.confirms);
        drop(waiting);
        for reply in confirms.into_values() {
            let _ = reply.send(Err(PublishError::Unknown(self.closed.reason())));
        }
    }

    fn arrived(&self, response: Response, body: Bytes) -> Result<(), String> {
        let mut waiting = self.waiting.lock();
        match response {
            Response::Answer { n, answer } => {
                if let Some(reply) = waiting.answers.remove(&n) {
                    let _ = reply.send(answer.map_err(BrokerError::from));
                }
            }
            Response::Published { n, fate } => {
                if let Some(reply) = waiting.confirms.remove(&n) {
                    let _ = reply.send(fate);
                }
            }
            Response::Delivered { consumer, tag, redelivered, routing_key, envelope } => {
                if let Some(known) = waiting.consumers.get(&consumer) {
                    let message = envelope.with(body);
                    let _ = known.arrive.send(Arrived::Delivery { tag, message, redelivered, routing_key });
                }
            }
            Response::ConsumerEnded { consumer } => {
                if let Some(known) = waiting.consumers.get(&consumer) {
                    let _ = known.arrive.send(Arrived::Ended);
                }
            }
            Response::Pong { at } => {
                let Some(sent_at) = self.began.checked_add(Duration::from_millis(at)) else { return Ok(()) };
                waiting
                    .consumers
                    .values()
                    .filter_map(|known| known.lease.as_ref())
                    .for_each(|lease| lease.renew(sent_at));
            }
            Response::Ended { reason } => return Err(reason),
            Response::Welcome | Response::Refused { .. } => {
                return Err("the process that has the queue file sent what nobody asked for".to_owned());
            }
        }
        Ok(())
    }
}

/// Reads until the session ends; then the socket is closed, though handles to the session remain.
async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    shared: Arc<Shared>,
    heartbeat: Duration,
    _writing: AbortOnDropHandle<io::Result<()>>,
) {
    let most_silence = most_silence(heartbeat);
    let reading = async {
        loop {
            match timeout(most_silence, read_frame::<Response>(&mut reader)).await {
                Ok(Ok(Some((response, body)))) => {
                    if let Err(reason) = shared.arrived(response, body) {
                        return reason;
                    }
                }
                Ok(Ok(None)) => return GONE.to_owned(),
                Ok(Err(error)) => return format!("{GONE} ({error})"),
                Err(_) => {
                    return format!(
                        "the process that has the queue file has not answered for {most_silence:?}"
                    );
                }
            }
        }
    };
    let reason = tokio::select! {
        reason = reading => reason,
        reason = shared.closed.ended() => reason,
        () = shared.ping(heartbeat) => return,
    };
    shared.end(&reason);
}

struct SocketLink {
    shared: Arc<Shared>,
    confirm_timeout: Duration,
}

impl Drop for SocketLink {
    fn drop(&mut self) {
        self.shared.closed.end("the session was dropped");
    }
}

impl SocketLink {
    fn publisher(&self) -> Publisher {
        let (publisher, requests) = publisher_channel(PUBLISHER_DEPTH, self.confirm_timeout);
        tokio::spawn(publish_all(Arc::clone(&self.shared), requests));
        publisher
    }

    async fn call(&self, request: impl FnOnce(u64) -> Request) -> Result<CallResult, BrokerError> {
        let n = self.shared.next();
        self.shared.ask(n, request(n)).await
    }

    /// Somebody to whom deliveries go under this number.
    fn expect_deliveries(&self, n: u64, lease: Option<Lease>) -> DeliveryStream {
        let (arrive, arrived) = mpsc::unbounded_channel();
        let (drain, draining) = mpsc::unbounded_channel();
        let mut waiting = self.shared.waiting.lock();
        if !waiting.ended {
            waiting.consumers.insert(n, Known { arrive, drain, lease });
        }
        DeliveryStream { arrived, drain: draining }
    }

    async fn begin(&self, request: impl FnOnce(u64) -> Request) -> Result<Consumer, BrokerError> {
        let n = self.shared.next();
        // Its lease begins before the request is sent.
        let (consumer, port) = consumer_channel();
        let arrived = self.expect_deliveries(n, Some(port.lease.clone()));
        if let Err(error) = self.shared.ask(n, request(n)).await {
            self.shared.give_up(n).await;
            return Err(error);
        }
        let ConsumerPort { deliveries, settlements, owner, lease } = port;
        let shared = Arc::clone(&self.shared);
        let consuming = Consuming { shared, n, settlements, owner: Some(owner), lease };
        tokio::spawn(consuming.serve(Some(deliveries), arrived));
        Ok(consumer)
    }
}

impl Link for SocketLink {
    fn consume(&self, spec: ConsumeSpec) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        let ConsumeSpec { queue, prefetch, tag } = spec;
        Box::pin(self.begin(move |n| Request::Consume { n, queue, prefetch, tag }))
    }

    fn open_publisher(&self) -> BoxFuture<'_, Result<Publisher, BrokerError>> {
        Box::pin(async {
            if self.shared.closed.is_ended() { Err(self.shared.lost()) } else { Ok(self.publisher()) }
        })
    }

    fn open_replies(&self) -> BoxFuture<'_, Result<Replies, BrokerError>> {
        Box::pin(async move {
            let n = self.shared.next();
            let arrived = self.expect_deliveries(n, None);
            let reply_to = match self.shared.ask(n, Request::Replies { n }).await {
                Ok(CallResult::ReplyTo(reply_to)) => reply_to,
                other => {
                    self.shared.give_up(n).await;
                    return Err(other.err().unwrap_or_else(|| self.shared.lost()));
                }
            };
            let (replies, messages) = Replies::new(self.publisher(), reply_to);
            tokio::spawn(receive_replies(Arc::clone(&self.shared), n, arrived, messages));
            Ok(replies)
        })
    }

    fn get<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<Option<Delivery>, BrokerError>> {
        Box::pin(async move {
            let n = self.shared.next();
            let mut arrivals = self.expect_deliveries(n, None);
            let answer = self.shared.ask(n, Request::Get { n, queue: queue.to_owned() }).await;
            // It arrives before the answer.
            let Ok(Arrived::Delivery { tag, message, redelivered, routing_key }) =
                arrivals.arrived.try_recv()
            else {
                self.shared.give_up(n).await;
                return answer.map(|_| None);
            };
            let (owner, settlements) = mpsc::unbounded_channel();
            let receipt = Receipt::new(tag, owner);
            let shared = Arc::clone(&self.shared);
            let got = Consuming { shared, n, settlements, owner: None, lease: Lease::none() };
            tokio::spawn(got.serve(None, arrivals));
            Ok(Some(Delivery { message, redelivered, routing_key, receipt }))
        })
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(async move {
            let topology = topology.clone();
            self.call(|n| Request::Declare { n, topology }).await.map(drop)
        })
    }

    fn check<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<Vec<Mismatch>, BrokerError>> {
        Box::pin(async move {
            let topology = topology.clone();
            match self.call(|n| Request::Check { n, topology }).await? {
                CallResult::Mismatches(found) => Ok(found
                    .into_iter()
                    .map(|(kind, name, problem)| Mismatch { kind: kind_of(&kind), name, problem })
                    .collect()),
                _ => Ok(Vec::new()),
            }
        })
    }

    fn subscribe<'a>(&'a self, exchange: &'a str) -> BoxFuture<'a, Result<Consumer, BrokerError>> {
        let exchange = exchange.to_owned();
        Box::pin(self.begin(move |n| Request::Subscribe { n, exchange }))
    }

    fn depth<'a>(&'a self, queue: &'a str) -> BoxFuture<'a, Result<QueueDepth, BrokerError>> {
        Box::pin(async move {
            let queue = queue.to_owned();
            match self.call(|n| Request::Depth { n, queue }).await? {
                CallResult::Depth { ready, consumers } => Ok(QueueDepth { ready, consumers }),
                _ => Ok(QueueDepth { ready: 0, consumers: 0 }),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let drained: Vec<_> = {
                let waiting = self.shared.waiting.lock();
                let drain = |known: &Known| {
                    let (done, drained) = oneshot::channel();
                    known.drain.send(done).ok().map(|()| drained)
                };
                waiting.consumers.values().filter_map(drain).collect()
            };
            for done in drained {
                // Dropped where the consumer has just ended.
                let _ = timeout(self.shared.longest, done).await;
            }
            let _ = self.call(|n| Request::Close { n }).await;
            self.shared.end("closed by this side");
        })
    }
}

/// Hands replies on until either side ends them.
async fn receive_replies(
    shared: Arc<Shared>,
    n: u64,
    mut arrivals: DeliveryStream,
    replies: mpsc::Sender<Message>,
) {
    loop {
        tokio::select! {
            () = replies.closed() => break,
            message = arrivals.arrived.recv() => match message {
                Some(Arrived::Delivery { message, .. }) => drop(replies.send(message).await),
                Some(Arrived::Ended) | None => break,
            },
        }
    }
    shared.give_up(n).await;
}

/// The owner of a publishing channel.
async fn publish_all(shared: Arc<Shared>, mut requests: mpsc::Receiver<PublishRequest>) {
    loop {
        tokio::select! {
            biased;
            _ = shared.closed.ended() => break,
            request = requests.recv() => match request {
                Some(request) => publish(&shared, request).await,
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

async fn publish(shared: &Shared, request: PublishRequest) {
    let PublishRequest { exchange, routing_key, mandatory, message, may_batch, reply } = request;
    let n = shared.next();
    let (envelope, body) = Envelope::of(&message);
    let head = Request::Publish { n, exchange, routing_key, mandatory, may_batch, envelope };
    let frame = match Frame::new(&head, body) {
        Ok(frame) => frame,
        Err(error) => return drop(reply.send(Err(PublishError::NotSent(error.to_string())))),
    };
    {
        let mut waiting = shared.waiting.lock();
        if waiting.ended {
            let reason = "the session has ended".to_owned();
            return drop(reply.send(Err(PublishError::NotSent(reason))));
        }
        waiting.confirms.insert(n, reply);
    }
    // Where it is gone, its end answers all who wait.
    let _ = shared.out.send(frame).await;
}

/// One consumer, or what one `get` has taken: deliveries arrive, settlements go out.
struct Consuming {
    shared: Arc<Shared>,
    n: u64,
    settlements: mpsc::UnboundedReceiver<Settlement>,
    /// For making receipts.
    owner: Option<mpsc::UnboundedSender<Settlement>>,
    lease: Lease,
}

impl Drop for Consuming {
    fn drop(&mut self) {
        // First, so that no ping renews it afterwards.
        self.shared.waiting.lock().consumers.remove(&self.n);
        self.lease.revoke();
    }
}

impl Consuming {
    async fn serve(
        mut self,
        mut deliveries: Option<mpsc::Sender<Delivery>>,
        DeliveryStream { mut arrived, mut drain }: DeliveryStream,
    ) {
        // One delivery that waits for room in the consumer.
        let mut next: Option<Delivery> = None;
        loop {
            // Its own handle, which keeps the consumer's stream open no longer than this turn.
            let to = deliveries.clone();
            let has_next = next.is_some();
            let room = async {
                match to {
                    // An error: the consumer has been dropped.
                    Some(deliveries) if has_next => deliveries.reserve_owned().await.map_err(drop),
                    Some(deliveries) => {
                        deliveries.closed().await;
                        Err(())
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                settlement = self.settlements.recv() => match settlement {
                    Some(Settlement::Cancel(done)) => {
                        let _ = self.ask(ConsumerCall::Cancel).await;
                        self.owner = None;
                        deliveries = None;
                        next = None;
                        // What was on its way is not seen by anybody.
                        while let Ok(message) = arrived.try_recv() {
                            if let Arrived::Delivery { tag, .. } = message {
                                self.requeue(tag).await;
                            }
                        }
                        let _ = done.send(());
                    }
                    Some(Settlement::Flush(done)) => {
                        if self.ask(ConsumerCall::Flush).await.is_ok() {
                            let _ = done.send(());
                        }
                    }
                    Some(Settlement::Close(done)) => {
                        let _ = self.ask(ConsumerCall::Close).await;
                        self.lease.revoke();
                        self.settlements.close();
                        let _ = done.send(());
                        return;
                    }
                    Some(settlement) => {
                        if self.settle(settlement).await.is_err() {
                            return;
                        }
                    }
                    // Nobody is left who could settle anything: what was on its way goes back.
                    None => {
                        self.shared.give_up(self.n).await;
                        return;
                    }
                },
                Some(done) = drain.recv() => {
                    while let Ok(settlement) = self.settlements.try_recv() {
                        if self.settle(settlement).await.is_err() {
                            break;
                        }
                    }
                    let _ = done.send(());
                }
                room = room => match (room, next.take()) {
                    (Ok(room), Some(delivery)) => drop(room.send(delivery)),
                    _ => {
                        deliveries = None;
                        self.owner = None;
                        let _ = self.shared.send(&Request::Drop { consumer: self.n }).await;
                    }
                },
                message = arrived.recv(), if next.is_none() => match message {
                    Some(Arrived::Delivery { tag, message, redelivered, routing_key }) => match &self.owner {
                        Some(owner) => {
                            let receipt = Receipt::new(tag, owner.clone());
                            next = Some(Delivery { message, redelivered, routing_key, receipt });
                        }
                        None => self.requeue(tag).await,
                    },
                    // The consumer, or the session.
                    Some(Arrived::Ended) | None => return,
                },
            }
        }
    }

    async fn ask(&self, call: ConsumerCall) -> Result<CallResult, BrokerError> {
        let n = self.shared.next();
        self.shared.ask(n, Request::Consumer { n, consumer: self.n, call }).await
    }

    async fn settle(&self, settlement: Settlement) -> Result<(), BrokerError> {
        let (tag, how) = match settlement {
            Settlement::Ack(tag) | Settlement::AckBatched(tag) => (tag, How::Ack),
            Settlement::Requeue(tag) => (tag, How::Requeue),
            Settlement::Reject(tag) => (tag, How::Reject),
            // Calls wait for their turn; dropped, they are answered by the end of the session.
            Settlement::Cancel(_) | Settlement::Flush(_) | Settlement::Close(_) => return Ok(()),
        };
        self.shared.send(&Request::Settle { consumer: self.n, tag, how }).await
    }

    async fn requeue(&self, tag: u64) {
        // Where the connection is gone, the message goes back by that.
        let _ = self.settle(Settlement::Requeue(tag)).await;
    }
}
