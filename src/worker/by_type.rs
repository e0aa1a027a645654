//! Something for each task type, and no more of it than is good: a type is what publishers write.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Task types that are told apart; the rest are taken together.
const MAX_TYPES: usize = 64;
const OTHERS: &str = "(others)";

/// A value for each of the first 64 types, and one for all others.
#[derive(Debug)]
pub(super) struct ByType<T>(Mutex<BTreeMap<String, T>>);

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> ByType<T> {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, T>> {
        // Each value is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the value of a type, which is made where there is none yet.
    pub(super) fn with<R>(
        &self,
        task_type: &str,
        make: impl FnOnce() -> T,
        work: impl FnOnce(&mut T) -> R,
    ) -> R {
        let mut by_type = self.lock();
        if let Some(value) = by_type.get_mut(task_type) {
            return work(value);
        }
        let name = if by_type.len() < MAX_TYPES { task_type } else { OTHERS };
        work(by_type.entry(name.to_owned()).or_insert_with(make))
    }

    /// What can be read off each.
    pub(super) fn read<R>(&self, read: impl Fn(&T) -> R) -> BTreeMap<String, R> {
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
            counts.with(&format!("Type{number}"), || 0, |count| *count += 1);
        }
        let read = counts.read(|count| *count);
        assert_eq!((read.len(), read["(others)"], read["Type63"]), (65, 6, 1));
    }
}
