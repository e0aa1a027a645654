//! What a job has been through: it rides in a header that the worker owns, so that it survives
//! every hand-over.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::call::TaskId;
use super::class::Class;
use super::fault::{Fault, local_code};
use super::message::{Headers, Value, wire_size};
use super::money::{Cost, Decimal};
use super::publishers::MAX_NAME;
use super::time::Timestamp;
use super::unreadable;

/// Headers that begin with this are the worker's alone.
pub const OWNED_PREFIX: &str = "x-captcha-";
/// Carries the [`History`] of a job that waits in a retry queue.
pub const HISTORY_HEADER: &str = "x-captcha-history";
/// Version of the header's content.
pub const VERSION: u32 = 1;
/// Submissions of one job that are remembered; settings allow fewer.
pub const MAX_ATTEMPTS: usize = 16;
/// Bound on a publisher's own headers, in bytes. All properties of a message travel in one frame,
/// of 128 KiB by default, and the broker ends the connection over a larger one: what a job's own
/// headers leave room for must hold a ticket.
pub const MAX_PUBLISHERS_HEADERS: usize = 32 * 1024;
/// Longest code that is remembered, in bytes.
const MAX_CODE: usize = 256;
/// Bound on the header's text.
pub const MAX_HEADER: usize = 16 * 1024;

/// How a submission ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// Solved.
    Ready,
    /// Sent, and no answer: it may have been accepted.
    Ambiguous,
    /// The answer did not come, by this class.
    #[serde(untagged)]
    Failed(Class),
}

/// A submission that was, or may have been, paid.
// Its comments are the contract's descriptions: outcomes hold it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Attempt {
    /// When createTask was sent; where no answer came, when it was given up.
    pub submitted_at: Timestamp,
    /// Absent where no answer named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TaskId")]
    pub task_id: Option<TaskId>,
    /// Polls. Those of owners that died are assumed, at the most.
    pub polls: u32,
    /// ready: solved; ambiguous: sent, and no answer; else the class that it failed in.
    pub ended: Ended,
    /// What it cost, in the account's currency; absent where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "crate::outcome::Amount")]
    pub cost: Option<Decimal>,
    /// The cost is the operator's price for the type, and may not have been charged: the API has
    /// said nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    #[schemars(extend("const" = true))]
    pub estimated: bool,
}

impl Attempt {
    /// What is known of its cost.
    #[must_use]
    pub fn cost(&self) -> Option<Cost> {
        self.cost.map(|amount| Cost { amount, estimated: self.estimated })
    }

    /// The same with a cost.
    #[must_use]
    pub fn costing(self, cost: Option<Cost>) -> Self {
        let estimated = cost.is_some_and(|cost| cost.estimated);
        Self { cost: cost.map(|cost| cost.amount), estimated, ..self }
    }
}

/// What a job has been through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Version of this record.
    pub v: u32,
    /// When a worker first held the job.
    pub first_seen: Timestamp,
    /// How often it was retried.
    pub retries: u32,
    /// Its submissions so far.
    pub attempts: Vec<Attempt>,
    /// What it has spent of its retry budgets, if anything. Most jobs have not, and thousands wait
    /// at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried: Option<Box<Retried>>,
}

/// What the retries of a job have cost it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retried {
    /// What it has spent of its retry budgets, in milliseconds by class. Only time in the retry
    /// queues counts: a backlog, a tripped guard or a withheld type is not the job's fault.
    pub spent_ms: BTreeMap<Class, u64>,
    /// How often it waited without a call of its own, since createTask failed for others of its
    /// type.
    pub withheld: u32,
    /// The last code of createTask that this version does not know, where the job has met one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_code: Option<String>,
    /// Whose limit delays the job, until it has been let pass. The copy that waits cannot carry the
    /// publisher's `user_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publisher: Option<String>,
}

impl History {
    /// That of a job seen for the first time.
    #[must_use]
    pub fn begin(now: Timestamp) -> Self {
        Self { v: VERSION, first_seen: now, retries: 0, attempts: Vec::new(), retried: None }
    }

    /// When the last submission without an answer was given up, if there was one.
    #[must_use]
    pub fn unanswered_at(&self) -> Option<Timestamp> {
        let unanswered = self.attempts.iter().rev().find(|attempt| attempt.ended == Ended::Ambiguous);
        unanswered.map(|attempt| attempt.submitted_at)
    }

    /// What the job has spent of the budget of a class.
    #[must_use]
    pub fn spent(&self, class: Class) -> Duration {
        let spent = self.retried.as_ref().and_then(|retried| retried.spent_ms.get(&class));
        Duration::from_millis(spent.copied().unwrap_or(0))
    }

    /// Charges a wait to the budget of a class.
    pub fn charge(&mut self, class: Class, wait: Duration) {
        let spent = self.spent(class).saturating_add(wait);
        let spent = u64::try_from(spent.as_millis()).unwrap_or(u64::MAX);
        self.retried.get_or_insert_default().spent_ms.insert(class, spent);
    }

