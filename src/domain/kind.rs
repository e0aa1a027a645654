//! What pace, caps, slots, solve times and figures are kept by: a task's type, or `type/class` where the task has a class.
//!
//! `CustomTask` and `ComplexImageTask` stand for many kinds of work, told apart by the task's field `class`. How long it
//! takes, and whether the API has a slot for it, belongs to the class [documented for this dialect].

use std::collections::BTreeMap;

use super::job::MAX_TYPE;

/// `type/class`; `None` where the class cannot be part of a name: it is empty, holds control characters, or makes the name
/// longer than a type may be. Such a task goes by its type alone, since only the API can say that the class is wrong.
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
}
