//! The transport over HTTP: one pooled client.

use std::error::Error as _;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, Proxy, Response, redirect};
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;
use url::Url;

use super::options::{SolverConfigError, SolverOptions};
use super::transport::{CREATE_TASK, GET_BALANCE, GET_TASK_RESULT, RawReply, Transport, TransportError};
use super::wire;
use crate::domain::call::NoAnswer;
use crate::tls;

/// Longest answer that is read, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// A dead peer is noticed within this time and a half, over TCP and over HTTP/2. Over HTTP/2 all
/// requests share one connection, so that a dead one would otherwise take each request to its
/// time-out.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

// A text would be copied for each call.
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// One pooled client.
pub struct HttpTransport {
    client: Client,
    // Each parsed once, not for each call.
    calls: [(&'static str, Url); 3],
    permits: Semaphore,
}

impl HttpTransport {
    /// One client for all calls. What it relies on, read in reqwest 0.13, hyper-util 0.1 and h2
    /// 0.4:
    ///
    /// * A request is repeated unseen in three cases only, in each of which the server did not take
    ///   it: hyper-util gets the request back from a pooled connection that closed *before the
    ///   request was taken from its queue*; the server answers `REFUSED_STREAM`; the server's
    ///   graceful `GOAWAY` names a last stream below ours. The latter two are reqwest's default
    ///   policy, for which RFC 9113 (8.7) promises that nothing was processed. Over HTTP/1.1, once
    ///   a byte is written there is no repeat.
    /// * `is_connect()` is true for failures of the connector alone: name, TCP, TLS, and the
    ///   time-out of these.
    /// * `timeout` runs from the call to the last byte of the body.
    ///
    /// No redirects, since the key rides in the body; no proxy from the environment, since a plain
    /// http:// request (and so the key) would be readable by it, but one that is configured.
    ///
    /// # Errors
    /// Where the client cannot be built.
    pub fn new(options: &SolverOptions) -> Result<Self, SolverConfigError> {
        // Already installed by another part is as good: it is the same provider.
        rustls::crypto::ring::default_provider().install_default().ok();
        let failed =
            |setting: &'static str| move |reason: String| SolverConfigError::Bound { setting, reason };
        let mut builder = Client::builder().no_proxy();
        if let Some(proxy) = &options.proxy {
            // Its error could repeat the password.
            let proxy = Proxy::all(proxy.expose_secret()).map_err(|_| "is not an address".to_owned());
            builder = builder.proxy(proxy.map_err(failed("solver.proxy"))?);
        }
        if let Some(path) = &options.tls_ca_file {
            let failed = failed("solver.tls_ca_file");
            let all = tls::certificates(path).map_err(&failed)?;
            let all: Result<Vec<_>, _> = all.iter().map(|one| Certificate::from_der(one)).collect();
            builder = builder.tls_certs_only(all.map_err(|error| failed(with_causes(&error)))?);
        }
        let client = builder
            .user_agent(&options.user_agent)
            .connect_timeout(options.connect_timeout)
            .timeout(options.request_timeout)
            .redirect(redirect::Policy::none())
            .referer(false)
            .pool_max_idle_per_host(options.max_connections)
            .pool_idle_timeout(options.idle_timeout)
            .tcp_keepalive(KEEP_ALIVE)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE / 2)
            .build()
            .map_err(|error| SolverConfigError::Client(with_causes(&error)))?;
        let permits = Semaphore::new(options.max_connections);
        let calls =
            [CREATE_TASK, GET_TASK_RESULT, GET_BALANCE].map(|path| (path, url(&options.base_url, path)));
        Ok(Self { client, calls, permits })
    }

    async fn exchange(&self, path: &'static str, body: Bytes) -> Result<RawReply, TransportError> {
        // The wait is bounded by the others' time-outs; the semaphore is never closed.
        let _permit = self.permits.acquire().await.map_err(|e| TransportError::NeverSent(e.to_string()))?;
        let known = self.calls.iter().find(|(known, _)| *known == path);
        let (_, url) = known.ok_or_else(|| TransportError::NeverSent(format!("no such call: {path}")))?;
        let request =
            self.client.post(url.clone()).header(CONTENT_TYPE, JSON).header(ACCEPT, JSON).body(body);
        let response = request.send().await.map_err(|error| failure(error, None))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| wire::read_retry_after(value.to_str().ok()?));
        let body = read_body(response, status).await?;
        Ok(RawReply { status, retry_after, body })
    }
}

fn url(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

impl Transport for HttpTransport {
    fn post<'a>(
        &'a self,
        path: &'static str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<RawReply, TransportError>> {
        Box::pin(self.exchange(path, body))
    }
}

/// The body, piece by piece, so that an endless one costs no more than the bound. Dropping the
/// response ends it.
async fn read_body(mut response: Response, status: u16) -> Result<Bytes, TransportError> {
    let too_long = || TransportError::NoAnswer {
        kind: NoAnswer::TooLong,
        status: Some(status),
        detail: format!("the answer is longer than {MAX_BODY} bytes"),
    };
    let announced = response.content_length().unwrap_or(0);
    if announced > MAX_BODY as u64 {
        return Err(too_long());
    }
    // As a rule all of it comes at once, and is taken as it is.
    let Some(first) = response.chunk().await.map_err(|error| failure(error, Some(status)))? else {
        return Ok(Bytes::new());
    };
    if first.len() as u64 == announced {
        return Ok(first);
    }
    if first.len() > MAX_BODY {
        return Err(too_long());
    }
    let mut body = BytesMut::from(first);
    while let Some(piece) = response.chunk().await.map_err(|error| failure(error, Some(status)))? {
        if body.len() + piece.len() > MAX_BODY {
            return Err(too_long());
        }
        body.extend_from_slice(&piece);
    }
    Ok(body.freeze())
}

/// Anything that is not certainly before the first byte is reported as perhaps sent.
fn failure(error: reqwest::Error, status: Option<u16>) -> TransportError {
    let error = error.without_url();
    let detail = with_causes(&error);
    if status.is_none() && (error.is_connect() || error.is_builder()) {
        return TransportError::NeverSent(detail);
    }
    let kind = if error.is_timeout() { NoAnswer::TimedOut } else { NoAnswer::Cut };
    TransportError::NoAnswer { kind, status, detail }
}

/// The error with its causes: reqwest's own text names none of them.
fn with_causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
