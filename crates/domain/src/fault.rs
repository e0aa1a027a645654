//! A refusal, judged: what it means for the job, in one place for every way a call can end.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::api_code::{Code, Overrides};
use super::call::{CallError, NoAnswer, Refusal, ReplyBody};
use super::class::Class;
use super::guard::Reason;

pub use super::local_code;

/// Where on its way a job met the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Before any call.
    Admission,
    /// createTask.
    Submit,
    /// getTaskResult.
    Poll,
}

/// Whether the API may have charged for a submission that did not succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Charge {
    /// It did not accept the task.
    None,
    /// It may have accepted it: sent, and no answer that says otherwise.
    Possible,
}

/// Longest description that is kept, in characters.
const MAX_DESCRIPTION: usize = 1_000;

/// A refusal with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What it means for the job.
    pub class: Class,
    /// The API's code verbatim, or one of [`local_code`].
    pub code: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// Where.
    pub stage: Stage,
    /// The API asked for this long a pause.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// A fault of this worker's own finding.
    pub fn local(
        class: Class,
        code: &'static str,
        stage: Stage,
        description: impl Into<Cow<'static, str>>,
    ) -> Self {
        let mut description = description.into();
        // A host, or a reader's own error text, may quote a megabyte of what it was given.
        if let Some((end, _)) = description.char_indices().nth(MAX_DESCRIPTION) {
            description.to_mut().truncate(end);
        }
        Self { class, code: Cow::Borrowed(code), description, stage, retry_after: None }
    }

    /// A message that is not a job.
    pub fn malformed(code: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self::local(Class::Malformed, code, Stage::Admission, description)
    }

    /// Whether it says that the publisher's proxy is banned.
    #[must_use]
    pub fn bans_proxy(&self) -> bool {
        Code::parse(&self.code) == Some(Code::ProxyBanned)
    }

    /// What an account fault says about the account; `None` for every other class.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        if self.class != Class::Account {
            return None;
        }
        Some(match (Code::parse(&self.code), &*self.code) {
            (Some(Code::ZeroBalance), _) | (None, "HTTP_402") => Reason::NoFunds,
            (Some(Code::IpNotAllowed), _) => Reason::IpNotAllowed,
            (Some(Code::IpBanned | Code::IpBlocked), _) => Reason::IpBanned,
            // What else an operator calls an account fault is treated as the one that stops every
            // call.
            _ => Reason::KeyInvalid,
        })
    }
}

/// Whether the API says that it does not know the task's id: repeated, that is an offence.
#[must_use]
pub fn is_wrong_id(error: &CallError) -> bool {
    let CallError::Refused(Refusal { code: Some(code), .. }) = error else { return false };
    matches!(Code::parse(code), Some(Code::NoSuchCaptchaId | Code::WrongCaptchaId))
}

/// Whether the API says that its service is not available. It says so, too, where it cannot reach
/// the host of a callback.
#[must_use]
pub fn is_service_down(error: &CallError) -> bool {
    let CallError::Refused(Refusal { code: Some(code), .. }) = error else { return false };
    Code::parse(code) == Some(Code::ServiceNotAvailable)
}

/// Judges a failed call.
#[must_use]
pub fn classify(error: &CallError, stage: Stage, own_proxy: bool, overrides: &Overrides) -> Fault {
    match error {
        CallError::Refused(refusal) => classify_refusal(refusal, stage, own_proxy, overrides),
        CallError::NoAnswer { kind, detail, .. } => {
            let code = match kind {
                NoAnswer::TimedOut => local_code::CALL_TIMED_OUT,
                NoAnswer::Cut => local_code::CONNECTION_CUT,
                NoAnswer::Unreadable => local_code::UNREADABLE_REPLY,
                NoAnswer::TooLong => local_code::REPLY_TOO_LONG,
            };
            Fault::local(Class::Transient, code, stage, detail.clone())
        }
        CallError::NeverSent(detail) => {
            Fault::local(Class::Transient, local_code::CONNECT_FAILED, stage, detail.clone())
        }
    }
}

