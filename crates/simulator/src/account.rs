//! The account: its keys, its money, its bans, and whether its owner stops when asked to.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::tasks::TaskId;

/// Most banned proxies remembered.
const MAX_PROXIES: usize = 10_000;
/// Most ids remembered that were answered as unknown; the oldest are forgotten first.
const MAX_UNKNOWN_IDS: usize = 100_000;
/// Answers to polls are counted by this part of the window, so that its memory does not follow
/// traffic.
const PARTS: u32 = 64;
/// A caller that has been refused has this long to stop: calls already on their way are no fault.
const GRACE: Duration = Duration::from_secs(1);

/// When an account is banned, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BanRule {
    /// So many offences within the window bring a ban; 0 means that there are no bans. [assumed: 5]
    pub offences: u32,
    /// The window, in ms. [assumed: 60,000]
    pub window_ms: u32,
    /// How long a ban lasts after the last offence, in ms. [documented: 10 minutes, longer if the
    /// calls go on]
    pub length_ms: u32,
    /// Calls with an unknown id are no offence each, since a service loses tasks of its own accord;
    /// they ban where there are as many as `offences` within the window and they are more than this
    /// share, 0 to 1, of all answers to polls. A call that repeats an id already answered as
    /// unknown is an offence like any other. [assumed: 0.5]
    pub wrong_id_share: f64,
}

impl Default for BanRule {
    fn default() -> Self {
        Self { offences: 5, window_ms: 60_000, length_ms: 600_000, wrong_id_share: 0.5 }
    }
}

/// Calls of the kinds that lead to a ban.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offence {
    WrongKey,
    ZeroBalance,
    /// With the id, where it has the shape of one.
    WrongId(Option<TaskId>),
    PollPastLimit,
    BannedProxy,
}

