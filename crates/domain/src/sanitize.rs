//! Foreign text made fit to be shown: what a publisher, an API or a host's name wrote must not
//! steer a terminal or a page, nor fill it.

use std::borrow::Cow;

/// Stands for a character that is not shown.
const HIDDEN: char = '·';
/// Stands for what was cut off.
const CUT: char = '…';

/// The text without what steers a terminal or turns the direction of writing, at most this many
/// characters long.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let mut shown: String = text.chars().take(most + 1).map(|c| if steers(c) { HIDDEN } else { c }).collect();
    if let Some((at, _)) = shown.char_indices().nth(most) {
        shown.truncate(at);
        shown.pop();
        shown.push(CUT);
    }
    shown
}

/// The same of a longer text that keeps its lines, at its whole length.
#[must_use]
pub fn shown_lines(text: &str) -> String {
    text.chars().map(|c| if steers(c) && c != '\n' { HIDDEN } else { c }).collect()
}

/// JSON of the same meaning without what steers a terminal: escaped, not hidden. Control characters
/// below space are so already inside of its texts, and between its values they are its white space.
#[must_use]
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    let is_meant = |c: char| !c.is_ascii() && steers(c) || c == '\u{7f}';
    if !json.contains(is_meant) {
        return Cow::Borrowed(json);
    }
    let mut escaped = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if is_meant(c) {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| escaped.push_str(&format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, and those that are not seen but change what is: of direction, joining and
/// line ends.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_is_hidden_and_what_is_too_long_is_cut() {
        assert_eq!(shown("order-17", 8), "order-17");
        assert_eq!(shown("order-175", 8), "order-1…");
        assert_eq!(shown("\u{1b}[2J\u{9b}31m\r\n", 40), "·[2J·31m··");
        assert_eq!(shown("a\u{202e}b\u{200b}c", 40), "a·b·c");
        assert_eq!(shown("größe", 5), "größe");
        assert_eq!(shown_lines("a\n\u{1b}\u{9b}b\u{202e}"), "a\n··b·");
    }

    #[test]
    fn json_keeps_its_meaning_where_what_steers_is_escaped() {
        let text = "a\u{7f}\u{9b}31m\u{2028}\u{202e}\u{e0041}ö";
        let json = serde_json::json!({ text: text }).to_string();
        let escaped = escaped_json(&json);
        assert!(!escaped.chars().any(steers), "{escaped}");
        assert!(escaped.contains(r"\u007f\u009b31m\u2028\u202e\udb40\udc41ö"), "{escaped}");
        let again: serde_json::Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(again[text], text);
        assert!(matches!(escaped_json("{\"a\":\t\"ö\"}"), Cow::Borrowed(_)));
    }
}