fn classify_refusal(refusal: &Refusal, stage: Stage, own_proxy: bool, overrides: &Overrides) -> Fault {
    let (class, code): (Class, Cow<'static, str>) = match &refusal.code {
        Some(code) => (overrides.class_of(code, own_proxy), code.clone().into()),
        None => {
            let code = match refusal.status {
                200..=299 => local_code::ERROR_WITHOUT_CODE.into(),
                status => Cow::from(format!("HTTP_{status}")),
            };
            // An override can name these too.
            let class = match overrides.class_of(&code, own_proxy) {
                Class::Unknown => class_of_status(refusal.status, refusal.body),
                named => named,
            };
            (class, code)
        }
    };
    let description = refusal.description.clone().map_or_else(
        || Cow::from(format!("the API refused without a description (HTTP {})", refusal.status)),
        Cow::from,
    );
    Fault { class, code, description, stage, retry_after: refusal.retry_after }
}

/// Whether a call was refused with a status that speaks of the account, but not by the API's own
/// word: a firewall or a gateway before the API may dislike one payload. The balance shows which it
/// is.
#[must_use]
pub fn doubts_account(error: &CallError) -> bool {
    let CallError::Refused(Refusal { code: None, status: 401..=403, body, .. }) = error else { return false };
    *body != ReplyBody::Api
}

/// What the end of a call says about the API being there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiLiveness {
    /// It answers.
    Answers,
    /// It answers that it knows no such task.
    KnowsNoSuchId,
    /// It answers, and says nothing but that it fails, or nothing that is known.
    Fails,
    /// It does not answer, or something else does in its place.
    Silent,
    /// The connection ended before the answer.
    Cut,
    /// Nobody listens at its address.
    Unreachable,
}

/// What a failed call says about the API being there.
#[must_use]
pub fn liveness_of(error: &CallError, fault: &Fault) -> ApiLiveness {
    let refusal = match error {
        CallError::NeverSent(_) => return ApiLiveness::Unreachable,
        CallError::NoAnswer { kind: NoAnswer::Cut, .. } => return ApiLiveness::Cut,
        CallError::NoAnswer { .. } => return ApiLiveness::Silent,
        CallError::Refused(refusal) => refusal,
    };
    // Without a code, and with a status that says nothing about the rate of calls, it is not the
    // API's own word.
    let says_something = match refusal.status {
        200..=299 | 429 => true,
        401..=403 => refusal.body == ReplyBody::Api,
        _ => false,
    };
    let fails = match fault.class {
        Class::Transient | Class::Unknown => true,
        // A poll takes no slot: an API that has none for polls fails.
        Class::Capacity | Class::Throttled => fault.stage == Stage::Poll,
        _ => false,
    };
    if refusal.code.is_none() && !says_something {
        ApiLiveness::Silent
    } else if fails {
        ApiLiveness::Fails
    } else if is_wrong_id(error) {
        ApiLiveness::KnowsNoSuchId
    } else {
        ApiLiveness::Answers
    }
}

/// The documentation gives no statuses; these are what its clients treat them as.
fn class_of_status(status: u16, body: ReplyBody) -> Class {
    match status {
        // Only the API's own word about the account stops more than the job that met it.
        401..=403 if body == ReplyBody::Api => Class::Account,
        429 => Class::Throttled,
        // The API said "error" and nothing more.
        200..=299 => Class::Unknown,
        // An answer without a code is not the API's own word: a gateway's page, or a wrong base
        // URL. It is no verdict on a job.
        _ => Class::Transient,
    }
}

