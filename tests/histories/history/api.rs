//! The road between one replica and the API's stand-in, with what can happen on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use captcha_worker::broker::local::LocalBroker;
use captcha_worker::domain::call::NoAnswer;
use captcha_worker::domain::guard::{Jobs, Polls};
use captcha_worker::simulator::Simulator;
use captcha_worker::solver::{CREATE_TASK, GET_TASK_RESULT, RawReply, Transport, TransportError};
use captcha_worker::worker::View;
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::chronicle::Chronicle;
use super::fault::{Step, Then};
use super::in_process::{no_answer, panics, read, within_time};
use super::steps::Snares;
use super::witness::{Books, open};

/// The roads' state, for all replicas.
#[derive(Clone)]
pub(crate) struct Weather {
    rng: Arc<Mutex<StdRng>>,
    rough: Arc<Mutex<f64>>,
}

/// What happens to one call on its way.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// It never leaves.
    NeverSent,
    /// The answer is cut off.
    AnswerLost,
    /// The answer takes so long.
    Slow(Duration),
}

impl Weather {
    pub(crate) fn new(rng: StdRng) -> Self {
        Self { rng: Arc::new(Mutex::new(rng)), rough: Arc::default() }
    }

    /// This share of calls meets trouble from now on.
    pub(crate) fn set(&self, share: f64) {
        *self.rough.lock().unwrap_or_else(PoisonError::into_inner) = share;
    }

    fn draw(&self) -> Trouble {
        let share = *self.rough.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        if share == 0.0 || !rng.random_bool(share) {
            return Trouble::None;
        }
        match rng.random_range(0..4) {
            0 => Trouble::NeverSent,
            1 => Trouble::AnswerLost,
            2 => Trouble::Slow(Duration::from_secs_f64(rng.random_range(0.1..5.0))),
            _ => Trouble::Slow(Duration::from_secs_f64(rng.random_range(5.0..40.0))),
        }
    }
}

/// One replica's road.
pub(crate) struct Road {
    pub(crate) replica: String,
    pub(crate) simulator: Simulator,
    pub(crate) broker: LocalBroker,
    pub(crate) weather: Weather,
    pub(crate) books: Books,
    pub(crate) snares: Snares,
    pub(crate) chronicle: Chronicle,
    pub(crate) view: OnceLock<View>,
    /// The replica's process is gone: nothing that is left of it in this one reaches anybody.
    pub(crate) dead: AtomicBool,
}

impl Road {
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
        let now = Instant::now();
        let mut books = open(&self.books);
        let about = match path {
            CREATE_TASK => {
                let job = body["task"]["job"].as_str().unwrap_or_default().to_owned();
                books.create_begins(&self.replica, &job, now);
                job
            }
            GET_TASK_RESULT => {
                let id = body["taskId"].to_string();
                books.poll_begins(&self.replica, &id, now);
                id
            }
            _ => String::new(),
        };
        if !self.permits(path) {
            books.break_promise(format!("{} called {path} {about} without its guard's permit", self.replica));
        }
        about
    }

    async fn call(&self, path: &'static str, body: &Bytes) -> Result<RawReply, TransportError> {
        let request: Value = serde_json::from_slice(body).unwrap_or_default();
        let trouble = self.weather.draw();
        if trouble == Trouble::NeverSent {
            return Err(TransportError::NeverSent("as the history wants it".to_owned()));
        }
        let about = self.begins(path, &request);
        let paid_before = self.simulator.stats().accepted_tasks;
        let mut calling = Box::pin(self.simulator.call(path.trim_start_matches('/'), body));
        // The call takes effect when it is first looked at.
        let first = futures_util::poll!(&mut calling);
        let accepted = (self.simulator.stats().accepted_tasks > paid_before).then(Instant::now);
        if accepted.is_some() {
            open(&self.books).paid(&about);
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
        let told = within_time(answering).await;
        self.ends(path, &about, accepted, &told);
        told
    }

    /// Books what a call has come to, as its caller will see it.
    fn ends(
        &self,
        path: &str,
        about: &str,
        accepted: Option<Instant>,
        told: &Result<RawReply, TransportError>,
    ) {
        self.chronicle.tell(|| {
            let end = match told {
                Ok(reply) => format!("{} {}", reply.status, String::from_utf8_lossy(&reply.body)),
                Err(error) => error.to_string(),
            };
            format!("{} called {path} {about}: {end}", self.replica)
        });
        let Some(accepted_at) = accepted else { return };
        let id = told.as_ref().ok().and_then(|reply| {
            serde_json::from_slice::<Value>(&reply.body).ok().map(|answer| answer["taskId"].to_string())
        });
        open(&self.books).answered(about, id, accepted_at);
    }

    /// A fault that is tied to this call.
    async fn struck(&self, then: Then) {
        open(&self.books).disturb(&self.replica);
        self.chronicle.tell(|| format!("{}: in the middle of a call: {then:?}", self.replica));
        if then != Then::Lose {
            self.dead.store(then == Then::Kill, Ordering::Relaxed);
            self.broker.drop_connection(&self.replica);
        }
        self.while_alive().await;
    }

    /// Returns where the process lives, and never where it does not.
    async fn while_alive(&self) {
        if self.dead.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    }
}

impl Transport for Road {
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
