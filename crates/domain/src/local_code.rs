//! Codes of faults that this worker finds itself. The API's own codes are passed on verbatim.

macro_rules! codes {
    ($( $(#[doc = $doc:literal])* $name:ident, )*) => {
        $( $(#[doc = $doc])* pub const $name: &str = stringify!($name); )*

        /// All of them.
        pub const ALL: &[&str] = &[$( $name ),*];
    };
}

codes! {
    /// The body has no bytes.
    EMPTY_BODY,
    /// The body is not UTF-8.
    NOT_UTF8,
    /// The body is not JSON.
    NOT_JSON,
    /// The body is JSON, but not an object.
    NOT_AN_OBJECT,
    /// Nested too deeply.
    TOO_DEEP,
    /// A top-level field that the contract does not have.
    UNKNOWN_FIELD,
    /// A field that only the worker may set (`clientKey`, `callbackUrl`).
    FORBIDDEN_FIELD,
    /// A field that stands twice.
    DUPLICATE_FIELD,
    /// A field without which there is no job.
    MISSING_FIELD,
    /// A field of the wrong JSON type, or an id out of bounds.
    WRONG_TYPE,
    /// A deadline that is not RFC 3339.
    DEADLINE_UNREADABLE,
    /// A header that only the worker may set, or one of its own with impossible content.
    FORGED_HEADER,
    /// Headers beyond their bound.
    HEADERS_TOO_LARGE,
    /// A property, or a header's name, that is not UTF-8.
    PROPERTIES_NOT_UTF8,
    /// Headers of a kind that is not known, cut off, or nested too deeply.
    HEADERS_UNREADABLE,
    /// A message on the ticket queue that is no ticket.
    NOT_A_TICKET,
    /// The image's bytes cannot be read.
    IMAGE_NOT_BASE64,
    /// Under 100 bytes.
    IMAGE_TOO_SMALL,
    /// Over 50,000 bytes.
    IMAGE_TOO_BIG,
    /// The deadline is over.
    DEADLINE_PASSED,
    /// The deadline leaves less time than the API needs.
    DEADLINE_UNREACHABLE,
    /// The API has no slot for this type, as others have found out: not called.
    NO_SLOT_EXPECTED,
    /// The replica holds as many tasks of this type as it may.
    TYPE_CAP_REACHED,
    /// The API has called this proxy banned a while ago: not called.
    PROXY_QUARANTINED,
    /// The operator's policy does not list the site.
    POLICY_SITE_NOT_ALLOWED,
    /// No connection: the call never left.
    CONNECT_FAILED,
    /// No answer in time.
    CALL_TIMED_OUT,
    /// The connection ended before the answer did.
    CONNECTION_CUT,
    /// Not the JSON it should be.
    UNREADABLE_REPLY,
    /// Beyond 1 MiB.
    REPLY_TOO_LONG,
    /// An error without a code.
    ERROR_WITHOUT_CODE,
    /// Not solved within the type's time-out.
    SOLVE_TIMEOUT,
    /// The API no longer keeps the result.
    RESULT_EXPIRED,
    /// Handling the job panicked.
    PANIC,
}

/// A code of this list, by its text.
#[must_use]
pub fn known(text: &str) -> Option<&'static str> {
    ALL.iter().copied().find(|known| *known == text)
}
