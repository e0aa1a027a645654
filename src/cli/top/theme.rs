//! The picture's style: colours, titles, and lines that are broken between words.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders};

/// A table's title and head.
pub(super) const HEADS: u16 = 2;
/// From here on what is beside each other has room.
pub(super) const WIDE: u16 = 110;

/// Styles. They add nothing that the text does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tones {
    pub(super) good: Style,
    pub(super) wary: Style,
    pub(super) bad: Style,
    pub(super) accent: Style,
    pub(super) dim: Style,
    pub(super) bold: Style,
}

impl Tones {
    pub(super) fn new(colour: bool) -> Self {
        let tone = |color| if colour { Style::new().fg(color) } else { Style::new() };
        Self {
            good: tone(Color::Green).add_modifier(Modifier::BOLD),
            wary: tone(Color::Yellow).add_modifier(Modifier::BOLD),
            bad: tone(Color::Red).add_modifier(Modifier::BOLD),
            accent: tone(Color::Cyan),
            dim: Style::new().add_modifier(Modifier::DIM),
            bold: Style::new().add_modifier(Modifier::BOLD).remove_modifier(Modifier::DIM),
        }
    }
}

/// A part's title, with a line above it.
pub(super) fn titled<'a>(title: impl Into<Line<'a>>, tones: &Tones) -> Block<'a> {
    Block::new().borders(Borders::TOP).border_style(tones.dim).title_top(title)
}

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
    fn words_go_under_the_text_and_keep_their_style() {
        let line = Line::from(vec![Span::raw("To do    "), "one two three".bold(), Span::raw(" four")]);
        let lines: Vec<String> =
            wrapped(&line, 20).iter().map(|line| line.to_string().trim_end().to_owned()).collect();
        assert_eq!(lines, ["To do    one two", "         three four"]);
        assert_eq!(wrapped(&line, 80), std::slice::from_ref(&line));
        assert_eq!(wrapped(&Line::raw("x".repeat(50)), 20).len(), 1);
    }
}
