//! Lines that are broken between words, the rest under the text and not under its label.

use ratatui::text::{Line, Span};

/// Under the text after a label.
const INDENT: usize = 9;

/// A line in as many lines as it needs in this width. What is longer than a line is cut off.
pub(super) fn wrapped<'a>(line: &Line<'a>, width: usize) -> Vec<Line<'a>> {
    if line.width() <= width {
        return vec![line.clone()];
    }
    let mut lines = Vec::new();
    let (mut spans, mut used): (Vec<Span<'a>>, usize) = (Vec::new(), 0);
    for span in &line.spans {
        let style = line.style.patch(span.style);
        for word in span.content.split_inclusive(' ') {
            let needed = Span::raw(word.trim_end()).width();
            if used + needed > width && used > INDENT {
                lines.push(Line::from(std::mem::take(&mut spans)));
                spans.push(Span::raw(" ".repeat(INDENT)));
                used = INDENT;
            }
            used += Span::raw(word).width();
            spans.push(Span::styled(word.to_owned(), style));
        }
    }
    lines.push(Line::from(spans));
    lines
}

#[cfg(test)]
mod tests {
    use ratatui::style::Stylize;

    use super::*;

    #[test]
    fn words_go_under_the_text_and_keep_their_look() {
        let line = Line::from(vec![Span::raw("To do    "), "one two three".bold(), Span::raw(" four")]);
        let told: Vec<String> =
            wrapped(&line, 20).iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        assert_eq!(told, ["To do    one two", "         three four"]);
        assert_eq!(wrapped(&line, 80), std::slice::from_ref(&line));
        assert_eq!(wrapped(&Line::raw("x".repeat(50)), 20).len(), 1);
    }
}
