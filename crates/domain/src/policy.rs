//! Which sites the operator is authorised to automate.
//!
//! Nothing leaves for a site that is not listed: a task bound to one is refused here, before any
//! call.

use std::collections::BTreeSet;

use url::{Host, Url};

use crate::sanitize::shown;

/// Task types that recognise a picture and, unless they name one, are bound to no site.
pub const IMAGE_TYPES: [&str; 2] = ["ImageToTextTask", "ComplexImageTask"];

/// Longest part of an entry that an error shows, in characters.
const MAX_SHOWN: usize = 200;

/// One entry of the list of sites.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Site {
    /// This host and no other.
    Exact(String),
    /// Every host below this one, itself not included.
    Below(String),
}

/// An entry that cannot be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SiteError {
    /// Not a host, and what was probably meant.
    #[error(
        "'{0}' is not a host name: list hosts such as 'example.com' or '*.example.com', without scheme, port or path{1}"
    )]
    NotAHost(String, String),
    /// A wildcard over a whole top-level domain, or everything.
    #[error("'{0}' allows too much: a wildcard needs at least two labels below it, as in '*.example.com'")]
    TooWide(String),
}

/// Why a task may not be submitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A site-bound task that names no site.
    #[error(
        "task.websiteURL is missing; a task of type '{0}' needs it, or its type must stand in policy.allowed_types"
    )]
    NoSite(String),
    /// Not a URL, or not one that every reader understands alike.
    #[error("task.websiteURL is not a plain http or https URL: {0}")]
    NotAUrl(String),
    /// Not listed.
    #[error("the site '{0}' of task.websiteURL is not listed in policy.allowed_domains")]
    NotListed(String),
}

/// The operator's list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    sites: BTreeSet<Site>,
    types: BTreeSet<String>,
}

impl Policy {
    /// A policy from the settings `policy.allowed_domains` and `policy.allowed_types`.
    ///
    /// # Errors
    /// Every entry that is not a host or is too wide.
    pub fn try_new<S: AsRef<str>>(domains: &[S], types: &[S]) -> Result<Self, Vec<SiteError>> {
        let (mut sites, mut errors) = (BTreeSet::new(), Vec::new());
        for entry in domains {
            match Site::parse(entry.as_ref()) {
                Ok(site) => {
                    sites.insert(site);
                }
                Err(error) => errors.push(error),
            }
        }
        let types = types.iter().map(|name| name.as_ref().to_owned()).collect();
        if errors.is_empty() { Ok(Self { sites, types }) } else { Err(errors) }
    }

    /// Whether a task may be submitted.
    ///
    /// # Errors
    /// The reason why it may not.
    pub fn permits(&self, task_type: &str, website_url: Option<&str>) -> Result<(), Refused> {
        if self.types.contains(task_type) {
            return Ok(());
        }
        match website_url {
            Some(url) => {
                let host = host_of(url).map_err(Refused::NotAUrl)?;
                if self.lists(&host) { Ok(()) } else { Err(Refused::NotListed(host)) }
            }
            None if IMAGE_TYPES.contains(&task_type) => Ok(()),
            None => Err(Refused::NoSite(task_type.to_owned())),
        }
    }

