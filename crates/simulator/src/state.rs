//! The API's state: one call at a time, at one instant, to one reply. No clock is read and nothing
//! is awaited here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::account::{self, BanLedger, CallTimes, Funds, Keys, Offence, RefusalStreak};
use super::callback::PlannedCallback;
use super::control::Outages;
use super::control::{Control, ControlError, Storm};
use super::distribution::Distribution;
use super::kinds::{self, KINDS};
use super::script::{Script, Step, When};
use super::settings::SimulatorConfig;
use super::stats::Stats;
use super::tasks::{Slots, Submissions, TaskStore};
use super::wire::{Endpoint, Reply};

/// What one task type costs and how fast it is.
#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) cost: u64,
    pub(super) solve: Distribution,
    pub(super) slots: Slots,
}

#[derive(Debug, Default)]
struct Refusals {
    key: RefusalStreak,
    ban: RefusalStreak,
    balance: RefusalStreak,
}

/// Everything behind the lock.
pub(super) struct State {
    pub(super) rng: StdRng,
    pub(super) stats: Stats,
    pub(super) funds: Funds,
    pub(super) bans: BanLedger,
    pub(super) tasks: TaskStore,
    pub(super) submissions: Submissions,
    /// By the type's place in [`KINDS`].
    pub(super) types: Vec<TypeState>,
    pub(super) spacing: Duration,
    pub(super) max_polls: u32,
    seed: u64,
    rules: Vec<(When, Arc<Script>)>,
    latency: Distribution,
    keys: Keys,
    refusals: Refusals,
    storm: Option<(Storm, Instant)>,
    outages: Outages,
    /// The callback of the task that has just been accepted.
    pub(super) planned: Option<PlannedCallback>,
    /// The address that a callback was asked for last.
    pub(super) last_callback: Option<String>,
    /// Every callback's host counts as one that cannot be reached.
    refuse_callbacks: bool,
    /// Hosts that could not be reached, and until when createTask is refused for it.
    unreachable: HashMap<String, Instant>,
}

/// How long createTask is refused for a host that could not be reached. [assumed]
const UNREACHABLE_FOR: Duration = Duration::from_secs(60);
/// Most such hosts that are remembered.
const MAX_UNREACHABLE: usize = 1_000;

impl State {
    /// From settings already checked.
    pub(super) fn new(config: SimulatorConfig, now: Instant) -> Self {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        let tasks =
            TaskStore::new(ms(config.retention_ms), config.max_tasks, config.task_ids, config.first_task_id);
        Self {
            rng: StdRng::seed_from_u64(config.seed),
            stats: Stats::default(),
            funds: Funds { balance: account::to_micros(config.balance), paid: 0 },
            bans: BanLedger::new(config.ban),
            tasks,
            submissions: Submissions::new(config.max_digests),
            types: type_states(&config),
            spacing: ms(config.spacing_ms),
            max_polls: config.max_polls,
            seed: config.seed,
            rules: config.rules.iter().map(|rule| (rule.when.clone(), Arc::new(rule.script()))).collect(),
            latency: config.latency_ms,
            keys: Keys { known: config.keys, valid: true },
            refusals: Refusals::default(),
            storm: None,
            outages: Outages::planned(config.outages, now),
            planned: None,
            last_callback: None,
            refuse_callbacks: false,
            unreachable: HashMap::new(),
        }
    }

    /// When a call that arrives now is answered. Also forgets what is past its time, so that memory
    /// follows traffic.
    pub(super) fn arrive(&mut self, now: Instant) -> CallTimes {
        self.forget_expired(now);
        CallTimes { arrived: now, answered: now + self.latency.draw(&mut self.rng) }
    }

    pub(super) fn admits(&self, key: Option<&str>) -> bool {
        self.keys.admit(key)
    }

