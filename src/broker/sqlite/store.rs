//! The file: its schema, what is read from it at the start, and the thread that writes to it.

use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, ErrorCode, OpenFlags, params};
use rustix::fs::{statfs, statvfs};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::{IfMissing, identity};
use crate::broker::BrokerError;
use crate::broker::memory::MemoryBroker;
use crate::broker::memory::journal::{Change, Wake};
use crate::broker::memory::queue::Reason;
use crate::broker::memory::restore::{Kept, KeptMessage, StoreSide};
use crate::broker::topology::{Binding, Exchange, Queue, Topology};
use crate::domain::message::Message;

/// Marks the file as ours: "capw" in ASCII.
const APPLICATION_ID: i32 = 0x6361_7077;
/// The schema's number in the file. Each migration takes it from its own place to the next one.
const SCHEMA: i32 = 2;
const MIGRATIONS: [&str; SCHEMA as usize] = [
    "
    CREATE TABLE exchanges (name TEXT PRIMARY KEY, kind TEXT NOT NULL, arguments TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE queues (name TEXT PRIMARY KEY, arguments TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE bindings (
        exchange TEXT NOT NULL, routing_key TEXT NOT NULL, queue TEXT NOT NULL,
        PRIMARY KEY (exchange, routing_key, queue)
    ) WITHOUT ROWID;
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY, queue TEXT NOT NULL, exchange TEXT NOT NULL, routing_keys TEXT NOT NULL,
        expires_at_ms INTEGER, properties TEXT NOT NULL, body BLOB NOT NULL
    );
    -- Apart, since a row is written whole: a delivery must not write the body once more.
    CREATE TABLE deliveries (message INTEGER PRIMARY KEY, count INTEGER NOT NULL);
",
    // Why a message is a dead letter that no queue has taken so far.
    "ALTER TABLE deliveries ADD COLUMN died TEXT;",
];
/// Free space that messages leave, so that acks can still be written. In bytes.
const RESERVE: u64 = 6 << 20;
/// How often a message is on the disk for a while: in the log, and in the file.
const COPIES: u64 = 2;
/// Free pages in the file, past which they are given back to the file system. Of 4 KiB.
const MOST_FREE_PAGES: i64 = 4_096;
/// Pages that are given back at once.
const GIVE_BACK: u32 = 1_024;
/// Between two bits that are given back while nothing else is to be done.
const BETWEEN_BITS: Duration = Duration::from_millis(1);
/// So many batches are written between two checks of the free pages.
const TIDY_EVERY: u64 = 256;
/// Without a batch for so long, the write-ahead log is emptied.
const IDLE: Duration = Duration::from_secs(1);

/// The file, open and locked for this process.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    database: Connection,
    // Held for as long as the database is open.
    lock: File,
    short_of_space: bool,
}

/// The path of what stands beside a file, under its name and this suffix.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// It cannot be used, until somebody changes something.
pub(super) fn unfit(path: &Path, reason: impl Display) -> BrokerError {
    BrokerError::File { path: path.display().to_string(), reason: reason.to_string(), is_passing: false }
}

/// It cannot be used now, and another try can find it well.
pub(super) fn passing(path: &Path, reason: impl Display) -> BrokerError {
    BrokerError::File { path: path.display().to_string(), reason: reason.to_string(), is_passing: true }
}

/// Whether another host may have the file without any lock that keeps it out: by the magic number
/// of its file system, as statfs(2) has it. What runs in user space can be a disk or a network.
fn is_shared_by_hosts(magic: u32) -> bool {
    const NFS: u32 = 0x6969;
    const SMB: u32 = 0x517B;
    const SMB2: u32 = 0xFE53_4D42;
    const CIFS: u32 = 0xFF53_4D42;
    const CEPH: u32 = 0x00C3_6400;
    const AFS: u32 = 0x5346_414F;
    const P9: u32 = 0x0102_1997;
    const LUSTRE: u32 = 0x0BD0_0BD0;
    const FUSE: u32 = 0x6573_5546;
    matches!(magic, NFS | SMB | SMB2 | CIFS | CEPH | AFS | P9 | LUSTRE | FUSE)
}

