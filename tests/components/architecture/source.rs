//! Rust source, read just far enough to list the paths it names: comments, literals and test code left out.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file below `src/`.
pub(crate) struct Source {
    /// Relative to `src/`, with `/`.
    pub(crate) path: String,
    /// Its text.
    pub(crate) text: String,
}

impl Source {
    /// The module that the file is, from the crate's root: `domain/job/mod.rs` is `[domain, job]`.
    pub(crate) fn module(&self) -> Vec<&str> {
        let path = self.path.trim_end_matches(".rs");
        path.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main")).collect()
    }

    /// The top-level module that it belongs to; `lib` and `main` for the two roots.
    pub(crate) fn house(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap_or_default()
    }

    /// A file that exists only for `cargo test`, by its name.
    pub(crate) fn is_test_only(&self) -> bool {
        self.path.split('/').any(|part| matches!(part, "tests" | "tests.rs"))
    }
}

/// Every `.rs` file below `src/`.
pub(crate) fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src is readable") {
            let path: PathBuf = entry.expect("src is readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&root).expect("it was found below src");
                let name = below.to_string_lossy().replace('\\', "/");
                let text = fs::read_to_string(&path).expect("sources are UTF-8");
                found.push(Source { path: name, text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 20, "src was not found");
    found
}

/// A piece of source that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    /// An identifier or keyword.
    Word(String),
    /// `::`.
    Colons,
    /// Any other single character.
    Sign(char),
}

impl Token {
    fn is(&self, sign: char) -> bool {
        *self == Token::Sign(sign)
    }

    fn is_word(&self, text: &str) -> bool {
        matches!(self, Token::Word(word) if word == text)
    }
}

/// The tokens of a text with the line each stands on (from 0), without comments, strings and characters.
pub(crate) fn tokens(text: &str) -> Vec<(usize, Token)> {
    let chars: Vec<char> = text.chars().collect();
    let (mut at, mut line, mut found) = (0, 0, Vec::new());
    while let Some(&c) = chars.get(at) {
        let rest = &chars[at..];
        let length = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|&c| c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if c.is_alphabetic() || c == '_' {
            let length = word(rest);
            found.push((line, Token::Word(rest[..length].iter().collect())));
            length
        } else if rest.starts_with(&[':', ':']) {
            found.push((line, Token::Colons));
            2
        } else {
            if !c.is_whitespace() {
                found.push((line, Token::Sign(c)));
            }
            1
        };
        line += rest[..length].iter().filter(|&&c| c == '\n').count();
        at += length;
    }
    found
}

fn word(rest: &[char]) -> usize {
    rest.iter().position(|c| !(c.is_alphanumeric() || *c == '_')).unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of the string, character or lifetime that begins here, if one does.
fn literal(rest: &[char]) -> Option<usize> {
    let prefix = match rest {
        ['b' | 'c', 'r', '"' | '#', ..] => 2,
        ['r', '"', ..] | ['r', '#', '"' | '#', ..] | ['b' | 'c', '"' | '\'', ..] => 1,
        ['"' | '\'', ..] => 0,
        _ => return None,
    };
    let raw = rest[..prefix].contains(&'r');
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    let from = prefix + hashes + 1;
    if raw {
        let end = ["\"", &"#".repeat(hashes)].concat().chars().collect::<Vec<_>>();
        let length = rest[from..].windows(end.len()).position(|w| w == end)?;
        return Some(from + length + end.len());
    }
    let quote = rest[prefix];
    // `'a` without a closing quote is a lifetime.
    if quote == '\'' && rest.get(from) != Some(&'\\') && rest.get(from + 1) != Some(&'\'') {
        return Some(from + word(&rest[from..]));
    }
    let mut at = from;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    Some((at + 1).min(rest.len()))
}

/// The same without items under `#[cfg(test)]`: tests may put a fake from another room behind a seam.
pub(crate) fn without_tests(tokens: &[(usize, Token)]) -> Vec<(usize, Token)> {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
    let begins = |at: usize| {
        marker.iter().enumerate().all(|(offset, text)| {
            tokens.get(at + offset).is_some_and(|(_, token)| match token {
                Token::Word(word) => word == text,
                Token::Sign(sign) => text.starts_with(*sign),
                Token::Colons => false,
            })
        })
    };
    let (mut at, mut kept) = (0, Vec::new());
    while at < tokens.len() {
        if begins(at) {
            at = end_of_item(tokens, at + marker.len());
        } else {
            kept.push(tokens[at].clone());
            at += 1;
        }
    }
    kept
}

/// Past the end of what begins here: an item, or a field, variant or arm in a list.
fn end_of_item(tokens: &[(usize, Token)], from: usize) -> usize {
    const ITEMS: [&str; 11] =
        ["async", "const", "enum", "extern", "fn", "impl", "mod", "static", "struct", "type", "use"];
    let mut words = tokens[from..].iter().filter_map(|(_, token)| match token {
        Token::Word(word) if !matches!(word.as_str(), "pub" | "super" | "crate") => Some(word.as_str()),
        _ => None,
    });
    let is_item = words.next().is_some_and(|word| ITEMS.contains(&word));
    let mut depth = 0_usize;
    for (at, (_, token)) in tokens.iter().enumerate().skip(from) {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            // The list itself ends: what was left out was its last entry.
            Token::Sign('}' | ')' | ']') if depth == 0 => return at,
            Token::Sign('}') if depth == 1 && is_item => return at + 1,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            Token::Sign(';') if depth == 0 => return at + 1,
            Token::Sign(',') if depth == 0 && !is_item => return at + 1,
            _ => {}
        }
    }
    tokens.len()
}

/// Every path of two or more words, groups spelled out, with how many inline modules stand around it.
pub(crate) fn paths(tokens: &[(usize, Token)]) -> Vec<(usize, Vec<String>)> {
    let mut found = Vec::new();
    // For each open brace, whether it is a module's.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let starts_path = matches!(tokens[at].1, Token::Word(_))
            && matches!(tokens.get(at + 1), Some((_, Token::Colons)))
            && !(at > 0 && tokens[at - 1].1 == Token::Colons);
        if starts_path {
            let inline = braces.iter().filter(|is_module| **is_module).count();
            let mut tree = Vec::new();
            at = path_tree(tokens, at, &[], &mut tree);
            found.extend(tree.into_iter().map(|path| (inline, path)));
            continue;
        }
        if tokens[at].1.is('{') {
            braces.push(at >= 2 && tokens[at - 2].1.is_word("mod"));
        } else if tokens[at].1.is('}') {
            braces.pop();
        }
        at += 1;
    }
    found
}

/// Reads a path and its groups into `found`; returns where it ends.
fn path_tree(
    tokens: &[(usize, Token)],
    from: usize,
    prefix: &[String],
    found: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut at = from;
    loop {
        match tokens.get(at).map(|(_, token)| token) {
            Some(Token::Word(word)) => path.push(word.clone()),
            Some(Token::Sign('*')) => path.push("*".to_owned()),
            Some(Token::Sign('{')) => {
                at += 1;
                while at < tokens.len() && !tokens[at].1.is('}') {
                    at = match &tokens[at].1 {
                        Token::Word(word) if word == "as" => at + 2,
                        Token::Word(_) | Token::Sign('*') => path_tree(tokens, at, &path, found),
                        _ => at + 1,
                    };
                }
                return at + 1;
            }
            // A generic argument list, or whatever else: the path is over, and what follows is read by the caller.
            _ => break,
        }
        at += 1;
        if tokens.get(at).map(|(_, token)| token) != Some(&Token::Colons) {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}
