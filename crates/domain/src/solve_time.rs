//! How long the API takes for each kind of task, as this fleet sees it: when to poll, and what a
//! deadline is measured against before anything is paid.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::job::MAX_TYPE;
use super::kind;
use super::learned_polls::{Answer, LearnedPolls, QUANTILES};
use super::poll_schedule::PollSchedules;
use super::speed_change::SpeedChange;
use super::time::Timestamp;

/// Answers of a kind that are remembered however old they are.
const LEAST_REMEMBERED: usize = 400;
/// Where they come fast, more of them are, up to this age and number: the answers of a few seconds
/// all come from one plan, and show little beyond it.
const REMEMBERED_FOR: Duration = Duration::from_secs(300);
const MOST_REMEMBERED: usize = 2_000;
/// Of them, so many count for deadlines.
const COUNT_FOR_DEADLINES: usize = 400;
/// After so many new answers the time for deadlines is found anew.
const DEADLINES_RENEWED_EVERY: usize = 10;
/// Without an answer for so long, deadlines are no longer measured against what was learned.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// Kinds of task that are remembered. The others keep to the fixed schedule, and none of them is
/// refused for its deadline.
const MAX_KINDS: usize = 64;
/// After so many new answers the polls are learned anew, but not within a second of the last time.
const POLLS_RENEWED_EVERY: u32 = 20;
const POLLS_RENEWED_APART: Duration = Duration::from_secs(1);
/// Once the API has changed its speed, so many answers at the new one replace all older ones.
const ENOUGH_AT_NEW_SPEED: usize = 24;
/// A first poll that moves by less is not worth planning anew: the spacing of polls.
const MOVED_FAR: Duration = Duration::from_secs(2);
/// Answers before polls are learned from them.
const MIN_ANSWERS: usize = 40;
/// Own answers that wait to be reported to other replicas, in all and of one kind: more than that
/// in one heartbeat would add little, and a busy kind must not leave the others out.
const MAX_UNREPORTED: usize = 128;
const MAX_UNREPORTED_OF_KIND: usize = 32;
/// Kinds in a summary.
const MAX_SUMMARISED: usize = 8;

/// When a deadline is out of reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reach {
    /// A job is refused where fewer than this share of answers came in the time that is left; 0
    /// refuses none.
    pub quantile: f64,
    /// Answers of a kind before anything of it is refused.
    pub least_answers: usize,
}

/// Answers by kind of task, each as the two ages of [`Answer`] in milliseconds.
pub type AnswersByKind = BTreeMap<String, Vec<(u32, u32)>>;

/// Ages by kind of task, in milliseconds: equally many answers came between each two of them.
pub type Quantiles = BTreeMap<String, Vec<u32>>;

#[derive(Debug, Clone, Default)]
struct Learned {
    answers: VecDeque<(Answer, Timestamp)>,
    last_at: Option<Timestamp>,
    /// Answers since the last long silence.
    fresh: usize,
    least: Option<Duration>,
    polls: Option<Arc<LearnedPolls>>,
    polls_renewed_at: Option<Timestamp>,
    since_polls_renewed: u32,
    /// The age of the first poll that waits were planned by, and how often it has moved far since.
    first_poll: Option<Duration>,
    plan_changes: u32,
    speed: SpeedChange,
    /// The API has changed its speed for tasks accepted from then on, and there are too few answers
    /// to those yet.
    changing_since: Option<Timestamp>,
    /// Answers to older tasks are of an earlier speed, and do not count.
    counts_since: Option<Timestamp>,
}

impl Learned {
    /// Whether what is seen of a task counts: it was accepted since the last change of speed.
    fn counts(&mut self, accepted_at: Timestamp, now: Timestamp) -> bool {
        // After the clock was set back no moment can be compared with those before.
        if self.changing_since.max(self.counts_since).is_some_and(|since| since > now) {
            (self.changing_since, self.counts_since) = (None, None);
            self.speed = SpeedChange::default();
        }
        self.counts_since.is_none_or(|since| since <= accepted_at)
    }

    /// Once enough answers at a new speed have come, forgets the older ones. Returns whether it
    /// did.
    fn forget_earlier_speed(&mut self) -> bool {
        let Some(since) = self.changing_since else { return false };
        let is_new = |(answer, at): &(Answer, Timestamp)| at.minus(answer.by) >= since;
        if self.answers.iter().filter(|answer| is_new(answer)).count() < ENOUGH_AT_NEW_SPEED {
            return false;
        }
        self.answers.retain(is_new);
        self.counts_since = self.changing_since.take();
        true
    }
}

