//! Why the account is not to be used, what each reason stops, and when to look whether it has
//! passed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::GuardRules;

/// Why the account is not to be used. The names are part of the contract: metrics, status and
/// control messages carry them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An operator wants it so.
    Operator,
    /// The account's budget is used up.
    Budget,
    /// The balance is used up, or under the operator's bound.
    NoFunds,
    /// The API does not answer, or answers with server errors only.
    ProviderDown,
    /// Most answers say that the API does not know our task ids; asking on would earn a ban.
    WrongIds,
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
    /// Taking jobs, which therefore stay queued, and so createTask.
    pub submissions: bool,
    /// getTaskResult of paid tasks.
    pub polls: bool,
    /// getBalance, until the time for the next probe has come. All other reasons can be looked into
    /// earlier by a `resume`.
    pub probes: bool,
}

/// When the leader looks whether a reason has passed: after `first`, then twice as long each time,
/// up to `longest`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    first: Duration,
    longest: Duration,
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// See [`Reason::first_look`].
const FLASH: Duration = Duration::from_secs(8);

impl Reason {
    /// Every reason, the lightest first: a graver one replaces a lighter one.
    pub const ALL: [Reason; 8] = [
        Reason::Operator,
        Reason::Budget,
        Reason::NoFunds,
        Reason::ProviderDown,
        Reason::WrongIds,
        Reason::IpNotAllowed,
        Reason::KeyInvalid,
        Reason::IpBanned,
    ];

    /// The name in logs, metrics and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Reason::Operator => "operator",
            Reason::Budget => "budget",
            Reason::NoFunds => "no_funds",
            Reason::ProviderDown => "provider_down",
            Reason::WrongIds => "wrong_ids",
            Reason::IpNotAllowed => "ip_not_allowed",
            Reason::KeyInvalid => "key_invalid",
            Reason::IpBanned => "ip_banned",
        }
    }

    /// The one table of what each reason stops.
    ///
    /// Paid tasks can still be asked for without money or budget, and while an operator pauses;
    /// every other refusal would be repeated by a poll, and repeated refusals earn a ban.
    #[must_use]
    pub fn stops(self) -> Stops {
        let (submissions, polls, probes) = match self {
            Reason::Operator | Reason::Budget | Reason::NoFunds => (true, false, false),
            Reason::ProviderDown | Reason::WrongIds | Reason::IpNotAllowed | Reason::KeyInvalid => {
                (true, true, false)
            }
            Reason::IpBanned => (true, true, true),
        };
        Stops { submissions, polls, probes }
    }

    /// Whether it is about the address that calls come from: with `guard.egress = "own"` it
    /// concerns the replica that met it alone.
    #[must_use]
    pub fn is_of_the_address(self) -> bool {
        match self {
            Reason::IpNotAllowed | Reason::IpBanned | Reason::ProviderDown => true,
            Reason::Operator | Reason::Budget | Reason::NoFunds | Reason::WrongIds | Reason::KeyInvalid => {
                false
            }
        }
    }

    /// When to look whether it has passed; an operator's pause ends by their word only.
    #[must_use]
    pub fn schedule(self, rules: &GuardRules) -> Schedule {
        let (first, longest) = match self {
            // No look shows that they are over; the value is not used.
            Reason::Operator | Reason::Budget => (MINUTE, MINUTE),
            Reason::NoFunds => (MINUTE, 10 * MINUTE),
            // What is down is asked often: it costs the account nothing, and work goes on soon
            // after it is back.
            Reason::ProviderDown => (2 * SECOND, 5 * SECOND),
            // The second time until every task that may be forgotten is past the age at which it is
            // asked for.
            Reason::WrongIds => (MINUTE, 5 * MINUTE),
            Reason::IpNotAllowed | Reason::KeyInvalid => (MINUTE, 30 * MINUTE),
            Reason::IpBanned => (rules.ban_pause, rules.ban_pause * 6),
        };
        Schedule { first, longest }
    }

    /// How soon the leader looks for the first time, where the account was in use and good until
    /// this moment.
    ///
    /// One wrong word among good answers happens: a key that is revoked stays refused, and one more
    /// look at it is far from what earns a ban.
    #[must_use]
    pub fn first_look(self, rules: &GuardRules) -> Duration {
        match self {
            Reason::KeyInvalid | Reason::IpNotAllowed => FLASH,
            Reason::Operator
            | Reason::Budget
            | Reason::NoFunds
            | Reason::ProviderDown
            | Reason::WrongIds
            | Reason::IpBanned => self.schedule(rules).wait(0),
        }
    }

    /// What an operator should do.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Reason::Operator => "run `captcha-worker resume` to continue",
            Reason::Budget => {
                "wait: jobs are taken again when the budget's hour or day ends; or run `captcha-worker budget raise`"
            }
            Reason::NoFunds => {
                "top up the account; work goes on within 10 minutes, or at once after `captcha-worker resume`"
            }
            Reason::ProviderDown => {
                "nothing, if the API is down: work goes on within seconds of its return; else look at solver.base_url and the network"
            }
            Reason::WrongIds => {
                "ask the provider whether it lost tasks; work goes on by itself, after 1 minute the first time and 5 the second"
            }
            Reason::IpNotAllowed => {
                "allow this machine's address for the key in the provider's panel, then run `captcha-worker resume`"
            }
            Reason::KeyInvalid => {
                "write a valid key to solver.api_key_file and send SIGHUP (or restart), or correct the key at the provider and run `captcha-worker resume`"
            }
            Reason::IpBanned => {
                "wait: the fleet makes no calls until the ban ends, and a call before that prolongs it; find out what caused it"
            }
        }
    }
}

impl Schedule {
    /// The wait after so many looks that found the reason still there.
    #[must_use]
    pub fn wait(self, failures: u32) -> Duration {
        self.first.saturating_mul(2_u32.saturating_pow(failures.min(20))).min(self.longest)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_stops_submissions_and_only_lack_of_funds_and_a_pause_let_polls_go_on() {
        for reason in Reason::ALL {
            assert!(reason.stops().submissions);
            assert_eq!(
                reason.stops().polls,
                !matches!(reason, Reason::NoFunds | Reason::Budget | Reason::Operator)
            );
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }

    #[test]
    fn probes_come_apart_up_to_the_longest_wait() {
        let rules = GuardRules::default();
        let waits = |reason: Reason| -> Vec<u64> {
            (0..7).map(|n| reason.schedule(&rules).wait(n).as_secs()).collect()
        };
        assert_eq!(waits(Reason::KeyInvalid), [60, 120, 240, 480, 960, 1_800, 1_800]);
        assert_eq!(waits(Reason::NoFunds), [60, 120, 240, 480, 600, 600, 600]);
        assert_eq!(waits(Reason::IpBanned)[..3], [630, 1_260, 2_520]);
        assert_eq!(waits(Reason::ProviderDown)[..3], [2, 4, 5]);
    }
}
