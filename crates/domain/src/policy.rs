//! Which sites the operator is authorised to automate.
//!
//! Nothing leaves for a site that is not listed: a task bound to one is refused here, before any
//! call.

use std::collections::BTreeSet;

use url::{Host, Url};

/// Task types that recognise a picture and, unless they name one, are bound to no site.
pub const IMAGE_TYPES: [&str; 2] = ["ImageToTextTask", "ComplexImageTask"];

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
    /// Not a host.
    #[error(
        "'{0}' is not a host name: list hosts such as 'example.com' or '*.example.com', without scheme, port or path"
    )]
    NotAHost(String),
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
        let not_a_host = || SiteError::NotAHost(entry.to_owned());
        let (wild, name) = match entry.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, entry),
        };
        if entry == "*" {
            return Err(SiteError::TooWide(entry.to_owned()));
        }
        if name.contains(['*', '/', '\\', '@', '?', '#', ' ']) {
            return Err(not_a_host());
        }
        let host = Host::parse(name).map_err(|_| not_a_host())?;
        let is_domain = matches!(host, Host::Domain(_));
        let host = host.to_string().trim_end_matches('.').to_owned();
        if host.is_empty() {
            return Err(not_a_host());
        }
        match (wild, is_domain) {
            (true, true) if host.contains('.') => Ok(Site::Below(host)),
            (true, true) => Err(SiteError::TooWide(entry.to_owned())),
            (true, false) => Err(not_a_host()),
            (false, _) => Ok(Site::Exact(host)),
        }
    }
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
}
