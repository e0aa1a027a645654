//! The broker for one machine: the queues of [`super::memory`], kept in an SQLite file.
//!
//! One process has the file: the first one that opens it. It holds the queues in memory, writes
//! every change to the file, and serves the others over a socket beside it. When it ends, in any
//! way, the others' sessions end as with any broker that restarts, and the first one that makes a
//! new session has the file next. So there is one writer, and nobody polls for new messages. A
//! process that is frozen is noticed by its silence.
//!
//! Beside `queue.db` stand `queue.db-lock` (locked by the process that has the file; left in
//! place), `queue.db-sock` (the socket) and SQLite's own `queue.db-wal`.

mod client;
mod server;
mod store;
mod wire;

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket};
use tokio::sync::{Mutex, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use self::client::TimeOuts;
use self::store::Store;
pub(crate) use self::store::beside;
use super::memory::MemoryBroker;
use super::topology::Topology;
use super::{BrokerError, CloseSignal, Session};
use crate::domain::message::Message;
use crate::linger::Linger;

/// Between two tries, while the file changes hands.
const AGAIN: Duration = Duration::from_millis(20);

/// Clients that may wait to be accepted.
const BACKLOG: u32 = 128;

/// How long a process tries to take the file after the one that had it. Another one may be quicker.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connector is made of.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The file.
    pub path: PathBuf,
    /// What happens where there is none.
    pub if_missing: IfMissing,
    /// Declared for each session: on a new file nobody else would.
    pub topology: Option<Topology>,
    /// Until a session is there or cannot be made.
    pub connect_timeout: Duration,
    /// Of any one call.
    pub call_timeout: Duration,
    /// From a publish to its confirm.
    pub confirm_timeout: Duration,
    /// Another process that is silent for twice as long counts as gone.
    pub heartbeat: Duration,
    /// How this process is called in the broker's logs.
    pub connection_name: String,
    /// How long a change may wait for others to be written with it.
    pub linger: Linger,
}

/// What happens where there is no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// It is made.
    Make,
    /// An error: for a command that only reads queues, the path is mistyped, or the work is done.
    Fail,
}

/// A broker in a file. Clones are the same broker.
#[derive(Clone)]
pub struct SqliteBroker {
    options: Arc<SqliteOptions>,
    own: Arc<Mutex<Option<Own>>>,
}

/// The file is this process's.
struct Own {
    broker: MemoryBroker,
    /// The store, once its writer has written the last change.
    released: oneshot::Receiver<Store>,
    server: AbortOnDropHandle<()>,
}

impl SqliteBroker {
    /// For a file that is opened with the first session.
    #[must_use]
    pub fn new(options: SqliteOptions) -> Self {
        Self { options: Arc::new(options), own: Arc::default() }
    }

