//! Content headers: whether lapin can read one, and what is left of one that it cannot.

use crate::domain::fault::local_code;
use crate::domain::unreadable::UNREADABLE_HEADER;

/// Tables and arrays within each other. lapin reads them by recursion, on a thread whose stack
/// ends.
pub const MAX_DEPTH: usize = 32;
/// Class, weight and size of the body, which stand before the properties.
const FIXED: usize = 12;
/// What a frame has around its payload.
const AROUND: usize = 8;
/// Bytes of the text that names what was taken out.
const MAX_TEXT: usize = 800;
/// Bytes of an unreadable string that are shown.
const SHOWN: usize = 60;

const FRAME_HEADER: u8 = 2;
const FRAME_END: u8 = 206;
const CLASS_BASIC: u8 = 60;

#[derive(Clone, Copy, PartialEq)]
enum FieldKind {
    Short,
    Table,
    /// Of so many bytes, any of which are right.
    Plain(usize),
}

/// By the bits of the flags, from the highest.
const PROPERTIES: [(&str, FieldKind); 14] = [
    ("content_type", FieldKind::Short),
    ("content_encoding", FieldKind::Short),
    ("headers", FieldKind::Table),
    ("delivery_mode", FieldKind::Plain(1)),
    ("priority", FieldKind::Plain(1)),
    ("correlation_id", FieldKind::Short),
    ("reply_to", FieldKind::Short),
    ("expiration", FieldKind::Short),
    ("message_id", FieldKind::Short),
    ("timestamp", FieldKind::Plain(8)),
    ("type", FieldKind::Short),
    ("user_id", FieldKind::Short),
    ("app_id", FieldKind::Short),
    ("cluster_id", FieldKind::Short),
];
const HEADERS: usize = 2;

fn flag(place: usize) -> u16 {
    0x8000 >> place
}

/// What is wrong with a part of the properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    NotUtf8,
    Unreadable,
}

/// Reads off the front.
#[derive(Clone, Copy)]
struct Front<'a>(&'a [u8]);

impl<'a> Front<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Wrong> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Wrong::Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Wrong> {
        let (first, rest) = self.0.split_first().ok_or(Wrong::Unreadable)?;
        self.0 = rest;
        Ok(*first)
    }

    fn two(&mut self) -> Result<u16, Wrong> {
        Ok(u16::from_be_bytes([self.byte()?, self.byte()?]))
    }

    fn short(&mut self) -> Result<&'a [u8], Wrong> {
        let length = self.byte()?;
        self.take(length.into())
    }

    fn long(&mut self) -> Result<&'a [u8], Wrong> {
        let mut length = 0;
        for byte in self.take(4)? {
            length = length << 8 | usize::from(*byte);
        }
        self.take(length)
    }

    fn name(&mut self) -> Result<&'a [u8], Wrong> {
        let name = self.short()?;
        if is_utf8(name) { Ok(name) } else { Err(Wrong::NotUtf8) }
    }

    /// Goes past a value of a table or an array.
    fn value(&mut self, depth: usize) -> Result<(), Wrong> {
        match self.byte()? {
            b'V' => {}
            b't' | b'b' | b'B' => drop(self.byte()?),
            b's' | b'U' | b'u' => drop(self.take(2)?),
            b'I' | b'i' | b'f' => drop(self.take(4)?),
            b'D' => drop(self.take(5)?),
            b'L' | b'l' | b'd' | b'T' => drop(self.take(8)?),
            b'S' | b'x' => drop(self.long()?),
            tag @ (b'A' | b'F') => {
                let mut inner = Front(self.long()?);
                if depth >= MAX_DEPTH {
                    return Err(Wrong::Unreadable);
                }
                while !inner.0.is_empty() {
                    if tag == b'F' {
                        inner.name()?;
                    }
                    inner.value(depth + 1)?;
                }
            }
            _ => return Err(Wrong::Unreadable),
        }
        Ok(())
    }
}

