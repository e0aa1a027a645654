//! What poll schedules, caps, slots, solve times and figures are kept by: a task's type, or
//! `type/class` where the task has a class.
//!
//! `CustomTask` and `ComplexImageTask` stand for many kinds of work, distinguished by the task's
//! field `class`. How long it takes, and whether the API has a slot for it, belongs to the class
//! [documented for this dialect].

use std::collections::BTreeMap;
use std::ops::Bound;

use super::job::MAX_TYPE;

/// Classes of one type that are distinguished; the rest go by their bare type. A type whose class
/// is a word that its publishers make up takes no other type's place.
const MAX_CLASSES: usize = 16;

/// `type/class`; `None` where the class cannot be part of a name: it is empty, holds control
/// characters, or makes the name longer than a type may be. Such a task goes by its type alone,
/// since only the API can say that the class is wrong.
pub(super) fn of(task_type: &str, class: &str) -> Option<Box<str>> {
    let fits = task_type.len() + 1 + class.len() <= MAX_TYPE;
    (fits && !class.is_empty() && !class.contains(char::is_control))
        .then(|| format!("{task_type}/{class}").into_boxed_str())
}

/// The type, without the class.
#[must_use]
pub fn bare(kind: &str) -> &str {
    kind.split_once('/').map_or(kind, |(task_type, _)| task_type)
}

/// The entry of a kind: its own, else that of its bare type, with the name that it stands under.
#[must_use]
pub fn find<'a, T>(entries: &'a BTreeMap<String, T>, kind: &str) -> Option<(&'a str, &'a T)> {
    let found = entries.get_key_value(kind).or_else(|| entries.get_key_value(bare(kind)));
    found.map(|(name, entry)| (name.as_str(), entry))
}

/// The name under which a kind stands, or is to stand, in a table of so many entries at most: its
/// own; its bare type's once 16 classes of that are distinguished, or the table is full; `None`
/// where that has no room either.
#[must_use]
pub fn place<'a, T>(entries: &BTreeMap<String, T>, kind: &'a str, most: usize) -> Option<&'a str> {
    if entries.contains_key(kind) {
        return Some(kind);
    }
    let (bare, has_room) = (bare(kind), entries.len() < most);
    if has_room && (kind == bare || classes_of(entries, bare) < MAX_CLASSES) {
        return Some(kind);
    }
    (has_room || entries.contains_key(bare)).then_some(bare)
}

/// How many classes of a type there are.
fn classes_of<T>(entries: &BTreeMap<String, T>, bare: &str) -> usize {
    let first = format!("{bare}/");
    let from = entries.range::<str, _>((Bound::Excluded(first.as_str()), Bound::Unbounded));
    from.take(MAX_CLASSES).take_while(|(name, _)| name.starts_with(&first)).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_that_cannot_be_part_of_a_name_leaves_the_type_alone() {
        assert_eq!(of("CustomTask", "alibaba").as_deref(), Some("CustomTask/alibaba"));
        let longest = "x".repeat(MAX_TYPE - "CustomTask/".len());
        assert_eq!(of("CustomTask", &longest).map(|kind| kind.len()), Some(MAX_TYPE));
        for class in ["", "a\nb", "\u{7f}", &format!("{longest}x")] {
            assert_eq!(of("CustomTask", class), None, "{class:?}");
        }
    }

    #[test]
    fn an_entry_of_the_bare_type_stands_for_the_classes_that_have_none() {
        let entries = BTreeMap::from([("A".to_owned(), 1), ("A/x".to_owned(), 2), ("B/x".to_owned(), 3)]);
        let of = |kind| find(&entries, kind).map(|(_, entry)| *entry);
        assert_eq!([of("A"), of("A/x"), of("A/y"), of("A/x/y")], [Some(1), Some(2), Some(1), Some(1)]);
        assert_eq!([of("B"), of("B/x"), of("B/y")], [None, Some(3), None]);
    }

    #[test]
    fn a_class_without_a_place_goes_by_its_type_where_that_has_one() {
        let mut entries: BTreeMap<String, ()> = (0..15).map(|n| (format!("A/{n}"), ())).collect();
        assert_eq!(place(&entries, "A/x", 20), Some("A/x"));
        entries.insert("A/x".to_owned(), ());
        assert_eq!([place(&entries, "A/x", 20), place(&entries, "A/y", 20)], [Some("A/x"), Some("A")]);
        assert_eq!([place(&entries, "AB/y", 20), place(&entries, "A", 20)], [Some("AB/y"), Some("A")]);
        let full = |kind| place(&entries, kind, 16);
        assert_eq!(
            [full("A/x"), full("A/y"), full("A"), full("B"), full("B/x")],
            [Some("A/x"), None, None, None, None]
        );
        entries.insert("B".to_owned(), ());
        assert_eq!(place(&entries, "B/x", 17), Some("B"));
    }
}
