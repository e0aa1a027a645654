//! The account: its keys, its money, its bans, and whether its owner listens when told.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::settings::BanRule;

/// Most banned proxies remembered.
const MAX_PROXIES: usize = 10_000;
/// A caller that has been told has this long to stop: calls already on their way are no fault.
const GRACE: Duration = Duration::from_secs(1);

/// Calls of the kinds that lead to a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    WrongKey,
    ZeroBalance,
    WrongId,
    PollPastLimit,
    BannedProxy,
}

impl Offence {
    /// The error it is answered with.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::WrongKey => "ERROR_KEY_DOES_NOT_EXIST",
            Self::ZeroBalance => "ERROR_ZERO_BALANCE",
            Self::WrongId => "ERROR_NO_SUCH_CAPCHA_ID",
            Self::PollPastLimit => "ERROR_TOO_MUCH_REQUESTS",
            Self::BannedProxy => "ERROR_PROXY_BANNED",
        }
    }

    pub(super) fn description(self) -> &'static str {
        match self {
            Self::WrongKey => "the key does not exist",
            Self::ZeroBalance => "the balance is zero",
            Self::WrongId => "no such task, or it is older than 5 minutes",
            Self::PollPastLimit => "too many polls of this task",
            Self::BannedProxy => "this proxy is banned",
        }
    }
}

/// Keys that are let in. Not `Debug`: a scenario may hold a real key.
pub(super) struct Keys {
    pub(super) known: Vec<String>,
    /// False: every key is refused, as if withdrawn.
    pub(super) valid: bool,
}

impl Keys {
    /// A call may append `__` and anything to a key.
    pub(super) fn admit(&self, key: Option<&str>) -> bool {
        let Some(key) = key.filter(|_| self.valid) else {
            return false;
        };
        self.known.iter().any(|known| {
            key.strip_prefix(known.as_str())
                .is_some_and(|suffix| suffix.is_empty() || suffix.starts_with("__"))
        })
    }
}

/// Money in millionths, so that many small prices add up exactly.
#[derive(Debug, Default)]
pub(super) struct Purse {
    pub(super) balance: u64,
    pub(super) paid: u64,
}

const MICROS: f64 = 1e6;

/// An amount checked to be of 0 to 1e9, in millionths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1e15, and not negative")]
pub(super) fn to_micros(amount: f64) -> u64 {
    (amount * MICROS).round() as u64
}

/// Millionths as an amount.
pub(super) fn from_micros(micros: u64) -> f64 {
    micros as f64 / MICROS
}

impl Purse {
    pub(super) fn covers(&self, cost: u64) -> bool {
        self.balance > 0 && self.balance >= cost
    }

    pub(super) fn pay(&mut self, cost: u64) {
        self.balance = self.balance.saturating_sub(cost);
        self.paid = self.paid.saturating_add(cost);
    }
}

/// Offences, and the ban they lead to.
#[derive(Debug)]
pub(super) struct BanLedger {
    rule: BanRule,
    recent: VecDeque<Instant>,
    until: Option<Instant>,
    proxies: HashSet<u64>,
}

impl BanLedger {
    pub(super) fn new(rule: BanRule) -> Self {
        Self { rule, recent: VecDeque::new(), until: None, proxies: HashSet::new() }
    }

    pub(super) fn is_banned(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Notes an offence; whether a ban begins with it. One committed while banned makes the ban last longer.
    pub(super) fn offend(&mut self, now: Instant) -> bool {
        let length = Duration::from_millis(self.rule.length_ms.into());
        if self.is_banned(now) {
            self.until = Some(now + length);
            return false;
        }
        if self.rule.offences == 0 {
            return false;
        }
        let window = Duration::from_millis(self.rule.window_ms.into());
        self.recent.push_back(now);
        self.recent.retain(|&at| now.saturating_duration_since(at) < window);
        let begins = self.recent.len() >= self.rule.offences as usize;
        if begins {
            self.ban(now, length);
        }
        begins
    }

    pub(super) fn ban(&mut self, now: Instant, length: Duration) {
        self.until = Some(now + length);
        self.recent.clear();
    }

    /// Lifts the ban and forgets what led to it, banned proxies included.
    pub(super) fn pardon(&mut self) {
        self.until = None;
        self.recent.clear();
        self.proxies.clear();
    }

    pub(super) fn ban_proxy(&mut self, proxy: u64) {
        if self.proxies.len() < MAX_PROXIES {
            self.proxies.insert(proxy);
        }
    }

    pub(super) fn bans_proxy(&self, proxy: Option<u64>) -> bool {
        proxy.is_some_and(|proxy| self.proxies.contains(&proxy))
    }
}

/// One call in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// The call arrived.
    pub(super) begun: Instant,
    /// Its answer leaves.
    pub(super) answered: Instant,
}

/// Refusals for one reason, from the first to the mending of the cause.
#[derive(Debug, Default)]
pub(super) struct Spell {
    told_at: Option<Instant>,
}

impl Spell {
    /// Notes a refusal; whether the call that met it was late.
    pub(super) fn refuse(&mut self, at: Moment) -> bool {
        let told_at = *self.told_at.get_or_insert(at.answered);
        at.begun.saturating_duration_since(told_at) > GRACE
    }

    pub(super) fn end(&mut self) {
        self.told_at = None;
    }
}
