//! The account's key: how it goes into a request, and how it is kept out of everything else.

use secrecy::{ExposeSecret, SecretString};

use crate::domain::fingerprint::Fingerprint;

/// What stands where the key stood.
const MASKED: &str = "[key]";

/// The key in the forms that are needed on every call, made once.
#[derive(Debug)]
pub(super) struct Key {
    /// As a JSON string, quotes included.
    json: SecretString,
    mask: Mask,
    fingerprint: Fingerprint,
}

impl Key {
    pub(super) fn new(key: &SecretString) -> Self {
        let json = serde_json::Value::from(key.expose_secret()).to_string();
        Self {
            json: json.into(),
            mask: Mask::new(key),
            fingerprint: Fingerprint::of_key(key.expose_secret()),
        }
    }

    /// The key as a JSON string, quotes included. For request bodies only.
    pub(super) fn as_json(&self) -> &str {
        self.json.expose_secret()
    }

    /// What distinguishes this key from another without showing it.
    pub(super) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(super) fn mask(&self) -> &Mask {
        &self.mask
    }
}

/// Takes the key out of texts that the other side wrote, and bounds them.
#[derive(Debug)]
pub struct Mask {
    /// The key as it is, and as it looks inside JSON where that differs. None is empty.
    needles: Vec<SecretString>,
}

impl Mask {
    /// A mask for this key. An empty key masks nothing.
    #[must_use]
    pub fn new(key: &SecretString) -> Self {
        let plain = key.expose_secret();
        let quoted = serde_json::Value::from(plain).to_string();
        let mut forms = vec![quoted[1..quoted.len() - 1].to_owned(), plain.to_owned()];
        forms.dedup();
        forms.retain(|form| !form.is_empty());
        Self { needles: forms.into_iter().map(SecretString::from).collect() }
    }

    /// `text` without the key and without control characters, in at most `max` characters.
    ///
    /// Masked before it is cut, so that no half of the key is left at the end.
    #[must_use]
    pub fn bounded(&self, text: &str, max: usize) -> String {
        let mut masked = text.to_owned();
        for needle in self.needles.iter().map(ExposeSecret::expose_secret) {
            if masked.contains(needle) {
                masked = masked.replace(needle, MASKED);
            }
        }
        let mut chars = masked.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut kept: String = chars.by_ref().take(max).collect();
        if chars.next().is_some() {
            kept.pop();
            kept.push('…');
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_masked_plain_and_json_escaped() {
        let mask = Mask::new(&SecretString::from("se\"cret"));
        assert_eq!(
            mask.bounded(r#"plain se"cret, quoted "se\"cret"."#, 99),
            r#"plain [key], quoted "[key]"."#
        );
    }

    #[test]
    fn a_key_across_the_cut_leaves_no_half_of_itself() {
        let mask = Mask::new(&SecretString::from("0123456789"));
        assert_eq!(mask.bounded("ab0123456789", 6), "ab[ke…");
    }

    #[test]
    fn a_text_within_the_bound_is_left_alone() {
        assert_eq!(Mask::new(&SecretString::from("k")).bounded("ошибка", 6), "ошибка");
    }

    #[test]
    fn control_characters_become_spaces() {
        assert_eq!(Mask::new(&SecretString::from("k")).bounded("a\n\u{1b}[31mb", 99), "a  [31mb");
    }

    #[test]
    fn an_empty_key_masks_nothing() {
        assert_eq!(Mask::new(&SecretString::from("")).bounded("text", 99), "text");
    }

    #[test]
    fn neither_key_nor_mask_tell_the_key_in_debug() {
        let key = Key::new(&SecretString::from("planted-key"));
        assert!(!format!("{key:?}").contains("planted"));
    }
}