/// An error of SQLite as the broker's.
fn failed(path: &Path, error: &rusqlite::Error) -> BrokerError {
    match error.sqlite_error_code() {
        // In the log's own files a full disk shows as a failed write.
        Some(ErrorCode::SystemIoFailure) if free_bytes(path) == 0 => failed_for_space(path),
        Some(ErrorCode::SystemIoFailure) => passing(path, format!("the disk fails: {error}")),
        Some(ErrorCode::DiskFull) => failed_for_space(path),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            passing(path, "another program has the file open: close it")
        }
        Some(ErrorCode::NotADatabase) => unfit(path, "the file is not an SQLite database: name another one"),
        Some(ErrorCode::DatabaseCorrupt) => unfit(
            path,
            "the file is damaged: copy it, and save what can be read with `sqlite3 FILE .recover`, or begin with a new file",
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => unfit(
            path,
            format!(
                "this user may not write it, or its folder ({error}): give the user the folder, or name another file"
            ),
        ),
        _ => unfit(path, error),
    }
}

impl Store {
    /// Opens the file. `None`: another process has it.
    pub(super) fn open(path: &Path, if_missing: IfMissing) -> Result<Option<Self>, BrokerError> {
        let Some(lock) = lock(path, if_missing)? else { return Ok(None) };
        let database = open_database(path).map_err(|error| failed(path, &error))?;
        let mut store = Self { path: path.to_owned(), database, lock, short_of_space: false };
        store.migrate()?;
        Ok(Some(store))
    }

    /// Deletes the file with all that stands beside it, and then gives the lock back.
    pub(super) fn delete(self) -> Result<(), BrokerError> {
        let Self { path, database, lock, .. } = self;
        // SQLite deletes its log with the close.
        drop(database);
        for suffix in ["-wal", "", "-sock", "-lock"] {
            match fs::remove_file(beside(&path, suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(unfit(&path, format!("cannot delete '{suffix}': {error}")));
                }
                _ => {}
            }
        }
        drop(lock);
        Ok(())
    }