/// Whether a failed createTask may have been accepted, and so paid.
///
/// A refusal in a JSON body, a client-side error and 503 (not processed) say no. Any other 5xx
/// comes from something that may already have passed the request on, so it is counted with the
/// answers that never came.
#[must_use]
pub fn charge_of(error: &CallError) -> Charge {
    match error {
        CallError::NeverSent(_) => Charge::None,
        CallError::NoAnswer { .. } => Charge::Possible,
        CallError::Refused(Refusal { code: None, status: 500..=502 | 504..=599, .. }) => Charge::Possible,
        CallError::Refused(_) => Charge::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Option<&str>, status: u16) -> CallError {
        CallError::Refused(Refusal {
            code: code.map(str::to_owned),
            description: None,
            status,
            retry_after: None,
            body: if code.is_some() { ReplyBody::Api } else { ReplyBody::Empty },
        })
    }

    fn class_of(error: &CallError) -> (Class, String) {
        let fault = classify(error, Stage::Submit, false, &Overrides::default());
        (fault.class, fault.code.into_owned())
    }

    #[test]
    fn a_description_is_cut_to_its_bound() {
        let fault = Fault::malformed(local_code::NOT_JSON, "é".repeat(5_000));
        assert_eq!(fault.description.chars().count(), MAX_DESCRIPTION);
    }

    #[test]
    fn a_code_in_the_body_goes_before_the_status() {
        assert_eq!(class_of(&refused(Some("ERROR_ZERO_BALANCE"), 503)).0, Class::Account);
    }

    #[test]
    fn without_a_code_the_status_decides() {
        for (status, class) in [
            (429, Class::Throttled),
            (500, Class::Transient),
            (503, Class::Transient),
            (404, Class::Transient),
            (302, Class::Transient),
        ] {
            assert_eq!(class_of(&refused(None, status)), (class, format!("HTTP_{status}")));
        }
        assert_eq!(class_of(&refused(None, 200)), (Class::Unknown, "ERROR_WITHOUT_CODE".to_owned()));
    }

    #[test]
    fn a_status_about_the_account_is_believed_with_the_apis_own_word_alone() {
        for status in [401, 402, 403] {
            for (body, class) in [
                (ReplyBody::Api, Class::Account),
                (ReplyBody::Empty, Class::Transient),
                (ReplyBody::Foreign, Class::Transient),
            ] {
                let refusal = Refusal { code: None, description: None, status, retry_after: None, body };
                let error = CallError::Refused(refusal);
                assert_eq!(class_of(&error).0, class, "{status} {body:?}");
                assert_eq!(doubts_account(&error), class == Class::Transient, "{status} {body:?}");
            }
        }
        assert!(!doubts_account(&refused(Some("ERROR_ZERO_BALANCE"), 402)));
        assert!(!doubts_account(&refused(None, 404)));
    }

    #[test]
    fn each_account_code_says_what_is_wrong_with_the_account() {
        for (code, status, reason) in [
            (Some("ERROR_ZERO_BALANCE"), 200, Reason::NoFunds),
            (Some("ERROR_KEY_DOES_NOT_EXIST"), 200, Reason::KeyInvalid),
            (Some("ERROR_IP_NOT_ALLOWED"), 200, Reason::IpNotAllowed),
            (Some("ERROR_IP_BANNED"), 200, Reason::IpBanned),
            (Some("ERROR_IP_BLOCKED"), 200, Reason::IpBanned),
        ] {
            let fault = classify(&refused(code, status), Stage::Submit, false, &Overrides::default());
            assert_eq!(fault.reason(), Some(reason));
        }
        let other = classify(
            &refused(Some("ERROR_NO_SLOT_AVAILABLE"), 200),
            Stage::Submit,
            false,
            &Overrides::default(),
        );
        assert_eq!(other.reason(), None);
    }

    #[test]
    fn only_what_was_sent_and_not_refused_may_have_been_charged() {
        let cut = CallError::NoAnswer { kind: NoAnswer::Cut, status: None, detail: String::new() };
        assert_eq!(charge_of(&cut), Charge::Possible);
        assert_eq!(charge_of(&CallError::NeverSent(String::new())), Charge::None);
        assert_eq!(charge_of(&refused(None, 502)), Charge::Possible);
        assert_eq!(charge_of(&refused(None, 503)), Charge::None);
        assert_eq!(charge_of(&refused(Some("ERROR_X"), 500)), Charge::None);
    }
}