fn is_utf8(bytes: &[u8]) -> bool {
    // Most names and ids are.
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

/// Whether lapin can read a content header's payload.
pub(super) fn check(payload: &[u8]) -> Result<(), Wrong> {
    let mut front = Front(payload);
    front.take(FIXED)?;
    let flags = front.two()?;
    for (place, (_, kind)) in PROPERTIES.iter().enumerate() {
        if flags & flag(place) == 0 {
            continue;
        }
        match kind {
            FieldKind::Short => drop(front.name()?),
            FieldKind::Plain(count) => drop(front.take(*count)?),
            FieldKind::Table => {
                let mut entries = Front(front.long()?);
                while !entries.0.is_empty() {
                    entries.name()?;
                    entries.value(1)?;
                }
            }
        }
    }
    if front.0.is_empty() { Ok(()) } else { Err(Wrong::Unreadable) }
}

/// A whole frame of at most `most` bytes in the place of one that lapin cannot read: what it can
/// read of the properties, and a header that names what is gone. `payload` may be cut off.
/// `routing`: the method before it had names that were not UTF-8.
pub(super) fn rewritten(channel: [u8; 2], payload: &[u8], most: usize, routing: bool) -> Vec<u8> {
    let mut front = Front(payload);
    let mut fixed = [0; FIXED];
    let mut damage = Damage::default();
    if routing {
        damage.add(local_code::PROPERTIES_NOT_UTF8, "the routing key or the exchange's name is not UTF-8");
    }
    match front.take(FIXED) {
        Ok(given) => fixed.copy_from_slice(given),
        Err(_) => fixed[1] = CLASS_BASIC,
    }
    let flags = front.two().unwrap_or(0);
    let (mut kept_flags, mut before, mut after) = (flag(HEADERS), Vec::new(), Vec::new());
    let mut table: &[u8] = &[];
    for (place, (name, kind)) in PROPERTIES.iter().enumerate() {
        if flags & flag(place) == 0 {
            continue;
        }
        let kept = if place < HEADERS { &mut before } else { &mut after };
        let taken = match kind {
            FieldKind::Short => front.short().map(|text| {
                if is_utf8(text) {
                    kept.extend(u8::try_from(text.len()));
                    kept.extend_from_slice(text);
                    kept_flags |= flag(place);
                } else {
                    damage.add(
                        local_code::PROPERTIES_NOT_UTF8,
                        &format!("{name} is not UTF-8: {}", shown(text)),
                    );
                }
            }),
            FieldKind::Plain(count) => front.take(*count).map(|bytes| {
                kept.extend_from_slice(bytes);
                kept_flags |= flag(place);
            }),
            FieldKind::Table => {
                let whole = front;
                front.long().map(|entries| table = entries).inspect_err(|_| {
                    // What is left of it still names the message's origin.
                    table = whole.0.get(4..).unwrap_or_default();
                })
            }
        };
        if taken.is_err() {
            damage.add(local_code::HEADERS_UNREADABLE, &format!("the properties end within {name}"));
            front = Front(&[]);
            break;
        }
    }
    if !front.0.is_empty() {
        damage.add(local_code::HEADERS_UNREADABLE, "more follows where the properties end");
    }
    let spent = AROUND + FIXED + 2 + before.len() + after.len() + 4 + entry_size(MAX_TEXT + 40);
    let mut entries = readable(table, most.saturating_sub(spent), &mut damage);
    entries.extend(short_string(UNREADABLE_HEADER.as_bytes()));
    entries.push(b'S');
    let text = damage.text();
    entries.extend(long_length(text.len()));
    entries.extend(text.as_bytes());

    let payload =
        [&fixed[..], &kept_flags.to_be_bytes(), &before, &long_length(entries.len()), &entries, &after]
            .concat();
    let mut frame = vec![FRAME_HEADER, channel[0], channel[1]];
    frame.extend(long_length(payload.len()));
    frame.extend(payload);
    frame.push(FRAME_END);
    frame
}

/// The entries of a table that can be read, of at most so many bytes together; the broker's own
/// first.
fn readable(table: &[u8], most: usize, damage: &mut Damage) -> Vec<u8> {
    let mut entries: Vec<(&[u8], &[u8])> = Vec::new();
    let mut front = Front(table);
    while !front.0.is_empty() {
        let begun = front.0;
        let Ok(name) = front.short() else {
            damage.add(local_code::HEADERS_UNREADABLE, "the headers end within a name");
            break;
        };
        let (named, mut deep) = (is_utf8(name), Front(front.0));
        match deep.value(1) {
            Ok(()) if named => entries.push((name, &begun[..begun.len() - deep.0.len()])),
            Ok(()) => damage.add(
                local_code::PROPERTIES_NOT_UTF8,
                &format!("a header's name is not UTF-8: {}", shown(name)),
            ),
            Err(Wrong::NotUtf8) => damage.add(
                local_code::PROPERTIES_NOT_UTF8,
                &format!("header '{}' holds a name that is not UTF-8", shown(name)),
            ),
            Err(Wrong::Unreadable) => damage.add(
                local_code::HEADERS_UNREADABLE,
                &format!(
                    "header '{}' is of no known type, cut off, or nests more than {MAX_DEPTH} levels",
                    shown(name)
                ),
            ),
        }
        // Where the value's own end is known, what follows can be read whatever is inside of it.
        match front.past_value() {
            Ok(()) => {}
            Err(_) => break,
        }
    }
    entries.retain(|(name, _)| *name != UNREADABLE_HEADER.as_bytes());
    // x-death, x-delivery-count, x-first-death-…, x-last-death-…: a dead letter's origin.
    let is_brokers = |name: &[u8]| {
        name.starts_with(b"x-death")
            || name.starts_with(b"x-delivery-")
            || name.starts_with(b"x-first-death-")
            || name.starts_with(b"x-last-death-")
    };
    entries.sort_by_key(|(name, _)| !is_brokers(name));
    let mut kept = Vec::new();
    for (_, entry) in entries {
        if kept.len() + entry.len() <= most {
            kept.extend_from_slice(entry);
        } else {
            damage.add(local_code::HEADERS_TOO_LARGE, "the headers take more than a frame holds");
        }
    }
    kept
}

impl Front<'_> {
    /// Goes past a value by its length alone.
    fn past_value(&mut self) -> Result<(), Wrong> {
        if matches!(self.0.first(), Some(b'A' | b'F')) {
            self.byte()?;
            return self.long().map(|_| ());
        }
        self.value(1)
    }
}