    fn lists(&self, host: &str) -> bool {
        self.sites.iter().any(|site| match site {
            Site::Exact(listed) => listed == host,
            Site::Below(parent) => {
                host.strip_suffix(parent.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        })
    }
}

impl Site {
    fn parse(entry: &str) -> Result<Self, SiteError> {
        let top = |rest: &str| !rest.trim_end_matches('.').contains('.') && Self::of(rest).is_some();
        Self::of(entry).ok_or_else(|| {
            let quoted = shown(entry, MAX_SHOWN);
            if entry == "*" || entry.strip_prefix("*.").is_some_and(top) {
                SiteError::TooWide(quoted)
            } else {
                SiteError::NotAHost(quoted, meant(entry))
            }
        })
    }

    /// `None` where the entry is not a host, or allows too much.
    fn of(entry: &str) -> Option<Self> {
        let (wild, name) = entry.strip_prefix("*.").map_or((false, entry), |rest| (true, rest));
        match Host::parse(name).ok()? {
            Host::Domain(name) => {
                let name = name.strip_suffix('.').unwrap_or(&name);
                // The parser takes most signs, and names without a letter between two dots.
                let is_label = |label: &str| {
                    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
                    (1..=63).contains(&label.len()) && label.bytes().all(plain)
                };
                let is_name =
                    name.len() <= 253 && name.split('.').all(is_label) && (!wild || name.contains('.'));
                let site = if wild { Self::Below } else { Self::Exact };
                is_name.then(|| site(name.to_owned()))
            }
            address => (!wild).then(|| Self::Exact(address.to_string())),
        }
    }
}

/// The hosts that an entry seems to consist of, as the end of a sentence; empty where it does not.
fn meant(entry: &str) -> String {
    let host = |part: &str| {
        let part = part.trim_matches(['"', '\'', '[', ']']);
        let part = part.split_once("://").map_or(part, |(_, rest)| rest);
        let part = part.split(['/', '?', '#']).next().unwrap_or_default();
        let part = part.rsplit('@').next().unwrap_or_default();
        let part = part.split(':').next().unwrap_or_default();
        let wild = if part.starts_with('.') { "*." } else { "" };
        let labels: Vec<_> = part.split('.').filter(|label| !label.is_empty()).collect();
        format!("{wild}{}", labels.join("."))
    };
    let parts = entry.split([',', ';', '|']).flat_map(str::split_whitespace).map(host);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    if parts.is_empty() || parts.iter().any(|part| Site::of(part).is_none()) {
        return String::new();
    }
    format!("; probably meant: {}", shown(&format!("'{}'", parts.join("', '")), MAX_SHOWN))
}

/// The host as the list knows it: lower case, punycode, without a trailing dot.
fn host_of(text: &str) -> Result<String, String> {
    // Readers disagree about these characters, and the one that decides is not here.
    if text.chars().any(|c| c == '\\' || c.is_whitespace() || c.is_control()) {
        return Err("it holds a backslash, white space or a control character".to_owned());
    }
    // The parser would fix `https:example.com` and `https:///example.com` in its own way.
    let scheme = text.get(..8).filter(|s| s.eq_ignore_ascii_case("https://"));
    let rest = match scheme.or_else(|| text.get(..7).filter(|s| s.eq_ignore_ascii_case("http://"))) {
        Some(scheme) => &text[scheme.len()..],
        None => return Err("it does not begin with http:// or https://".to_owned()),
    };
    if rest.starts_with('/') {
        return Err("it names no host".to_owned());
    }
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_owned();
    if host.is_empty() { Err("it names no host".to_owned()) } else { Ok(host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(domains: &[&str]) -> Policy {
        Policy::try_new(domains, &[]).unwrap()
    }

    fn permits(domains: &[&str], url: &str) -> bool {
        policy(domains).permits("TurnstileTask", Some(url)).is_ok()
    }

    #[test]
    fn an_empty_list_forbids_every_site_and_lets_images_pass() {
        let none = policy(&[]);
        assert!(matches!(
            none.permits("TurnstileTask", Some("https://example.com/")),
            Err(Refused::NotListed(_))
        ));
        assert!(matches!(none.permits("TurnstileTask", None), Err(Refused::NoSite(_))));
        assert_eq!(none.permits("ImageToTextTask", None), Ok(()));
        assert!(
            none.permits("ImageToTextTask", Some("https://example.com/")).is_err(),
            "an image that names a site is bound to it"
        );
    }

    #[test]
    fn an_allowed_type_needs_no_site() {
        let policy = Policy::try_new(&[], &["SomeNewTask"]).unwrap();
        assert_eq!(policy.permits("SomeNewTask", None), Ok(()));
        assert!(policy.permits("OtherNewTask", None).is_err());
    }

    #[test]
    fn the_real_host_decides_whatever_the_userinfo_says() {
        assert!(permits(&["example.com"], "https://user:pw@example.com/login"));
        assert!(!permits(&["example.com"], "https://example.com@evil.test/"));
        assert!(!permits(&["example.com"], "https://example.com:443@evil.test/"));
        assert!(!permits(&["example.com"], "https://example.com\\@evil.test/"));
        assert!(!permits(&["example.com"], "https://evil.test/#@example.com"));
    }

    #[test]
    fn port_case_and_trailing_dot_change_nothing() {
        assert!(permits(&["example.com"], "https://example.com:8443/"));
        assert!(permits(&["example.com"], "HTTPS://EXAMPLE.Com./"));
        assert!(permits(&["Example.COM."], "https://example.com/"));
    }

    #[test]
    fn names_are_compared_in_punycode() {
        assert!(permits(&["bücher.example"], "https://xn--bcher-kva.example/"));
        assert!(permits(&["xn--bcher-kva.example"], "https://BÜCHER.example/"));
        assert!(!permits(&["example.com"], "https://exаmple.com/"), "a Cyrillic letter is another name");
    }

    #[test]
    fn a_wildcard_means_hosts_below_and_not_the_host_itself() {
        assert!(permits(&["*.example.com"], "https://a.b.example.com/"));
        assert!(!permits(&["*.example.com"], "https://example.com/"));
        assert!(!permits(&["*.example.com"], "https://notexample.com/"));
        assert!(!permits(&["*.example.com"], "https://.example.com/"));
        assert!(!permits(&["example.com"], "https://a.example.com/"));
    }

    #[test]
    fn an_address_must_be_listed_as_such_in_any_notation() {
        assert!(permits(&["127.0.0.1"], "http://127.0.0.1:8080/"));
        assert!(permits(&["127.0.0.1"], "http://2130706433/"));
        assert!(permits(&["[::1]"], "http://[0:0::1]/"));
    }

    #[test]
    fn missing_and_odd_schemes_are_refused() {
        for url in [
            "example.com",
            "//example.com/",
            "ftp://example.com/",
            "javascript:example.com",
            "https:example.com",
            "https:///example.com",
            "https://",
            "",
            " https://example.com/",
            "https://example.com /",
            "file:///etc/passwd",
        ] {
            assert!(!permits(&["example.com"], url), "{url}");
        }
    }

    #[test]
    fn entries_that_allow_too_much_or_are_no_hosts_are_reported_together() {
        let errors = Policy::try_new(
            &["*", "*.com", "https://example.com", "example.com/login", "*.1.2.3.4", "ok.example", "a b"],
            &[],
        );
        assert_eq!(errors.unwrap_err().len(), 6);
    }

    #[test]
    fn an_entry_that_cannot_be_a_host_is_named_with_what_was_probably_meant() {
        for (entry, meant) in [
            ("a.example;b.example", "'a.example', 'b.example'"),
            ("a.example,*.b.example", "'a.example', '*.b.example'"),
            ("a.example b.example", "'a.example', 'b.example'"),
            ("\"a.example\"", "'a.example'"),
            ("[\"a.example\"", "'a.example'"),
            ("'a.example'", "'a.example'"),
            ("a..example", "'a.example'"),
            ("a.example..", "'a.example'"),
            (".a.example", "'*.a.example'"),
            ("https://u:p@a.example:8443/login?x", "'a.example'"),
            ("a.example:443", "'a.example'"),
            ("bücher.example/x", "'bücher.example'"),
        ] {
            let errors = Policy::try_new(&[entry], &[]).expect_err(entry);
            let text = errors[0].to_string();
            let expected = format!("; probably meant: {meant}");
            assert!(text.starts_with(&format!("'{entry}' is not")) && text.ends_with(&expected), "{text}");
        }
        let label = "x".repeat(64);
        for entry in
            ["", ".", "a.exam!ple", "*a.example", "*.com;a.example", &format!("{label}.example"), "a\n$b"]
        {
            let errors = Policy::try_new(&[entry], &[]).expect_err(entry);
            let text = errors[0].to_string();
            assert!(text.ends_with("port or path") && !text.contains('\n'), "{text}");
        }
        for good in ["localhost", "a_b.example", "xn--bcher-kva.example", "a.example.", "*.a-b.example"] {
            assert!(Policy::try_new(&[good], &[]).is_ok(), "{good}");
        }
    }
}