/// The solve times of all kinds of task.
#[derive(Debug, Clone)]
pub struct SolveTimes {
    reach: Reach,
    /// What bounds the learned polls; `None`: none are learned.
    bounds: Option<PollSchedules>,
    by_kind: BTreeMap<String, Learned>,
    unreported: AnswersByKind,
}

impl SolveTimes {
    /// Nothing learned yet. Without bounds no polls are learned.
    #[must_use]
    pub fn new(reach: Reach, bounds: Option<PollSchedules>) -> Self {
        Self { reach, bounds, by_kind: BTreeMap::new(), unreported: AnswersByKind::new() }
    }

    /// A task of this replica was polled for the first time, when that was planned.
    pub fn first_poll(&mut self, kind: &str, age: Duration, is_ready: bool, now: Timestamp) {
        let name = kind::place(&self.by_kind, kind, MAX_KINDS);
        let Some(learned) = name.and_then(|name| self.by_kind.get_mut(name)) else { return };
        if !learned.counts(now.minus(age), now) || learned.changing_since.is_some() {
            return;
        }
        let Some(polls) = &learned.polls else { return };
        learned.changing_since = learned.speed.first_poll(age, is_ready, polls.ready_by(age), now);
    }

    /// A task of this replica was found ready. Returns whether first polls that wait are to be
    /// planned anew.
    pub fn note(&mut self, kind: &str, answer: Answer, now: Timestamp) -> bool {
        let of_kind = self.unreported.get(kind).map_or(0, Vec::len);
        let in_all: usize = self.unreported.values().map(Vec::len).sum();
        if of_kind < MAX_UNREPORTED_OF_KIND && in_all < MAX_UNREPORTED {
            let ages = (millis(answer.after), millis(answer.by));
            self.unreported.entry(kind.to_owned()).or_default().push(ages);
        }
        self.learn(kind, answer, now, now)
    }

    /// An answer was met, at this moment at the earliest.
    fn learn(&mut self, kind: &str, answer: Answer, met_at: Timestamp, now: Timestamp) -> bool {
        let Some(name) = kind::place(&self.by_kind, kind, MAX_KINDS) else { return false };
        if !self.by_kind.contains_key(name) {
            self.by_kind.insert(name.to_owned(), Learned::default());
        }
        let Some(learned) = self.by_kind.get_mut(name) else { return false };
        if !learned.counts(met_at.minus(answer.by), now) {
            return false;
        }
        let is_spare = |answers: &VecDeque<(Answer, Timestamp)>| {
            // The wall clock may have been set back.
            let is_old = |at: Timestamp| now < at || now.since(at) >= REMEMBERED_FOR;
            answers.len() >= MOST_REMEMBERED
                || answers.len() >= LEAST_REMEMBERED && answers.front().is_some_and(|(_, at)| is_old(*at))
        };
        while is_spare(&learned.answers) {
            learned.answers.pop_front();
        }
        learned.answers.push_back((answer, met_at));
        // Were every job refused by what was learned long ago, nothing new would ever be learned.
        if learned.last_at.replace(now).is_some_and(|at| now.since(at) >= FORGOTTEN_AFTER) {
            (learned.fresh, learned.least) = (0, None);
        }
        learned.fresh += 1;
        let Reach { quantile, least_answers } = self.reach;
        let enough = learned.fresh >= least_answers.clamp(1, COUNT_FOR_DEADLINES);
        if quantile > 0.0
            && enough
            && (learned.least.is_none() || learned.fresh % DEADLINES_RENEWED_EVERY == 0)
        {
            learned.least = quantile_of(&learned.answers, learned.fresh.min(COUNT_FOR_DEADLINES), quantile);
        }
        let Some(bounds) = &self.bounds else { return false };
        learned.since_polls_renewed += 1;
        let apart = learned.polls_renewed_at.is_none_or(|at| now.since(at) >= POLLS_RENEWED_APART);
        // The wall clock may have been set back.
        let apart = apart || learned.since_polls_renewed as usize >= LEAST_REMEMBERED;
        let is_due = learned.answers.len() >= MIN_ANSWERS
            && learned.since_polls_renewed >= POLLS_RENEWED_EVERY
            && apart;
        let has_changed = learned.forget_earlier_speed();
        if is_due || has_changed {
            learned.since_polls_renewed = 0;
            learned.polls_renewed_at = Some(now);
            let answers = learned.answers.iter().map(|(answer, _)| *answer);
            let polls = LearnedPolls::from_answers(answers, &bounds.of(name));
            let first_poll = polls.ages().next();
            learned.polls = Some(Arc::new(polls));
            let planned_by = learned.first_poll.zip(first_poll);
            let has_moved = planned_by.is_some_and(|(before, after)| before.abs_diff(after) >= MOVED_FAR);
            if has_moved || planned_by.is_none() {
                learned.first_poll = first_poll;
            }
            learned.plan_changes += u32::from(has_moved);
            return has_moved;
        }
        false
    }

