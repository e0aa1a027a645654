//! Where the broker is: the parsed URL, kept away from every log and error.

use std::fmt;
use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri, SASLMechanism};
use secrecy::{ExposeSecret, SecretString};

use crate::linger::Linger;
use crate::tls::TlsFiles;

/// The smallest frames that a session works with, in bytes. All properties of a message travel in
/// one frame, and a ticket's may have a publisher's headers, a history, a ticket and texts: see
/// [`crate::domain::history::MAX_PUBLISHERS_HEADERS`].
pub(super) const LEAST_FRAME: u32 = 64 * 1024;
/// The frame size asked for, unless the URL sets another: RabbitMQ's own default. Without it a
/// broker without a bound would set none, and lapin sizes its buffers by it.
const FRAME: u32 = 128 * 1024;
/// lapin's buffers are 64 times as large.
const LARGEST_FRAME: u32 = 1024 * 1024;

/// How to reach a broker, and how long to wait for it.
#[derive(Debug, Clone)]
pub struct AmqpOptions {
    /// `amqp://` or `amqps://` URL with user, password and virtual host.
    pub url: SecretString,
    /// For `amqps://`: whom to trust, and what to show.
    pub tls: TlsFiles,
    /// For name resolution, TCP, TLS and the AMQP handshake together.
    pub connect_timeout: Duration,
    /// For every other call that the broker answers.
    pub call_timeout: Duration,
    /// How long a publisher waits for its confirm.
    pub confirm_timeout: Duration,
    /// Seconds between heartbeats; a peer silent for twice as long is gone. A `heartbeat` in the
    /// URL wins.
    pub heartbeat_secs: u16,
    /// Shown by the broker's tools.
    pub connection_name: String,
    /// Publishes that may be under way on one channel, and as many again that may wait for it.
    pub publish_depth: usize,
    /// How publishes, deliveries and settlements wait for each other. With none, each goes at once.
    pub linger: Linger,
}

/// The broker's URL cannot be used. The text never repeats the URL, since a mistyped one may carry
/// the password anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the broker's URL cannot be used: {0}")]
pub struct UrlError(String);

/// The parsed URL. Shows host, port, user and virtual host, never the password.
#[derive(Clone)]
pub(super) struct Endpoint {
    uri: AMQPUri,
}

impl Endpoint {
    pub(super) fn parse(options: &AmqpOptions) -> Result<Self, UrlError> {
        let text = options.url.expose_secret();
        let fault = |reason: &str| UrlError(reason.to_owned());
        let url = url::Url::parse(text).map_err(|error| UrlError(error.to_string()))?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err(fault("it must begin with amqp:// or amqps://"));
        }
        let Some(host) = url.host().filter(|_| url.has_host()) else {
            return Err(fault("it names no host"));
        };
        if url.path().matches('/').count() > 1 {
            return Err(fault("a '/' inside the virtual host's name must be written as %2f"));
        }
        let mut uri: AMQPUri = text
            .parse()
            .map_err(|_| fault("user, password, virtual host or a parameter after '?' is not well formed"))?;
        // lapin takes "localhost" for an address in brackets.
        if let url::Host::Ipv6(address) = host {
            uri.authority.host = address.to_string();
        }
        if uri.authority.host.is_empty() {
            return Err(fault("it names no host"));
        }
        if uri.vhost.len() > 255 {
            return Err(fault("the virtual host's name is longer than 255 bytes"));
        }
        if uri.query.auth_mechanism == Some(SASLMechanism::External) {
            by_certificate(&url, options)?;
        }
        if *uri.query.heartbeat.get_or_insert(options.heartbeat_secs) == 0 {
            return Err(fault(
                "heartbeat=0 leaves the interval to the broker, which takes 60 s; write the seconds, or leave it \
                 out and set broker.heartbeat",
            ));
        }
        let frame = uri.query.frame_max.get_or_insert(FRAME);
        if !(LEAST_FRAME..=LARGEST_FRAME).contains(frame) {
            let reason =
                format!("frame_max must be {LEAST_FRAME} to {LARGEST_FRAME}; without it, it is {FRAME}");
            return Err(fault(&reason));
        }
        Ok(Self { uri })
    }

    pub(super) fn uri(&self) -> AMQPUri {
        self.uri.clone()
    }

    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    pub(super) fn address(&self) -> String {
        let host = &self.uri.authority.host;
        if host.contains(':') {
            format!("[{host}]:{}", self.uri.authority.port)
        } else {
            format!("{host}:{}", self.uri.authority.port)
        }
    }

    pub(super) fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    pub(super) fn vhost(&self) -> &str {
        &self.uri.vhost
    }
}

