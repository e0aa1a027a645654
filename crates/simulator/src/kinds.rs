//! The task types that the API knows: what each must carry, what it costs, and its solution, which
//! is derived from the task alone by FNV-1a: a test in any language can repeat that hash in three
//! lines, and so check that the right answer reached the right job.

use super::distribution::Distribution;

/// The shape of a solution.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// `{text}`, from the image's `body`.
    Text,
    /// `{answer:[…]}`.
    Answer,
    /// `{token, userAgent}`.
    TokenAndAgent,
    /// `{token}`.
    Token,
    /// `{gRecaptchaResponse, respKey, userAgent}`.
    HCaptcha,
    /// `{gRecaptchaResponse}`.
    Recaptcha,
    /// Nested.
    GeeTest,
}

/// One task type.
#[derive(Debug)]
pub(super) struct TaskType {
    /// The value of `type`.
    pub(super) name: &'static str,
    /// The fields that it must carry, non-empty, as the API's error names them.
    pub(super) required: &'static [&'static str],
    /// What its solution looks like.
    pub(super) shape: Shape,
    /// Default price of an accepted task, in millionths of the account's currency. [assumed: the
    /// vendor's prices vary]
    pub(super) cost_micros: u64,
    /// Default answer time: the vendor claims 0.3 to 6 s over all types.
    pub(super) solve: Distribution,
}

/// Either of two fields will do.
pub(super) const IMAGES: &str = "imageUrls or imagesBase64";
/// A field within a field.
pub(super) const METADATA_TASK: &str = "metadata.Task";

const IMAGE: Distribution = Distribution::Lognormal { median: 500, p99: 2_500 };
const SITE: Distribution = Distribution::Lognormal { median: 2_000, p99: 6_000 };

const fn image(name: &'static str, required: &'static [&'static str], shape: Shape) -> TaskType {
    TaskType { name, required, shape, cost_micros: 1_000, solve: IMAGE }
}

const fn site(name: &'static str, required: &'static [&'static str], shape: Shape) -> TaskType {
    TaskType { name, required, shape, cost_micros: 2_000, solve: SITE }
}

/// Every type the API documents.
pub(super) static KINDS: [TaskType; 13] = [
    image("ImageToTextTask", &["body"], Shape::Text),
    image("ComplexImageTask", &["class", IMAGES, METADATA_TASK], Shape::Answer),
    site("FunCaptchaTask", &["websiteURL", "websitePublicKey"], Shape::TokenAndAgent),
    site("FunCaptchaTaskProxyless", &["websiteURL", "websitePublicKey"], Shape::TokenAndAgent),
    site("HCaptchaTask", &["websiteURL", "websiteKey"], Shape::HCaptcha),
    site("HCaptchaTaskProxyless", &["websiteURL", "websiteKey"], Shape::HCaptcha),
    site("CaptchaFoxTask", &["websiteURL", "websiteKey", "userAgent"], Shape::Token),
    site("RecaptchaV2Task", &["websiteURL", "websiteKey"], Shape::Recaptcha),
    site("NoCaptchaTask", &["websiteURL", "websiteKey"], Shape::Recaptcha),
    site("NoCaptchaTaskProxyless", &["websiteURL", "websiteKey"], Shape::Recaptcha),
    site("RecaptchaV3TaskProxyless", &["websiteURL", "websiteKey"], Shape::Recaptcha),
    site("TurnstileTask", &["websiteURL", "websiteKey"], Shape::Token),
    site("GeeTestTask", &["websiteURL", "gt"], Shape::GeeTest),
];

/// The place of a type in [`KINDS`].
pub(super) fn index_of(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.name == name)
}

/// The user agent that solutions name where their type names one.
const USER_AGENT: &str = "Mozilla/5.0 (simulator)";

/// What a task's answer is derived from.
pub(super) fn answer_of(kind: usize, digest: u64, body: Option<&str>) -> u64 {
    match (KINDS[kind].shape, body) {
        (Shape::Text, Some(body)) => fnv1a(body.as_bytes()),
        _ => digest,
    }
}

/// The solution as JSON text; the parts need no escaping.
pub(super) fn render(kind: usize, answer: u64) -> String {
    match KINDS[kind].shape {
        Shape::Text => format!(r#"{{"text":"{answer:016x}"}}"#),
        Shape::Answer => {
            let [a, b, c, d] = [48, 32, 16, 0].map(|shift| (answer >> shift) & 0xffff);
            format!(r#"{{"answer":[{a},{b},{c},{d}]}}"#)
        }
        Shape::TokenAndAgent => {
            format!(r#"{{"token":"fun.{answer:016x}","userAgent":"{USER_AGENT}"}}"#)
        }
        Shape::Token => format!(r#"{{"token":"0.{answer:016x}"}}"#),
        Shape::HCaptcha => format!(
            r#"{{"gRecaptchaResponse":"P1_{answer:016x}","respKey":"E0_{answer:016x}","userAgent":"{USER_AGENT}"}}"#
        ),
        Shape::Recaptcha => format!(r#"{{"gRecaptchaResponse":"03A{answer:016x}"}}"#),
        Shape::GeeTest => format!(
            r#"{{"geetest":{{"challenge":"{answer:016x}","validate":"v{answer:016x}","seccode":"v{answer:016x}|jordan"}}}}"#
        ),
    }
}

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// FNV-1a, 64 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(OFFSET, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// A digest, stirred with a salt, as a fraction of 0..1. FNV's upper bits move little for short
/// inputs, hence the finaliser (that of `SplitMix64`).
pub(super) fn fraction(digest: u64, salt: u64) -> f64 {
    let mut z = digest ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    // 53 bits are what an f64 holds exactly.
    (z >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_fnv_1a() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_share_of_one_twentieth_takes_about_one_digest_in_twenty() {
        let taken = (0..100_000_u32).filter(|n| fraction(fnv1a(&n.to_le_bytes()), 3) < 0.05).count();
        assert!((4_700..=5_300).contains(&taken), "{taken}");
    }
}
