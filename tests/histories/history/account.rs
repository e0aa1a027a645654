//! One job's account in the ledger.

use std::collections::{BTreeMap, BTreeSet};

use captcha_worker::domain::envelope::Message;
use captcha_worker::domain::ticket::TICKET_HEADER;
use serde_json::Value;
use tokio::time::Instant;

/// One job's account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// When its answer is no longer wanted.
    pub(crate) deadline: Option<Instant>,
    /// Copies that are on their way at once, and may each be paid for: one, and one for each window that was met.
    pub(crate) copies: u32,
    /// Calls of createTask that the API accepted.
    pub(crate) payments: u32,
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
    /// Tickets of it that were stored. With a second one two owners may poll.
    pub(crate) tickets: u32,
}

/// The task that a ticket is of.
pub(crate) fn ticket_of(message: &Message) -> Option<String> {
    let header = message.properties.headers.get(TICKET_HEADER)?.as_text()?;
    let ticket: Value = serde_json::from_str(header).ok()?;
    Some(ticket.get("task_id")?.to_string())
}
