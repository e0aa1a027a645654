//! Foreign text made fit to be shown: what a publisher, an API or a host's name wrote must not steer a terminal or a page, nor fill it.

/// Stands for a character that is not shown.
const HIDDEN: char = '·';
/// Stands for what was cut off.
const CUT: char = '…';

/// The text without what steers a terminal or turns the direction of writing, at most this many characters long.
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

/// Control characters, and those that are not seen but change what is: of direction, joining and line ends.
fn steers(c: char) -> bool {
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
    }
}
