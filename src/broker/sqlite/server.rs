//! The process that has the file serves the others: each connection is a session of its own.

use std::collections::{BTreeMap, HashMap};
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::io::{AsyncRead, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::wire::{
    CallResult, ConsumerCall, DEPTH, Envelope, Frame, How, Request, Response, VERSION, WireError,
    most_silence, read_frame, write_frames,
};
use super::{identity, listen};
use crate::broker::memory::restore::StoreSide;
use crate::broker::{BrokerError, ConsumeSpec, Consumer, Delivery, Receipt, Replies, Session, Stale};

/// Processes that are served at once.
const MOST_CLIENTS: usize = 256;
/// The number of a call that nobody waits for.
const NO_ANSWER: u64 = 0;
/// The time within which a client must send its hello.
const HELLO_WITHIN: Duration = Duration::from_secs(5);
/// After a connection could not be accepted, which is for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How often it checks whether its socket is still there.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// For the last frame to a client that may read nothing any more.
const LAST_FRAME: Duration = Duration::from_secs(5);

/// Serves clients until dropped; then their sessions end.
pub(super) async fn serve(mut listener: UnixListener, socket: PathBuf, side: StoreSide) {
    let mut clients = JoinSet::new();
    let mut own = identity(&socket);
    let mut checks = interval(CHECK_EVERY);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept(), if clients.len() < MOST_CLIENTS => match accepted {
                Ok((stream, _)) => drop(clients.spawn(serve_client(stream, side.clone()))),
                Err(_) => sleep(ACCEPT_AGAIN).await,
            },
            // Somebody has deleted it: nobody else could use the file.
            _ = checks.tick() => if identity(&socket) != own {
                match listen(&socket) {
                    Ok(anew) => (listener, own) = (anew, identity(&socket)),
                    Err(error) => tracing::warn!(%error, "the socket of the queue file is gone, and cannot be made again"),
                }
            },
            Some(served) = clients.join_next() => {
                if let Ok(Err(error)) = served {
                    tracing::debug!(%error, "a client of the queue file is gone");
                }
            }
        }
    }
}

async fn serve_client(stream: UnixStream, side: StoreSide) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let (out, frames) = mpsc::channel(DEPTH);
    let writing = AbortOnDropHandle::new(tokio::spawn(write_frames(writer, frames)));
    let out = Out(out);
    let hello = timeout(HELLO_WITHIN, read_frame::<Request>(&mut reader)).await??;
    let Some((Request::Hello { version, connection, heartbeat_ms }, _)) = hello else { return Ok(()) };
    let session = match open(&side, version, &connection).await {
        Ok(session) => {
            out.send(&Response::Welcome).await?;
            session
        }
        Err((reason, for_good)) => {
            out.send(&Response::Refused { reason, for_good }).await?;
            drop(out);
            return writing.await?;
        }
    };
    let mut client = ClientConnection { session, out, consumers: HashMap::new(), receipts: Arc::default() };
    let (arrived, requests) = mpsc::channel(DEPTH);
    let most_silence = most_silence(Duration::from_millis(heartbeat_ms));
    // Apart, since reading a frame must not be cut short by what else happens.
    let open = arrived.clone();
    let reading = read_all(reader, arrived, client.out.clone(), most_silence);
    let mut reading = AbortOnDropHandle::new(tokio::spawn(reading));
    let silence = async {
        match (&mut reading).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {}
            // What it has asked for until then is carried out.
            _ => {
                drop(open);
                pending::<()>().await;
            }
        }
    };
    let served = tokio::select! {
        served = client.serve(requests) => served,
        // A frozen client may keep frames to it from going out, and so a request from ending.
        () = silence => {
            tracing::warn!(
                connection,
                "a process that uses the queue file was silent for {most_silence:?}: its session ends, and others get what it held"
            );
            let reason = format!("this process was silent for {most_silence:?}");
            client.out.send_if_room(&Response::Ended { reason });
            Ok(())
        }
    };
    drop(reading);
    // Before its receipts are dropped: what it held goes back as after a lost connection.
    client.session.link().close().await;
    drop(client);
    timeout(LAST_FRAME, writing).await???;
    served
}

