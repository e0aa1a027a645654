//! Every error code the API documents, and the class each falls into.

use std::collections::BTreeMap;

use super::class::Class;

macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $variant:ident = $name:literal $(| $spelling:literal)* => $class:ident, )*) => {
        /// A documented error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code { $( $(#[doc = $doc])* $variant, )* }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant),*];

            /// The code in the API's spelling.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $( Code::$variant => $name, )* }
            }

            /// Reads a code in any of its known spellings.
            #[must_use]
            pub fn parse(text: &str) -> Option<Code> {
                match text { $( $name $(| $spelling)* => Some(Code::$variant), )* _ => None }
            }

            /// What it means for a job, before the operator's overrides and before it is known
            /// whether the job brought a proxy.
            #[must_use]
            pub const fn class(self) -> Class {
                match self { $( Code::$variant => Class::$class, )* }
            }
        }
    };
}

codes! {
    /// The solution is not ready yet.
    CaptchaNotReady = "CAPTCHA_NOT_READY" | "CAPCHA_NOT_READY" => Pending,
    /// Polled more than once in two seconds, or too many requests in all.
    TooMuchRequests = "ERROR_TOO_MUCH_REQUESTS" => Throttled,
    /// The service is down or under maintenance, or the host of a callback cannot be reached.
    ServiceNotAvailable = "ERROR_SERVICE_NOT_AVAILABLE" | "ERROR_SERVICE_UNAVALIABLE" | "ERROR_SERVICE_UNAVAILABLE" => Transient,
    /// No free server for this type at the moment.
    NoSlotAvailable = "ERROR_NO_SLOT_AVAILABLE" => Capacity,
    /// No task of this id, or its 5 minutes are over.
    NoSuchCaptchaId = "ERROR_NO_SUCH_CAPCHA_ID" | "ERROR_NO_SUCH_CAPTCHA_ID" => Lost,
    /// The same, in the other wording.
    WrongCaptchaId = "WRONG_CAPTCHA_ID" | "WRONG_CAPCHA_ID" | "ERROR_WRONG_CAPTCHA_ID" | "ERROR_WRONG_CAPCHA_ID" => Lost,
    /// Noise, damaged, or a kind that is not supported.
    CaptchaUnsolvable = "ERROR_CAPTCHA_UNSOLVABLE" | "ERROR_CAPCHA_UNSOLVABLE" => Unsolved,
    /// The site did not answer in time, often for a slow proxy.
    RecaptchaTimeout = "ERROR_RECAPTCHA_TIMEOUT" => Unsolved,
    /// A token inside the task is too old; the attempt was charged.
    TokenExpired = "ERROR_TOKEN_EXPIRED" => Expired,
    /// The image is over 50,000 bytes.
    TooBigCaptchaFilesize = "ERROR_TOO_BIG_CAPTCHA_FILESIZE" | "ERROR_TOO_BIG_CAPCHA_FILESIZE" => Invalid,
    /// The image is under 100 bytes.
    ZeroCaptchaFilesize = "ERROR_ZERO_CAPTCHA_FILESIZE" | "ERROR_ZERO_CAPCHA_FILESIZE" => Invalid,
    /// The type of the task is wrong.
    NoSuchMethod = "ERROR_NO_SUCH_METHOD" => Invalid,
    /// The type of the task is not supported.
    TaskNotSupported = "ERROR_TASK_NOT_SUPPORTED" => Invalid,
    /// No task in the request, or the request is not JSON.
    TaskAbsent = "ERROR_TASK_ABSENT" => Invalid,
    /// The site key is wrong.
    RecaptchaInvalidSitekey = "ERROR_RECAPTCHA_INVALID_SITEKEY" => Invalid,
    /// The site key belongs to another domain.
    RecaptchaInvalidDomain = "ERROR_RECAPTCHA_INVALID_DOMAIN" => Invalid,
    /// The task's user agent is not accepted.
    WrongUserAgent = "ERROR_WRONG_USERAGENT" => Invalid,
    /// The task is not one that the API can work on.
    InvalidTask = "ERROR_INVALID_TASK" => Invalid,
    /// A required field of the task is empty.
    TaskPropertyEmpty = "ERROR_TASK_PROPERTY_EMPTY" => Invalid,
    /// The API does not serve this site.
    DomainNotAllowed = "ERROR_DOMAIN_NOT_ALLOWED" => Forbidden,
    /// The publisher's proxy refuses or is slow to connect.
    ProxyConnectRefused = "ERROR_PROXY_CONNECT_REFUSED" => Proxy,
    /// The publisher's proxy is banned; using it again endangers the account.
    ProxyBanned = "ERROR_PROXY_BANNED" => Proxy,
    /// The publisher's proxy is slow to answer.
    ProxyReadTimeout = "ERROR_PROXY_READ_TIMEOUT" => Proxy,
    /// The publisher's proxy is slow to connect.
    ProxyConnectTimeout = "ERROR_PROXY_CONNECT_TIMEOUT" => Proxy,
    /// The type needs a proxy.
    ProxyMissing = "ERROR_PROXY_MISSING" => Proxy,
    /// The publisher's proxy refuses its log-in.
    ProxyNotAuthorised = "ERROR_PROXY_NOT_AUTHORISED" => Proxy,
    /// The publisher's proxy shows the client's address.
    ProxyTransparent = "ERROR_PROXY_TRANSPARENT" => Proxy,
    /// The publisher's proxy has a log-in with a character that the API does not accept.
    ProxyCredentialsInvalidCharacter = "ERROR_PROXY_CREDENTIALS_INVALID_CHARACTER" => Proxy,
    /// The key is wrong.
    KeyDoesNotExist = "ERROR_KEY_DOES_NOT_EXIST" => Account,
    /// The key may not be used from this address.
    IpNotAllowed = "ERROR_IP_NOT_ALLOWED" => Account,
    /// No money left.
    ZeroBalance = "ERROR_ZERO_BALANCE" => Account,
    /// Banned for repeated calls with a wrong key.
    IpBanned = "ERROR_IP_BANNED" => Account,
    /// Banned for many errors.
    IpBlocked = "ERROR_IP_BLOCKED" => Account,
}

