//! What a replica counts and measures of its own work.

pub(crate) mod counters;
pub(crate) mod failures;
pub(crate) mod histograms;