    /// How many submissions ended so.
    #[must_use]
    pub fn count(&self, ended: Ended) -> u32 {
        u32::try_from(self.attempts.iter().filter(|attempt| attempt.ended == ended).count())
            .unwrap_or(u32::MAX)
    }

    /// The job has met a code that is not known.
    pub fn met_unknown(&mut self, code: &str) {
        let code = code.chars().take(MAX_CODE / 4).collect();
        self.retried.get_or_insert_default().unknown_code = Some(code);
    }

    /// Counts one more wait without a call; how many there were.
    pub fn count_deferral(&mut self) -> u32 {
        let retried = self.retried.get_or_insert_default();
        retried.withheld = retried.withheld.saturating_add(1);
        retried.withheld
    }

    /// The last code of createTask that this version does not know, where the job has met one.
    #[must_use]
    pub fn unknown_code(&self) -> Option<&str> {
        self.retried.as_ref()?.unknown_code.as_deref()
    }

    /// Whose limit has delayed the job, until it has been let pass.
    #[must_use]
    pub fn delayed_for(&self) -> Option<&str> {
        self.retried.as_ref()?.publisher.as_deref()
    }

    /// The job has been let pass: it counts no more.
    pub fn let_pass(&mut self) {
        if let Some(retried) = &mut self.retried {
            retried.publisher = None;
        }
    }

    /// Reads the history off a job's headers, where it has one.
    ///
    /// It is believed only where the broker itself says that the message came out of one of the
    /// retry queues, and only within bounds.
    ///
    /// # Errors
    /// A fault that names the header: only the worker sets headers under its prefix.
    pub fn of_job(headers: &Headers, retry_prefix: &str, now: Timestamp) -> Result<Option<Self>, Fault> {
        let forged = |name: &str, why: &str| {
            Err(Fault::malformed(
                local_code::FORGED_HEADER,
                format!("header '{name}' is the worker's to set: {why}"),
            ))
        };
        if let Some(fault) = unreadable::fault_of(headers) {
            return Err(fault);
        }
        if wire_size(&publishers_headers(headers)) > MAX_PUBLISHERS_HEADERS {
            let text = format!("the headers take more than {MAX_PUBLISHERS_HEADERS} bytes");
            return Err(Fault::malformed(local_code::HEADERS_TOO_LARGE, text));
        }
        for name in headers.keys().filter(|name| name.starts_with(OWNED_PREFIX)) {
            if name != HISTORY_HEADER {
                return forged(name, "a job may not carry it");
            }
        }
        let Some(value) = headers.get(HISTORY_HEADER) else {
            return Ok(None);
        };
        if !was_retried(headers, retry_prefix) {
            return forged(HISTORY_HEADER, "the job was never retried");
        }
        let read = value.as_text().filter(|text| text.len() <= MAX_HEADER);
        match read.and_then(|text| serde_json::from_str::<History>(text).ok()) {
            Some(history) if history.is_plausible() => Ok(Some(history.no_later_than(now))),
            Some(_) => forged(HISTORY_HEADER, "its content is impossible"),
            None => forged(HISTORY_HEADER, "its content cannot be read"),
        }
    }

    /// Whether a worker can have written this.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        (1..=VERSION).contains(&self.v)
            && self.first_seen.as_millis() >= 0
            && self.attempts.len() <= MAX_ATTEMPTS
            && self.unknown_code().is_none_or(|code| code.len() <= MAX_CODE)
            && self.delayed_for().is_none_or(|publisher| publisher.len() <= MAX_NAME)
            && self.attempts.iter().all(|attempt| attempt.submitted_at.as_millis() >= 0)
    }

    /// The same as seen by a clock that lags behind the writer's: what it says of the future is
    /// taken for now, and never for a forgery, since a replica with a slow clock must not throw
    /// away what the others have paid for.
    #[must_use]
    pub fn no_later_than(mut self, now: Timestamp) -> Self {
        self.first_seen = self.first_seen.min(now);
        self
    }

    /// The header's value.
    #[must_use]
    pub fn to_header(&self) -> Value {
        // Plain data with string keys: there is nothing in it that could fail to be written.
        Value::Text(serde_json::to_string(self).unwrap_or_default())
    }
}

/// Whether the broker has dead-lettered the message out of a retry queue.
fn was_retried(headers: &Headers, retry_prefix: &str) -> bool {
    let Some(Value::Array(deaths)) = headers.get("x-death") else {
        return false;
    };
    deaths.iter().any(|death| match death {
        Value::Table(death) => {
            death.get("queue").and_then(Value::as_text).is_some_and(|queue| queue.starts_with(retry_prefix))
        }
        _ => false,
    })
}

