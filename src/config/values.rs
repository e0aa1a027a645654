//! Values that are parsed once and cannot be invalid.

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;
use url::Url;

use super::reader::quoted;

/// Longest namespace, in characters: AMQP names have at most 255 bytes, and the longest suffix is
/// far below 190.
const MAX_NAMESPACE: usize = 64;
/// Longest worker name, in characters.
const MAX_NAME: usize = 128;

/// What is logged, in the language of [`EnvFilter`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// What a filter may look like.
    pub(super) const ALLOWED: &str =
        "off, error, warn, info, debug, trace, or by part, such as \"info,captcha_worker=debug\"";

    /// Parses a filter.
    ///
    /// # Errors
    /// Where [`EnvFilter`] does not understand it.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let problem = || format!("{} is not a log filter", quoted(text));
        // A word alone would pass as the name of a part, and silence everything else. Spans may
        // hold commas of their own.
        let parts = text.split(',').filter(|_| !text.contains('['));
        let is_odd = |part: &str| {
            let bare = !part.contains('=');
            part.is_empty() || bare && part.parse::<tracing::metadata::LevelFilter>().is_err()
        };
        if parts.into_iter().any(is_odd) {
            return Err(problem());
        }
        EnvFilter::builder().parse(text).map_err(|_| problem())?;
        Ok(Self(text.to_owned()))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An address of scheme, host, port and path alone.
fn plain_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not an address ({error})"))?;
    // Nothing of the text is repeated: what does not belong there may well be a secret.
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password, which do not belong here".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a '?' or '#': only scheme, host, port and path belong here".to_owned());
    }
    Ok(url)
}

/// An address to which no secret goes.
pub(super) fn http_url(text: &str) -> Result<Url, String> {
    let url = plain_url(text)?;
    match url.scheme() {
        "http" | "https" => Ok(url),
        _ => Err("begins with neither http:// nor https://".to_owned()),
    }
}

/// An HTTP proxy, with its user and password. Nothing of the text is repeated.
pub(super) fn proxy_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not an address ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("begins with neither http:// nor https://".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "has more than scheme, user, password, host and port; special characters of a password are percent-encoded"
                .to_owned(),
        );
    }
    Ok(url)
}

/// The API's address.
pub(super) fn base_url(text: &str, allow_plain_http: bool) -> Result<Url, String> {
    let url = plain_url(text)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if allow_plain_http || is_loopback(&url) => Ok(url),
        "http" => Err(
            "is plain http to another machine: the key would travel readable; use https, or set solver.allow_plain_http"
                .to_owned(),
        ),
        _ => Err("does not begin with https://".to_owned()),
    }
}

/// Where the API sends its callbacks; `{replica}` stands for a replica's name.
pub(super) fn callback_url(text: &str) -> Result<Option<String>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    http_url(&text.replace("{replica}", "replica")).map(|_| Some(text.to_owned()))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

pub(super) fn namespace(text: &str) -> Result<String, String> {
    let fits = (1..=MAX_NAMESPACE).contains(&text.len());
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.' | '-');
    if fits && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is not a namespace", quoted(text)))
    }
}

/// AMQP's short strings have at most 255 bytes.
pub(super) fn reply_to_prefix(text: &str) -> Result<String, String> {
    if text.len() <= 200 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("{} is longer than 200 bytes, or holds control characters", quoted(text)))
    }
}

pub(super) fn worker_name(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        Err(format!("{} is too long, or holds control characters", quoted(text)))
    } else {
        Ok(text.to_owned())
    }
}

pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = text.parse();
    address.map(Some).map_err(|_| format!("{} is not an IP address and port", quoted(text)))
}

/// Where the broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BrokerUrl {
    /// RabbitMQ.
    Amqp(AmqpUrl),
    /// A file, for the processes of one machine.
    Sqlite(PathBuf),
}

impl BrokerUrl {
    /// What it may look like.
    pub(super) const ALLOWED: &str = "amqp://user:password@host:port/vhost or amqps://…, with \"%2f\" for the virtual host \"/\", \
         special characters of a user name or password percent-encoded, or sqlite:///path/queue.db";

    /// Parses an address. A relative path of a file begins in `folder`.
    ///
    /// # Errors
    /// Says what is wrong without repeating any of the text, since a password may stand anywhere in
    /// what does not parse.
    pub fn try_new(text: &str, folder: &Path) -> Result<Self, String> {
        let Some(path) = text.strip_prefix("sqlite:") else {
            return AmqpUrl::try_new(text).map(Self::Amqp);
        };
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.contains(['?', '#']) {
            return Err("has '?' or '#' in its path: they are written %3f and %23".to_owned());
        }
        let path = percent_decoded(path).ok_or("has a path that is not UTF-8 once decoded")?;
        if path.is_empty() || path.ends_with('/') {
            return Err("names no file".to_owned());
        }
        Ok(Self::Sqlite(folder.join(path)))
    }