    /// What stands before every method: a storm, a flash or an outage, the ban, the key, and the
    /// offence the method has found by itself.
    pub(super) fn refuse_at_admission(
        &mut self,
        endpoint: Endpoint,
        at: CallTimes,
        admitted: bool,
        offence: Option<Offence>,
    ) -> Option<Reply> {
        self.stats.bad_key_calls += u64::from(!admitted);
        if let Some(storm) = self.storm_at(at.arrived) {
            self.stats.storm_calls += 1;
            return Some(Reply::bare(storm.status, storm.retry_after, "the service is not available"));
        }
        if let Some(step) = self.outages.answer(endpoint, at.arrived) {
            self.stats.outage_calls += 1;
            return Some(self.interrupt(endpoint, &step));
        }
        let offence = if admitted { offence } else { Some(Offence::WrongKey) };
        let banned = self.bans.is_banned(at.arrived);
        if let Some(offence) = offence {
            self.note_offence(offence, at);
        }
        if banned {
            return Some(self.refuse_banned(endpoint, at));
        }
        self.refusals.ban.end();
        offence.map(|offence| self.refuse_offence(endpoint, at, offence))
    }

    /// Counts an offence, and the ban that may begin with it.
    pub(super) fn note_offence(&mut self, offence: Offence, at: CallTimes) {
        self.stats.offences += 1;
        let effect = self.bans.offend(offence, at.arrived);
        self.stats.bans += u64::from(effect.ban_begins);
        if matches!(offence, Offence::WrongId(_)) {
            self.stats.repeated_wrong_ids += u64::from(effect.repeated);
        }
    }

    /// An outage answers instead of the API, which does not hear of the call.
    fn interrupt(&mut self, endpoint: Endpoint, step: &Step) -> Reply {
        self.count_fault(step);
        match step {
            Step::Code(code) => self.error(endpoint, code, "the service is interrupted"),
            fault => self.scripted_fault(endpoint, fault),
        }
    }

    fn refuse_banned(&mut self, endpoint: Endpoint, at: CallTimes) -> Reply {
        self.stats.calls_while_banned += 1;
        if self.refusals.ban.refuse(at) {
            self.stats.late_calls += 1;
            self.stats.late_by_reason.ban += 1;
        }
        self.error(endpoint, "ERROR_IP_BANNED", "too many faulty calls; try again in 10 minutes")
    }

    fn refuse_offence(&mut self, endpoint: Endpoint, at: CallTimes, offence: Offence) -> Reply {
        let late = match offence {
            Offence::WrongKey => Some((&mut self.refusals.key, &mut self.stats.late_by_reason.key)),
            Offence::ZeroBalance => {
                Some((&mut self.refusals.balance, &mut self.stats.late_by_reason.balance))
            }
            Offence::WrongId(_) | Offence::PollPastLimit | Offence::BannedProxy => None,
        };
        if let Some((streak, count)) = late
            && streak.refuse(at)
        {
            *count += 1;
            self.stats.late_calls += 1;
        }
        let (code, description) = offence.error();
        self.error(endpoint, code, description)
    }

    /// Answers an error and counts its code.
    pub(super) fn error(&mut self, endpoint: Endpoint, code: &str, description: &str) -> Reply {
        self.stats.count_code(code);
        Reply::error(endpoint, code, description)
    }

    /// The script for a task: its own, else that of the first rule that fits.
    pub(super) fn script_for(
        &self,
        own: Option<Arc<Script>>,
        kind: usize,
        digest: u64,
    ) -> Option<Arc<Script>> {
        own.or_else(|| {
            let fits = |(index, (when, _)): &(usize, &(When, Arc<Script>))| {
                when.fits(KINDS[kind].name, digest, self.seed.wrapping_add(1 + *index as u64))
            };
            self.rules.iter().enumerate().find(fits).map(|(_, (_, script))| Arc::clone(script))
        })
    }

    pub(super) fn get_balance(&mut self, key: Option<&str>, at: CallTimes) -> Reply {
        self.stats.calls.get_balance += 1;
        let admitted = self.admits(key);
        self.refuse_at_admission(Endpoint::GetBalance, at, admitted, None)
            .unwrap_or_else(|| Reply::balance(account::from_micros(self.funds.balance)))
    }

    /// A path that is no method.
    pub(super) fn unknown_path(&mut self) -> Reply {
        self.stats.calls.other += 1;
        Reply::bare(404, None, "not found")
    }

