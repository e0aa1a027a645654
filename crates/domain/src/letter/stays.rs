//! Why a letter is not replayed.

use std::fmt;

/// Why a letter is left where it is, though it was chosen for a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stays {
    /// It has been replayed as often as is allowed.
    TooOften,
    /// Its deadline is over: it would fail at the door.
    TooLate,
    /// It is over the size that a worker reads, or its headers are.
    TooLarge,
    /// A ticket: its task was paid, and the API has forgotten it.
    Ticket,
    /// A solved outcome that was moved here.
    Solved,
    /// No job can be made out in it.
    NotAJob,
    /// Its properties could not be read whole: what can be made of the rest is another job.
    Unreadable,
    /// Its publisher let it expire, and nobody has said that such jobs are meant.
    Expired,
    /// A copy of it, or what became of a copy, has been published by this run.
    Repeated,
}

impl Stays {
    /// Every reason.
    pub const ALL: [Stays; 9] = [
        Stays::TooOften,
        Stays::TooLate,
        Stays::TooLarge,
        Stays::Ticket,
        Stays::Solved,
        Stays::NotAJob,
        Stays::Unreadable,
        Stays::Expired,
        Stays::Repeated,
    ];

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stays::TooOften => "max_replays",
            Stays::TooLate => "deadline_passed",
            Stays::TooLarge => "too_large",
            Stays::Ticket => "ticket",
            Stays::Solved => "solved",
            Stays::NotAJob => "not_a_job",
            Stays::Unreadable => "unreadable",
            Stays::Expired => "expired",
            Stays::Repeated => "repeated",
        }
    }
}

impl fmt::Display for Stays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stays::TooOften => "replayed as often as --max-replays allows",
            Stays::TooLate => "deadline over: would fail at once",
            Stays::TooLarge => "over 1 MiB, or its headers over 32 KiB: no worker reads it",
            Stays::Ticket => "a ticket: its task was paid, and a new one would be paid again",
            Stays::Solved => "a solved outcome, moved here from the results",
            Stays::NotAJob => "no job can be made out in it",
            Stays::Unreadable => "its properties are not UTF-8 or cannot be read: it would be another job",
            Stays::Expired => "its publisher let it expire; --code expired replays such jobs",
            Stays::Repeated => "its twin has just been published",
        })
    }
}