    /// The virtual host; that of a file is `/`.
    #[must_use]
    pub fn vhost(&self) -> &str {
        match self {
            BrokerUrl::Amqp(url) => url.vhost(),
            BrokerUrl::Sqlite(_) => "/",
        }
    }

    /// Why connections are not encrypted; `None` where they are.
    pub(super) fn why_not_encrypted(&self) -> Option<&'static str> {
        match self {
            BrokerUrl::Amqp(url) if url.is_tls() => None,
            BrokerUrl::Amqp(_) => Some("begins with amqp://, which is not encrypted"),
            BrokerUrl::Sqlite(_) => Some("begins with sqlite:, which makes no connection to another machine"),
        }
    }
}

impl fmt::Display for BrokerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BrokerUrl::Amqp(url) => url.fmt(f),
            BrokerUrl::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

/// RabbitMQ's address. Its `Debug` and `Display` mask the password.
#[derive(Clone)]
pub struct AmqpUrl {
    secret: SecretString,
    shown: String,
    vhost: String,
    tls: bool,
    server: (String, u16),
}

impl AmqpUrl {
    /// Parses an address.
    ///
    /// # Errors
    /// Says what is wrong without repeating any of the text, since a password may stand anywhere in
    /// what does not parse.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let after_scheme = text.strip_prefix("amqp://").or_else(|| text.strip_prefix("amqps://"));
        let cut = after_scheme.and_then(|rest| rest.split_once(['/', '?', '#']));
        // Else a part of the password is taken for the host or port, and may be shown as such.
        if cut.is_some_and(|(_, rest)| rest.contains('@')) {
            return Err(
                "has '/', '?' or '#' before an '@': in a user name or password they are written %2f, \
                        %3f and %23; in a virtual host's name '@' is written %40"
                    .to_owned(),
            );
        }
        let mut url = Url::parse(text).map_err(|error| format!("is not an address ({error})"))?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err("does not begin with amqp://, amqps:// or sqlite:".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return Err("names no host".to_owned());
        }
        if url.fragment().is_some() {
            return Err("holds a '#': in a user name or password it is written %23".to_owned());
        }
        let vhost = vhost_of(url.path())?;
        let tls = url.scheme() == "amqps";
        if url.password().is_some() {
            // Fails only for addresses without a host, and this one has one.
            let _ = url.set_password(Some("***"));
        }
        let host = url.host_str().unwrap_or_default().to_owned();
        let port = url.port().unwrap_or(if tls { 5671 } else { 5672 });
        Ok(Self {
            shown: url.to_string(),
            secret: SecretString::from(text),
            vhost,
            tls,
            server: (host, port),
        })
    }

    /// The host, and the port, which is the protocol's own where none is named.
    #[must_use]
    pub fn host_and_port(&self) -> (String, u16) {
        self.server.clone()
    }

    /// The whole address, with the password.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.secret
    }

    /// The virtual host, such as `/`.
    #[must_use]
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// Whether connections are encrypted: `amqps://`.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// The address with its password masked.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl PartialEq for AmqpUrl {
    fn eq(&self, other: &Self) -> bool {
        self.secret.expose_secret() == other.secret.expose_secret()
    }
}

impl Eq for AmqpUrl {}

/// Without a path it is the virtual host `/`. A path of `/` alone names the virtual host without a
/// name, which hardly anybody means.
fn vhost_of(path: &str) -> Result<String, String> {
    let name = match path.strip_prefix('/') {
        None => return Ok("/".to_owned()),
        Some("") => {
            return Err(
                "ends with '/', which names a virtual host without a name; write /%2f for the virtual host \"/\""
                    .to_owned(),
            );
        }
        Some(name) => name,
    };
    if name.contains('/') {
        return Err(
            "has more than one '/' after the host; inside a virtual host's name it is written %2f".to_owned()
        );
    }
    percent_decoded(name).ok_or_else(|| "has a virtual host that is not UTF-8 once decoded".to_owned())
}

