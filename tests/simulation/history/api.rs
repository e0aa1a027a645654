//! The network between one replica and the API's stand-in, with what can happen on it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use captcha_worker::broker::memory::MemoryBroker;
use captcha_worker::domain::call::NoAnswer;
use captcha_worker::domain::guard::{Jobs, Polls};
use captcha_worker::domain::money::{Decimal, decimal};
use captcha_worker::simulator::{Reply, Simulator, Stats};
use captcha_worker::solver::{CREATE_TASK, GET_TASK_RESULT, RawReply, Transport, TransportError};
use captcha_worker::worker::WorkerHandle;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::account::Acceptance;
use super::chronicle::Chronicle;
use super::fault::{Step, Then};
use super::said::said;
use super::steps::Snares;
use super::weather::{Trouble, Weather, error};
use super::witness::{Books, open};
use crate::support::in_process::{no_answer, panics, read, within_time};

/// How long an answer takes that the API gives without looking at the call.
const AT_ONCE: Duration = Duration::from_millis(10);

/// One replica's way to the API.
pub(crate) struct FaultyTransport {
    pub(crate) replica: String,
    pub(crate) simulator: Simulator,
    pub(crate) broker: MemoryBroker,
    pub(crate) weather: Weather,
    pub(crate) books: Books,
    pub(crate) snares: Snares,
    pub(crate) chronicle: Chronicle,
    pub(crate) view: OnceLock<WorkerHandle>,
    /// The replica's process is gone: nothing that is left of it in this one reaches anybody.
    pub(crate) dead: AtomicBool,
}

impl FaultyTransport {
    fn permits(&self, path: &str) -> bool {
        let Some(view) = self.view.get() else { return true };
        let permit = view.seen().permit;
        match path {
            CREATE_TASK => permit.jobs != Jobs::None,
            GET_TASK_RESULT => permit.polls != Polls::None,
            _ => true,
        }
    }

    /// The call reaches the API; what it is about.
    fn begins(&self, path: &str, body: &Value) -> String {
        let (now, about) = (Instant::now(), about(path, body));
        let mut books = open(&self.books);
        match path {
            CREATE_TASK => books.create_begins(&self.replica, &about, now),
            GET_TASK_RESULT => books.poll_begins(&self.replica, &about, now),
            _ => {}
        }
        if !self.permits(path) {
            books.break_promise(format!("{} called {path} {about} without its guard's permit", self.replica));
        }
        about
    }

    /// What the API answers without the simulator: since it fails, or has forgotten the task.
    fn instead(&self, path: &str, about: &str) -> Option<Reply> {
        self.weather.answer(path).or_else(|| {
            let forgotten = path == GET_TASK_RESULT && open(&self.books).has_forgotten(about);
            forgotten.then(|| error("ERROR_NO_SUCH_CAPCHA_ID"))
        })
    }

    async fn call(&self, path: &'static str, body: &Bytes) -> Result<RawReply, TransportError> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let trouble = self.weather.draw();
        if trouble == Trouble::NeverSent {
            let end = Err(TransportError::NeverSent("as the history wants it".to_owned()));
            self.ends(path, &about(path, &request), None, &end);
            return end;
        }
        let about = self.begins(path, &request);
        let clock = open(&self.books).clock_of(&self.replica);
        let before = self.simulator.stats();
        let instead = self.instead(path, &about);
        let mut calling = Box::pin(async {
            match instead {
                None => self.simulator.call(path.trim_start_matches('/'), body).await,
                Some(reply) => {
                    sleep(AT_ONCE).await;
                    reply
                }
            }
        });
        // The call takes effect when it is first looked at.
        let first = futures_util::poll!(&mut calling);
        let after = self.simulator.stats();
        let accepted = (after.accepted_tasks > before.accepted_tasks).then(Instant::now);
        if let Some(at) = accepted {
            let amount = paid(&after) - paid(&before);
            open(&self.books).paid(&self.replica, &about, amount, at);
        }
        let then = self.snares.step(&self.replica, Step::Call);
        if let Some(then) = then {
            self.struck(then).await;
        }
        let answering = async {
            if let Trouble::Slow(span) = trouble {
                sleep(span).await;
            }
            let reply = match first {
                std::task::Poll::Ready(reply) => reply,
                std::task::Poll::Pending => calling.await,
            };
            let lost = trouble == Trouble::AnswerLost || then == Some(Then::Lose);
            if lost { no_answer(NoAnswer::Cut) } else { read(reply).await }
        };
        let outcome = within_time(answering).await;
        self.ends(path, &about, accepted.map(|at| (at, clock)), &outcome);
        outcome
    }

    /// Books what a call has come to, as its caller will see it. `accepted`: when, and how far the
    /// caller's clock was off as it called.
    fn ends(
        &self,
        path: &str,
        about: &str,
        accepted: Option<(Instant, i64)>,
        outcome: &Result<RawReply, TransportError>,
    ) {
        self.chronicle.record(|| {
            let end = match outcome {
                Ok(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
                Err(error) => error.to_string(),
            };
            format!("{} called {path} {about}: {end}", self.replica)
        });
        let mut books = open(&self.books);
        match path {
            CREATE_TASK => books.submission_said(&self.replica, about, said(path, outcome)),
            GET_TASK_RESULT => books.poll_said(&self.replica, about, said(path, outcome), Instant::now()),
            _ => {}
        }
        let Some((accepted_at, clock)) = accepted else { return };
        let id = outcome.as_ref().ok().and_then(|reply| {
            serde_json::from_slice::<Value>(&reply.body).ok().map(|answer| answer["taskId"].to_string())
        });
        let forgotten = self.weather.loses_this_one();
        books.answered(&self.replica, about, id, Acceptance { at: accepted_at, clock, forgotten });
    }

    /// A fault that is tied to this call.
    async fn struck(&self, then: Then) {
        open(&self.books).disturb(&self.replica);
        self.chronicle.record(|| format!("{}: in the middle of a call: {then:?}", self.replica));
        if then != Then::Lose {
            self.dead.store(then == Then::Kill, Ordering::Relaxed);
            self.broker.drop_connection(&self.replica);
        }
        self.while_alive().await;
    }

    pub(super) fn lives(&self) -> bool {
        !self.dead.load(Ordering::Relaxed)
    }

    /// Returns where the process lives, and never where it does not.
    async fn while_alive(&self) {
        if !self.lives() {
            std::future::pending::<()>().await;
        }
    }
}

/// What the API was paid, exactly.
pub(super) fn paid(stats: &Stats) -> Decimal {
    decimal(&stats.paid.to_string()).expect("an amount")
}

/// The job that a call submits, or the task that it asks for.
fn about(path: &str, body: &Value) -> String {
    match path {
        CREATE_TASK => body["task"]["job"].as_str().unwrap_or_default().to_owned(),
        GET_TASK_RESULT => body["taskId"].to_string(),
        _ => String::new(),
    }
}

impl Transport for FaultyTransport {
    fn post<'a>(
        &'a self,
        path: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(async move {
            if panics(&body) {
                // As a bug would, but without a word on the terminal for each.
                std::panic::resume_unwind(Box::new("a panic that the history wants"));
            }
            self.while_alive().await;
            let end = self.call(path, &body).await;
            self.while_alive().await;
            end
        })
    }
}