/// The broker takes the user from the certificate and reports it to nobody. Replicas authenticate
/// each other by the user, so the URL must name it.
fn by_certificate(url: &url::Url, options: &AmqpOptions) -> Result<(), UrlError> {
    let fault = |reason: &str| Err(UrlError(format!("auth_mechanism=external {reason}")));
    if url.scheme() != "amqps" || options.tls.identity.is_none() {
        return fault(
            "logs in by a client certificate: it needs amqps://, broker.tls_cert_file and broker.tls_key_file",
        );
    }
    if url.username().is_empty() {
        return fault(
            "needs the user's name in the address as the broker reads it from the certificate: amqps://name@host",
        );
    }
    if url.password().is_some() {
        return fault("logs in without a password: leave it out of the address");
    }
    Ok(())
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.uri.scheme {
            AMQPScheme::AMQP => "amqp",
            AMQPScheme::AMQPS => "amqps",
        };
        write!(f, "{scheme}://{}:***@{}, virtual host '{}'", self.user(), self.address(), self.vhost())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::IdentityFiles;

    fn options(url: &str) -> AmqpOptions {
        AmqpOptions {
            url: url.to_owned().into(),
            tls: TlsFiles::default(),
            connect_timeout: Duration::from_secs(5),
            call_timeout: Duration::from_secs(5),
            confirm_timeout: Duration::from_secs(5),
            heartbeat_secs: 10,
            connection_name: "test".to_owned(),
            publish_depth: 8,
            linger: Linger::none(),
        }
    }

    #[test]
    fn the_password_is_in_no_debug_output() {
        let options = options("amqp://ann:s3cret@broker.example:5673/jobs");
        let shown = format!("{options:?} {:?}", Endpoint::parse(&options).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("ann") && shown.contains("broker.example:5673"), "{shown}");
    }

    #[test]
    fn no_fault_of_a_url_repeats_the_url() {
        for url in [
            "s3cret",
            "amqp:s3cret@host",
            "https://ann:s3cret@host/",
            "amqp://",
            "amqp://ann:s3cret%ff@host",
            "amqp://ann:s3cret@host/a/b",
            "amqp://ann:s3cret@host?heartbeat=s3cret",
            "amqp://ann:s3cret@host:99999",
        ] {
            let error = Endpoint::parse(&options(url)).expect_err(url).to_string();
            assert!(!error.contains("s3cret"), "{url}: {error}");
            assert!(!format!("{:?}", options(url)).contains("s3cret"), "{url}");
        }
    }

    #[test]
    fn an_ipv6_address_is_not_taken_for_localhost() {
        let endpoint = Endpoint::parse(&options("amqp://[fd00::1]:5673")).unwrap();
        assert_eq!(endpoint.uri.authority.host, "fd00::1");
        assert_eq!(endpoint.address(), "[fd00::1]:5673");
    }

    #[test]
    fn a_heartbeat_in_the_url_wins_over_the_setting() {
        let heartbeat = |url| Endpoint::parse(&options(url)).unwrap().uri.query.heartbeat;
        assert_eq!(heartbeat("amqp://host"), Some(10));
        assert_eq!(heartbeat("amqp://host?heartbeat=30"), Some(30));
    }

    #[test]
    fn no_heartbeat_is_refused_since_the_broker_would_choose_its_own() {
        let error = Endpoint::parse(&options("amqp://host?heartbeat=0")).expect_err("refused").to_string();
        assert!(error.contains("heartbeat=0") && error.contains("60 s"), "{error}");
    }

    #[test]
    fn frames_have_room_for_a_tickets_properties_or_the_url_is_refused() {
        let frame = |url: &str| Endpoint::parse(&options(url)).map(|endpoint| endpoint.uri.query.frame_max);
        assert_eq!(frame("amqp://host"), Ok(Some(131_072)));
        assert_eq!(frame("amqp://host?frame_max=65536"), Ok(Some(65_536)));
        for refused in ["0", "8192", "65535", "4294967295"] {
            let error = frame(&format!("amqp://host?frame_max={refused}")).expect_err(refused).to_string();
            assert!(error.contains("frame_max must be 65536 to 1048576"), "{error}");
        }
    }

    #[test]
    fn a_log_in_by_certificate_needs_the_certificate_and_the_users_name() {
        let identity = IdentityFiles { certificate: "cert.pem".into(), key: "key.pem".into() };
        let parse = |url: &str, identity: Option<&IdentityFiles>| {
            let tls = TlsFiles { ca: None, identity: identity.cloned() };
            Endpoint::parse(&AmqpOptions { tls, ..options(url) })
        };
        let external = |login| format!("amqps://{login}host?auth_mechanism=external");
        let endpoint = parse(&external("ann@"), Some(&identity)).unwrap();
        assert_eq!(endpoint.user(), "ann");
        for (url, identity, reason) in [
            (external("ann@"), None, "broker.tls_cert_file"),
            (external("ann@").replace("amqps", "amqp"), Some(&identity), "amqps://"),
            (external(""), Some(&identity), "user's name"),
            (external("ann:s3cret@"), Some(&identity), "without a password"),
        ] {
            let error = parse(&url, identity).expect_err(&url).to_string();
            assert!(error.contains(reason) && !error.contains("s3cret"), "{url}: {error}");
        }
    }

    #[test]
    fn an_escaped_virtual_host_is_read() {
        let vhost = |url| Endpoint::parse(&options(url)).unwrap().vhost().to_owned();
        assert_eq!(vhost("amqp://host"), "/");
        assert_eq!(vhost("amqp://host/%2f"), "/");
        assert_eq!(vhost("amqp://host/jobs%2Ftwo"), "jobs/two");
    }
}