fn percent_decoded(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_this_machine_unless_allowed() {
        for local in ["http://localhost:8191", "http://127.0.0.9", "http://[::1]:1/x", "https://api.test"] {
            assert!(base_url(local, false).is_ok(), "{local}");
        }
        for remote in ["http://api.test", "http://10.0.0.1", "http://localhost.test", "ftp://localhost"] {
            assert!(base_url(remote, false).is_err(), "{remote}");
        }
        assert!(base_url("http://api.test", true).is_ok());
        for odd in ["https://u:p@api.test", "https://api.test/?key=1", "https://api.test/#k"] {
            assert!(base_url(odd, true).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_proxy_may_have_a_password_which_no_problem_repeats() {
        for good in ["http://10.0.0.1:3128", "https://u:pl4nted@proxy.test:443/"] {
            assert!(proxy_url(good).is_ok(), "{good}");
        }
        for odd in ["proxy:3128", "socks5://u:pl4nted@h:1", "http://u:pl4nted@h:1/x", "http://u:pl4#nted@h:1"]
        {
            let problem = proxy_url(odd).expect_err(odd);
            assert!(!problem.contains("pl4") && !problem.contains("nted"), "{problem}");
        }
    }

    #[test]
    fn a_collector_is_an_address_without_anything_secret_in_it() {
        for good in ["http://127.0.0.1:4318", "https://collector.test/otlp"] {
            assert!(http_url(good).is_ok(), "{good}");
        }
        for odd in ["127.0.0.1:4318", "grpc://h:4317", "http://u:pl4nted@h", "http://h/?token=pl4nted"] {
            let problem = http_url(odd).expect_err(odd);
            assert!(!problem.contains("pl4nted"), "{problem}");
        }
    }

    #[test]
    fn the_address_of_callbacks_may_hold_the_replicas_name_and_nothing_secret() {
        for good in ["https://cb.test", "http://10.0.0.7:8190/captcha", "https://{replica}.cb.test/"] {
            assert_eq!(callback_url(good), Ok(Some(good.to_owned())));
        }
        assert_eq!(callback_url(""), Ok(None));
        for odd in ["cb.test", "ftp://cb.test", "https://u:pl4nted@cb.test", "https://cb.test/?t=pl4nted"] {
            let problem = callback_url(odd).expect_err(odd);
            assert!(!problem.contains("pl4nted"), "{problem}");
        }
    }

    #[test]
    fn a_word_that_is_no_level_is_not_taken_for_the_name_of_a_part() {
        assert!(LogFilter::try_new("inof").is_err());
        assert!(LogFilter::try_new("info,inof").is_err());
        assert!(LogFilter::try_new("").is_err());
        assert!(LogFilter::try_new("info,captcha_worker=noisy").is_err());
        for good in ["info", "OFF", "info,captcha_worker=debug", "captcha_worker=trace"] {
            assert!(LogFilter::try_new(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn the_virtual_host_is_read_as_the_broker_reads_it() {
        let vhost = |text| AmqpUrl::try_new(text).map(|url| url.vhost().to_owned());
        assert_eq!(vhost("amqp://h"), Ok("/".to_owned()));
        assert_eq!(vhost("amqp://h/%2f"), Ok("/".to_owned()));
        assert_eq!(vhost("amqp://h/%2Flane"), Ok("/lane".to_owned()));
        assert_eq!(vhost("amqps://u:p@h:5671/jobs?heartbeat=5"), Ok("jobs".to_owned()));
        assert!(vhost("amqp://h/").unwrap_err().contains("%2f"));
        assert!(vhost("amqp://h/a/b").is_err());
        assert!(vhost("amqp://h/%ff").is_err());
    }

    #[test]
    fn an_address_shows_everything_but_its_password() {
        let url = AmqpUrl::try_new("amqp://user:s3cret@h:5672/%2f").unwrap();
        assert_eq!(url.to_string(), "amqp://user:***@h:5672/%2f");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert_eq!(url.secret().expose_secret(), "amqp://user:s3cret@h:5672/%2f");
    }

    #[test]
    fn an_address_that_does_not_parse_is_not_repeated() {
        for text in ["amqp://user:s3cret@h:port/", "s3cret", "http://u:s3cret@h/", "amqp://u:s3cret#x@h/v"] {
            let problem = AmqpUrl::try_new(text).unwrap_err();
            assert!(!problem.contains("s3cret"), "{problem}");
        }
    }

    #[test]
    fn a_password_whose_special_characters_are_not_encoded_says_how_to_encode_them() {
        for password in ["s3/cret", "s3?cret", "s3#cret", "12/34", "s3@cret/x"] {
            let problem = AmqpUrl::try_new(&format!("amqps://u:{password}@h:5671/v")).unwrap_err();
            assert!(
                problem.contains("%2f") && problem.contains("%3f") && problem.contains("%23"),
                "{problem}"
            );
            assert!(!problem.contains("s3") && !problem.contains("cret"), "{problem}");
        }
        let url = AmqpUrl::try_new("amqps://u:s3%2f%3f%23@cret@h:5671/v%40x?heartbeat=5").unwrap();
        assert_eq!((url.vhost(), url.shown()), ("v@x", "amqps://u:***@h:5671/v%40x?heartbeat=5"));
    }
}