impl Offence {
    /// The error it is answered with: code and description.
    pub(super) fn error(self) -> (&'static str, &'static str) {
        match self {
            Self::WrongKey => ("ERROR_KEY_DOES_NOT_EXIST", "the key does not exist"),
            Self::ZeroBalance => ("ERROR_ZERO_BALANCE", "the balance is zero"),
            Self::WrongId(_) => ("ERROR_NO_SUCH_CAPCHA_ID", "no such task, or it is older than 5 minutes"),
            Self::PollPastLimit => ("ERROR_TOO_MUCH_REQUESTS", "too many polls of this task"),
            Self::BannedProxy => ("ERROR_PROXY_BANNED", "this proxy is banned"),
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
pub(super) struct Funds {
    pub(super) balance: u64,
    pub(super) paid: u64,
}

const MICROS: f64 = 1e6;

/// Bounded so that millionths of it fit in an integer with room for a billion credits.
pub(super) fn is_money(amount: f64) -> bool {
    (0.0..=1e9).contains(&amount)
}

/// An amount checked to be of 0 to 1e9, in millionths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1e15, and not negative")]
pub(super) fn to_micros(amount: f64) -> u64 {
    (amount * MICROS).round() as u64
}

/// Millionths as an amount.
pub(super) fn from_micros(micros: u64) -> f64 {
    micros as f64 / MICROS
}

impl Funds {
    pub(super) fn covers(&self, cost: u64) -> bool {
        self.balance > 0 && self.balance >= cost
    }

    pub(super) fn pay(&mut self, cost: u64) {
        self.balance = self.balance.saturating_sub(cost);
        self.paid = self.paid.saturating_add(cost);
    }
}

/// Answers to polls within one part of the window.
#[derive(Debug)]
struct Answers {
    begun: Instant,
    all: u64,
    wrong_ids: u64,
}

/// Ids that were answered as unknown.
#[derive(Debug, Default)]
struct UnknownIds {
    known: HashSet<TaskId>,
    order: VecDeque<TaskId>,
}

impl UnknownIds {
    /// Notes an id; whether it is new.
    fn note(&mut self, id: TaskId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > MAX_UNKNOWN_IDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// Offences, and the ban they lead to.
///
/// A service loses tasks of its own accord, so the first call with an id that it does not know is
/// judged by the share of such calls; a caller that repeats one knew better.
#[derive(Debug)]
pub(super) struct BanLedger {
    rule: BanRule,
    recent: VecDeque<Instant>,
    answers: VecDeque<Answers>,
    unknown_ids: UnknownIds,
    until: Option<Instant>,
    proxies: HashSet<u64>,
}

impl BanLedger {
    pub(super) fn new(rule: BanRule) -> Self {
        Self {
            rule,
            recent: VecDeque::new(),
            answers: VecDeque::new(),
            unknown_ids: UnknownIds::default(),
            until: None,
            proxies: HashSet::new(),
        }
    }

    pub(super) fn is_banned(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// Notes a poll of a task that is known, which the API itself has answered.
    pub(super) fn note_answer(&mut self, now: Instant) {
        self.part_at(now).all += 1;
    }

    /// Notes an offence. One committed while banned makes the ban last longer.
    pub(super) fn offend(&mut self, offence: Offence, now: Instant) -> OffenceEffect {
        let length = Duration::from_millis(self.rule.length_ms.into());
        if self.is_banned(now) {
            self.until = Some(now + length);
            return OffenceEffect::default();
        }
        let (repeated, too_many) = match offence {
            Offence::WrongId(id) => {
                let repeated = id.is_none_or(|id| !self.unknown_ids.note(id));
                (repeated, self.note_wrong_id(now))
            }
            Offence::PollPastLimit => {
                self.note_answer(now);
                (true, false)
            }
            Offence::WrongKey | Offence::ZeroBalance | Offence::BannedProxy => (true, false),
        };
        if self.rule.offences == 0 {
            return OffenceEffect { repeated, ban_begins: false };
        }
        if repeated {
            let window = self.window();
            self.recent.push_back(now);
            self.recent.retain(|&at| now.saturating_duration_since(at) < window);
        }
        let ban_begins = too_many || self.recent.len() >= self.rule.offences as usize;
        if ban_begins {
            self.ban(now, length);
        }
        OffenceEffect { repeated, ban_begins }
    }

    /// Notes a call with an unknown id; whether such calls are now enough, and a large enough share
    /// of all, for a ban.
    fn note_wrong_id(&mut self, now: Instant) -> bool {
        let part = self.part_at(now);
        part.all += 1;
        part.wrong_ids += 1;
        let wrong_ids: u64 = self.answers.iter().map(|part| part.wrong_ids).sum();
        let all: u64 = self.answers.iter().map(|part| part.all).sum();
        wrong_ids >= u64::from(self.rule.offences) && wrong_ids as f64 > self.rule.wrong_id_share * all as f64
    }

    /// Where answers of this moment are counted; what has left the window is dropped.
    fn part_at(&mut self, now: Instant) -> &mut Answers {
        let age = |part: &Answers| now.saturating_duration_since(part.begun);
        let window = self.window();
        while self.answers.front().is_some_and(|oldest| age(oldest) >= window) {
            self.answers.pop_front();
        }
        if self.answers.back().is_none_or(|newest| age(newest) >= window / PARTS) {
            self.answers.push_back(Answers { begun: now, all: 0, wrong_ids: 0 });
        }
        let newest = self.answers.len() - 1;
        &mut self.answers[newest]
    }

    fn window(&self) -> Duration {
        Duration::from_millis(self.rule.window_ms.into())
    }

    pub(super) fn ban(&mut self, now: Instant, length: Duration) {
        self.until = Some(now + length);
        self.forgive();
    }

    /// Lifts the ban and forgets what led to it, banned proxies included.
    pub(super) fn pardon(&mut self) {
        self.until = None;
        self.forgive();
        self.proxies.clear();
    }

    fn forgive(&mut self) {
        self.recent.clear();
        self.answers.clear();
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

/// How an offence was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OffenceEffect {
    /// The caller knew of this fault from an earlier answer, or must know it anyway.
    pub(super) repeated: bool,
    pub(super) ban_begins: bool,
}

/// One call in time.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallTimes {
    /// The call arrived.
    pub(super) arrived: Instant,
    /// Its answer leaves.
    pub(super) answered: Instant,
}

/// Refusals for one reason, from the first until the cause is fixed.
#[derive(Debug, Default)]
pub(super) struct RefusalStreak {
    answered_at: Option<Instant>,
}

impl RefusalStreak {
    /// Notes a refusal; whether the call that met it was late.
    pub(super) fn refuse(&mut self, at: CallTimes) -> bool {
        let answered_at = *self.answered_at.get_or_insert(at.answered);
        at.arrived.saturating_duration_since(answered_at) > GRACE
    }

    pub(super) fn end(&mut self) {
        self.answered_at = None;
    }
}
