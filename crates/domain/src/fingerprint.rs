//! A mark that stands for something that must not be shown: the account's key, a publisher's proxy.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Eight bytes of a SHA-256, in hex: enough to see whether two are the same, and of no use for
/// finding out what was hashed where that is as random as a key. (A proxy's address can be guessed;
/// its mark keeps it out of logs, not from who may read the control queue.)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The account's key.
    #[must_use]
    pub fn of_key(key: &str) -> Self {
        Self::of("key", &[key])
    }

    /// A proxy, by host (in any case) and port.
    #[must_use]
    pub fn of_proxy(host: &str, port: &str) -> Self {
        Self::of("proxy", &[&host.to_ascii_lowercase(), port])
    }

    /// A publisher's name that is not shown whole.
    #[must_use]
    pub(crate) fn of_publisher(name: &str) -> Self {
        Self::of("publisher", &[name])
    }

    /// Whether it has the length of one, wherever it was read from.
    #[must_use]
    pub fn is_plausible(&self) -> bool {
        self.0.len() == 16
    }

    fn of(kind: &str, parts: &[&str]) -> Self {
        let mut hash = Sha256::new();
        for part in [kind].iter().chain(parts) {
            hash.update(part.as_bytes());
            // No text holds it, so that no two lists of parts run together.
            hash.update([0xff]);
        }
        Self(hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_tells_sameness_and_nothing_else() {
        let mark = Fingerprint::of_proxy("Proxy.example", "8080");
        assert_eq!(mark, Fingerprint::of_proxy("proxy.example", "8080"));
        assert_ne!(mark, Fingerprint::of_proxy("proxy.example", "808"));
        assert_ne!(mark, Fingerprint::of_proxy("proxy.example8", "080"));
        assert_ne!(Fingerprint::of_key("secret"), Fingerprint::of_key("secret2"));
        assert!(!format!("{mark:?}").contains("example") && mark.to_string().len() == 16);
    }
}
