//! Something for each kind of task, and no more of it than is good: type and class are what
//! publishers write.

use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;

use crate::domain::kind;

/// Kinds of task that are distinguished; the rest are taken together.
const MAX_TYPES: usize = 64;
pub(crate) const OTHERS: &str = "(others)";

/// A value for each of the first 64 kinds of task, of each type 16 classes at most, and one for all
/// others.
#[derive(Debug)]
pub(crate) struct ByType<T>(Mutex<BTreeMap<String, T>>);

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByType<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        // Each value is whole at every moment.
        self.0.lock()
    }

    /// Works on the value of a kind, which is made where there is none yet, for the name that it is
    /// to stand under.
    pub(crate) fn with<R>(
        &self,
        task_type: &str,
        make: impl FnOnce(&str) -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> R {
        let mut by_type = self.lock();
        if let Some(value) = by_type.get_mut(task_type) {
            return work(value);
        }
        let name = kind::place(&by_type, task_type, MAX_TYPES).unwrap_or(OTHERS);
        work(by_type.entry(name.to_owned()).or_insert_with(|| make(name)))
    }

    /// What can be read off each.
    pub(crate) fn read<R>(&self, read: impl Fn(&T) -> R) -> BTreeMap<String, R> {
        self.lock().iter().map(|(name, value)| (name.clone(), read(value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_65th_on_types_are_counted_together() {
        let counts: ByType<u64> = ByType::default();
        for number in 0..70 {
            counts.with(&format!("Type{number}"), |_| 0, |count| *count += 1);
        }
        let read = counts.read(|count| *count);
        assert_eq!((read.len(), read["(others)"], read["Type63"]), (65, 6, 1));
    }

    #[test]
    fn from_the_17th_class_of_a_type_on_they_are_counted_under_the_type() {
        let counts: ByType<u64> = ByType::default();
        for round in 0..2 {
            for number in 0..30 {
                counts.with(&format!("CustomTask/{number}"), |_| 0, |count| *count += 1);
            }
            counts.with(&format!("Other/{round}"), |_| 0, |count| *count += 1);
        }
        let read = counts.read(|count| *count);
        assert_eq!((read.len(), read["CustomTask/15"], read["CustomTask"]), (19, 2, 28));
        assert_eq!((read["Other/0"], read["Other/1"]), (1, 1));
    }
}
