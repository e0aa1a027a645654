//! How a command ends.

use std::io::{self, Write};
use std::process::ExitCode;

use super::connect;
use crate::broker::BrokerError;
use crate::config::ConfigErrors;
use crate::domain::class::Class;

/// The program's exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: it did what it was asked to.
    Fine,
    /// 1: it failed, or what it checked is not as it should be.
    Failed,
    /// 2: the command line, its input or the settings cannot be used; nothing was begun.
    Usage,
    /// 3 to 14, of `solve`: the job failed in this class. The numbers are fixed. 11 is of `batch`
    /// too.
    Job(Class),
    /// 3, of `batch`: all jobs have ended, and some have failed.
    SomeFailed,
    /// 124, of `solve`: nobody has answered so far. The number is that of timeout(1).
    Unanswered,
    /// 130, of `solve` and `batch`: ended by a signal before all answers were there.
    Interrupted,
}

impl Exit {
    /// 0 or 1.
    pub(super) fn when(fine: bool) -> Self {
        if fine { Exit::Fine } else { Exit::Failed }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Exit::Fine => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Job(class) => match class {
                // No job ends in these two.
                Class::Pending | Class::Throttled => 1,
                Class::Capacity => 3,
                Class::Transient => 4,
                Class::Lost => 5,
                Class::Unsolved => 6,
                Class::Invalid => 7,
                Class::Forbidden => 8,
                Class::Expired => 9,
                Class::Proxy => 10,
                Class::Account => 11,
                Class::Malformed => 12,
                Class::Poison => 13,
                Class::Unknown => 14,
            },
            Exit::SomeFailed => 3,
            Exit::Unanswered => 124,
            Exit::Interrupted => 130,
        }
    }
}

impl CommandError {
    /// Options that were not typed on a command line.
    pub(super) fn usage(error: &clap::Error) -> Self {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        CommandError::Usage(line.trim_start_matches("error: ").to_owned())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Why a command could not be carried out. Texts are for people and hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(#[from] ConfigErrors),
    /// A setting that this command needs is not there.
    #[error("{0}")]
    Missing(&'static str),
    /// The arguments do not go together.
    #[error("{0}")]
    Usage(String),
    /// Something of the topology is not there.
    #[error("{kind} '{name}' does not exist: run `captcha-worker topology declare` first")]
    NotDeclared {
        /// `queue` or `exchange`.
        kind: &'static str,
        /// Full name.
        name: String,
    },
    /// The broker cannot be used.
    #[error("{text}", text = with_advice(.0))]
    Broker(BrokerError),
    /// The input cannot be opened.
    #[error("cannot read '{path}': {reason}")]
    Input {
        /// As it was given.
        path: String,
        /// The system's error.
        reason: io::Error,
    },
    /// The output cannot be written.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    /// It failed.
    #[error("{0}")]
    Failed(String),
    /// Reading or writing failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn with_advice(error: &BrokerError) -> String {
    match connect::advice(error) {
        "" => error.to_string(),
        advice => format!("{error}; {advice}"),
    }
}

impl CommandError {
    /// From any error with a text for people.
    pub(super) fn failed(error: impl ToString) -> Self {
        Self::Failed(error.to_string())
    }

    /// Prints it to stderr, and returns the exit code.
    pub(super) fn report(&self) -> Exit {
        let exit = match self {
            // The reader of the output, such as `head`, has seen enough: no reason to complain.
            CommandError::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => return Exit::Fine,
            CommandError::Settings(_)
            | CommandError::Missing(_)
            | CommandError::Usage(_)
            | CommandError::Input { .. } => Exit::Usage,
            CommandError::NotDeclared { .. }
            | CommandError::Broker(_)
            | CommandError::Output(_)
            | CommandError::Failed(_)
            | CommandError::Io(_) => Exit::Failed,
        };
        // Without anybody at stderr the exit code must do.
        let _ = writeln!(io::stderr(), "error: {self}");
        exit
    }
}

impl From<BrokerError> for CommandError {
    fn from(error: BrokerError) -> Self {
        match error {
            BrokerError::Missing { kind, name } => CommandError::NotDeclared { kind, name },
            other => CommandError::Broker(other),
        }
    }
}
