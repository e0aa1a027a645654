//! One job's account in the ledger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use captcha_worker::domain::lane::Lane;
use captcha_worker::domain::message::Message;
use captcha_worker::domain::money::Decimal;
use captcha_worker::domain::ticket::TICKET_HEADER;
use serde_json::Value;
use tokio::time::Instant;

use super::said::Said;

/// One job's account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// Neither its script nor a deadline of its own is against it.
    pub(crate) innocent: bool,
    /// It comes by this lane.
    pub(crate) lane: Lane,
    /// The program that publishes it.
    pub(crate) publisher: &'static str,
    /// The type of its task; empty where it has none.
    pub(crate) task_type: String,
    /// When its answer is no longer wanted.
    pub(crate) deadline: Option<Instant>,
    /// The broker has stored it.
    pub(crate) published: bool,
    /// Copies that are on their way at once, and may each be paid for: one, and one for each window
    /// that was met.
    pub(crate) copies: u32,
    /// There were several at some time.
    pub(crate) doubled: bool,
    /// What it has been through.
    pub(crate) met: Met,
    /// Calls of createTask that the API accepted.
    pub(crate) payments: u32,
    /// What they cost.
    pub(crate) paid: Decimal,
    /// Those among them whose answer never came to the caller: window (a).
    pub(crate) unanswered: u32,
    /// Submissions out of the hand of a ticket's holder: window (g).
    pub(crate) resubmissions: u32,
    /// Those among them that cannot have come from a job that was in the same hand.
    pub(crate) certain_resubmissions: u32,
    /// Ends: routing key, and the solution where there is one.
    pub(crate) ends: BTreeSet<(String, Option<String>)>,
    /// How many ends were published.
    pub(crate) outcomes: u32,
    /// By replica: calls of createTask begun, successors stored, successors confirmed.
    pub(crate) by_replica: BTreeMap<String, Steps>,
}

/// What the API has said to a job's submissions, and what it has waited for that.
#[derive(Debug, Default)]
pub(crate) struct Met {
    /// A submission was answered while its replica's clock was off by more than clocks may.
    pub(crate) misdated: bool,
    /// Submissions of which nobody knows whether they were accepted.
    pub(crate) ambiguous: u32,
    /// Submissions that were refused for the key.
    pub(crate) key_refusals: u32,
    /// Time in the retry queues, by what had led there.
    pub(crate) spent: BTreeMap<Said, Duration>,
    /// What the last submission by each replica came to, until the job has gone on.
    pub(crate) last: BTreeMap<String, Said>,
}

/// What a replica has done for a job so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Steps {
    pub(crate) creates: u32,
    pub(crate) stored: u32,
    pub(crate) confirmed: u32,
    /// Deliveries lost after something was done for them, which it may know again.
    pub(crate) lost: u32,
}

/// A task that the API has accepted.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) job: String,
    pub(crate) accepted_at: Instant,
    pub(crate) last_poll: Option<Instant>,
    pub(crate) polls: u32,
    /// How long those polls were under way together.
    pub(crate) calling: Duration,
    /// Tickets of it that were stored. With a second one two owners may poll.
    pub(crate) tickets: u32,
    /// How far off the clock was that its acceptance was noted by, in ms.
    pub(crate) clock: i64,
    /// It was in the hands of somebody whose clock differs from that by more than clocks may: its
    /// age is not known to them.
    pub(crate) misdated: bool,
    /// The API knows nothing of it.
    pub(crate) forgotten: bool,
    /// Nor of any other of its time.
    pub(crate) forgotten_with_all: bool,
    /// A poll was answered so.
    pub(crate) wrong_id: bool,
    /// A poll was answered that it was not recognised.
    pub(crate) unsolved: bool,
    /// A poll was answered in a way that asks for fewer of them.
    pub(crate) slower: bool,
}

impl Task {
    /// One that was just accepted.
    pub(crate) fn new(job: &str, accepted_at: Instant, clock: i64) -> Self {
        Self {
            job: job.to_owned(),
            accepted_at,
            last_poll: None,
            polls: 0,
            calling: Duration::ZERO,
            tickets: 0,
            clock,
            misdated: false,
            forgotten: false,
            forgotten_with_all: false,
            wrong_id: false,
            unsolved: false,
            slower: false,
        }
    }
}

/// How a task came to be accepted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance {
    pub(crate) at: Instant,
    /// How far off the caller's clock was, in ms.
    pub(crate) clock: i64,
    /// The API forgets it at once.
    pub(crate) forgotten: bool,
}

/// The task that a ticket is of.
pub(crate) fn ticket_of(message: &Message) -> Option<String> {
    let header = message.properties.headers.get(TICKET_HEADER)?.as_text()?;
    let ticket: Value = serde_json::from_str(header).ok()?;
    Some(ticket.get("task_id")?.to_string())
}