    pub(super) fn control(&mut self, control: &Control, now: Instant) -> Result<(), ControlError> {
        control.check()?;
        if let Some(amount) = control.balance {
            self.funds.balance = account::to_micros(amount);
        }
        if let Some(amount) = control.add_credits {
            self.funds.balance = self.funds.balance.saturating_add(account::to_micros(amount));
        }
        if self.funds.balance > 0 {
            self.refusals.balance.end();
        }
        if let Some(valid) = control.key_valid {
            self.set_key_valid(valid);
        }
        self.control_ban(control.ban_seconds, now);
        for (kind, limit) in &control.slots {
            if let Some(kind) = kinds::index_of(kind) {
                self.types[kind].slots.limit = *limit;
            }
        }
        if let Some(storm) = control.storm {
            self.storm = Some((storm, now + Duration::from_secs(storm.until_seconds.into())));
        }
        if let Some(outages) = &control.outages {
            self.outages.plan(outages.clone(), now);
        }
        if let Some(flash) = &control.flash {
            self.outages.flash(flash.clone());
        }
        if let Some(refuse) = control.refuse_callbacks {
            self.refuse_callbacks = refuse;
            self.unreachable.clear();
        }
        if control.forget_tasks {
            let (forgotten, unended) = self.tasks.forget_all();
            self.stats.forgotten_tasks += forgotten;
            self.stats.uncollected_tasks += unended;
            self.stats.tasks_open -= unended;
        }
        Ok(())
    }

    /// Whether createTask is refused for the sake of a callback's host.
    pub(super) fn cannot_call(&mut self, url: &str, now: Instant) -> bool {
        self.unreachable.retain(|_, until| now < *until);
        self.refuse_callbacks || self.unreachable.contains_key(host_of(url))
    }

    /// A callback was sent, and arrived or not.
    pub(super) fn callback_ended(&mut self, url: &str, arrived: bool, now: Instant) {
        if !arrived {
            self.stats.callbacks.failed += 1;
            if self.unreachable.len() < MAX_UNREACHABLE {
                self.unreachable.insert(host_of(url).to_owned(), now + UNREACHABLE_FOR);
            }
        }
    }

    pub(super) fn set_key_valid(&mut self, valid: bool) {
        self.keys.valid = valid;
        self.refusals.key.end();
    }

    fn control_ban(&mut self, seconds: Option<u32>, now: Instant) {
        match seconds {
            None => {}
            Some(0) => self.bans.pardon(),
            Some(seconds) => {
                self.stats.bans += u64::from(!self.bans.is_banned(now));
                self.bans.ban(now, Duration::from_secs(seconds.into()));
            }
        }
    }

    /// The counters with the state of this moment.
    pub(super) fn stats(&mut self, now: Instant) -> Stats {
        self.forget_expired(now);
        let mut stats = self.stats.clone();
        stats.paid = account::from_micros(self.funds.paid);
        stats.balance = account::from_micros(self.funds.balance);
        stats.banned = self.bans.is_banned(now);
        stats
    }

    fn forget_expired(&mut self, now: Instant) {
        let unended = self.tasks.forget_expired(now);
        self.stats.uncollected_tasks += unended;
        self.stats.tasks_open -= unended;
    }

    fn storm_at(&self, now: Instant) -> Option<Storm> {
        self.storm.filter(|(_, until)| now < *until).map(|(storm, _)| storm)
    }
}

impl When {
    fn fits(&self, kind: &str, digest: u64, salt: u64) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
            && self.share.is_none_or(|share| super::kinds::fraction(digest, salt) < share)
    }
}

/// An address without its path.
fn host_of(url: &str) -> &str {
    let path = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    &url[..path]
}

fn type_states(config: &SimulatorConfig) -> Vec<TypeState> {
    let of_type = |kind: &kinds::TaskType| {
        let set = config.types.get(kind.name).cloned().unwrap_or_default();
        TypeState {
            cost: set.cost.map_or(kind.cost_micros, account::to_micros),
            solve: set.solve_ms.unwrap_or(kind.solve),
            slots: Slots::new(set.slots),
        }
    };
    KINDS.iter().map(of_type).collect()
}
