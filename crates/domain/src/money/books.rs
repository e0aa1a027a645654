//! What was spent, by hours: the leader's books.
//!
//! Each replica reports what it has spent *since it runs*, so that a report that is lost is made
//! good by the next, and one that comes twice changes nothing: the books remember what they have
//! counted of each replica, in the same record. They are consistent at every version, and any
//! leader continues from any of them.
//!
//! A replica that is killed cannot report its last acceptances. Their tickets are still there:
//! each names the replica that accepted it and the number of the acceptance, and the replica that
//! gets the ticket reports those that the books lack ([`Orphan`]).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Decimal;
use crate::kind;
use crate::time::Timestamp;

const HOUR_MS: i64 = 3_600_000;
const HOURS_OF_A_DAY: i64 = 24;
/// Hours that are kept: the present one, and a whole day before it.
pub const KEPT_HOURS: i64 = 25;
/// Replicas of which the books remember what they have counted.
pub const MAX_REPLICAS: usize = 512;
/// With more replicas their types are not kept apart: the record has to stay small.
const DETAILED: usize = 96;
/// Acceptances that are counted by their tickets.
const MAX_ORPHANS: usize = 512;
/// Kinds of task that are kept apart; the rest stand together.
const MAX_TYPES: usize = 16;
/// Lanes that are kept apart.
const MAX_LANES: usize = 32;
/// Stands for all types, or lanes, beyond the bound.
pub const OTHERS: &str = "(others)";
/// A replica that was not heard for so long is gone, with every task that it accepted.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(900);

/// Amounts that were spent. Differences of them can be negative: the API may say less than the
/// price.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Spent {
    /// By lane.
    pub lanes: BTreeMap<String, Decimal>,
    /// By type, or `type/class`.
    pub types: BTreeMap<String, Decimal>,
    /// Of it, for submissions that were not answered: they may not have been accepted.
    pub doubtful: Decimal,
    /// Of it, for submissions that brought no solution.
    pub wasted: Decimal,
    /// Of it, for submissions of jobs that may have been paid for already.
    pub repeated: Decimal,
}

impl Spent {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Decimal {
        self.lanes.values().fold(Decimal::ZERO, |sum, amount| sum.saturating_add(*amount))
    }

    /// What was spent in a lane, or in all.
    #[must_use]
    pub fn of(&self, lane: Option<&str>) -> Decimal {
        lane.map_or_else(|| self.total(), |lane| self.lanes.get(lane).copied().unwrap_or_default())
    }

    /// Counts an amount.
    pub fn note(&mut self, lane: &str, kind: &str, amount: Decimal) {
        add(&mut self.lanes, lane, MAX_LANES, amount);
        add(&mut self.types, kind, MAX_TYPES, amount);
    }

    /// Counts all of another in.
    pub fn add(&mut self, other: &Self) {
        self.note_all(other, false);
    }

    /// Counts all of another in, or out.
    fn note_all(&mut self, other: &Self, out: bool) {
        let signed = |amount: Decimal| if out { -amount } else { amount };
        for (lane, amount) in &other.lanes {
            add(&mut self.lanes, lane, MAX_LANES, signed(*amount));
        }
        for (kind, amount) in &other.types {
            add(&mut self.types, kind, MAX_TYPES, signed(*amount));
        }
        let parts = [
            (&mut self.doubtful, other.doubtful),
            (&mut self.wasted, other.wasted),
            (&mut self.repeated, other.repeated),
        ];
        for (part, amount) in parts {
            *part = part.saturating_add(signed(amount));
        }
    }
}

fn add(entries: &mut BTreeMap<String, Decimal>, name: &str, most: usize, amount: Decimal) {
    if amount.is_zero() {
        return;
    }
    let place = kind::place(entries, name, most).unwrap_or(OTHERS).to_owned();
    let entry = entries.entry(place).or_default();
    *entry = entry.saturating_add(amount);
}

/// An acceptance, as its ticket names it: the replica that met it, and its number there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acceptance {
    /// The replica's row in the books.
    pub replica: String,
    /// From 1, since it runs.
    pub number: u64,
}

impl Acceptance {
    /// The id of the replica that met it, in whatever row.
    #[must_use]
    pub fn replica_id(&self) -> &str {
        replica_of(&self.replica).0
    }
}

/// An acceptance that the books may lack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Orphan {
    /// Which.
    pub acceptance: Acceptance,
    /// The job's lane.
    pub lane: String,
    /// The kind of its task.
    pub kind: String,
    /// Its price.
    pub price: Decimal,
}

/// What a replica has spent since it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpendReport {
    /// The replica's id.
    pub id: String,
    /// Grows with each change.
    pub seq: u64,
    /// Its last acceptance that is in it.
    pub accepted: u64,
    /// The amounts.
    pub spent: Spent,
}

/// Between a replica's id, which never has it, and the number of its row in the books, from the
/// second on.
const ROW: char = '#';

/// The replica that a row of the books belongs to, and the row's number.
fn replica_of(row: &str) -> (&str, &str) {
    row.split_once(ROW).unwrap_or((row, "1"))
}

