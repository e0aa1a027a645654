//! What is known of a message whose properties did not come as its publisher wrote them.
//!
//! A short string of AMQP can hold bytes that are not UTF-8, and headers what no client library
//! reads. The broker's seam takes such parts out, and says so in a header. A message with that
//! header is no job, and nothing is published from it: it would be another than it was.

use super::fault::{Fault, local_code};
use super::message::{Headers, Value};

/// Says what was taken out: a code, a space, and a text for people.
pub const UNREADABLE_HEADER: &str = "x-captcha-unreadable";
/// Codes that it begins with.
const CODES: [&str; 3] =
    [local_code::PROPERTIES_NOT_UTF8, local_code::HEADERS_UNREADABLE, local_code::HEADERS_TOO_LARGE];

/// The fault of a message with properties that were taken out. A header that no broker's seam
/// writes is as good as none.
#[must_use]
pub fn fault_of(headers: &Headers) -> Option<Fault> {
    let (code, text) = headers.get(UNREADABLE_HEADER).and_then(Value::as_text)?.split_once(' ')?;
    let code = CODES.into_iter().find(|known| *known == code)?;
    Some(Fault::malformed(code, text.to_owned()))
}

/// Whether the properties of what failed by this code are lost, so that a job made of the rest
/// would be another.
#[must_use]
pub fn loses_properties(code: &str) -> bool {
    [local_code::PROPERTIES_NOT_UTF8, local_code::HEADERS_UNREADABLE].contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_out_is_told_by_code_and_text() {
        let read = |value: Value| fault_of(&Headers::from([(UNREADABLE_HEADER.to_owned(), value)]));
        let fault = read("PROPERTIES_NOT_UTF8 app_id is not UTF-8".into()).expect("a fault");
        assert_eq!(
            (&*fault.code, &*fault.description),
            (local_code::PROPERTIES_NOT_UTF8, "app_id is not UTF-8")
        );
        for foreign in ["", "PANIC it was", "PROPERTIES_NOT_UTF8"] {
            assert_eq!(read(foreign.into()), None, "{foreign}");
        }
        assert_eq!(read(Value::Int(7)), None);
        assert_eq!(fault_of(&Headers::new()), None);
    }
}
