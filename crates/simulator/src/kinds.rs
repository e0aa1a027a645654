//! The task types the API knows: what each must carry, what its solution looks like, what it costs.

use super::distribution::Distribution;

/// A field (or a choice of fields) that a task type must carry, non-empty.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field {
    /// `body`: one image, base64.
    Body,
    /// `class`.
    Class,
    /// `imageUrls` or `imagesBase64`.
    Images,
    /// `metadata.Task`.
    MetadataTask,
    /// `websiteURL`.
    WebsiteUrl,
    /// `websiteKey`.
    WebsiteKey,
    /// `websitePublicKey`.
    WebsitePublicKey,
    /// `userAgent`.
    UserAgent,
    /// `gt`.
    Gt,
}

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
pub(super) struct Kind {
    /// The value of `type`.
    pub(super) name: &'static str,
    /// What it must carry.
    pub(super) required: &'static [Field],
    /// What its solution looks like.
    pub(super) shape: Shape,
    /// Default price of an accepted task, in millionths of the account's currency. [assumed: the vendor's prices vary]
    pub(super) cost_micros: u64,
    /// Default answer time: the vendor claims 0.3 to 6 s over all types.
    pub(super) solve: Distribution,
}

const IMAGE: Distribution = Distribution::Lognormal { median: 500, p99: 2_500 };
const SITE: Distribution = Distribution::Lognormal { median: 2_000, p99: 6_000 };

use Field::{Body, Class, Gt, Images, MetadataTask, UserAgent, WebsiteKey, WebsitePublicKey, WebsiteUrl};

const fn image(name: &'static str, required: &'static [Field], shape: Shape) -> Kind {
    Kind { name, required, shape, cost_micros: 1_000, solve: IMAGE }
}

const fn site(name: &'static str, required: &'static [Field], shape: Shape) -> Kind {
    Kind { name, required, shape, cost_micros: 2_000, solve: SITE }
}

/// Every type the API documents.
pub(super) static KINDS: [Kind; 13] = [
    image("ImageToTextTask", &[Body], Shape::Text),
    image("ComplexImageTask", &[Class, Images, MetadataTask], Shape::Answer),
    site("FunCaptchaTask", &[WebsiteUrl, WebsitePublicKey], Shape::TokenAndAgent),
    site("FunCaptchaTaskProxyless", &[WebsiteUrl, WebsitePublicKey], Shape::TokenAndAgent),
    site("HCaptchaTask", &[WebsiteUrl, WebsiteKey], Shape::HCaptcha),
    site("HCaptchaTaskProxyless", &[WebsiteUrl, WebsiteKey], Shape::HCaptcha),
    site("CaptchaFoxTask", &[WebsiteUrl, WebsiteKey, UserAgent], Shape::Token),
    site("RecaptchaV2Task", &[WebsiteUrl, WebsiteKey], Shape::Recaptcha),
    site("NoCaptchaTask", &[WebsiteUrl, WebsiteKey], Shape::Recaptcha),
    site("NoCaptchaTaskProxyless", &[WebsiteUrl, WebsiteKey], Shape::Recaptcha),
    site("RecaptchaV3TaskProxyless", &[WebsiteUrl, WebsiteKey], Shape::Recaptcha),
    site("TurnstileTask", &[WebsiteUrl, WebsiteKey], Shape::Token),
    site("GeeTestTask", &[WebsiteUrl, Gt], Shape::GeeTest),
];

/// The place of a type in [`KINDS`].
pub(super) fn index_of(name: &str) -> Option<usize> {
    KINDS.iter().position(|kind| kind.name == name)
}
