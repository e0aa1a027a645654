//! The classes that every job's end, and every refusal on the way, falls into.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a refusal means for a job. The names are part of the contract: queues, routing keys,
/// metrics and outcomes carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Not ready yet: polled again, by its schedule.
    Pending,
    /// Too many requests: slower.
    Throttled,
    /// No free slot at the API: retried, its budget being time.
    Capacity,
    /// 5xx, time-out, cut or unreadable: retried while unpaid, polled again once paid.
    Transient,
    /// The API forgot the task.
    Lost,
    /// Not recognised, in time or at all.
    Unsolved,
    /// The job itself is wrong.
    Invalid,
    /// The API or the operator's policy refuses the site.
    Forbidden,
    /// Token or deadline over.
    Expired,
    /// The publisher's own proxy fails.
    Proxy,
    /// Key, balance or address of the account.
    Account,
    /// Not a job.
    Malformed,
    /// Handling it panicked: a bug of ours.
    Poison,
    /// A code that this version does not know.
    Unknown,
}

impl Class {
    /// Every class, in the order of the contract's table.
    pub const ALL: [Class; 14] = [
        Class::Pending,
        Class::Throttled,
        Class::Capacity,
        Class::Transient,
        Class::Lost,
        Class::Unsolved,
        Class::Invalid,
        Class::Forbidden,
        Class::Expired,
        Class::Proxy,
        Class::Account,
        Class::Malformed,
        Class::Poison,
        Class::Unknown,
    ];

    /// What happened to a job of this class, in a few words for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            Class::Pending => "not ready yet",
            Class::Throttled => "too many requests",
            Class::Capacity => "the API had no free slot in time",
            Class::Transient => "the API failed, or could not be reached",
            Class::Lost => "the API forgot the task",
            Class::Unsolved => "the API did not recognise it",
            Class::Invalid => "the API refuses the job itself",
            Class::Forbidden => "the policy or the API refuses the site",
            Class::Expired => "the deadline has passed, or the token is over",
            Class::Proxy => "the publisher's proxy fails",
            Class::Account => "the API refuses the account",
            Class::Malformed => "the message is no job",
            Class::Poison => "a bug of the worker",
            Class::Unknown => "a code that this version does not know",
        }
    }

    /// The name on the wire and in queue names.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Pending => "pending",
            Class::Throttled => "throttled",
            Class::Capacity => "capacity",
            Class::Transient => "transient",
            Class::Lost => "lost",
            Class::Unsolved => "unsolved",
            Class::Invalid => "invalid",
            Class::Forbidden => "forbidden",
            Class::Expired => "expired",
            Class::Proxy => "proxy",
            Class::Account => "account",
            Class::Malformed => "malformed",
            Class::Poison => "poison",
            Class::Unknown => "unknown",
        }
    }

    /// Whether a job can end in this class, and so whether it has a dead-letter queue. `pending`
    /// and `throttled` only slow a job down; what they can end in is `unsolved` or `transient`.
    #[must_use]
    pub fn is_final(self) -> bool {
        !matches!(self, Class::Pending | Class::Throttled)
    }

    /// The classes that have a dead-letter queue.
    pub fn finals() -> impl Iterator<Item = Class> {
        Self::ALL.into_iter().filter(|class| class.is_final())
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a class.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a class")]
pub struct NotAClass(pub String);

impl FromStr for Class {
    type Err = NotAClass;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Class::ALL.into_iter().find(|class| class.name() == name).ok_or_else(|| NotAClass(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_reads_back_from_its_name() {
        for class in Class::ALL {
            assert_eq!(class.name().parse::<Class>(), Ok(class));
            assert_eq!(serde_json::to_string(&class).unwrap(), format!("\"{class}\""));
        }
        assert!("Pending".parse::<Class>().is_err());
    }
}
