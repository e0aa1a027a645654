//! A job's bytes while it waits.

use std::fmt;

use base64_simd::STANDARD;
use bytes::Bytes;
use memchr::memchr_iter;

/// The shortest picture that is worth the work.
const WORTH_PACKING: usize = 1024;

/// The bytes of a job, verbatim. Thousands of jobs wait for an answer at once, most of them a
/// picture in base64, which takes a third more room than the picture does. They can hold a
/// publisher's proxy password, so `Debug` shows their length alone.
#[derive(Clone, PartialEq)]
pub struct JobBody(Form);

impl fmt::Debug for JobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = match &self.0 {
            Form::Plain(bytes) => bytes.len(),
            Form::Packed { frame, picture, .. } => frame.len() + picture.len(),
        };
        write!(f, "JobBody({held} bytes held)")
    }
}

#[derive(Clone, PartialEq)]
enum Form {
    Plain(Bytes),
    /// `frame` is the text without the base64 that stood `at` this place in it.
    Packed {
        frame: Box<[u8]>,
        at: usize,
        picture: Box<[u8]>,
    },
}

impl JobBody {
    /// The bytes as they are.
    #[must_use]
    pub fn plain(bytes: Bytes) -> Self {
        Self(Form::Plain(bytes))
    }

    /// The same in less room, where it holds a long text in base64 that is written in the one way
    /// in which it is written back.
    #[must_use]
    pub fn packed(bytes: Bytes) -> Self {
        let Some((from, to)) = longest_string(&bytes).filter(|(from, to)| to - from >= WORTH_PACKING) else {
            return Self::plain(bytes);
        };
        // Accepts canonical padding and no stray bits, so that there is one text for each picture.
        match STANDARD.decode_to_vec(&bytes[from..to]) {
            Ok(picture) => {
                let frame = [&bytes[..from], &bytes[to..]].concat().into();
                Self(Form::Packed { frame, at: from, picture: picture.into() })
            }
            Err(_) => Self::plain(bytes),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        match &self.0 {
            Form::Plain(bytes) => bytes.clone(),
            Form::Packed { frame, at, picture } => {
                let (before, after) = frame.split_at(*at);
                let text = STANDARD.encode_to_string(picture);
                [before, text.as_bytes(), after].concat().into()
            }
        }
    }

    /// The bytes, or what is left of them without a long text in base64.
    pub(super) fn frame(&self) -> &[u8] {
        match &self.0 {
            Form::Plain(bytes) => bytes,
            Form::Packed { frame, .. } => frame,
        }
    }
}

/// The longest run between two quotes.
fn longest_string(bytes: &[u8]) -> Option<(usize, usize)> {
    let quotes = memchr_iter(b'"', bytes);
    let next = memchr_iter(b'"', bytes).skip(1);
    quotes.zip(next).map(|(from, to)| (from + 1, to)).max_by_key(|(from, to)| to - from)
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE};
    use proptest::prelude::*;

    use super::{Form, JobBody};
    use bytes::Bytes;

    fn is_packed(text: &str) -> bool {
        let body = JobBody::packed(Bytes::copy_from_slice(text.as_bytes()));
        assert_eq!(body.bytes(), text.as_bytes(), "verbatim");
        matches!(body.0, Form::Packed { .. })
    }

    #[test]
    fn a_picture_takes_the_room_of_its_bytes() {
        let picture = STANDARD.encode([7; 6_000]);
        let text = format!(r#"{{"task":{{"body":"{picture}","type":"ImageToTextTask"}}}}"#);
        let body = JobBody::packed(Bytes::from(text.clone()));
        let Form::Packed { frame, picture, .. } = &body.0 else { panic!("not packed") };
        assert_eq!((frame.len() + picture.len(), picture.len()), (text.len() - 2_000, 6_000));
        assert_eq!(body.frame(), br#"{"task":{"body":"","type":"ImageToTextTask"}}"#);
    }

    #[test]
    fn what_would_not_be_written_back_alike_stays_as_it_is() {
        let bytes: Vec<u8> = (0..1_501_u32).map(|n| (n * 89 % 251) as u8).collect();
        let quoted = |text: String| format!("{{\"a\":\"{text}\"}}");
        assert!(is_packed(&quoted(STANDARD.encode(&bytes))));
        assert!(!is_packed(&quoted(STANDARD_NO_PAD.encode(&bytes))));
        assert!(!is_packed(&quoted(URL_SAFE.encode(&bytes))));
        assert!(!is_packed(&quoted(STANDARD.encode(&bytes).replace('/', "\\/"))));
        let stray_bits = STANDARD.encode(&bytes).replacen("==", "", 1);
        let last = if stray_bits.ends_with('A') { 'B' } else { 'R' };
        assert!(!is_packed(&quoted(format!("{}{last}==", &stray_bits[..stray_bits.len() - 1]))));
        assert!(!is_packed(&quoted(STANDARD.encode(&bytes[..300]))), "short");
        assert!(!is_packed("") && !is_packed("\"") && !is_packed("no quotes"));
    }

    proptest! {
        #[test]
        fn any_bytes_come_back(
            before in ".{0,40}", after in ".{0,40}", picture in proptest::collection::vec(any::<u8>(), 700..1_400),
            cut in 0_usize..4,
        ) {
            let mut text = STANDARD.encode(picture);
            text.truncate(text.len() - cut);
            let bytes = Bytes::from(format!("{before}\"{text}\"{after}"));
            prop_assert_eq!(JobBody::packed(bytes.clone()).bytes(), bytes);
        }
    }
}