    /// The user that its sessions are logged in as.
    #[must_use]
    pub fn user(&self) -> &'static str {
        super::memory::USER
    }

    /// Takes the file for this process. `false`: another process has it.
    ///
    /// # Errors
    /// As [`SqliteBroker::connect`].
    pub async fn take(&self) -> Result<bool, BrokerError> {
        let mut own = self.own.lock().await;
        if own.is_none() {
            *own = self.open().await?;
        }
        Ok(own.is_some())
    }

    /// Every message that waits in a queue, with the queue's name; none where another process has
    /// the file.
    pub async fn waiting(&self) -> Vec<(String, Message)> {
        self.own.lock().await.as_ref().map_or_else(Vec::new, |own| own.broker.waiting())
    }

    /// Deletes the file of this process, with all that stands beside it. All sessions must have
    /// ended before. `false`: another process has the file, or a session still uses it.
    ///
    /// # Errors
    /// [`BrokerError::File`] where it cannot be deleted.
    pub async fn delete(self) -> Result<bool, BrokerError> {
        let own = self.own.lock().await.take();
        let store = match own {
            Some(Own { broker, released, server }) => {
                drop((broker, server));
                // The lock comes with it: a process that waits for the file finds it deleted.
                timeout(self.options.call_timeout, released).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        let path = self.options.path.clone();
        let deleted = tokio::task::spawn_blocking(move || {
            // A writer that has failed has given the lock up.
            let store = store.map_or_else(|| Store::open(&path, IfMissing::Fail), |store| Ok(Some(store)))?;
            store.map_or(Ok(false), |store| store.delete().map(|()| true))
        });
        deleted.await.map_err(|error| BrokerError::Lost(error.to_string()))?
    }

    /// A new session: in this process where the file is its own, else with the process that has it.
    ///
    /// # Errors
    /// [`BrokerError::File`] where the file cannot be used.
    pub async fn connect(&self) -> Result<Session, BrokerError> {
        let session = self.open_session().await?;
        if let Some(topology) = &self.options.topology {
            session.link().declare(topology).await?;
        }
        Ok(session)
    }

    async fn open_session(&self) -> Result<Session, BrokerError> {
        let options = &*self.options;
        let path = &options.path;
        let until = Instant::now() + options.connect_timeout;
        let time_outs = TimeOuts {
            welcome: options.connect_timeout / 2,
            call: options.call_timeout,
            confirm: options.confirm_timeout,
            heartbeat: options.heartbeat,
        };
        let mut own = self.own.lock().await;
        loop {
            // A store that has failed is opened anew.
            if own.as_ref().is_some_and(|own| !own.broker.is_reachable()) {
                *own = None;
            }
            if own.is_none() {
                *own = self.open().await?;
            }
            if let Some(Own { broker, .. }) = &*own {
                return broker.named(&options.connection_name).connect().await;
            }
            let socket = beside(path, "-sock");
            let error = match client::connect(&socket, &options.connection_name, time_outs).await {
                Ok(session) => {
                    if let Ok(session) = &session {
                        self.take_over_file(session.closed.clone());
                    }
                    return session;
                }
                Err(error) => error,
            };
            if error.kind() == io::ErrorKind::TimedOut || Instant::now() >= until {
                return Err(store::passing(
                    path,
                    format!(
                        "another process has the file, and does not answer at {}: {error}. `fuser {}` names it: resume or restart it",
                        socket.display(),
                        beside(path, "-lock").display()
                    ),
                ));
            }
            sleep(AGAIN).await;
        }
    }

    /// Takes the file as soon as the process that has it ends. Short commands would
    /// otherwise take it again and again before a process that stays makes its next session.
    fn take_over_file(&self, closed: CloseSignal) {
        let (options, own) = (Arc::clone(&self.options), Arc::downgrade(&self.own));
        tokio::spawn(async move {
            closed.ended().await;
            let until = Instant::now() + TAKEOVER_TIMEOUT;
            // The socket of a process that ends can be closed before the lock.
            while Instant::now() < until {
                // A broker that nobody uses any more takes no file.
                let Some(own) = own.upgrade() else { return };
                let broker = Self { options: Arc::clone(&options), own };
                let mut own = broker.own.lock().await;
                if own.is_some() {
                    return;
                }
                match broker.open().await {
                    Ok(Some(opened)) => *own = Some(opened),
                    Ok(None) => {}
                    // The error occurs again with the next session, which reports it.
                    Err(_) => return,
                }
                drop(own);
                drop(broker);
                sleep(AGAIN).await;
            }
        });
    }

    /// Takes the file, unless another process has it.
    async fn open(&self) -> Result<Option<Own>, BrokerError> {
        let (options, linger) = (Arc::clone(&self.options), self.options.linger.span());
        let opened =
            tokio::task::spawn_blocking(move || match Store::open(&options.path, options.if_missing)? {
                Some(store) => store.into_broker(linger).map(Some),
                None => Ok(None),
            });
        let opened = opened.await.map_err(|error| BrokerError::Lost(error.to_string()))??;
        let Some((broker, released)) = opened else { return Ok(None) };
        let socket = beside(&self.options.path, "-sock");
        let listener = listen(&socket).map_err(|error| {
            store::unfit(&self.options.path, format!("cannot listen at {}: {error}", socket.display()))
        })?;
        let serving = server::serve(listener, socket, broker.store_side());
        let server = AbortOnDropHandle::new(tokio::spawn(serving));
        tracing::info!(path = %self.options.path.display(), "this process owns the queue file");
        Ok(Some(Own { broker, released, server }))
    }
}

/// Which file is at a path; `None` where there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|found| (found.dev(), found.ino()))
}

/// Listens in place of a process that is gone.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let address = SocketAddress::of(socket)?;
    let unbound = UnixSocket::new_stream()?;
    // Its file has this mode from the first moment: who may connect reads every job.
    fchmod(&unbound, Mode::RUSR | Mode::WUSR)?;
    unbound.bind(address.path())?;
    unbound.listen(BACKLOG)
}

/// Longest path that a socket's address holds, in bytes.
const LONGEST_ADDRESS: usize = 107;

/// The path of a socket as an address: where it is too long, by way of its open folder.
enum SocketAddress<'a> {
    Path(&'a Path),
    Below { _folder: File, path: PathBuf },
}

impl<'a> SocketAddress<'a> {
    fn of(socket: &'a Path) -> io::Result<Self> {
        let (Some(folder), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Ok(Self::Path(socket));
        };
        if socket.as_os_str().len() <= LONGEST_ADDRESS {
            return Ok(Self::Path(socket));
        }
        let folder = File::open(folder)?;
        let path = Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name);
        Ok(Self::Below { _folder: folder, path })
    }

    fn path(&self) -> &Path {
        match self {
            Self::Path(path) => path,
            Self::Below { path, .. } => path,
        }
    }
}