    /// Brings the schema of an earlier version up to date; refuses that of a later one.
    fn migrate(&mut self) -> Result<(), BrokerError> {
        let path = self.path.clone();
        let fail = |error| failed(&path, &error);
        let number =
            |pragma: &str| self.database.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
        let (id, version) = (number("application_id").map_err(fail)?, number("user_version").map_err(fail)?);
        let is_new = id == 0 && version == 0 && number("schema_version").map_err(fail)? == 0;
        if id != APPLICATION_ID && !is_new {
            return Err(unfit(&path, "the file is an SQLite database of another program: name another file"));
        }
        let done = usize::try_from(version).unwrap_or_default();
        if done > MIGRATIONS.len() {
            return Err(unfit(
                &path,
                format!(
                    "a later version of captcha-worker wrote it (schema {version}; this one knows {SCHEMA}): update this one"
                ),
            ));
        }
        // Now that it is known to be ours.
        prepare_for_writing(&self.database).map_err(fail)?;
        if done == MIGRATIONS.len() {
            return Ok(());
        }
        let change = self.database.transaction().map_err(fail)?;
        for migration in &MIGRATIONS[done..] {
            change.execute_batch(migration).map_err(fail)?;
        }
        change.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail)?;
        change.pragma_update(None, "user_version", SCHEMA).map_err(fail)?;
        change.commit().map_err(fail)
    }

    /// The broker with what the file holds. A thread of its own writes what changes from now on,
    /// and gives the store back when the broker is gone.
    pub(super) fn into_broker(
        mut self,
        linger: Duration,
    ) -> Result<(MemoryBroker, oneshot::Receiver<Self>), BrokerError> {
        let kept = self.read()?;
        let (wake, woken) = mpsc::channel();
        let (release, released) = oneshot::channel();
        // Refused where the writer has failed; then the sessions have ended.
        let wake = Box::new(move |what| drop(wake.send(what)));
        let broker = MemoryBroker::restored(kept, wake);
        let (side, path) = (broker.store_side(), self.path.clone());
        self.look_at_space(&side);
        thread::Builder::new()
            .name("queue-writer".to_owned())
            .spawn(move || {
                if let Some(store) = self.serve(&side, &woken, linger) {
                    // Where nobody waits for it, the file is closed here.
                    let _ = release.send(store);
                }
            })
            .map_err(|error| unfit(&path, format!("cannot start its writer: {error}")))?;
        Ok((broker, released))
    }

    fn read(&self) -> Result<Kept, BrokerError> {
        let topology = Topology {
            exchanges: self
                .rows("SELECT name, kind, arguments FROM exchanges", |row| {
                    let kind: String = row.get(1)?;
                    Ok((
                        row.get(0)?,
                        from_json(&format!("\"{kind}\""), 1)?,
                        from_json(&row.get::<_, String>(2)?, 2)?,
                    ))
                })?
                .into_iter()
                .map(|(name, kind, arguments)| Exchange { name, kind, arguments })
                .collect(),
            queues: self.rows("SELECT name, arguments FROM queues", |row| {
                Ok(Queue { name: row.get(0)?, arguments: from_json(&row.get::<_, String>(1)?, 1)? })
            })?,
            bindings: self.rows("SELECT exchange, queue, routing_key FROM bindings", |row| {
                Ok(Binding { exchange: row.get(0)?, queue: row.get(1)?, routing_key: row.get(2)? })
            })?,
        };
        let now = unix_millis();
        let messages = self.rows(
            "SELECT id, queue, exchange, routing_keys, expires_at_ms, properties, body, coalesce(count, 0), died
             FROM messages LEFT JOIN deliveries ON message = id ORDER BY id",
            |row| {
                let expires: Option<i64> = row.get(4)?;
                let left = |at: i64| Duration::from_millis(u64::try_from(at - now).unwrap_or_default());
                let message = Message {
                    body: row.get::<_, Vec<u8>>(6)?.into(),
                    properties: from_json(&row.get::<_, String>(5)?, 5)?,
                    transient: false,
                };
                Ok(KeptMessage {
                    id: u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default(),
                    queue: row.get(1)?,
                    message,
                    exchange: row.get(2)?,
                    keys: from_json(&row.get::<_, String>(3)?, 3)?,
                    lives_for: expires.map(left),
                    deliveries: row.get(7)?,
                    died: row.get::<_, Option<String>>(8)?.as_deref().and_then(Reason::named),
                })
            },
        )?;
        Ok(Kept { topology, messages })
    }

    fn rows<T>(
        &self,
        query: &str,
        read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, BrokerError> {
        let rows = self.database.prepare(query).and_then(|mut query| query.query_map([], read)?.collect());
        rows.map_err(|error| failed(&self.path, &error))
    }

    /// Writes one batch after another until the broker is gone. `None`: one could not be written.
    fn serve(mut self, side: &StoreSide, woken: &mpsc::Receiver<Wake>, linger: Duration) -> Option<Self> {
        let mut written = 0_u64;
        let (mut idle, mut idle_for) = (false, IDLE);
        loop {
            // Nothing to do and nothing to check: it sleeps until the next change.
            let wake = if idle { woken.recv().map_err(Into::into) } else { woken.recv_timeout(idle_for) };
            let wake = match wake {
                // What is urgent, or the end, cuts the linger short.
                Ok(Wake::Soon) => Ok(woken.recv_timeout(linger).unwrap_or(Wake::Soon)),
                other => other,
            };
            let (batch, last) = match wake {
                Ok(Wake::Last(batch)) => (batch, true),
                Ok(Wake::Batch | Wake::Soon) => match side.take() {
                    Some(batch) => (batch, false),
                    None => continue,
                },
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    // A bit at a time: the next change must not wait long.
                    let tidied = match self.give_back() {
                        Ok(true) => {
                            idle_for = BETWEEN_BITS;
                            continue;
                        }
                        Ok(false) => self.empty_log(),
                        Err(error) => Err(error),
                    };
                    self.warn(tidied);
                    idle = true;
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return Some(self),
            };
            (idle, idle_for) = (false, IDLE);
            if let Err(error) = self.write(&batch.changes) {
                let error = failed(&self.path, &error).to_string();
                tracing::error!(
                    error,
                    "cannot write the queue file: all sessions end; what was not confirmed may be lost"
                );
                side.failed(batch, &error);
                return None;
            }
            // Before the publishers go on.
            self.look_at_space(side);
            side.stored(batch);
            written += 1;
            if last {
                return Some(self);
            }
            if written.is_multiple_of(TIDY_EVERY) {
                let given_back = self.give_back();
                self.warn(given_back.map(drop));
            }
        }
    }

    fn warn(&self, tidied: rusqlite::Result<()>) {
        if let Err(error) = tidied {
            tracing::warn!(%error, path = %self.path.display(), "cannot compact the queue file");
        }
    }

    /// Notes how much room there is for further messages.
    fn look_at_space(&mut self, side: &StoreSide) {
        let free = free_bytes(&self.path);
        let room = free.saturating_sub(RESERVE) / COPIES;
        let refused = side.set_room(room);
        if refused && !self.short_of_space {
            tracing::error!(
                free_bytes = free,
                "the disk of the queue file is nearly full: messages are refused until there is space"
            );
            self.short_of_space = true;
        } else if self.short_of_space && room > RESERVE {
            tracing::info!("the disk of the queue file has space again");
            self.short_of_space = false;
        }
    }

    /// Writes changes as one transaction, which is on the disk when this returns.
    fn write(&mut self, changes: &[Change]) -> rusqlite::Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let now = unix_millis();
        let transaction = self.database.transaction()?;
        for change in changes {
            match change {
                Change::Put { id, queue, routed, lives_for } => {
                    let expires = lives_for
                        .map(|left| now.saturating_add(i64::try_from(left.as_millis()).unwrap_or(i64::MAX)));
                    transaction
                        .prepare_cached("INSERT INTO messages VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                        .execute(params![
                        row_id(*id),
                        queue,
                        routed.exchange,
                        to_json(&routed.keys)?,
                        expires,
                        to_json(&routed.message.properties)?,
                        &routed.message.body[..],
                    ])?;
                }
                Change::Delivered { id } => {
                    transaction
                        .prepare_cached(
                            "INSERT INTO deliveries (message, count) VALUES (?1, 1) ON CONFLICT DO UPDATE SET count = count + 1",
                        )?
                        .execute([row_id(*id)])?;
                }
                Change::Stalled { id, reason } => {
                    transaction
                        .prepare_cached(
                            "INSERT INTO deliveries VALUES (?1, 0, ?2) ON CONFLICT DO UPDATE SET died = excluded.died",
                        )?
                        .execute(params![row_id(*id), reason.name()])?;
                }
                Change::Removed { id } => {
                    transaction
                        .prepare_cached("DELETE FROM messages WHERE id = ?1")?
                        .execute([row_id(*id)])?;
                    transaction
                        .prepare_cached("DELETE FROM deliveries WHERE message = ?1")?
                        .execute([row_id(*id)])?;
                }
                Change::Exchange(Exchange { name, kind, arguments }) => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO exchanges VALUES (?1, ?2, ?3)",
                        params![name, kind.name(), to_json(arguments)?],
                    )?;
                }
                Change::Queue(Queue { name, arguments }) => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO queues VALUES (?1, ?2)",
                        params![name, to_json(arguments)?],
                    )?;
                }
                Change::Binding(Binding { exchange, queue, routing_key }) => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO bindings VALUES (?1, ?2, ?3)",
                        params![exchange, routing_key, queue],
                    )?;
                }
            }
        }
        transaction.commit()
    }

    /// Gives some free pages back to the file system. Returns whether there are more.
    fn give_back(&mut self) -> rusqlite::Result<bool> {
        let free = |database: &Connection| {
            database.pragma_query_value(None, "freelist_count", |row| row.get::<_, i64>(0))
        };
        let before = free(&self.database)?;
        if before <= MOST_FREE_PAGES {
            return Ok(false);
        }
        {
            // Each step of the statement gives one page back.
            let vacuum = format!("PRAGMA incremental_vacuum({GIVE_BACK})");
            let mut vacuum = self.database.prepare_cached(&vacuum)?;
            let mut rows = vacuum.query([])?;
            while rows.next()?.is_some() {}
        }
        let after = free(&self.database)?;
        // In a file that was begun without it, nothing is given back.
        Ok(after < before && after > MOST_FREE_PAGES)
    }

    /// Empties the write-ahead log into the file.
    fn empty_log(&mut self) -> rusqlite::Result<()> {
        self.database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }
}

