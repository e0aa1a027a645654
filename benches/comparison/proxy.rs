//! A TCP relay between a worker and the broker, which notes when the handshake ends and when the
//! first job passes. It reads no more of AMQP 0-9-1 than the heads of frames and two methods.

use parking_lot::Mutex;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 16 * 1024;
/// Type, channel and size.
const HEAD: usize = 7;
/// What every frame ends with.
const END: usize = 1;
const METHOD_FRAME: u8 = 1;
/// Class and method of `connection.open-ok` and `basic.deliver`.
const OPEN_OK: [u8; 4] = [0, 10, 0, 41];
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Delivery tag and the flag of redelivery.
const TAG_AND_FLAG: usize = 9;

/// The relay. Dropped, it and its connections are gone.
pub(crate) struct Proxy {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    _serving: AbortOnDropHandle<()>,
}

/// When what passed for the first time.
#[derive(Default)]
struct Seen {
    opened: Option<Instant>,
    job: Option<Instant>,
}

impl Proxy {
    /// A relay to a broker, which knows jobs by the routing key they were published with.
    pub(crate) async fn to(broker: SocketAddr, jobs: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::default();
        let serving = tokio::spawn(serve(listener, broker, jobs.to_owned(), Arc::clone(&seen)));
        Self { address, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From the handshake's end to the first job, once both have passed.
    pub(crate) fn first_job(&self) -> Option<Duration> {
        let seen = self.seen.lock();
        Some(seen.job?.duration_since(seen.opened?))
    }
}

async fn serve(listener: TcpListener, broker: SocketAddr, jobs: String, seen: Arc<Mutex<Seen>>) {
    let mut connections = JoinSet::new();
    loop {
        let (worker, _) = listener.accept().await.expect("a worker connects");
        let broker = TcpStream::connect(broker).await.expect("the broker takes a connection");
        worker.set_nodelay(true).expect("a socket's options can be set");
        broker.set_nodelay(true).expect("a socket's options can be set");
        let ((mut from_worker, to_worker), (from_broker, mut to_broker)) =
            (worker.into_split(), broker.into_split());
        connections.spawn(async move { copy(&mut from_worker, &mut to_broker).await.map(drop) });
        connections.spawn(listen(from_broker, to_worker, jobs.clone(), Arc::clone(&seen)));
    }
}

/// Carries what the broker says, and looks at it.
async fn listen(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    jobs: String,
    seen: Arc<Mutex<Seen>>,
) -> std::io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut frames = Frames::default();
    loop {
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        let now = Instant::now();
        frames.take(&chunk[..read], |method| {
            let mut seen = seen.lock();
            if method.starts_with(&OPEN_OK) {
                seen.opened.get_or_insert(now);
            } else if routing_key(method) == Some(jobs.as_bytes()) {
                seen.job.get_or_insert(now);
            }
        });
        to.write_all(&chunk[..read]).await?;
    }
}

/// The routing key of a `basic.deliver`; nothing for any other method.
fn routing_key(method: &[u8]) -> Option<&[u8]> {
    let (_consumer, rest) = short_string(method.strip_prefix(&DELIVER)?)?;
    let (_exchange, rest) = short_string(rest.get(TAG_AND_FLAG..)?)?;
    Some(short_string(rest)?.0)
}

/// A string with its length before it, and what follows.
fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

/// Cuts a stream into frames.
#[derive(Default)]
struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    /// Takes a piece of the stream, and shows the methods that it completes.
    fn take(&mut self, piece: &[u8], mut show: impl FnMut(&[u8])) {
        self.pending.extend_from_slice(piece);
        let mut rest = self.pending.as_slice();
        while let Some(size) = rest.get(3..HEAD) {
            let size = size.iter().fold(0, |size, byte| size << 8 | usize::from(*byte));
            let Some((frame, after)) = rest.split_at_checked(HEAD + size + END) else { break };
            if frame[0] == METHOD_FRAME {
                show(&frame[HEAD..HEAD + size]);
            }
            rest = after;
        }
        let taken = self.pending.len() - rest.len();
        self.pending.drain(..taken);
    }
}
