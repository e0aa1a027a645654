//! The queue of a batch: the embedded broker, over a file beside the output. It holds the jobs that
//! are under way, and their outcomes until these are in the output.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::lines::{IdHashes, id_hash};
use crate::broker::sqlite::{IfMissing, SqliteBroker};
use crate::broker::topology::Names;
use crate::broker::{Broker, Session};
use crate::cli::{CommandError, connect};
use crate::config::Settings;
use crate::domain::class::Class;
use crate::domain::message::Message;
use crate::linger::Linger;

/// The queue, which this process has.
pub(super) struct BatchQueue {
    pub(super) path: PathBuf,
    broker: SqliteBroker,
    pub(super) names: Names,
}

/// A job that the queue holds.
#[derive(Debug)]
pub(super) struct QueuedJob {
    /// By what its id is recognised.
    pub(super) id_hash: Option<u64>,
    /// Of its message.
    pub(super) bytes: usize,
}

/// The line that a message is about. Every message that follows a job carries it on.
pub(super) fn line_of(message: &Message) -> Option<u64> {
    message.properties.correlation_id.as_ref()?.parse().ok()
}

impl BatchQueue {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be used, or another process has it.
    pub(super) async fn open(
        path: PathBuf,
        output: &Path,
        settings: &Settings,
        name: &str,
    ) -> Result<Self, CommandError> {
        let linger = Linger::every(settings.worker.linger);
        let broker = connect::queue_file(settings, &path, (IfMissing::Make, true), name, linger);
        let taken = broker.take().await.map_err(|error| match error {
            error if error.is_passing() => error.into(),
            unfit => CommandError::Usage(unfit.to_string()),
        });
        if !taken? {
            return Err(CommandError::Usage(format!(
                "another process has '{}': a batch with this --out, or a command that looks at its queue. Wait for its end, or choose another --out ({})",
                path.display(),
                output.display()
            )));
        }
        Ok(Self { path, broker, names: Names::new(&settings.broker.namespace) })
    }

    /// The broker, for sessions.
    pub(super) fn broker(&self) -> Broker {
        Broker::Sqlite(self.broker.clone())
    }

    /// Removes the dead letters of class `account`: a refused key says nothing about a job, so the
    /// job is published again.
    pub(super) async fn drop_account_letters(&self, session: &Session) -> Result<(), CommandError> {
        let queue = self.names.dead(Class::Account);
        while let Some(letter) = session.link().get(&queue).await? {
            let _ = letter.receipt.ack();
        }
        Ok(())
    }

    /// The jobs that it holds, by line. Before anybody consumes from it.
    ///
    /// # Errors
    /// It holds something else.
    pub(super) async fn jobs(&self, done: &IdHashes) -> Result<BTreeMap<u64, QueuedJob>, CommandError> {
        let (mut jobs, malformed) = (BTreeMap::new(), self.names.dead(Class::Malformed));
        for (queue, message) in self.waiting().await {
            let Some(line) = line_of(&message) else {
                return Err(CommandError::Failed(format!(
                    "queue '{queue}' in '{}' holds a message that is of no batch, or broker.namespace is another one than before",
                    self.path.display()
                )));
            };
            // Where both a job and its successor are there, one process was killed in between.
            if done.get(line).is_none() {
                // Admission may not know the id of what it refuses.
                let id = message.properties.message_id.as_deref().filter(|_| queue != malformed);
                let id_hash = id.map(id_hash);
                jobs.insert(line, QueuedJob { id_hash, bytes: message.body.len() });
            }
        }
        Ok(jobs)
    }

    /// How many paid tasks wait in it for their next poll.
    pub(super) async fn tickets(&self) -> usize {
        let tickets = self.names.tickets();
        self.waiting().await.iter().filter(|(queue, _)| *queue == tickets).count()
    }

    /// All messages but the guard's record.
    async fn waiting(&self) -> Vec<(String, Message)> {
        let guard = self.names.guard();
        let mut waiting = self.broker.waiting().await;
        waiting.retain(|(queue, _)| *queue != guard);
        waiting
    }

    /// Deletes it. All sessions must have ended.
    pub(super) async fn delete(self) -> Result<(), CommandError> {
        let Self { path, broker, .. } = self;
        if broker.delete().await? {
            return Ok(());
        }
        Err(CommandError::Failed(format!(
            "the batch is complete, but '{0}' is still in use and is left: delete '{0}' and what stands beside it",
            path.display()
        )))
    }
}