/// An error of kind `TimedOut`: the client does nothing any more.
async fn read_all(
    mut reader: impl AsyncRead + Unpin,
    arrived: mpsc::Sender<(Request, Bytes)>,
    out: Out,
    most_silence: Duration,
) -> io::Result<()> {
    while let Some((request, body)) = timeout(most_silence, read_frame(&mut reader)).await?? {
        match request {
            // Both wait for the client where that reads nothing.
            Request::Ping { at } => timeout(most_silence, out.send(&Response::Pong { at })).await??,
            request => {
                if timeout(most_silence, arrived.send((request, body))).await?.is_err() {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// The error's flag: whether it is for good.
async fn open(side: &StoreSide, version: u32, connection: &str) -> Result<Session, (String, bool)> {
    if version != VERSION {
        let reason = format!(
            "the process that has the file runs another version of captcha-worker (protocol {VERSION}, this one {version})"
        );
        return Err((reason, true));
    }
    let ending = || ("the process that has the file is ending".to_owned(), false);
    let broker = side.broker().ok_or_else(ending)?.named(connection);
    broker.connect().await.map_err(|error| (error.to_string(), false))
}

/// The way to a client.
#[derive(Clone)]
struct Out(mpsc::Sender<Frame>);

impl Out {
    async fn send(&self, response: &Response) -> io::Result<()> {
        self.send_with(response, Bytes::new()).await
    }

    async fn send_with(&self, response: &impl Serialize, body: Bytes) -> io::Result<()> {
        self.0.send(Frame::new(response, body)?).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// For a client that may read nothing any more.
    fn send_if_room(&self, response: &Response) {
        if let Ok(frame) = Frame::new(response, Bytes::new()) {
            let _ = self.0.try_send(frame);
        }
    }

    async fn answer(&self, n: u64, answer: Result<CallResult, BrokerError>) -> io::Result<()> {
        if n == NO_ANSWER {
            return Ok(());
        }
        self.send(&Response::Answer { n, answer: answer.map_err(WireError::from) }).await
    }

    async fn deliver(
        &self,
        consumer: u64,
        tag: u64,
        Delivery { message, redelivered, routing_key, receipt }: Delivery,
        receipts: &Receipts,
    ) -> io::Result<()> {
        receipts.lock().insert((consumer, tag), receipt);
        let (envelope, body) = Envelope::of(&message);
        let delivered = Response::Delivered { consumer, tag, redelivered, routing_key, envelope };
        self.send_with(&delivered, body).await
    }
}

/// Drops what a consumer holds: it goes back to its queue.
fn forget(receipts: &Receipts, consumer: u64) {
    let held = {
        let mut receipts = receipts.lock();
        let mut held = receipts.split_off(&(consumer, 0));
        receipts.append(&mut held.split_off(&(consumer + 1, 0)));
        held
    };
    // Each asks its channel, which needs no lock of ours.
    drop(held);
}

/// What clients hold, by consumer and tag.
type Receipts = Arc<Mutex<BTreeMap<(u64, u64), Receipt>>>;

struct ClientConnection {
    session: Session,
    out: Out,
    /// Dropped, a consumer ends.
    consumers: HashMap<u64, mpsc::UnboundedSender<(u64, ConsumerCall)>>,
    receipts: Receipts,
}

impl ClientConnection {
    /// Carries out what is asked, in turn, until either side ends the session.
    async fn serve(&mut self, mut requests: mpsc::Receiver<(Request, Bytes)>) -> io::Result<()> {
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some((request, body)) => {
                        if !self.handle(request, body).await? {
                            return Ok(());
                        }
                    }
                    None => return Ok(()),
                },
                reason = self.session.closed() => return self.out.send(&Response::Ended { reason }).await,
            }
        }
    }

    /// Whether the session goes on.
    async fn handle(&mut self, request: Request, body: Bytes) -> io::Result<bool> {
        let link = self.session.link();
        match request {
            Request::Hello { .. } | Request::Ping { .. } => return Err(io::ErrorKind::InvalidData.into()),
            Request::Publish { n, exchange, routing_key, mandatory, may_batch, envelope } => {
                let message = envelope.with(body);
                let publisher = self.session.publisher();
                match publisher.ask(&exchange, &routing_key, (mandatory, may_batch), message).await {
                    Ok(confirm) => {
                        let out = self.out.clone();
                        tokio::spawn(async move {
                            let fate = confirm.answered_or_lost().await;
                            // Refused where the client is gone.
                            let _ = out.send(&Response::Published { n, fate }).await;
                        });
                    }
                    Err(error) => self.out.send(&Response::Published { n, fate: Err(error) }).await?,
                }
            }
            Request::Consume { n, queue, prefetch, tag } => {
                let consumer = link.consume(ConsumeSpec { queue, prefetch, tag }).await;
                self.begin(n, consumer).await?;
            }
            Request::Subscribe { n, exchange } => {
                let consumer = link.subscribe(&exchange).await;
                self.begin(n, consumer).await?;
            }
            Request::Replies { n } => match link.open_replies().await {
                Ok(replies) => {
                    let (calls, asked) = mpsc::unbounded_channel();
                    self.consumers.insert(n, calls);
                    self.out.answer(n, Ok(CallResult::ReplyTo(replies.reply_to().to_owned()))).await?;
                    tokio::spawn(serve_replies(n, replies, asked, self.out.clone()));
                }
                Err(error) => self.out.answer(n, Err(error)).await?,
            },
            Request::Get { n, queue } => match link.get(&queue).await {
                Ok(Some(delivery)) => {
                    // Before the answer, which announces it.
                    self.out.deliver(n, 1, delivery, &self.receipts).await?;
                    self.out.answer(n, Ok(CallResult::Done)).await?;
                }
                Ok(None) => self.out.answer(n, Ok(CallResult::Nothing)).await?,
                Err(error) => self.out.answer(n, Err(error)).await?,
            },
            Request::Declare { n, topology } => {
                let declared = link.declare(&topology).await;
                self.out.answer(n, declared.map(|()| CallResult::Done)).await?;
            }
            Request::Check { n, topology } => {
                let found = link.check(&topology).await;
                self.out.answer(n, found.map(CallResult::mismatches)).await?;
            }
            Request::Depth { n, queue } => {
                let depth = link.depth(&queue).await;
                self.out.answer(n, depth.map(CallResult::depth)).await?;
            }
            Request::Settle { consumer, tag, how } => {
                let receipt = self.receipts.lock().remove(&(consumer, tag));
                // Stale where its channel is gone, which the client learns by other means.
                let _ = receipt.map(|receipt| match how {
                    How::Ack => receipt.ack(),
                    How::Requeue => receipt.requeue(),
                    How::Reject => receipt.reject(),
                });
            }
            Request::Consumer { n, consumer, call } => {
                let known = self.consumers.get(&consumer);
                if known.is_none_or(|calls| calls.send((n, call)).is_err()) {
                    self.out.answer(n, Err(BrokerError::Lost("the consumer has ended".to_owned()))).await?;
                }
            }
            Request::Drop { consumer } => {
                // One that has ended has nothing to stop.
                let _ =
                    self.consumers.get(&consumer).map(|calls| calls.send((NO_ANSWER, ConsumerCall::Cancel)));
            }
            Request::Forget { consumer } => {
                let calls = self.consumers.remove(&consumer);
                if calls.is_none_or(|calls| calls.send((NO_ANSWER, ConsumerCall::Forget)).is_err()) {
                    forget(&self.receipts, consumer);
                }
            }
            Request::Close { n } => {
                link.close().await;
                self.out.answer(n, Ok(CallResult::Done)).await?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn begin(&mut self, n: u64, consumer: Result<Consumer, BrokerError>) -> io::Result<()> {
        match consumer {
            Ok(consumer) => {
                let (calls, asked) = mpsc::unbounded_channel();
                self.consumers.insert(n, calls);
                self.out.answer(n, Ok(CallResult::Done)).await?;
                tokio::spawn(serve_consumer(
                    n,
                    consumer,
                    asked,
                    self.out.clone(),
                    Arc::clone(&self.receipts),
                ));
            }
            Err(error) => self.out.answer(n, Err(error)).await?,
        }
        Ok(())
    }
}

/// Hands replies on until either side ends them.
async fn serve_replies(
    id: u64,
    mut replies: Replies,
    mut calls: mpsc::UnboundedReceiver<(u64, ConsumerCall)>,
    out: Out,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            call = calls.recv() => match call {
                None | Some((_, ConsumerCall::Forget)) => return Ok(()),
                Some((n, _)) => out.answer(n, Ok(CallResult::Done)).await?,
            },
            reply = replies.recv() => match reply {
                Some(message) => {
                    let (envelope, body) = Envelope::of(&message);
                    let routing_key = String::new();
                    let delivered =
                        Response::Delivered { consumer: id, tag: 0, redelivered: false, routing_key, envelope };
                    out.send_with(&delivered, body).await?;
                }
                None => return out.send(&Response::ConsumerEnded { consumer: id }).await,
            },
        }
    }
}

/// Hands a consumer's deliveries on, and carries out its calls, until either side ends it.
async fn serve_consumer(
    id: u64,
    mut consumer: Consumer,
    mut calls: mpsc::UnboundedReceiver<(u64, ConsumerCall)>,
    out: Out,
    receipts: Receipts,
) -> io::Result<()> {
    let mut tag = 0;
    loop {
        tokio::select! {
            biased;
            call = calls.recv() => match call {
                // The connection has ended, and its session with it.
                None => return Ok(()),
                Some((_, ConsumerCall::Forget)) => {
                    // Before what it has delivered goes back, or it would be given that again.
                    drop(consumer.cancel().await);
                    forget(&receipts, id);
                    return Ok(());
                }
                Some((n, ConsumerCall::Cancel)) => {
                    drop(consumer.cancel().await);
                    out.answer(n, Ok(CallResult::Done)).await?;
                }
                Some((n, ConsumerCall::Flush)) => {
                    let flushed = consumer.flush().await;
                    let lost = |stale: Stale| BrokerError::Lost(stale.to_string());
                    out.answer(n, flushed.map(|()| CallResult::Done).map_err(lost)).await?;
                }
                Some((n, ConsumerCall::Close)) => {
                    consumer.close().await;
                    forget(&receipts, id);
                    return out.answer(n, Ok(CallResult::Done)).await;
                }
            },
            delivery = consumer.recv(), if !consumer.is_cancelled() => match delivery {
                Some(delivery) => {
                    tag += 1;
                    out.deliver(id, tag, delivery, &receipts).await?;
                }
                None => {
                    forget(&receipts, id);
                    return out.send(&Response::ConsumerEnded { consumer: id }).await;
                }
            },
        }
    }
}
