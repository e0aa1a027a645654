//! What the account's state lets a replica do.
//!
//! This is the plain form: one replica, which stops when the API refuses the account and goes on when it is started again.

use std::fmt;

use super::time::Timestamp;

/// Why the account is not to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The balance is used up.
    NoFunds,
    /// The key may not be used from this address.
    IpNotAllowed,
    /// The key is refused.
    KeyInvalid,
    /// This address is banned.
    IpBanned,
}

/// What a reason stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stops {
    /// Taking jobs, and so submitting them.
    pub submissions: bool,
    /// Asking for results of paid tasks.
    pub polls: bool,
}

impl Reason {
    /// Every reason, the one that stops least first.
    pub const ALL: [Reason; 4] =
        [Reason::NoFunds, Reason::IpNotAllowed, Reason::KeyInvalid, Reason::IpBanned];

    /// The name in logs, metrics and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::NoFunds => "no_funds",
            Reason::IpNotAllowed => "ip_not_allowed",
            Reason::KeyInvalid => "key_invalid",
            Reason::IpBanned => "ip_banned",
        }
    }

    /// What it stops. Paid tasks can still be asked for without money; every other refusal would be repeated by a poll, and repeated refusals earn a ban.
    #[must_use]
    pub fn stops(self) -> Stops {
        match self {
            Reason::NoFunds => Stops { submissions: true, polls: false },
            Reason::IpNotAllowed | Reason::KeyInvalid | Reason::IpBanned => {
                Stops { submissions: true, polls: true }
            }
        }
    }

    /// What an operator should do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Reason::NoFunds => "top up the account's balance, then restart the worker",
            Reason::IpNotAllowed => {
                "allow this machine's address for the key in the provider's panel, then restart the worker"
            }
            Reason::KeyInvalid => {
                "set solver.api_key (or solver.api_key_file) to a valid key, then restart the worker"
            }
            Reason::IpBanned => {
                "wait until the ban is over (10 minutes or more without any call), then restart the worker"
            }
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether the account may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// It may.
    Open,
    /// It may not.
    Tripped {
        /// Why.
        reason: Reason,
        /// Since when.
        since: Timestamp,
    },
}

impl Guard {
    /// The state after the API has refused the account. A graver reason replaces a lighter one; never the other way round.
    #[must_use]
    pub fn trip(self, reason: Reason, now: Timestamp) -> Guard {
        match self {
            Guard::Tripped { reason: standing, .. } if standing >= reason => self,
            Guard::Tripped { .. } | Guard::Open => Guard::Tripped { reason, since: now },
        }
    }

    /// What is stopped now.
    #[must_use]
    pub fn stops(self) -> Stops {
        match self {
            Guard::Open => Stops { submissions: false, polls: false },
            Guard::Tripped { reason, .. } => reason.stops(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stops_submissions_and_only_lack_of_funds_lets_polls_go_on() {
        for reason in Reason::ALL {
            assert!(reason.stops().submissions);
            assert_eq!(reason.stops().polls, reason != Reason::NoFunds);
        }
    }

    #[test]
    fn a_graver_reason_replaces_a_lighter_one_and_not_the_reverse() {
        let (early, late) = (Timestamp::from_millis(1), Timestamp::from_millis(2));
        let broke = Guard::Open.trip(Reason::NoFunds, early);
        let locked_out = broke.trip(Reason::KeyInvalid, late);
        assert_eq!(locked_out, Guard::Tripped { reason: Reason::KeyInvalid, since: late });
        assert_eq!(locked_out.trip(Reason::NoFunds, late), locked_out);
        assert_eq!(broke.trip(Reason::NoFunds, late), broke, "the first moment is kept");
    }
}
