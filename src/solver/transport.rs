//! How bytes get to the API and back: over HTTP, or by whatever a test puts in its place.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use url::{Host, Url};

use super::{BoxFuture, SolverConfigError, SolverOptions};

/// The longest reply that is read.
pub const MAX_REPLY: usize = 1024 * 1024;
/// The longest pause that the API can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A reply, not yet read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawReply {
    /// The HTTP status.
    pub status: u16,
    /// `Retry-After`, where it was given in seconds.
    pub retry_after: Option<Duration>,
    /// The body, of [`MAX_REPLY`] bytes at most.
    pub body: Bytes,
}

/// Why there is no whole reply. Texts carry neither key nor body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nothing left this machine: the name was not resolved, or connection or TLS failed.
    #[error("no connection: {0}")]
    NeverSent(String),
    /// Sent, and no whole reply within the time-out.
    #[error("no whole reply in time")]
    TimedOut,
    /// Sent, or perhaps sent, and the connection ended before the reply did.
    #[error("the connection ended early: {0}")]
    Cut(String),
    /// A reply beyond [`MAX_REPLY`].
    #[error("a reply of more than 1 MiB")]
    TooLong,
}

/// A way to make one call. It must never send a call twice by itself: a second createTask is a second payment.
pub trait Transport: Send + Sync {
    /// Sends a JSON body to a method of the API (`createTask`, `getTaskResult`, `getBalance`).
    fn post<'a>(
        &'a self,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>>;
}

/// HTTP over one pool of connections.
pub struct Http {
    client: reqwest::Client,
    base: String,
}

impl Http {
    /// A pool for the API at `options.base_url`.
    ///
    /// # Errors
    /// Settings that cannot be used.
    pub fn new(options: &SolverOptions) -> Result<Self, SolverConfigError> {
        check_base(&options.base_url, options.allow_plain_http)?;
        // An error means that a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .user_agent(concat!("captcha-worker/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .timeout(options.request_timeout)
            .pool_max_idle_per_host(options.max_connections)
            .pool_idle_timeout(IDLE_CONNECTION)
            .tcp_keepalive(KEEP_ALIVE)
            .tcp_nodelay(true)
            .no_proxy()
            // The key rides in the body, which a redirect would carry elsewhere.
            .redirect(Policy::none())
            // The default repeats a request when an HTTP/2 server says good-bye, although it may have been read.
            // What hyper itself repeats, no byte of which was written, stays safe.
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| SolverConfigError::Client(error.to_string()))?;
        let base = options.base_url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { client, base })
    }

    async fn exchange(&self, method: &str, body: Bytes) -> Result<RawReply, TransportError> {
        let request =
            self.client.post(format!("{}/{method}", self.base)).header(CONTENT_TYPE, "application/json");
        let mut reply = request.body(body).send().await.map_err(judge)?;
        let (status, retry_after) = (reply.status().as_u16(), retry_after(reply.headers()));
        let mut body = BytesMut::new();
        while let Some(chunk) = reply.chunk().await.map_err(judge)? {
            if body.len() + chunk.len() > MAX_REPLY {
                return Err(TransportError::TooLong);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(RawReply { status, retry_after, body: body.freeze() })
    }
}

impl Transport for Http {
    fn post<'a>(
        &'a self,
        method: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(self.exchange(method, body))
    }
}

/// Only a failure to connect is certain not to have been sent. The text is the innermost cause's, which names no URL.
fn judge(error: reqwest::Error) -> TransportError {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = if std::ptr::addr_eq(cause, &raw const error) {
        "request failed".to_owned()
    } else {
        cause.to_string()
    };
    if error.is_connect() {
        TransportError::NeverSent(text)
    } else if error.is_timeout() {
        TransportError::TimedOut
    } else {
        TransportError::Cut(text)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

/// The key goes out in clear over plain HTTP, so that is for this machine only, unless the operator says otherwise.
fn check_base(base: &Url, allow_plain_http: bool) -> Result<(), SolverConfigError> {
    if !base.username().is_empty() || base.password().is_some() {
        return Err(SolverConfigError::Userinfo);
    }
    let loopback = match base.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => return Err(SolverConfigError::Scheme),
    };
    match base.scheme() {
        "https" => Ok(()),
        "http" if loopback || allow_plain_http => Ok(()),
        "http" => Err(SolverConfigError::PlainHttp),
        _ => Err(SolverConfigError::Scheme),
    }
}
