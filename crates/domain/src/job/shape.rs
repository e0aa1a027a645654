//! Bounds on a job's bytes that are checked without building anything from them.

use memchr::memchr2;

use super::super::fault::{Fault, local_code};
use crate::class::Class;
use crate::fault::Stage;

/// Levels of arrays and objects that a message may nest.
pub const MAX_DEPTH: usize = 64;
/// Smallest and largest image the API takes, in bytes of the picture. Documented; that the decoded
/// bytes are meant is our assumption.
pub const IMAGE_BYTES: std::ops::RangeInclusive<usize> = 100..=50_000;

/// Whether the JSON nests deeper than [`MAX_DEPTH`]. Says nothing about bytes that are not JSON.
pub(super) fn too_deep(json: &[u8]) -> bool {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = end_of_string(json, at + 1),
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    false
}

/// The index of the quote that ends the string beginning at `from`, or the end of the bytes.
fn end_of_string(json: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some(offset) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += offset;
        if json[at] == b'"' {
            return at;
        }
        at += 2;
    }
    json.len()
}

/// Whether all of it is base64's digits, of either alphabet. Without a branch, so that many bytes
/// are looked at together: this is most of what admission does to a picture.
fn all_digits(text: &[u8]) -> bool {
    let within = |byte: u8, first: u8, last: u8| byte.wrapping_sub(first) <= last - first;
    text.iter().fold(true, |all, &byte| {
        // Sets the bit in which small letters differ from capitals, which takes no other byte in.
        let is_letter = within(byte | 0x20, b'a', b'z');
        let is_mark = matches!(byte, b'+' | b'/' | b'-' | b'_');
        all & (is_letter | within(byte, b'0', b'9') | is_mark)
    })
}

/// Checks an image's base64 text: standard or URL-safe alphabet, padded or not, line breaks
/// ignored, since decoders differ in these.
pub(super) fn check_image(text: &str) -> Result<(), Fault> {
    let fault = |code, what: String| Err(Fault::local(Class::Invalid, code, Stage::Admission, what));
    let (mut digits, mut padding) = (0_usize, 0_usize);
    // Whether the line has a digit yet, and white space after it.
    let (mut begun, mut gap) = (false, false);
    let rest = match text.trim_end_matches('=') {
        plain if all_digits(plain.as_bytes()) => {
            digits = plain.len();
            &text[plain.len()..]
        }
        _ => text,
    };
    for byte in rest.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'-' | b'_' if padding == 0 => {
                if gap {
                    // Decoders of forms do that. Others leave the space out, and get another
                    // picture.
                    let what =
                        "task.body is not base64: it has a space inside a line, perhaps in place of '+'";
                    return fault(local_code::IMAGE_NOT_BASE64, what.to_owned());
                }
                digits += 1;
                begun = true;
            }
            b'=' => padding += 1,
            b'\r' | b'\n' => (begun, gap) = (false, false),
            b' ' | b'\t' => gap = begun,
            _ => return fault(local_code::IMAGE_NOT_BASE64, "task.body is not base64".to_owned()),
        }
    }
    if digits % 4 == 1 || padding > 2 || padding > 0 && (digits + padding) % 4 != 0 {
        return fault(
            local_code::IMAGE_NOT_BASE64,
            "task.body is not base64: its length is impossible".to_owned(),
        );
    }
    let bytes = digits / 4 * 3 + (digits % 4).saturating_sub(1);
    if bytes < *IMAGE_BYTES.start() {
        return fault(
            local_code::IMAGE_TOO_SMALL,
            format!("task.body is an image of {bytes} bytes; at least 100 are needed"),
        );
    }
    if bytes > *IMAGE_BYTES.end() {
        return fault(
            local_code::IMAGE_TOO_BIG,
            format!("task.body is an image of {bytes} bytes; at most 50,000 are allowed"),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn depth_is_counted_outside_strings_only() {
        let nested = |n: usize| [b"[".repeat(n), b"]".repeat(n)].concat();
        assert!(!too_deep(&nested(64)));
        assert!(too_deep(&nested(65)));
        assert!(!too_deep(format!(r#"{{"a":"{}\"[[[\\"}}"#, "[{".repeat(500)).as_bytes()));
        assert!(!too_deep(br#"["open string \"#));
    }

    #[test]
    fn an_image_must_have_100_to_50_000_bytes() {
        let code =
            |n: usize| check_image(&STANDARD.encode(vec![7; n])).map_err(|fault| fault.code.into_owned());
        assert_eq!(code(99), Err("IMAGE_TOO_SMALL".to_owned()));
        assert_eq!(code(100), Ok(()));
        assert_eq!(code(50_000), Ok(()));
        assert_eq!(code(50_001), Err("IMAGE_TOO_BIG".to_owned()));
    }

    #[test]
    fn what_no_decoder_could_read_is_refused() {
        let good = STANDARD.encode([1; 120]);
        for bad in [
            "data:image/png;base64,".to_owned() + &good,
            good.clone() + "A",
            good.clone() + "====",
            good.clone() + "=",
            good.clone() + "AA=",
            good.clone() + "AAA==",
            // '+' that became a space, at a length that is possible.
            good.replacen('A', " ", 4),
            good.replacen("AQEB", "AQ  ", 1),
            format!("AAAA\n{}", good.replacen('B', " ", 1)),
            "=".to_owned() + &good,
        ] {
            assert_eq!(
                check_image(&bad).map_err(|fault| fault.code),
                Err("IMAGE_NOT_BASE64".into()),
                "{bad}"
            );
        }
    }

    #[test]
    fn white_space_around_lines_is_left_alone() {
        let good = STANDARD.encode([1; 100]);
        for text in [format!(" {good} "), format!("{}\r\n\t  {} \n", &good[..76], &good[76..])] {
            assert_eq!(check_image(&text), Ok(()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_size_is_that_of_the_decoded_bytes(bytes in prop::collection::vec(any::<u8>(), 100..400)) {
            for text in [STANDARD.encode(&bytes), STANDARD_NO_PAD.encode(&bytes), URL_SAFE.encode(&bytes)] {
                prop_assert_eq!(check_image(&text), Ok(()));
            }
            let cut = STANDARD_NO_PAD.encode(&bytes[..99]);
            prop_assert!(check_image(&cut).is_err());
        }
    }
}