/// Where that cannot be known, no message is refused for it.
fn free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(u64::MAX, |found| found.f_bavail.saturating_mul(found.f_frsize))
}

/// The right to use the file: no other process of this host has it. `None`: another one has.
fn lock(path: &Path, if_missing: IfMissing) -> Result<Option<File>, BrokerError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let found = statfs(folder).map_err(|error| unfit(path, format!("its folder: {error}")))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a magic number of 32 bits")]
    if is_shared_by_hosts(found.f_type as u32) {
        return Err(unfit(
            path,
            "it is on a network file system, or on one in user space (FUSE), whose locks may not keep other hosts out: use a local disk, or RabbitMQ for several hosts",
        ));
    }
    // Before anything is made beside it.
    let is_absent = || if_missing == IfMissing::Fail && identity(path).is_none();
    let absent = || {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        unfit(
            path,
            format!(
                "there is no file {}: correct the path; `run`, `publish` and `topology declare` make one",
                whole.display()
            ),
        )
    };
    if is_absent() {
        return Err(absent());
    }
    let own = |path: &Path| {
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
    };
    let denied = |error: io::Error| match error.kind() {
        io::ErrorKind::StorageFull => failed_for_space(path),
        _ => unfit(
            path,
            format!(
                "this user cannot write it, or its folder ({error}): give the user the folder, or name another file"
            ),
        ),
    };
    let lock = own(&beside(path, "-lock")).map_err(denied)?;
    match lock.try_lock() {
        // Somebody has deleted it between: the next process would lock another one.
        Ok(()) if !is_at(&lock, &beside(path, "-lock")) => return Ok(None),
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Ok(None),
        Err(fs::TryLockError::Error(error)) => {
            return Err(unfit(path, format!("the file system has no locks ({error}): use a local disk")));
        }
    }
    if is_absent() {
        // Deleted since, with the lock that was there.
        let _ = fs::remove_file(beside(path, "-lock"));
        return Err(absent());
    }
    // SQLite would make it readable for everybody.
    own(path).map_err(denied)?;
    Ok(Some(lock))
}

