//! Every way in which the API, or what stands before it, can answer one call.

use serde_json::{Value, json};

/// A page of a gateway, a firewall or a CDN.
const PAGE: &str = "<!DOCTYPE html><html><head><title>Attention</title></head><body>Blocked</body></html>";
/// A code that no document knows.
pub(crate) const UNKNOWN: &str = "ERROR_OF_NEXT_YEAR";

/// Whether a fault goes away when the call is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nature {
    /// It is gone after some calls.
    Passing,
    /// It is the API's last word on the job.
    Final,
    /// It comes with the first submission only.
    Once,
}

use Nature::{Final, Once, Passing};

/// Codes of createTask that are the account's are no part of this: the trials try those.
pub(crate) const CREATE: [(&str, Nature); 37] = [
    ("ERROR_TOO_MUCH_REQUESTS", Passing),
    ("ERROR_NO_SLOT_AVAILABLE", Passing),
    ("ERROR_SERVICE_NOT_AVAILABLE", Passing),
    (UNKNOWN, Passing),
    ("ERROR_TOO_BIG_CAPTCHA_FILESIZE", Final),
    ("ERROR_ZERO_CAPTCHA_FILESIZE", Final),
    ("ERROR_NO_SUCH_METHOD", Final),
    ("ERROR_TASK_NOT_SUPPORTED", Final),
    ("ERROR_TASK_ABSENT", Final),
    ("ERROR_RECAPTCHA_INVALID_SITEKEY", Final),
    ("ERROR_RECAPTCHA_INVALID_DOMAIN", Final),
    ("ERROR_WRONG_USERAGENT", Final),
    ("ERROR_TASK_PROPERTY_EMPTY", Final),
    ("ERROR_INVALID_TASK", Final),
    ("ERROR_DOMAIN_NOT_ALLOWED", Final),
    ("ERROR_PROXY_CONNECT_REFUSED", Final),
    ("ERROR_PROXY_BANNED", Final),
    ("ERROR_PROXY_READ_TIMEOUT", Final),
    ("ERROR_PROXY_CONNECT_TIMEOUT", Final),
    ("ERROR_PROXY_MISSING", Final),
    ("ERROR_PROXY_NOT_AUTHORISED", Final),
    ("ERROR_PROXY_TRANSPARENT", Final),
    ("ERROR_PROXY_CREDENTIALS_INVALID_CHARACTER", Final),
    ("429", Passing),
    ("500", Passing),
    ("502", Passing),
    ("503", Passing),
    ("404", Passing),
    ("403 HTML", Passing),
    ("200 HTML", Passing),
    ("empty", Passing),
    ("truncated", Passing),
    ("oversize", Passing),
    ("cut", Passing),
    ("hang", Passing),
    ("accepted, then cut", Once),
    ("accepted, then hang", Once),
];

/// Those of getTaskResult.
pub(crate) const RESULT: [(&str, Nature); 37] = [
    ("CAPTCHA_NOT_READY", Passing),
    ("ERROR_TOO_MUCH_REQUESTS", Passing),
    ("ERROR_SERVICE_NOT_AVAILABLE", Passing),
    (UNKNOWN, Final),
    ("WRONG_CAPTCHA_ID", Once),
    ("ERROR_NO_SUCH_CAPCHA_ID", Once),
    ("ERROR_CAPTCHA_UNSOLVABLE", Final),
    ("ERROR_RECAPTCHA_TIMEOUT", Final),
    ("ERROR_TOKEN_EXPIRED", Final),
    ("ERROR_TOO_BIG_CAPTCHA_FILESIZE", Final),
    ("ERROR_ZERO_CAPTCHA_FILESIZE", Final),
    ("ERROR_NO_SUCH_METHOD", Final),
    ("ERROR_TASK_NOT_SUPPORTED", Final),
    ("ERROR_TASK_ABSENT", Final),
    ("ERROR_RECAPTCHA_INVALID_SITEKEY", Final),
    ("ERROR_RECAPTCHA_INVALID_DOMAIN", Final),
    ("ERROR_WRONG_USERAGENT", Final),
    ("ERROR_TASK_PROPERTY_EMPTY", Final),
    ("ERROR_PROXY_CONNECT_REFUSED", Final),
    ("ERROR_PROXY_BANNED", Final),
    ("ERROR_PROXY_READ_TIMEOUT", Final),
    ("ERROR_PROXY_CONNECT_TIMEOUT", Final),
    ("ERROR_PROXY_NOT_AUTHORISED", Final),
    ("ERROR_PROXY_TRANSPARENT", Final),
    ("429", Passing),
    ("500", Passing),
    ("502", Passing),
    ("503", Passing),
    ("404", Passing),
    ("403 HTML", Passing),
    ("200 HTML", Passing),
    ("empty", Passing),
    ("truncated", Passing),
    ("oversize", Passing),
    ("cut", Passing),
    ("hang", Passing),
    ("no status", Passing),
];

/// How every call, or every createTask, can fail for a while. A code that blames the job itself is
/// none: the contract ends each job that meets it.
pub(crate) const OUTAGES: [&str; 14] = [
    "ERROR_SERVICE_NOT_AVAILABLE",
    UNKNOWN,
    "ERROR_NO_SLOT_AVAILABLE",
    "ERROR_TOO_MUCH_REQUESTS",
    "500",
    "502",
    "503",
    "404",
    "403 HTML",
    "401 HTML",
    "402 HTML",
    "200 HTML",
    "hang",
    "cut",
];

/// A fault as a step of the stand-in's scripts.
pub(crate) fn step(fault: &str) -> Value {
    let words: Vec<&str> = fault.split(' ').collect();
    match words[..] {
        ["200", "HTML"] => json!("html"),
        [status, "HTML"] => json!({"http": number(status), "body": PAGE, "content_type": "text/html"}),
        ["no", "status"] => json!("no_status"),
        ["accepted,", "then", word] => json!(format!("accepted_then_{word}")),
        [status] if status.starts_with(|first: char| first.is_ascii_digit()) => {
            json!({"http": number(status), "body": "upstream", "content_type": "text/plain"})
        }
        _ => json!(fault),
    }
}

fn number(status: &str) -> u16 {
    status.parse().expect("a status")
}

/// The script of a job that meets a fault, which so many calls meet where it passes.
pub(crate) fn script(list: &str, fault: &str, nature: Nature, calls: usize) -> Value {
    let step = step(fault);
    match nature {
        Passing => {
            let mut steps = vec![step; calls];
            steps.push(json!("ok"));
            json!({list: steps})
        }
        Final => json!({list: [step]}),
        Once => json!({list: [step], "submissions": 1}),
    }
}
