//! What the client is built from, and what is refused before anything is sent.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::Semaphore;
use url::{Host, Url};

/// How to reach the API.
#[derive(Clone)]
pub struct SolverOptions {
    /// Scheme, host, and optionally port and path, under which `/createTask` and the others lie.
    pub base_url: Url,
    /// The account's key; any shape, but not empty.
    pub api_key: SecretString,
    /// An HTTP proxy before the API, with its user and password.
    pub proxy: Option<SecretString>,
    /// PEM file of the only authorities that may have issued the API's certificate; `None`: those
    /// of the system.
    pub tls_ca_file: Option<PathBuf>,
    /// Bound on name resolution, TCP and TLS together. Shorter than `request_timeout`, since only a
    /// time-out of connecting proves that nothing was sent.
    pub connect_timeout: Duration,
    /// Bound on a whole exchange, connecting and the last byte of the answer included.
    pub request_timeout: Duration,
    /// Bound on requests under way at once, and so on connections. Over HTTP/2 they share one
    /// connection; those beyond the server's own limit of streams wait within `request_timeout`.
    pub max_connections: usize,
    /// How long a connection may have been idle and still be used. Below the server's own time by
    /// more than the way there and back: a createTask written while the server closes is cut, and a
    /// cut createTask may have been paid.
    pub idle_timeout: Duration,
    /// Whether the key may travel unencrypted to a host that is not this machine.
    pub allow_plain_http: bool,
    /// The `User-Agent`.
    pub user_agent: String,
}

impl fmt::Debug for SolverOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SolverOptions")
            .field("base_url", &self.base_url.origin().ascii_serialization())
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("max_connections", &self.max_connections)
            .field("idle_timeout", &self.idle_timeout)
            .field("allow_plain_http", &self.allow_plain_http)
            .field("user_agent", &self.user_agent)
            .finish_non_exhaustive()
    }
}

/// A setting that the client cannot be built from. Texts hold neither the key nor the URL's user
/// and password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SolverConfigError {
    /// The base URL cannot be one.
    #[error("solver.base_url: {0}")]
    BaseUrl(&'static str),
    /// The key would travel unencrypted.
    #[error(
        "solver.base_url: http:// would send the key unencrypted to {host}; use https://, a loopback host, \
         or set solver.allow_plain_http = true"
    )]
    PlainHttp {
        /// Where to.
        host: String,
    },
    /// No key.
    #[error("solver.api_key: is empty")]
    EmptyKey,
    /// A bound out of its range.
    #[error("{setting}: {reason}")]
    Bound {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with its value.
        reason: String,
    },
    /// The HTTP client could not be built; on Linux most often since no root certificates are
    /// installed.
    #[error("solver: the HTTP client could not be built: {0}")]
    Client(String),
}

impl SolverOptions {
    pub(super) fn validate(&self) -> Result<(), SolverConfigError> {
        self.validate_url()?;
        if self.api_key.expose_secret().trim().is_empty() {
            return Err(SolverConfigError::EmptyKey);
        }
        let bound = |setting, reason: String| Err(SolverConfigError::Bound { setting, reason });
        if self.connect_timeout.is_zero() {
            return bound("solver.connect_timeout", "must be more than 0".to_owned());
        }
        if self.request_timeout <= self.connect_timeout {
            let least = humantime::format_duration(self.connect_timeout);
            return bound(
                "solver.request_timeout",
                format!("must be more than solver.connect_timeout ({least})"),
            );
        }
        if !(1..=Semaphore::MAX_PERMITS).contains(&self.max_connections) {
            return bound("solver.max_connections", "must be at least 1".to_owned());
        }
        if self.idle_timeout.is_zero() {
            return bound("solver.idle_timeout", "must be more than 0".to_owned());
        }
        if reqwest::header::HeaderValue::from_str(&self.user_agent).is_err() {
            return bound("solver.user_agent", "cannot stand in an HTTP header".to_owned());
        }
        Ok(())
    }

    fn validate_url(&self) -> Result<(), SolverConfigError> {
        let url = &self.base_url;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(SolverConfigError::BaseUrl("must begin with https:// (or http:// for this machine)"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(SolverConfigError::BaseUrl(
                "must hold no user or password; the key goes into solver.api_key",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(SolverConfigError::BaseUrl("must end with the path, without '?' or '#'"));
        }
        if url.scheme() == "http" && !self.allow_plain_http && !is_loopback(url) {
            let host = url.host_str().unwrap_or_default().to_owned();
            return Err(SolverConfigError::PlainHttp { host });
        }
        Ok(())
    }
}

/// Whether the host is this machine by its name alone; no name but `localhost` is resolved to find
/// out.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
