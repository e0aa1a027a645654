//! The recognition API: three calls, over one pool of connections.
//!
//! [`wire`] knows bytes, [`transport`] carries them, and this puts the key in front. What a failure means for a job is judged elsewhere.

mod transport;
pub mod wire;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use url::Url;

use crate::domain::call::{Accepted, CallError, NoAnswer, TaskId, TaskState};
pub use transport::{Http, MAX_REPLY, RawReply, Transport, TransportError};

/// Longest text of an error that is passed on, in characters.
const MAX_TEXT: usize = 500;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Settings of the client.
#[derive(Debug, Clone)]
pub struct SolverOptions {
    /// Where the API is; its methods are added to the path.
    pub base_url: Url,
    /// The account's key. Nothing is read into it but that it is not empty.
    pub api_key: SecretString,
    /// Time for name, connection and TLS.
    pub connect_timeout: Duration,
    /// Time for a whole call, its body included.
    pub request_timeout: Duration,
    /// Calls at once.
    pub max_connections: usize,
    /// Whether plain HTTP may be used beyond this machine.
    pub allow_plain_http: bool,
}

/// Settings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolverConfigError {
    /// The key would travel in clear.
    #[error(
        "solver.base_url: plain http is for loopback only, since the key travels in the body; use https, or set solver.allow_plain_http"
    )]
    PlainHttp,
    /// Not HTTP.
    #[error("solver.base_url: must be an http or https URL with a host")]
    Scheme,
    /// A password in a URL ends up in logs.
    #[error("solver.base_url: must not hold a user name or password")]
    Userinfo,
    /// No key.
    #[error("solver.api_key: must not be empty")]
    NoKey,
    /// The HTTP client could not be made.
    #[error("the HTTP client could not be made: {0}")]
    Client(String),
}

/// A client of the API. Clones share the pool and the key.
#[derive(Clone)]
pub struct Solver {
    shared: Arc<Shared>,
}

struct Shared {
    transport: Box<dyn Transport>,
    /// Each request's first bytes, with the key already written as JSON.
    opening: RwLock<Arc<Opening>>,
    calls: Semaphore,
}

struct Opening {
    json: SecretString,
    key: SecretString,
}

/// Shows nothing of the key.
impl fmt::Debug for Solver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Solver").finish_non_exhaustive()
    }
}

impl Opening {
    fn new(key: SecretString) -> Result<Self, SolverConfigError> {
        if key.expose_secret().is_empty() {
            return Err(SolverConfigError::NoKey);
        }
        Ok(Self { json: wire::opening(key.expose_secret()).into(), key })
    }

    /// The error without the key, should the API have repeated it in its text, and with its texts bounded.
    fn mask(&self, error: CallError) -> CallError {
        let key = self.key.expose_secret();
        let clean = |text: String| text.replace(key, "***").chars().take(MAX_TEXT).collect::<String>();
        match error {
            CallError::Refused(mut refusal) => {
                refusal.code = refusal.code.map(clean);
                refusal.description = refusal.description.map(clean);
                CallError::Refused(refusal)
            }
            CallError::NoAnswer { kind, status, detail } => {
                CallError::NoAnswer { kind, status, detail: clean(detail) }
            }
            CallError::NeverSent(detail) => CallError::NeverSent(clean(detail)),
        }
    }
}

impl Solver {
    /// A client over HTTP.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(options: &SolverOptions) -> Result<Self, SolverConfigError> {
        let transport = transport::Http::new(options)?;
        Self::with_transport(options.api_key.clone(), options.max_connections, Box::new(transport))
    }

    /// A client whose calls are carried by something else.
    ///
    /// # Errors
    /// An empty key.
    pub fn with_transport(
        api_key: SecretString,
        max_calls: usize,
        transport: Box<dyn Transport>,
    ) -> Result<Self, SolverConfigError> {
        let opening = RwLock::new(Arc::new(Opening::new(api_key)?));
        Ok(Self { shared: Arc::new(Shared { transport, opening, calls: Semaphore::new(max_calls.max(1)) }) })
    }

    /// Uses another key from the next call on.
    ///
    /// # Errors
    /// An empty key; the old one stays in use.
    pub fn replace_key(&self, key: SecretString) -> Result<(), SolverConfigError> {
        let opening = Arc::new(Opening::new(key)?);
        *self.shared.opening.write().unwrap_or_else(PoisonError::into_inner) = opening;
        Ok(())
    }

    /// createTask. The task goes out byte for byte.
    ///
    /// # Errors
    /// A refusal, or no answer.
    pub async fn create_task(&self, task: &RawValue) -> Result<Accepted, CallError> {
        self.call("createTask", Some(("task", task.get())), wire::created).await
    }

    /// getTaskResult.
    ///
    /// # Errors
    /// A refusal, or no answer.
    pub async fn task_state(&self, id: &TaskId) -> Result<TaskState, CallError> {
        self.call("getTaskResult", Some(("taskId", id.as_json())), wire::task_state).await
    }

    /// getBalance, in the account's currency.
    ///
    /// # Errors
    /// A refusal, or no answer.
    pub async fn balance(&self) -> Result<f64, CallError> {
        self.call("getBalance", None, wire::balance).await
    }

    async fn call<T>(
        &self,
        method: &'static str,
        field: Option<(&str, &str)>,
        read: fn(u16, Option<Duration>, &[u8]) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let opening = Arc::clone(&self.shared.opening.read().unwrap_or_else(PoisonError::into_inner));
        let body = wire::request(opening.json.expose_secret(), field);
        let _place = self.shared.calls.acquire().await;
        let end = match self.shared.transport.post(method, body).await {
            Ok(reply) => read(reply.status, reply.retry_after, &reply.body),
            Err(error) => Err(unanswered(error)),
        };
        end.map_err(|error| opening.mask(error))
    }
}

fn unanswered(error: TransportError) -> CallError {
    let detail = error.to_string();
    let kind = match error {
        TransportError::NeverSent(_) => return CallError::NeverSent(detail),
        TransportError::TimedOut => NoAnswer::TimedOut,
        TransportError::Cut(_) => NoAnswer::Cut,
        TransportError::TooLong => NoAnswer::TooLong,
    };
    CallError::NoAnswer { kind, status: None, detail }
}