/// Whether a file is the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    file.metadata().is_ok_and(|own| identity(path) == Some((own.dev(), own.ino())))
}

fn failed_for_space(path: &Path) -> BrokerError {
    passing(path, "the disk is full: free some space")
}

fn open_database(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let database = Connection::open_with_flags(path, flags)?;
    // Reached while the process that had the file before is still closing it.
    database.busy_timeout(Duration::from_millis(500))?;
    // No other process writes it, so it needs no shared memory for the log's index. Before anything
    // is read.
    database.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    Ok(database)
}

/// How it is written. Changes the file.
fn prepare_for_writing(database: &Connection) -> rusqlite::Result<()> {
    // Before the first table; without effect later.
    database.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    database.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    // A commit returns when it is on the disk.
    database.pragma_update(None, "synchronous", "FULL")?;
    database.pragma_update_and_check(None, "journal_size_limit", 8 << 20, |_| Ok(()))
}

fn row_id(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

fn unix_millis() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(text: &str, column: usize) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, error.into())
    })
}

#[cfg(test)]
mod tests {
    use super::is_shared_by_hosts;

    #[test]
    fn network_file_systems_are_refused_and_local_ones_are_not() {
        // As the system's linux/magic.h and statfs(2) have them.
        for (name, magic, is_shared) in [
            ("nfs", 0x0000_6969, true),
            ("smb", 0x0000_517B, true),
            ("smb2", 0xFE53_4D42, true),
            ("cifs", 0xFF53_4D42, true),
            ("9p", 0x0102_1997, true),
            ("ceph", 0x00C3_6400, true),
            ("fuse", 0x6573_5546, true),
            ("ext4", 0x0000_EF53, false),
            ("xfs", 0x5846_5342, false),
            ("btrfs", 0x9123_683E, false),
            ("tmpfs", 0x0102_1994, false),
            ("overlay", 0x794C_7630, false),
            ("zfs", 0x2FC1_2FC1, false),
        ] {
            assert_eq!(is_shared_by_hosts(magic), is_shared, "{name}");
        }
    }
}