/// The operator's word on single codes, over the built-in table. Codes that this version does not
/// know can be named too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<String, Class>);

impl Overrides {
    /// Overrides by the API's spelling of the code.
    #[must_use]
    pub fn new(by_code: BTreeMap<String, Class>) -> Self {
        Self(by_code)
    }

    /// The class of a code as the API sent it.
    ///
    /// `own_proxy`: the job brought a proxy, so that a time-out of the site's check is laid at the
    /// proxy's door.
    #[must_use]
    pub fn class_of(&self, code: &str, own_proxy: bool) -> Class {
        if let Some(class) = self.0.get(code) {
            return *class;
        }
        match Code::parse(code) {
            Some(Code::RecaptchaTimeout) if own_proxy => Class::Proxy,
            Some(known) => self.0.get(known.name()).copied().unwrap_or(known.class()),
            None => Class::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! each_code_has_its_class {
        ($( $test:ident: $code:literal => $class:ident; )*) => {
            $( #[test] fn $test() {
                assert_eq!(Overrides::default().class_of($code, false), Class::$class);
            } )*

            #[test]
            fn every_code_of_the_table_is_tested_by_name() {
                let tested = [$($code),*];
                for code in Code::ALL {
                    assert!(tested.contains(&code.name()), "{} has no test", code.name());
                    assert_eq!(Code::parse(code.name()), Some(*code));
                }
            }
        };
    }

    each_code_has_its_class! {
        not_ready_is_pending: "CAPTCHA_NOT_READY" => Pending;
        not_ready_in_its_short_spelling_is_pending: "CAPCHA_NOT_READY" => Pending;
        too_much_requests_is_throttled: "ERROR_TOO_MUCH_REQUESTS" => Throttled;
        service_not_available_is_transient: "ERROR_SERVICE_NOT_AVAILABLE" => Transient;
        service_not_available_in_its_misspelling_is_transient: "ERROR_SERVICE_UNAVALIABLE" => Transient;
        service_unavailable_is_transient: "ERROR_SERVICE_UNAVAILABLE" => Transient;
        no_slot_is_capacity: "ERROR_NO_SLOT_AVAILABLE" => Capacity;
        no_such_id_is_lost: "ERROR_NO_SUCH_CAPCHA_ID" => Lost;
        no_such_id_in_its_long_spelling_is_lost: "ERROR_NO_SUCH_CAPTCHA_ID" => Lost;
        wrong_id_is_lost: "WRONG_CAPTCHA_ID" => Lost;
        wrong_id_in_its_short_spelling_is_lost: "WRONG_CAPCHA_ID" => Lost;
        unsolvable_is_unsolved: "ERROR_CAPTCHA_UNSOLVABLE" => Unsolved;
        recaptcha_timeout_is_unsolved: "ERROR_RECAPTCHA_TIMEOUT" => Unsolved;
        token_expired_is_expired: "ERROR_TOKEN_EXPIRED" => Expired;
        too_big_is_invalid: "ERROR_TOO_BIG_CAPTCHA_FILESIZE" => Invalid;
        zero_size_is_invalid: "ERROR_ZERO_CAPTCHA_FILESIZE" => Invalid;
        no_such_method_is_invalid: "ERROR_NO_SUCH_METHOD" => Invalid;
        task_not_supported_is_invalid: "ERROR_TASK_NOT_SUPPORTED" => Invalid;
        task_absent_is_invalid: "ERROR_TASK_ABSENT" => Invalid;
        invalid_sitekey_is_invalid: "ERROR_RECAPTCHA_INVALID_SITEKEY" => Invalid;
        invalid_domain_is_invalid: "ERROR_RECAPTCHA_INVALID_DOMAIN" => Invalid;
        wrong_user_agent_is_invalid: "ERROR_WRONG_USERAGENT" => Invalid;
        invalid_task_is_invalid: "ERROR_INVALID_TASK" => Invalid;
        property_empty_is_invalid: "ERROR_TASK_PROPERTY_EMPTY" => Invalid;
        domain_not_allowed_is_forbidden: "ERROR_DOMAIN_NOT_ALLOWED" => Forbidden;
        proxy_connect_refused_is_proxy: "ERROR_PROXY_CONNECT_REFUSED" => Proxy;
        proxy_banned_is_proxy: "ERROR_PROXY_BANNED" => Proxy;
        proxy_read_timeout_is_proxy: "ERROR_PROXY_READ_TIMEOUT" => Proxy;
        proxy_connect_timeout_is_proxy: "ERROR_PROXY_CONNECT_TIMEOUT" => Proxy;
        proxy_missing_is_proxy: "ERROR_PROXY_MISSING" => Proxy;
        proxy_not_authorised_is_proxy: "ERROR_PROXY_NOT_AUTHORISED" => Proxy;
        proxy_transparent_is_proxy: "ERROR_PROXY_TRANSPARENT" => Proxy;
        proxy_credentials_are_proxy: "ERROR_PROXY_CREDENTIALS_INVALID_CHARACTER" => Proxy;
        key_does_not_exist_is_account: "ERROR_KEY_DOES_NOT_EXIST" => Account;
        ip_not_allowed_is_account: "ERROR_IP_NOT_ALLOWED" => Account;
        zero_balance_is_account: "ERROR_ZERO_BALANCE" => Account;
        ip_banned_is_account: "ERROR_IP_BANNED" => Account;
        ip_blocked_is_account: "ERROR_IP_BLOCKED" => Account;
        anything_else_is_unknown: "ERROR_OF_NEXT_YEAR" => Unknown;
    }

    #[test]
    fn a_site_time_out_is_the_proxys_fault_where_the_job_brought_one() {
        assert_eq!(Overrides::default().class_of("ERROR_RECAPTCHA_TIMEOUT", true), Class::Proxy);
    }

    #[test]
    fn an_override_wins_in_every_spelling_and_for_unknown_codes() {
        let overrides = Overrides::new(BTreeMap::from([
            ("ERROR_NO_SUCH_CAPCHA_ID".to_owned(), Class::Unsolved),
            ("ERROR_OF_NEXT_YEAR".to_owned(), Class::Invalid),
        ]));
        assert_eq!(overrides.class_of("ERROR_NO_SUCH_CAPTCHA_ID", false), Class::Unsolved);
        assert_eq!(overrides.class_of("ERROR_OF_NEXT_YEAR", false), Class::Invalid);
    }
}
