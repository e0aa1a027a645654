//! What is known of each line, in little memory: a bit for a set, eight bytes for the hash of its
//! id.

use sha2::{Digest, Sha256};

/// A set of lines.
#[derive(Debug, Clone, Default)]
pub(super) struct LineSet {
    words: Vec<u64>,
    len: u64,
}

fn place(line: u64) -> (usize, u64) {
    (usize::try_from(line / 64).unwrap_or(usize::MAX), 1 << (line % 64))
}

impl LineSet {
    /// Whether it was not there before.
    pub(super) fn insert(&mut self, line: u64) -> bool {
        let (word, bit) = place(line);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.len += u64::from(is_new);
        is_new
    }

    pub(super) fn contains(&self, line: u64) -> bool {
        let (word, bit) = place(line);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// How many.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

/// By what an id is recognised.
pub(super) fn id_hash(id: &str) -> u64 {
    // As it stands in a table.
    let hash = Sha256::digest(id.replace(['\n', '\r'], " "));
    hash.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The hashes of the ids of lines.
#[derive(Debug, Default)]
pub(super) struct IdHashes {
    lines: LineSet,
    hashes: Vec<u64>,
}

/// Stands for a line whose id is not known.
const NONE: u64 = 0;

impl IdHashes {
    /// Whether the line was not there before. A hash that is there stays.
    pub(super) fn insert(&mut self, line: u64, id_hash: Option<u64>) -> bool {
        let is_new = self.lines.insert(line);
        let at = usize::try_from(line).unwrap_or(usize::MAX);
        if at >= self.hashes.len() {
            self.hashes.resize(at + 1, NONE);
        }
        if is_new {
            self.hashes[at] = id_hash.unwrap_or(NONE);
        }
        is_new
    }

    /// The hash of a line that is known, as far as its id is known.
    pub(super) fn get(&self, line: u64) -> Option<Option<u64>> {
        let at = usize::try_from(line).unwrap_or(usize::MAX);
        self.lines.contains(line).then(|| self.hashes.get(at).copied().filter(|hash| *hash != NONE))
    }

    /// How many lines.
    pub(super) fn len(&self) -> u64 {
        self.lines.len()
    }

    /// The highest line.
    pub(super) fn last(&self) -> u64 {
        self.hashes.len().saturating_sub(1) as u64
    }

    /// The lines alone.
    pub(super) fn into_lines(self) -> LineSet {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_counted_once() {
        let mut set = LineSet::default();
        assert!(set.insert(1) && set.insert(64) && set.insert(100_000) && !set.insert(64));
        assert!(set.contains(1) && set.contains(100_000) && !set.contains(2) && !set.contains(1 << 40));
        assert_eq!(set.len(), 3);
    }

    #[test]
    fn the_first_hash_of_a_line_stays() {
        let mut hashes = IdHashes::default();
        assert!(hashes.insert(3, None) && hashes.insert(5, Some(7)) && !hashes.insert(5, Some(8)));
        assert_eq!((hashes.get(3), hashes.get(4), hashes.get(5)), (Some(None), None, Some(Some(7))));
        assert_eq!((hashes.len(), hashes.last()), (2, 5));
    }
}
