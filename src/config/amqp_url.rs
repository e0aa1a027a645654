//! A broker's address.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// A broker's address. Its `Debug` and `Display` mask the password.
#[derive(Clone)]
pub struct AmqpUrl {
    secret: SecretString,
    shown: String,
    vhost: String,
    tls: bool,
}

impl AmqpUrl {
    /// What an address may look like.
    pub(super) const ALLOWED: &str =
        "amqp://user:password@host:port/vhost or amqps://…, with \"%2f\" for the virtual host \"/\"";

    /// Parses an address.
    ///
    /// # Errors
    /// Says what is wrong without repeating any of the text, since a password may stand anywhere in what does not parse.
    pub fn try_new(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text).map_err(|error| format!("is not an address ({error})"))?;
        if !matches!(url.scheme(), "amqp" | "amqps") {
            return Err("does not begin with amqp:// or amqps://".to_owned());
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
        Ok(Self { shown: url.to_string(), secret: SecretString::from(text), vhost, tls })
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

/// Without a path it is the virtual host `/`. A path of `/` alone names the virtual host without a name, which hardly anybody means.
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
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
