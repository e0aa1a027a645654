//! The API's callback: a hint that a task may be ready, never an answer. It carries no signature,
//! so all that it can do is to bring the next permitted poll forward.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::time::Timestamp;

/// What makes the address of one task's callback unguessable: 128 random bits, as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallbackToken([u8; 16]);

impl CallbackToken {
    /// Of these random bits.
    #[must_use]
    pub fn new(bits: u128) -> Self {
        Self(bits.to_be_bytes())
    }

    /// From the text that [`fmt::Display`] writes, and no other.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = |c: u8| c.is_ascii_digit() || matches!(c, b'a'..=b'f');
        let fits = text.len() == 32 && text.bytes().all(digits);
        u128::from_str_radix(text, 16).ok().filter(|_| fits).map(Self::new)
    }
}

impl fmt::Display for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// With the token anybody can cause an early poll, so no log shows it.
impl fmt::Debug for CallbackToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallbackToken(***)")
    }
}

impl Serialize for CallbackToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CallbackToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("no callback token"))
    }
}

/// How long callbacks are left off once they have proved useless.
pub const OFF_FOR: Duration = Duration::from_secs(600);
/// Answers that are looked back on.
const WINDOW: u32 = 20;
/// Of them, so many must have had their callback. A task whose callback is lost waits longer for
/// its first poll than without callbacks. At a quarter of them lost that costs as much as the
/// others gain.
const LEAST_CAME: u32 = 15;

/// After they were off, this share of the submissions asks for one until as many answers have shown
/// that they come.
const TRIAL_SHARE: f64 = 0.125;

/// Why callbacks are off for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffReason {
    /// createTask refuses tasks with a callback, and accepts them without.
    Refused,
    /// Answers come, and their callbacks do not.
    Missing,
}

impl OffReason {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Refused => {
                "createTask refuses tasks with a callback; the API may not reach callback.public_url"
            }
            Self::Missing => {
                "answers come without their callbacks; the API may not reach callback.public_url"
            }
        }
    }
}

/// Whether callbacks are asked for, by what became of the earlier ones.
#[derive(Debug, Clone, Default)]
pub struct CallbackSwitch {
    /// The last answers, a bit each: 1 where the callback came before the answer.
    came: u32,
    answers: u32,
    off: Option<Off>,
    on_trial: bool,
}

/// Until when callbacks are off, and why.
pub type Off = (Timestamp, OffReason);

impl CallbackSwitch {
    /// Until when they are off and why; `None`: they are on.
    #[must_use]
    pub fn off(&self, now: Timestamp) -> Option<Off> {
        self.off.filter(|(until, _)| now < *until)
    }

    /// Whether a submission is to ask for one. `jitter` in `[0, 1)`.
    #[must_use]
    pub fn asks(&self, now: Timestamp, jitter: f64) -> bool {
        self.off(now).is_none() && (!self.on_trial || jitter < TRIAL_SHARE)
    }

    /// A solution was read whose callback has come before it, or not. Returns what that changes, if
    /// anything.
    pub fn answered(&mut self, came: bool, now: Timestamp) -> Option<Off> {
        if self.off(now).is_some() {
            return None;
        }
        self.came = (self.came << 1 | u32::from(came)) & ((1 << WINDOW) - 1);
        self.answers = (self.answers + 1).min(WINDOW);
        let is_judged = self.answers == WINDOW;
        let missing = is_judged && self.came.count_ones() < LEAST_CAME;
        self.on_trial &= !is_judged || missing;
        missing.then(|| self.turn_off(OffReason::Missing, now)).flatten()
    }

    /// createTask accepted a job without a callback just after it had refused it with one. Returns
    /// what that changes, if anything.
    pub fn refused(&mut self, now: Timestamp) -> Option<Off> {
        self.turn_off(OffReason::Refused, now)
    }

    /// Afterwards they are judged anew, by what comes then.
    fn turn_off(&mut self, reason: OffReason, now: Timestamp) -> Option<Off> {
        if self.off(now).is_some() {
            return None;
        }
        *self = Self {
            off: Some((now.plus(OFF_FOR), reason)),
            on_trial: self.on_trial || reason == OffReason::Missing,
            ..Self::default()
        };
        self.off
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_790_000_000_000);

    #[test]
    fn a_token_reads_back_from_its_own_text_alone_and_is_not_shown_in_debug() {
        let token = CallbackToken::new(0x0a1b);
        let text = token.to_string();
        assert_eq!((text.len(), CallbackToken::parse(&text)), (32, Some(token)));
        for other in ["", "0a1b", &text.to_uppercase(), &format!("{text}0"), &format!("+{}", &text[1..])] {
            assert_eq!(CallbackToken::parse(other), None, "{other}");
        }
        assert!(!format!("{token:?}").contains("a1b"));
        let json = serde_json::to_string(&token).unwrap();
        assert_eq!(serde_json::from_str::<CallbackToken>(&json).unwrap(), token);
        assert!(serde_json::from_str::<CallbackToken>("\"zz\"").is_err());
    }

    #[test]
    fn callbacks_are_off_for_a_while_once_answers_come_without_them() {
        let mut switch = CallbackSwitch::default();
        // One in four is lost: that is still worth it.
        assert!(!(0..100).any(|n| switch.answered(n % 4 != 0, NOW).is_some()));
        assert_eq!(switch.off(NOW), None);
        let turned_off = (0..20).filter(|n| switch.answered(n % 2 == 0, NOW).is_some()).count();
        assert_eq!(turned_off, 1, "reported once");
        assert_eq!(switch.off(NOW), Some((NOW.plus(OFF_FOR), OffReason::Missing)));
        let later = NOW.plus(OFF_FOR);
        assert_eq!(switch.off(later), None);
        let asking = |switch: &CallbackSwitch| [0.0, 0.2].map(|jitter| switch.asks(later, jitter));
        assert_eq!(asking(&switch), [true, false], "on trial");
        let mut works = switch.clone();
        assert!(!(0..19).any(|_| switch.answered(false, later).is_some()), "19 answers say nothing yet");
        assert!(switch.answered(false, later).is_some());
        (0..20).for_each(|_| assert_eq!(works.answered(true, later), None));
        assert_eq!(asking(&works), [true, true], "they have proved good");
    }

    #[test]
    fn callbacks_that_create_task_refuses_are_off_for_a_while() {
        let mut switch = CallbackSwitch::default();
        assert!(switch.refused(NOW).is_some());
        assert_eq!(switch.refused(NOW), None, "reported once");
        assert_eq!(switch.off(NOW).map(|(_, reason)| reason), Some(OffReason::Refused));
    }
}
