//! Why a letter is not replayed.

use std::fmt;

/// Why a letter is left where it is, though it was chosen for a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipReason {
    /// It has been replayed as often as is allowed.
    TooOften,
    /// Its deadline is over: it would fail at admission.
    TooLate,
    /// It is over the size that a worker reads, or its headers are.
    TooLarge,
    /// A ticket: its task was paid, and the API has forgotten it.
    Ticket,
    /// A solved outcome that was moved here.
    Solved,
    /// No job can be made out in it.
    RejectedMessage,
    /// Its properties could not be read whole: what can be made of the rest is another job.
    Unreadable,
    /// Its publisher let it expire, and nobody has said that such jobs are meant.
    Expired,
    /// A copy of it, or what became of a copy, has been published by this run.
    Repeated,
}

impl SkipReason {
    /// Every reason.
    pub const ALL: [SkipReason; 9] = [
        SkipReason::TooOften,
        SkipReason::TooLate,
        SkipReason::TooLarge,
        SkipReason::Ticket,
        SkipReason::Solved,
        SkipReason::RejectedMessage,
        SkipReason::Unreadable,
        SkipReason::Expired,
        SkipReason::Repeated,
    ];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            SkipReason::TooOften => "max_replays",
            SkipReason::TooLate => "deadline_passed",
            SkipReason::TooLarge => "too_large",
            SkipReason::Ticket => "ticket",
            SkipReason::Solved => "solved",
            SkipReason::RejectedMessage => "not_a_job",
            SkipReason::Unreadable => "unreadable",
            SkipReason::Expired => "expired",
            SkipReason::Repeated => "repeated",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SkipReason::TooOften => "replayed as often as --max-replays allows",
            SkipReason::TooLate => "deadline passed: it would fail at once",
            SkipReason::TooLarge => "over 1 MiB, or its headers over 32 KiB: no worker reads it",
            SkipReason::Ticket => "a ticket: its task was paid, and a new one would be paid again",
            SkipReason::Solved => "a solved outcome, moved here from the results",
            SkipReason::RejectedMessage => "it contains no job",
            SkipReason::Unreadable => {
                "its properties are not UTF-8 or cannot be read: it would be another job"
            }
            SkipReason::Expired => "its publisher let it expire; --code expired replays such jobs",
            SkipReason::Repeated => "a copy of it has just been published",
        })
    }
}
