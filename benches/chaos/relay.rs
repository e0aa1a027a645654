//! A TCP relay between replicas and what they talk to, which can be asked to treat them badly.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

const CHUNK: usize = 16 * 1024;
/// A target on this machine that does not take a connection within this takes none.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// How it treats what passes through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    Pass,
    /// Connections are closed, and new ones as soon as they are made.
    Cut,
    /// Connections stay, new ones are accepted, and nothing passes.
    BlackHole,
    /// Each piece waits this long before it passes.
    Delay(Duration),
    /// Each byte passes by itself, this long after the one before.
    Trickle(Duration),
}

/// The relay. Dropped, it and its connections are gone.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    treatment: watch::Sender<Treatment>,
    _serving: AbortOnDropHandle<()>,
}

impl Relay {
    /// A relay to these targets in turn, as far as they take connections: a load balancer's part.
    pub(crate) async fn to(targets: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (treatment, seen) = watch::channel(Treatment::Pass);
        let serving = tokio::spawn(serve(listener, targets, seen));
        Self { address, treatment, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, for old connections and new ones.
    pub(crate) fn treat(&self, treatment: Treatment) {
        self.treatment.send_replace(treatment);
    }
}

async fn serve(listener: TcpListener, targets: Vec<SocketAddr>, treatment: watch::Receiver<Treatment>) {
    let mut connections = JoinSet::new();
    let mut turn = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, as a rule: the client sees no answer, and comes again.
                let Ok((client, _)) = accepted else { continue };
                let mut targets = targets.clone();
                targets.rotate_left(turn);
                turn = (turn + 1) % targets.len();
                connections.spawn(carry(client, targets, treatment.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, until either side or a cut ends it.
async fn carry(client: TcpStream, targets: Vec<SocketAddr>, treatment: watch::Receiver<Treatment>) {
    let pumps = async {
        passable(&mut treatment.clone()).await;
        let Some(server) = connect(&targets).await else { return };
        client.set_nodelay(true).ok();
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            _ = pump(from_client, to_server, treatment.clone()) => {}
            _ = pump(from_server, to_client, treatment.clone()) => {}
        }
    };
    let mut cut = treatment.clone();
    tokio::select! {
        () = pumps => {}
        _ = cut.wait_for(|now| *now == Treatment::Cut) => {}
    }
}

async fn connect(targets: &[SocketAddr]) -> Option<TcpStream> {
    for target in targets {
        if let Ok(Ok(server)) = timeout(CONNECT_WITHIN, TcpStream::connect(target)).await {
            server.set_nodelay(true).ok();
            return Some(server);
        }
    }
    None
}

async fn passable(treatment: &mut watch::Receiver<Treatment>) -> Treatment {
    let now = treatment.wait_for(|now| *now != Treatment::BlackHole).await;
    now.map_or(Treatment::Cut, |now| *now)
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut treatment: watch::Receiver<Treatment>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        // Not read, as nothing can pass: an end that comes meanwhile is not seen either.
        passable(&mut treatment).await;
        let read = from.read(&mut chunk).await?;
        if read == 0 {
            return Ok(());
        }
        let mut rest = &chunk[..read];
        while !rest.is_empty() {
            let passing = match passable(&mut treatment).await {
                Treatment::Trickle(pause) => {
                    sleep(pause).await;
                    1
                }
                Treatment::Delay(pause) => {
                    sleep(pause).await;
                    rest.len()
                }
                _ => rest.len(),
            };
            to.write_all(&rest[..passing]).await?;
            rest = &rest[passing..];
        }
    }
}