impl SpendReport {
    /// Whether an acceptance is this replica's, in whatever row.
    #[must_use]
    pub fn has_own(&self, acceptance: &Acceptance) -> bool {
        replica_of(&self.id).0 == acceptance.replica_id()
    }

    /// The books have forgotten this replica, which they had counted so far: it goes on in another
    /// row with what they had not. In the same one, an older version of the books, which a new
    /// leader may continue, would count that out.
    pub fn begin_row(&mut self, counted: &Spent) {
        let (replica, row) = replica_of(&self.id);
        let row = row.parse::<u64>().unwrap_or(1).saturating_add(1);
        self.id = format!("{replica}{ROW}{row}");
        self.spent.note_all(counted, true);
    }
}

/// What the books have counted of a replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counted {
    seq: u64,
    accepted: u64,
    spent: Spent,
    /// Later acceptances that were counted by their tickets, and are in none of its reports yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    orphans: Vec<(u64, String, String, Decimal)>,
}

/// One hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hour {
    /// What was spent in it.
    pub spent: Spent,
    /// By how much the balance fell in it; a top-up counts as what the books say.
    pub fell: Decimal,
}

/// A span over which a budget counts. Both begin with the clock, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// The present hour.
    Hour,
    /// The present day.
    Day,
}

impl Window {
    /// Both.
    pub const ALL: [Window; 2] = [Window::Hour, Window::Day];

    /// The name in metrics and status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Window::Hour => "hour",
            Window::Day => "day",
        }
    }

    fn hours(self) -> i64 {
        match self {
            Window::Hour => 1,
            Window::Day => HOURS_OF_A_DAY,
        }
    }

    /// When the next one begins.
    #[must_use]
    pub fn ends(self, now: Timestamp) -> Timestamp {
        begin_of(self.hours(), now, -self.hours())
    }
}

/// When the span of so many hours began that a moment is in, or one so many hours before.
fn begin_of(hours: i64, now: Timestamp, before: i64) -> Timestamp {
    let begin = now.as_millis() - now.as_millis().rem_euclid(HOUR_MS * hours);
    Timestamp::from_millis(begin - HOUR_MS * before)
}

/// The books.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Books {
    /// Grows with every change; of two, the later version is in force.
    pub version: u64,
    // By their begins: a number could not be a key of JSON everywhere that this is read.
    hours: BTreeMap<Timestamp, Hour>,
    replicas: BTreeMap<String, Counted>,
    /// What was spent since the last look at the balance.
    since_look: Decimal,
}

impl Books {
    /// Takes another version, if that is later.
    pub fn follow(&mut self, other: &Self) {
        if other.version > self.version {
            self.clone_from(other);
        }
    }

    /// What they have counted of a replica, in a lane or in all.
    #[must_use]
    pub fn counted(&self, replica: &str, lane: Option<&str>) -> Decimal {
        self.replicas.get(replica).map(|counted| counted.spent.of(lane)).unwrap_or_default()
    }

    /// All that they have counted of a replica, what others reported of it included; `None`: it is
    /// not known to them.
    #[must_use]
    pub fn all_counted(&self, replica: &str) -> Option<Spent> {
        let counted = self.replicas.get(replica)?;
        let mut spent = counted.spent.clone();
        counted.orphans.iter().for_each(|(_, lane, kind, price)| spent.note(lane, kind, *price));
        Some(spent)
    }

    /// Whether a replica's report is in them.
    #[must_use]
    pub fn has(&self, replica: &str, seq: u64) -> bool {
        seq == 0 || self.replicas.get(replica).is_some_and(|counted| counted.seq >= seq)
    }

    /// Whether an acceptance is in them.
    #[must_use]
    pub fn has_acceptance(&self, acceptance: &Acceptance) -> bool {
        self.replicas.get(&acceptance.replica).is_some_and(|counted| {
            let is_orphan = |(number, ..): &(u64, String, String, Decimal)| *number == acceptance.number;
            counted.accepted >= acceptance.number || counted.orphans.iter().any(is_orphan)
        })
    }

    /// Counts what a replica reports, as far as that is new.
    pub fn note(&mut self, report: &SpendReport, now: Timestamp) {
        if self.has(&report.id, report.seq) || !self.has_room_for(&report.id) {
            return;
        }
        let mut spent = report.spent.clone();
        if self.replicas.len() > DETAILED {
            let all =
                std::mem::take(&mut spent.types).into_values().fold(Decimal::ZERO, Decimal::saturating_add);
            add(&mut spent.types, OTHERS, MAX_TYPES, all);
        }
        let counted = self.replicas.entry(report.id.clone()).or_default();
        let mut fresh = spent.clone();
        fresh.note_all(&counted.spent, true);
        // What was counted by its ticket is in the report as well.
        counted.orphans.retain(|(number, lane, kind, price)| {
            let is_reported = *number <= report.accepted;
            if is_reported {
                fresh.note(lane, kind, -*price);
            }
            !is_reported
        });
        (counted.seq, counted.accepted) = (report.seq, report.accepted);
        counted.spent = spent;
        self.enter(&fresh, now);
    }

