//! The trace that a message belongs to, as its headers name it (W3C Trace Context).

use super::history::{MAX_PUBLISHERS_HEADERS, publishers_headers};
use super::message::{Headers, Value, wire_size};

/// The header that names the trace and the span that a message comes from.
pub const TRACEPARENT: &str = "traceparent";
/// The header of what tracing systems know beside it; passed on as it came.
pub const TRACESTATE: &str = "tracestate";
/// Longest trace header that is looked at or echoed; the standard's own bound for `tracestate`.
pub const MAX_TRACE: usize = 512;
/// What one more `traceparent` takes, and more than that.
const ROOM: usize = 128;

/// The span that a message comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent<'a> {
    /// Never 0.
    pub trace_id: u128,
    /// Never 0.
    pub span_id: u64,
    /// The publisher has decided to record the trace.
    pub sampled: bool,
    /// `tracestate`, unread.
    pub state: Option<&'a str>,
}

/// The span that a message comes from; `None` where the headers name none, or not as the standard
/// has it.
#[must_use]
pub fn parent(headers: &Headers) -> Option<Parent<'_>> {
    let text = |name| headers.get(name).and_then(Value::as_text).filter(|text| text.len() <= MAX_TRACE);
    let (trace_id, span_id, flags) = read(text(TRACEPARENT)?)?;
    Some(Parent { trace_id, span_id, sampled: flags & 1 == 1, state: text(TRACESTATE) })
}

/// The header's parts. A version to come may have more of them, after these.
fn read(text: &str) -> Option<(u128, u64, u8)> {
    let mut parts = text.splitn(5, '-');
    let mut hex = |digits: usize| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_digit))
    };
    let (version, trace_id, span_id, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    let has_more = parts.next().is_some();
    if version == "ff" || version == "00" && has_more {
        return None;
    }
    let trace_id = u128::from_str_radix(trace_id, 16).ok().filter(|id| *id != 0)?;
    let span_id = u64::from_str_radix(span_id, 16).ok().filter(|id| *id != 0)?;
    Some((trace_id, span_id, u8::from_str_radix(flags, 16).ok()?))
}

/// Lets whatever is made of a message come from this span. Where it begins a trace, what stood
/// there of another is gone; and where a job's headers leave no room for one more, they stay as
/// they are, since a ticket must still fit beside them.
pub fn inject(headers: &mut Headers, trace_id: u128, span_id: u64, sampled: bool) {
    if parent(headers).is_none() {
        if wire_size(&publishers_headers(headers)) + ROOM > MAX_PUBLISHERS_HEADERS {
            return;
        }
        headers.remove(TRACESTATE);
    }
    let text = format!("00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(sampled));
    headers.insert(TRACEPARENT.to_owned(), text.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(traceparent: &str) -> Headers {
        let of = |name: &str, value: &str| (name.to_owned(), value.into());
        Headers::from([of(TRACEPARENT, traceparent), of(TRACESTATE, "vendor=1")])
    }

    #[test]
    fn a_parent_is_read_as_the_standard_writes_it() {
        let known = Parent {
            trace_id: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span_id: 0x00f0_67aa_0ba9_02b7,
            sampled: true,
            state: Some("vendor=1"),
        };
        assert_eq!(parent(&headers(GOOD)), Some(known));
        assert_eq!(parent(&headers(&GOOD.replace("-01", "-00"))), Some(Parent { sampled: false, ..known }));
        let to_come = format!("{}-more", GOOD.replacen("00", "cc", 1));
        assert_eq!(parent(&headers(&to_come)), Some(known));
    }

    #[test]
    fn what_is_no_parent_is_ignored() {
        let long = format!("{}-{}", GOOD.replacen("00", "cc", 1), "x".repeat(MAX_TRACE));
        let zeros = ["4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"];
        let zeros = zeros.map(|id| GOOD.replace(id, &"0".repeat(id.len())));
        let odd = ["", "00", "00-ab-cd-01", &format!("{GOOD}-more"), &GOOD.replacen("00", "ff", 1), &long];
        let shouting = GOOD.replace("4bf9", "4BF9");
        let signed = GOOD.replace("4bf9", "+bf9");
        for text in odd.into_iter().chain([&*zeros[0], &zeros[1], &shouting, &signed]) {
            assert_eq!(parent(&headers(text)), None, "{text}");
        }
        let number = Headers::from([(TRACEPARENT.to_owned(), Value::Int(7))]);
        assert_eq!(parent(&number), None);
    }

    #[test]
    fn the_next_hop_comes_from_the_span_and_a_state_without_a_trace_is_dropped() {
        let mut known = headers(GOOD);
        inject(&mut known, 0xab, 0xcd, false);
        let expected = format!("00-{:032x}-{:016x}-00", 0xab, 0xcd);
        assert_eq!(known, headers(&expected));
        let mut odd = headers("nonsense");
        inject(&mut odd, 0xab, 0xcd, false);
        assert_eq!(odd, Headers::from([(TRACEPARENT.to_owned(), expected.into())]));
    }

    #[test]
    fn headers_that_are_full_stay_as_they_are() {
        let note = ("note".to_owned(), "x".repeat(MAX_PUBLISHERS_HEADERS - 50).into());
        let mut full = Headers::from([note]);
        let before = full.clone();
        inject(&mut full, 1, 2, true);
        assert_eq!(full, before);
    }
}