/// The publisher's headers: without the worker's own, and without the broker's record of earlier
/// hops.
///
/// That record must not be published again: the broker would take the next hop for a cycle, and
/// drop the message. Neither must `CC` and `BCC`: RabbitMQ would copy the message to the queues
/// they name on every hop.
#[must_use]
pub fn publishers_headers(headers: &Headers) -> Headers {
    let brokers = |name: &str| {
        name == "x-death"
            || name == "x-delivery-count"
            || name == "x-acquired-count"
            || name == "CC"
            || name == "BCC"
            || name.starts_with("x-first-death-")
            || name.starts_with("x-last-death-")
    };
    headers
        .iter()
        .filter(|(name, _)| !name.starts_with(OWNED_PREFIX) && !brokers(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    fn retried(history: Value) -> Headers {
        let death = Headers::from([("queue".to_owned(), "captcha.retry.5s".into())]);
        Headers::from([
            ("x-death".to_owned(), Value::Array(vec![Value::Table(death)])),
            (HISTORY_HEADER.to_owned(), history),
        ])
    }

    fn some_history() -> History {
        let attempt = |ended| Attempt {
            submitted_at: NOW,
            task_id: None,
            polls: 3,
            ended,
            cost: None,
            estimated: false,
        };
        let attempts = vec![attempt(Ended::Failed(Class::Unsolved)), attempt(Ended::Ambiguous)];
        History { retries: 4, attempts, ..History::begin(NOW) }
    }

    fn read(headers: &Headers) -> Result<Option<History>, Fault> {
        History::of_job(headers, "captcha.retry.", NOW)
    }

    #[test]
    fn a_history_reads_back_from_a_retried_job() {
        assert_eq!(read(&retried(some_history().to_header())), Ok(Some(some_history())));
        assert_eq!(some_history().count(Ended::Failed(Class::Unsolved)), 1);
        assert_eq!(some_history().count(Ended::Failed(Class::Lost)), 0);
        assert_eq!(some_history().count(Ended::Ambiguous), 1);
    }

    #[test]
    fn a_job_without_one_begins_anew() {
        assert_eq!(read(&Headers::new()), Ok(None));
    }

    #[test]
    fn a_time_ahead_of_this_clock_is_taken_for_now() {
        let ahead = History::begin(NOW.plus(std::time::Duration::from_secs(3_600)));
        assert_eq!(read(&retried(ahead.to_header())), Ok(Some(History::begin(NOW))));
    }

    #[test]
    fn a_history_that_no_worker_wrote_is_refused_by_the_headers_name() {
        let mut never_retried = retried(some_history().to_header());
        never_retried.remove("x-death");
        let other_version = History { v: 2, ..some_history() };
        let cases = [
            never_retried,
            retried("{}".into()),
            retried(Value::Int(7)),
            retried(" ".repeat(MAX_HEADER + 1).into()),
            retried(other_version.to_header()),
            Headers::from([("x-captcha-ticket".to_owned(), "{}".into())]),
        ];
        for headers in cases {
            let fault = read(&headers).expect_err("must be refused");
            assert_eq!((fault.class, &*fault.code), (Class::Malformed, local_code::FORGED_HEADER));
            assert!(fault.description.contains("x-captcha-"), "{}", fault.description);
        }
    }

    #[test]
    fn headers_that_leave_no_room_for_a_ticket_are_refused_before_anything_is_paid() {
        let large = Headers::from([("note".to_owned(), Value::Array(vec!["x".repeat(40_000).into()]))]);
        assert_eq!(read(&large).map_err(|fault| fault.code), Err(local_code::HEADERS_TOO_LARGE.into()));
        let small = Headers::from([("note".to_owned(), "x".repeat(30_000).into())]);
        assert_eq!(read(&small), Ok(None));
    }

    #[test]
    fn a_job_whose_properties_could_not_be_read_is_refused_by_what_is_gone() {
        let text = "PROPERTIES_NOT_UTF8 correlation_id is not UTF-8: M\\xfcller";
        let headers = Headers::from([(unreadable::UNREADABLE_HEADER.to_owned(), text.into())]);
        let fault = read(&headers).expect_err("must be refused");
        assert_eq!((fault.class, &*fault.code), (Class::Malformed, local_code::PROPERTIES_NOT_UTF8));
        let forged = Headers::from([(unreadable::UNREADABLE_HEADER.to_owned(), "whatever".into())]);
        assert_eq!(read(&forged).map_err(|fault| fault.code), Err(local_code::FORGED_HEADER.into()));
    }

    #[test]
    fn a_publishers_headers_are_kept_and_the_hops_are_not() {
        let mut headers = retried(some_history().to_header());
        headers.insert("tenant".to_owned(), "blue".into());
        headers.insert("x-first-death-queue".to_owned(), "captcha.retry.5s".into());
        headers.insert("x-delivery-count".to_owned(), Value::Int(3));
        headers.insert("CC".to_owned(), Value::Array(vec!["captcha.jobs".into()]));
        assert_eq!(publishers_headers(&headers), Headers::from([("tenant".to_owned(), "blue".into())]));
    }
}