    /// How often the first poll of a kind has moved far: waits that were planned before are out of
    /// date.
    #[must_use]
    pub fn plan_changes(&self, kind: &str) -> u32 {
        let name = kind::place(&self.by_kind, kind, MAX_KINDS);
        name.and_then(|name| self.by_kind.get(name)).map_or(0, |learned| learned.plan_changes)
    }

    /// The time within which the share of answers came that the settings name; `None` until enough
    /// is learned, or where it was learned long ago.
    #[must_use]
    pub fn least(&self, kind: &str, now: Timestamp) -> Option<Duration> {
        let learned = self.by_kind.get(kind::place(&self.by_kind, kind, MAX_KINDS)?)?;
        learned.least.filter(|_| learned.last_at.is_some_and(|at| now.since(at) < FORGOTTEN_AFTER))
    }

    /// When to poll tasks of a kind, once enough is learned.
    #[must_use]
    pub fn polls(&self, kind: &str) -> Option<Arc<LearnedPolls>> {
        self.by_kind.get(kind::place(&self.by_kind, kind, MAX_KINDS)?)?.polls.clone()
    }

    /// The answers of this replica since this was last asked, to be reported to the others.
    #[must_use]
    pub fn take_unreported(&mut self) -> AnswersByKind {
        std::mem::take(&mut self.unreported)
    }

    /// Another replica reports its answers, which it has met within this time. Returns whether
    /// first polls that wait are to be planned anew.
    pub fn hear(&mut self, reported: &AnswersByKind, within: Duration, now: Timestamp) -> bool {
        let mut plan_changed = false;
        for (kind, answers) in reported {
            for (after, by) in answers.iter().take(MAX_UNREPORTED_OF_KIND).filter(|(after, by)| after < by) {
                let answer = Answer {
                    after: Duration::from_millis((*after).into()),
                    by: Duration::from_millis((*by).into()),
                };
                plan_changed |= self.learn(kind, answer, now.minus(within), now);
            }
        }
        plan_changed
    }

    /// What is known of the kinds with the latest answers, to be kept over a restart of the fleet.
    #[must_use]
    pub fn summary(&self) -> Quantiles {
        let mut latest: Vec<_> = self.by_kind.iter().filter(|(_, learned)| learned.polls.is_some()).collect();
        latest.sort_by_key(|(_, learned)| std::cmp::Reverse(learned.last_at));
        let of = |learned: &Learned| {
            learned.polls.iter().flat_map(|polls| polls.quantiles.iter().copied()).map(millis).collect()
        };
        latest.into_iter().take(MAX_SUMMARISED).map(|(kind, learned)| (kind.clone(), of(learned))).collect()
    }

    /// What an earlier fleet has learned. It counts for kinds that nothing is known of, for their
    /// polls alone, and as few answers, so that new ones soon outweigh it.
    pub fn recall(&mut self, summary: &Quantiles, now: Timestamp) {
        let Some(bounds) = &self.bounds else { return };
        for (kind, ages) in summary.iter().take(MAX_SUMMARISED) {
            let is_new = !self.by_kind.contains_key(kind);
            if !is_new || kind::place(&self.by_kind, kind, MAX_KINDS) != Some(kind) {
                continue;
            }
            let between = |(after, by): (&u32, &u32)| {
                let age = |millis: u32| Duration::from_millis(millis.into());
                Answer { after: age(*after), by: age((*by).max(after.saturating_add(1))) }
            };
            let intervals = ages.iter().zip(ages.iter().skip(1)).take(QUANTILES).map(between);
            let answers: VecDeque<_> = intervals.flat_map(|interval| [(interval, now); 2]).collect();
            if answers.len() < MIN_ANSWERS {
                continue;
            }
            let polls =
                LearnedPolls::from_answers(answers.iter().map(|(answer, _)| *answer), &bounds.of(kind));
            let learned = Learned { answers, polls: Some(Arc::new(polls)), ..Learned::default() };
            self.by_kind.insert(kind.clone(), learned);
        }
    }
}