/// What was taken out: the first reason's code, and all reasons as far as there is room.
#[derive(Default)]
struct Damage {
    code: Option<&'static str>,
    text: String,
}

impl Damage {
    fn add(&mut self, code: &'static str, what: &str) {
        self.code.get_or_insert(code);
        if self.text.len() + what.len() + 2 > MAX_TEXT || self.text.contains(what) {
            return;
        }
        if !self.text.is_empty() {
            self.text.push_str("; ");
        }
        self.text.push_str(what);
    }

    fn text(&self) -> String {
        // Nothing was taken out of a frame that only its size made unreadable.
        let code = self.code.unwrap_or(local_code::HEADERS_TOO_LARGE);
        let text = if self.text.is_empty() { "the headers take more than a frame holds" } else { &self.text };
        format!("{code} {text}")
    }
}

fn shown(bytes: &[u8]) -> String {
    let some = &bytes[..bytes.len().min(SHOWN)];
    format!("{}{}", some.escape_ascii(), if some.len() < bytes.len() { "…" } else { "" })
}

fn entry_size(text: usize) -> usize {
    1 + UNREADABLE_HEADER.len() + 1 + 4 + text
}

fn short_string(text: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = u8::try_from(text.len()).into_iter().collect();
    bytes.extend_from_slice(text);
    bytes
}

fn long_length(length: usize) -> [u8; 4] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(table: &[u8]) -> Vec<u8> {
        let flags = flag(HEADERS).to_be_bytes();
        [&[0, CLASS_BASIC, 0, 0][..], &3_u64.to_be_bytes(), &flags, &long_length(table.len()), table].concat()
    }

    fn nested(depth: usize) -> Vec<u8> {
        let value =
            (0..depth).fold(b"V".to_vec(), |inner, _| [b"A", &long_length(inner.len())[..], &inner].concat());
        header(&[b"\x01a", &value[..]].concat())
    }

    #[test]
    fn a_table_is_read_to_a_depth_and_no_further() {
        assert_eq!(check(&nested(MAX_DEPTH - 1)), Ok(()));
        assert_eq!(check(&nested(MAX_DEPTH)), Err(Wrong::Unreadable));
        // As deep as a frame can make it.
        assert_eq!(check(&nested(20_000)), Err(Wrong::Unreadable));
    }

    #[test]
    fn headers_of_no_known_size_or_type_leave_those_before_them() {
        for bad in [&b"\x01bZ"[..], b"\x01bS\0\0\xff\xff", b"\xffb"] {
            let table = [b"\x06tenantS\0\0\0\x04blue", bad].concat();
            assert_eq!(check(&header(&table)), Err(Wrong::Unreadable));
            let frame = rewritten([0, 1], &header(&table), 8_192, false);
            assert_eq!(check(&frame[7..frame.len() - 1]), Ok(()));
            let text = frame.escape_ascii().to_string();
            assert!(text.contains("blue") && text.contains(local_code::HEADERS_UNREADABLE), "{text}");
        }
    }

    #[test]
    fn of_headers_beyond_a_frame_the_brokers_own_are_kept_first() {
        let large = [b"\x04noteS", &long_length(9_000)[..], &[b'x'; 9_000]].concat();
        let table = [&large[..], b"\x10x-delivery-countl\0\0\0\0\0\0\0\x07", b"\x06tenantV"].concat();
        let frame = rewritten([0, 1], &header(&table), 8_192, false);
        let text = frame.escape_ascii().to_string();
        assert!(
            frame.len() <= 8_192 && text.contains("x-delivery-count") && text.contains("tenant"),
            "{text}"
        );
        assert!(!text.contains("note") && text.contains(local_code::HEADERS_TOO_LARGE), "{text}");
    }
}
