//! What is wrong with the settings: every fault at once, one line each.

use std::fmt;

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingFault {
    /// The setting, such as `broker.url`; empty where a whole layer is at fault.
    pub key: String,
    /// Where the value comes from: `default`, a file, `environment NAME`, an option.
    pub origin: String,
    /// What is wrong. Never holds a secret.
    pub problem: String,
    /// What would be right; empty where the problem says it.
    pub allowed: String,
}

impl SettingFault {
    /// A layer that cannot be used as a whole.
    pub(super) fn of_layer(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: String::new(), origin: origin.into(), problem: problem.into(), allowed: String::new() }
    }
}

impl fmt::Display for SettingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.origin, self.problem)?;
        } else {
            write!(f, "{} ({}): {}", self.key, self.origin, self.problem)?;
        }
        if self.allowed.is_empty() { Ok(()) } else { write!(f, "; allowed: {}", self.allowed) }
    }
}

/// Every fault that was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(Vec<SettingFault>);

impl ConfigErrors {
    /// From at least one fault.
    pub(super) fn new(faults: Vec<SettingFault>) -> Self {
        Self(faults)
    }

    /// The faults, in the order in which they were found: those of layers first, then those of
    /// values.
    #[must_use]
    pub fn faults(&self) -> &[SettingFault] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the settings have a fault:")?,
            n => write!(f, "the settings have {n} faults:")?,
        }
        self.0.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
    }
}