/// Reads a summary; what is none, or that of a later version, says nothing.
///
/// # Errors
/// None of its own.
pub(crate) fn read_summary<'de, D: Deserializer<'de>>(from: D) -> Result<Quantiles, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(serde_json::from_value(value).ok().filter(is_summary).unwrap_or_default())
}

/// Whether it is no more than a summary can hold.
fn is_summary(quantiles: &Quantiles) -> bool {
    let fits = |(kind, ages): (&String, &Vec<u32>)| kind.len() <= MAX_TYPE && ages.len() <= QUANTILES + 1;
    quantiles.len() <= MAX_SUMMARISED && quantiles.iter().all(fits)
}

fn millis(age: Duration) -> u32 {
    u32::try_from(age.as_millis()).unwrap_or(u32::MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place among at most 400"
)]
fn quantile_of(answers: &VecDeque<(Answer, Timestamp)>, latest: usize, quantile: f64) -> Option<Duration> {
    let mut sorted: Vec<Duration> = answers.iter().rev().take(latest).map(|(answer, _)| answer.by).collect();
    sorted.sort_unstable();
    let place = (quantile.min(1.0) * (sorted.len().saturating_sub(1)) as f64) as usize;
    sorted.get(place).copied()
}
#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn answer(seconds: u64) -> Answer {
        Answer { after: Duration::ZERO, by: Duration::from_secs(seconds) }
    }

    fn learned(quantile: f64, spans: impl Iterator<Item = u64>) -> Option<Duration> {
        let mut times = SolveTimes::new(Reach { quantile, least_answers: 50 }, None);
        let now = Timestamp::from_millis(0);
        for seconds in spans {
            times.note("T", answer(seconds), now);
        }
        assert_eq!(times.least("another", now), None);
        let least = times.least("T", now);
        assert_eq!(times.least("T", now.plus(FORGOTTEN_AFTER)), None, "long ago");
        least
    }

    #[test]
    fn nothing_is_said_before_enough_is_learned_or_where_it_is_switched_off() {
        assert_eq!(learned(0.05, 1..50), None);
        assert_eq!(learned(0.0, 1..200), None);
        assert_eq!(learned(0.05, 1..51), Some(Duration::from_secs(3)));
    }

    #[test]
    fn a_type_with_a_class_for_each_job_takes_no_other_types_place() {
        let mut times = SolveTimes::new(Reach { quantile: 0.05, least_answers: 50 }, None);
        let now = Timestamp::from_millis(0);
        for n in 0..200 {
            times.note(&format!("A/{n}"), answer(9), now);
        }
        for _ in 0..50 {
            times.note("B/x", answer(1), now);
        }
        let least = ["A/0", "A/199", "B/x", "B/y"].map(|kind| times.least(kind, now));
        assert_eq!(least, [None, Some(Duration::from_secs(9)), Some(Duration::from_secs(1)), None]);
    }

    #[test]
    fn old_answers_are_forgotten() {
        assert_eq!(learned(0.5, (1..401).chain(std::iter::repeat_n(9, 400))), Some(Duration::from_secs(9)));
    }

    fn learning() -> SolveTimes {
        let second = Duration::from_secs;
        let schedule =
            crate::poll_schedule::PollSchedule::try_new(second(3), second(2), second(120)).unwrap();
        let bounds = PollSchedules {
            mode: crate::poll_schedule::PollMode::Learned,
            default: schedule,
            by_type: BTreeMap::new(),
        };
        SolveTimes::new(Reach { quantile: 0.0, least_answers: 1 }, Some(bounds))
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_millis(0).plus(Duration::from_secs(second))
    }

    /// So many answers of 9 to 11 s, a second apart.
    fn teach(times: &mut SolveTimes, count: u64) {
        for n in 0..count {
            let by = Duration::from_millis(9_000 + n * 97 % 2_000);
            let answer = Answer { after: by - Duration::from_secs(1), by };
            times.note("T", answer, Timestamp::from_millis(0).plus(Duration::from_secs(n)));
        }
    }

    #[test]
    fn what_one_replica_sees_the_others_learn() {
        let (mut one, mut other) = (learning(), learning());
        teach(&mut one, 60);
        let reported = one.take_unreported();
        assert_eq!((reported["T"].len(), one.take_unreported().len()), (MAX_UNREPORTED_OF_KIND, 0));
        for _ in 0..2 {
            other.hear(&reported, Duration::ZERO, Timestamp::from_millis(0));
        }
        assert!(one.polls("T").is_some() && other.polls("T").is_some() && other.polls("U").is_none());
        assert!(other.take_unreported().is_empty(), "what was heard is not reported again");
    }

    #[test]
    fn a_new_fleet_begins_with_what_the_last_one_knew_and_what_it_sees_itself_counts_for_more() {
        let mut before = learning();
        teach(&mut before, 400);
        let summary = before.summary();
        assert!(is_summary(&summary) && summary["T"].len() == QUANTILES + 1, "{summary:?}");
        let mut fresh = learning();
        fresh.recall(&summary, Timestamp::from_millis(0));
        let (known, recalled) = (before.polls("T").unwrap(), fresh.polls("T").unwrap());
        let apart = known.median().abs_diff(recalled.median());
        assert!(apart < Duration::from_millis(300), "{:?} and {:?}", known.median(), recalled.median());
        fresh.recall(&Quantiles::from([("T".to_owned(), vec![1; QUANTILES + 1])]), Timestamp::from_millis(0));
        assert_eq!(fresh.polls("T").unwrap().median(), recalled.median(), "it is known already");
    }

    #[test]
    fn an_answer_that_is_heard_late_is_not_taken_for_one_at_a_new_speed() {
        let mut times = learning();
        teach(&mut times, 60);
        times.by_kind.get_mut("T").unwrap().counts_since = Some(at(100));
        let remembered = |times: &SolveTimes| times.by_kind["T"].answers.len();
        let before = remembered(&times);
        let mut hear_at = |second: u64| {
            let reported = AnswersByKind::from([("T".to_owned(), vec![(1_000, 3_000)])]);
            times.hear(&reported, Duration::from_secs(2), at(second));
            remembered(&times)
        };
        assert_eq!([103, 104, 105].map(&mut hear_at), [before, before, before + 1]);
        times.note("T", Answer { after: Duration::ZERO, by: Duration::from_secs(3) }, at(103));
        assert_eq!(remembered(&times), before + 2, "what this replica meets has its own moment");
    }

    #[test]
    fn nonsense_that_is_reported_teaches_nothing() {
        let mut times = learning();
        let nonsense = [(5_000, 5_000), (9_000, 1_000), (u32::MAX, u32::MAX)];
        let reported = AnswersByKind::from([("T".to_owned(), nonsense.repeat(30))]);
        times.hear(&reported, Duration::ZERO, Timestamp::from_millis(0));
        assert!(times.polls("T").is_none() && times.summary().is_empty());
    }

    /// Polls a task as is known, notes its answer, and returns how long the answer waited.
    fn solve(times: &mut SolveTimes, ready: f64, n: u64, jitter: f64) -> f64 {
        let polls = times.polls("T");
        let first = polls.as_ref().map_or(Duration::from_secs(3), |polls| polls.first(jitter));
        let now = Timestamp::from_millis(0).plus(Duration::from_secs(n));
        times.first_poll("T", first, first.as_secs_f64() >= ready, now.plus(first));
        let (mut after, mut by) = (Duration::ZERO, first);
        while by.as_secs_f64() < ready {
            after = by;
            let wait = polls.as_ref().and_then(|polls| polls.wait_after(by, jitter));
            by += wait.unwrap_or(Duration::from_secs(2));
        }
        times.note("T", Answer { after, by }, now.plus(by));
        by.as_secs_f64() - ready
    }

    #[test]
    fn a_change_of_speed_is_followed_within_200_answers() {
        // Uniform times around 12 s, 5 s and 30 s.
        for (before, after) in [(12.0, 5.0), (5.0, 12.0), (30.0, 5.0)] {
            let mut rng = StdRng::seed_from_u64(11);
            let mut times = learning();
            let mut solve_around = |middle: f64, from: u64, count: u64| -> f64 {
                let wait = |n| {
                    let ready = middle * rng.random_range(0.7..1.3);
                    solve(&mut times, ready, n, rng.random())
                };
                (from..from + count).map(wait).sum::<f64>() / count as f64
            };
            solve_around(before, 0, 1_000);
            solve_around(after, 1_000, 200);
            let followed = solve_around(after, 1_200, 400);
            assert!(followed < 1.1, "{before} to {after}: {followed:.2} s");
        }
    }

    /// The mean wait in seconds, the mean polls, and how many answers are remembered at the end, of
    /// tasks that are accepted at these moments,
    /// in ms, and ready when `draw` says, in ms.
    fn solve_many_at_a_time(
        seed: u64,
        moments: impl Iterator<Item = u64>,
        draw: fn(&mut StdRng) -> u64,
    ) -> (f64, f64, usize) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut times = learning();
        // By the moment of the next poll: when the task was accepted, its age when it is ready, its
        // age at the poll before, and the polls so far.
        let mut polls = BTreeMap::<(u64, u64), (u64, u64, u64, u32)>::new();
        let (mut waits, mut counts) = (Vec::new(), Vec::new());
        for (n, accepted) in (0..).zip(moments) {
            while let Some(due) = polls.first_entry().filter(|due| due.key().0 < accepted) {
                let ((now, task), (since, ready, after, count)) = due.remove_entry();
                let (age, learned) = (now - since, times.polls("T"));
                let polled_at = Duration::from_millis(age);
                if count == 1 {
                    times.first_poll("T", polled_at, age >= ready, Timestamp::from_millis(now as i64));
                }
                if age < ready {
                    let wait = learned.and_then(|polls| polls.wait_after(polled_at, rng.random()));
                    let wait = wait.unwrap_or(Duration::from_secs(2)).as_millis() as u64;
                    polls.insert((now + wait, task), (since, ready, age, count + 1));
                    continue;
                }
                let [after, by] = [after, age].map(Duration::from_millis);
                times.note("T", Answer { after, by }, Timestamp::from_millis(now as i64));
                if n > 1_500 {
                    waits.push((age - ready) as f64);
                    counts.push(f64::from(count));
                }
            }
            let first = times.polls("T").map_or(Duration::from_secs(3), |polls| polls.first(rng.random()));
            let ready = draw(&mut rng);
            polls.insert((accepted + first.as_millis() as u64, n), (accepted, ready, 0, 1));
        }
        let mean = |of: &[f64]| of.iter().sum::<f64>() / of.len() as f64;
        (mean(&waits) / 1_000.0, mean(&counts), times.by_kind["T"].answers.len())
    }

    #[test]
    fn a_plan_that_many_open_tasks_follow_does_not_go_astray() {
        // 20 a second: while the plan changes, 400 of them follow older ones.
        let solve = |seed| {
            solve_many_at_a_time(seed, (0..4_000).map(|n| n * 50), |rng| rng.random_range(19_000..21_000))
        };
        let all: Vec<(f64, f64, usize)> = (0..6).map(solve).collect();
        assert!(all.iter().all(|(.., remembered)| *remembered == MOST_REMEMBERED), "{all:?}");
        let wait = all.iter().map(|(wait, ..)| wait).sum::<f64>() / 6.0;
        let polls = all.iter().map(|(_, polls, _)| polls).sum::<f64>() / 6.0;
        assert!(wait < 1.1 && polls < 1.85, "{wait:.2} s in {polls:.2} polls");
    }

    #[test]
    fn the_order_of_the_answers_of_a_batch_is_no_change_of_speed() {
        for batch in [50, 200, 500] {
            let moments = (0..5_000).map(|n| n / batch * 120_000 + n % batch * 2);
            let (wait, polls, _) = solve_many_at_a_time(7, moments, |rng| rng.random_range(2_000..40_000));
            assert!(wait < 1.1 && polls < 20.0, "batches of {batch}: {wait:.2} s in {polls:.2} polls");
        }
    }

    #[test]
    fn old_answers_beyond_the_latest_400_are_forgotten_whichever_way_the_clock_is_set() {
        let from = Timestamp::from_millis(1_790_000_000_000);
        let last = from.plus(Duration::from_millis(999));
        for now in [last.plus(REMEMBERED_FOR), Timestamp::from_millis(from.as_millis() - 1)] {
            let mut times = learning();
            for n in 0..1_000 {
                times.note("T", answer(9), from.plus(Duration::from_millis(n)));
            }
            assert_eq!(times.by_kind["T"].answers.len(), 1_000);
            times.note("T", answer(9), now);
            assert_eq!(times.by_kind["T"].answers.len(), LEAST_REMEMBERED);
        }
    }

    #[test]
    fn an_even_speed_is_no_change() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut times = learning();
        for n in 0..3_000 {
            solve(&mut times, rng.random_range(1.0..20.0), n, rng.random());
            assert!(n < 500 || times.by_kind["T"].answers.len() == LEAST_REMEMBERED, "forgotten at {n}");
        }
    }
}