    /// Counts an acceptance by its ticket, if nobody has reported it. Returns whether it has.
    pub fn note_orphan(&mut self, orphan: &Orphan, now: Timestamp) -> bool {
        let Orphan { acceptance, lane, kind, price } = orphan;
        let orphans: usize = self.replicas.values().map(|counted| counted.orphans.len()).sum();
        if self.has_acceptance(acceptance)
            || !self.has_room_for(&acceptance.replica)
            || orphans >= MAX_ORPHANS
        {
            return false;
        }
        let counted = self.replicas.entry(acceptance.replica.clone()).or_default();
        counted.orphans.push((acceptance.number, lane.clone(), kind.clone(), *price));
        let mut fresh = Spent::default();
        fresh.note(lane, kind, *price);
        self.enter(&fresh, now);
        true
    }

    /// The balance has been read, and before that too.
    pub fn note_balance(&mut self, before: Option<Decimal>, balance: Decimal, now: Timestamp) {
        let spent = std::mem::take(&mut self.since_look);
        let fell = match before {
            Some(before) if balance <= before => before.saturating_sub(balance),
            // It was topped up, or is seen for the first time.
            Some(_) | None => spent,
        };
        let hour = self.hour(now);
        hour.fell = hour.fell.saturating_add(fell);
        self.version = self.version.saturating_add(1);
    }

    fn has_room_for(&self, replica: &str) -> bool {
        self.replicas.len() < MAX_REPLICAS || self.replicas.contains_key(replica)
    }

    fn enter(&mut self, fresh: &Spent, now: Timestamp) {
        self.hour(now).spent.add(fresh);
        self.since_look = self.since_look.saturating_add(fresh.total());
        self.version = self.version.saturating_add(1);
    }

    fn hour(&mut self, now: Timestamp) -> &mut Hour {
        let (oldest, present) = (begin_of(1, now, KEPT_HOURS - 1), begin_of(1, now, 0));
        self.hours.retain(|hour, _| *hour >= oldest);
        // A clock that was ahead has booked hours to come. The record has room for so many in all.
        while !self.hours.contains_key(&present)
            && i64::try_from(self.hours.len()).is_ok_and(|n| n >= KEPT_HOURS)
        {
            self.hours.pop_last();
        }
        self.hours.entry(present).or_default()
    }

    /// Forgets the replicas that were silent for [`FORGOTTEN_AFTER`].
    pub fn forget(&mut self, is_silent: impl Fn(&str) -> bool) {
        self.replicas.retain(|row, _| !is_silent(replica_of(row).0));
    }

    /// What was spent in the present window, in a lane or in all.
    #[must_use]
    pub fn spent(&self, window: Window, lane: Option<&str>, now: Timestamp) -> Decimal {
        let hours = self.hours_of(window, now).map(|hour| hour.spent.of(lane));
        hours.fold(Decimal::ZERO, Decimal::saturating_add)
    }

    /// The hours since a moment, the first of them whole, and when each began.
    pub fn hours(&self, since: Timestamp) -> impl Iterator<Item = (Timestamp, &Hour)> {
        self.hours.range(begin_of(1, since, 0)..).map(|(begin, hour)| (*begin, hour))
    }

    /// By how much the balance fell beyond what the books know, in this hour and the one before:
    /// somebody else uses the key. Negative: the API charged less than the books say.
    #[must_use]
    pub fn drift(&self, now: Timestamp) -> Decimal {
        let hours = self.hours.range(begin_of(1, now, 1)..);
        let fell = hours.fold(Decimal::ZERO, |sum, (_, hour)| {
            sum.saturating_add(hour.fell).saturating_sub(hour.spent.total())
        });
        // What was spent since the last look cannot show in the balance yet.
        fell.saturating_add(self.since_look)
    }

    /// What was spent today.
    #[must_use]
    pub fn today(&self, now: Timestamp) -> Spent {
        let mut today = Spent::default();
        self.hours_of(Window::Day, now).for_each(|hour| today.add(&hour.spent));
        today
    }

    /// The lanes in which something was spent today.
    #[must_use]
    pub fn lanes(&self, now: Timestamp) -> Vec<String> {
        self.today(now).lanes.into_keys().collect()
    }

    /// Those to come are among them: they were booked before the clock was set back, and what was
    /// spent in them counts against the same day.
    fn hours_of(&self, window: Window, now: Timestamp) -> impl Iterator<Item = &Hour> {
        self.hours.range(begin_of(window.hours(), now, 0)..window.ends(now)).map(|(_, hour)| hour)
    }

    /// The kinds of task that they know.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.hours.values().flat_map(|hour| hour.spent.types.keys().map(String::as_str))
    }

    /// Whether a leader can have written them.
    #[must_use]
    pub(crate) fn is_plausible(&self) -> bool {
        self.replicas.len() <= MAX_REPLICAS && i64::try_from(self.hours.len()).is_ok_and(|n| n <= KEPT_HOURS)
    }
}
