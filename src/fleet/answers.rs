//! What this replica's polls are answered: counted for the fleet, and made one by one after a
//! silence.
//!
//! After an outage, a take-over, a start or a trip, all open tickets are due at once. Were they
//! asked for in one burst, no bound on wrong ids could act before the burst has left. So a replica
//! is on probation until an answer shows that the API knows its tasks: it makes one call at a time
//! (the worker's window), replicas begin one after another, and a wrong id, here or elsewhere,
//! makes them wait for the leader's verdict.
//!
//! A service can forget its tasks without any silence before it, and then the minute of good
//! answers says nothing. So every wrong id, here or elsewhere, makes the next poll of each replica
//! a single one, and wrong ids in a row, with no known task between, make it wait ever longer:
//! after the fourth all counts begin anew. Where single tasks are lost, the next answer is about a
//! known one, and all goes on at once.
//!
//! A restart of the API can be too short for a silence. A connection that is cut or refused may be
//! one, and is an everyday thing as well. So it makes the next poll a single one, and no more; a
//! wrong id that comes before a known task is then taken for the end of a silence, which all
//! replicas hear of: some of them have had no call under way while nobody listened.
//!
//! After a silence so many wrong ids in a row as make too many, of all replicas that have met no
//! known task since, are enough: each replica judges by those that it hears of, and waits for no
//! leader's sum. A replica that goes on meeting known tasks, as its heartbeats show, ends the row.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::domain::guard::{AnswerShare, GuardRules};

/// Between the first polls of two replicas on probation.
const STAGGER: Duration = Duration::from_millis(250);
/// Replicas of a larger fleet begin together with others.
const MAX_STAGGERED: usize = 8;
/// What a wrong id makes a replica on probation wait: for the leader's verdict, and long enough to
/// stay under any ban.
const AFTER_WRONG_ID: Duration = Duration::from_secs(2);
/// Other replicas' wrong ids hold a probation up no longer than this: where some tasks are lost
/// every second, it must end.
const HELD_BY_OTHERS: Duration = Duration::from_secs(5);
/// So many wrong ids in a row, of all replicas that are heard, with no known task between: what was
/// answered before says nothing.
pub(super) const RUN: u32 = 4;

/// What others meet within this much of a silence's end, they have asked for before they heard.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Wrong ids in the course of work are reported together: a report has the counts so far.
const WRONG_ID_INTERVAL: Duration = Duration::from_millis(100);

/// Answers to polls since the process runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct AnswerCounts {
    pub(super) answered: u64,
    pub(super) wrong_ids: u64,
    /// Wrong ids in a row, those heard of included.
    pub(super) in_a_row: u32,
}

#[derive(Debug, Clone, Copy)]
struct Probation {
    began: Instant,
    held_until: Instant,
    cause: Cause,
}

/// Why polls are made one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    WrongId,
    /// A connection was cut or refused.
    Interruption,
    Silence,
}

impl Probation {
    /// What one more wrong id makes it wait, if it is that many in a row.
    fn wait(&self, in_a_row: u32, rank: usize) -> Duration {
        let wait = match in_a_row {
            _ if self.cause == Cause::Silence => AFTER_WRONG_ID,
            0 | 1 => return Duration::ZERO,
            2 => Duration::from_millis(100),
            3 => Duration::from_millis(500),
            _ => AFTER_WRONG_ID,
        };
        wait + stagger(rank)
    }
}

#[derive(Debug, Default)]
struct AnswerLog {
    share: AnswerShare,
    counts: AnswerCounts,
    probation: Option<Probation>,
    reported_at: Option<Instant>,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedAnswer {
    pub(super) counts: AnswerCounts,
    /// It is to be reported to the fleet.
    pub(super) is_due: bool,
    /// Wrong ids are too many of this replica's answers.
    pub(super) too_many: bool,
    /// What was answered before this one says nothing any more, as the fleet is to know.
    pub(super) begins_anew: bool,
    /// A wrong id, and no known task since a silence.
    pub(super) after_silence: bool,
}

/// This replica's answers.
#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<AnswerLog>);

impl AnswerLog {
    /// The wrong id that is noted next is the first answer after an interruption, which was a
    /// silence then. Returns whether that is so.
    fn ends_silence(&mut self) -> bool {
        let Some(probation) = self.probation.as_mut().filter(|known| known.cause == Cause::Interruption)
        else {
            return false;
        };
        probation.cause = Cause::Silence;
        self.share.clear();
        self.counts.in_a_row = 0;
        true
    }

    /// Whether wrong ids in a row, here and elsewhere, are too many after a silence. Then counting
    /// begins anew.
    fn are_too_many_in_a_row(&mut self, rules: &GuardRules) -> bool {
        let after_silence = self.probation.is_some_and(|probation| probation.cause == Cause::Silence);
        let mut row = AnswerShare::default();
        row.note(self.counts.in_a_row.into(), self.counts.in_a_row.into(), Duration::ZERO);
        let too_many = after_silence && row.is_too_high(rules, Duration::ZERO);
        if too_many {
            self.share.clear();
            self.counts.in_a_row = 0;
        }
        too_many
    }

    /// There is one more wrong id, here or elsewhere: polls are single ones from now on. Returns
    /// when this one allows the next.
    fn one_more(&mut self, rank: usize) -> (&mut Probation, Instant) {
        self.counts.in_a_row = self.counts.in_a_row.saturating_add(1);
        let now = Instant::now();
        let single = Probation { began: now, held_until: now, cause: Cause::WrongId };
        let probation = self.probation.get_or_insert(single);
        if self.counts.in_a_row == RUN && probation.cause == Cause::WrongId {
            self.share.clear();
        }
        let until = now + probation.wait(self.counts.in_a_row, rank);
        (probation, until)
    }
}

fn stagger(rank: usize) -> Duration {
    STAGGER * u32::try_from(rank % MAX_STAGGERED).unwrap_or(0)
}

impl Answers {
    /// The API knows a task, or knows no such id. `awaited`: the leader waits for an answer. Where
    /// wrong ids are too many, counting begins anew.
    pub(super) fn note(
        &self,
        wrong_id: bool,
        awaited: bool,
        rank: usize,
        rules: &GuardRules,
        uptime: Duration,
    ) -> NotedAnswer {
        let mut log = self.0.lock();
        let now = Instant::now();
        let recent = log.reported_at.is_some_and(|at| now - at < WRONG_ID_INTERVAL);
        let is_due = awaited || wrong_id && (log.probation.is_some() || !recent);
        if is_due {
            log.reported_at = Some(now);
        }
        let begins_anew = wrong_id && log.ends_silence();
        log.share.note(1, u64::from(wrong_id), uptime);
        log.counts.answered += 1;
        log.counts.wrong_ids += u64::from(wrong_id);
        let mut after_silence = false;
        let counts;
        let mut too_many = wrong_id && log.share.is_too_high(rules, uptime);
        if too_many {
            log.share.clear();
        }
        if wrong_id {
            let (probation, until) = log.one_more(rank);
            probation.held_until = until;
            after_silence = probation.cause == Cause::Silence;
            counts = log.counts;
            too_many |= log.are_too_many_in_a_row(rules);
        } else {
            log.counts.in_a_row = 0;
            log.probation = None;
            counts = log.counts;
        }
        NotedAnswer { counts, is_due, too_many, begins_anew, after_silence }
    }

    /// Another replica has met a wrong id, its `in_a_row`th with no known task between, or 0 if it
    /// does not say; `after_silence`: and no known task since a silence. Returns whether they are
    /// too many now.
    pub(super) fn heard_wrong_id(
        &self,
        in_a_row: u32,
        after_silence: bool,
        rank: usize,
        rules: &GuardRules,
    ) -> bool {
        let mut log = self.0.lock();
        log.ends_silence();
        if in_a_row == 1
            && let Some(probation) = log.probation.as_mut()
            && probation.cause == Cause::WrongId
            && probation.began.elapsed() >= AT_ONCE
        {
            // It has met known tasks since this replica's row began: single tasks are being lost.
            probation.held_until = Instant::now();
            log.counts.in_a_row = 1;
            return false;
        }
        let (probation, until) = log.one_more(rank);
        probation.held_until = probation.held_until.max(until.min(probation.began + HELD_BY_OTHERS));
        let is_single =
            probation.cause == Cause::Silence && !after_silence && probation.began.elapsed() >= AT_ONCE;
        if is_single {
            // It is at work, and has lost a single task.
            log.counts.in_a_row -= 1;
        }
        log.are_too_many_in_a_row(rules)
    }

    /// Another replica has met a known task within this much: wrong ids before it are single ones,
    /// unless the silence ended within that time itself.
    pub(super) fn heard_known_task(&self, within: Duration) {
        let mut log = self.0.lock();
        let is_after =
            |probation: Probation| probation.cause == Cause::Silence && probation.began.elapsed() > within;
        if log.probation.is_some_and(is_after) {
            log.counts.in_a_row = 0;
        }
    }

    /// Another replica has found that there was a silence.
    pub(super) fn heard_silence(&self) {
        let mut log = self.0.lock();
        if log.probation.is_none_or(|probation| probation.cause != Cause::Silence) {
            log.share.clear();
            log.counts.in_a_row = 0;
            let now = Instant::now();
            let held_until = log.probation.map_or(now, |probation| probation.held_until);
            log.probation = Some(Probation { began: now, held_until, cause: Cause::Silence });
        }
    }

    /// What was answered before says nothing any more.
    pub(super) fn begin_probation(&self, rank: usize) {
        let mut log = self.0.lock();
        log.share.clear();
        log.counts.in_a_row = 0;
        let began = Instant::now();
        log.probation = Some(Probation { began, held_until: began + stagger(rank), cause: Cause::Silence });
    }

    /// A connection was cut or refused.
    pub(super) fn interrupted(&self) {
        let mut log = self.0.lock();
        let now = Instant::now();
        let single = Probation { began: now, held_until: now, cause: Cause::Interruption };
        let probation = log.probation.get_or_insert(single);
        if probation.cause == Cause::WrongId {
            probation.cause = Cause::Interruption;
        }
    }

    /// Whether no answer has shown yet that the API knows this replica's tasks.
    pub(super) fn on_probation(&self) -> bool {
        self.0.lock().probation.is_some()
    }

    /// Until when nothing may be polled, if that is not over.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.0.lock().probation.map(|probation| probation.held_until).filter(|until| *until > Instant::now())
    }

    pub(super) fn counts(&self) -> AnswerCounts {
        self.0.lock().counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn held(answers: &Answers) -> Option<Duration> {
        answers.held_until().map(|until| until - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_begin_one_after_another_and_a_known_task_ends_the_probation() {
        let (first, second) = (Answers::default(), Answers::default());
        first.begin_probation(0);
        second.begin_probation(1);
        assert_eq!((held(&first), held(&second)), (None, Some(STAGGER)));
        assert!(!second.heard_wrong_id(1, true, 1, &GuardRules::default()));
        assert_eq!(held(&second), Some(AFTER_WRONG_ID + STAGGER));
        second.note(false, false, 1, &GuardRules::default(), NOW);
        assert_eq!(held(&second), None);
        assert!(!second.heard_wrong_id(1, false, 1, &GuardRules::default()));
        assert_eq!(held(&second), None, "it is at work, and a lost task elsewhere makes it wait for nothing");
        assert!(second.on_probation(), "but its next poll is a single one");
        second.note(false, false, 1, &GuardRules::default(), NOW);
        assert!(!second.on_probation());
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_ids_in_a_row_among_good_answers_make_wait_and_the_count_begin_anew() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        for _ in 0..10_000 {
            answers.note(false, false, 0, &rules, NOW);
        }
        let mut waits = Vec::new();
        for _ in 0..RUN {
            assert!(
                !answers.note(true, false, 0, &rules, NOW).too_many,
                "10,000 good answers within the minute"
            );
            waits.push(held(&answers).unwrap_or_default());
        }
        let millis = |wait| Duration::from_millis(wait);
        assert_eq!(waits, [Duration::ZERO, millis(100), millis(500), AFTER_WRONG_ID]);
        let too_many: Vec<bool> =
            (0..3).map(|_| answers.note(true, false, 0, &rules, NOW).too_many).collect();
        assert_eq!(too_many, [false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_ids_of_others_cannot_hold_a_probation_up_for_ever() {
        let answers = Answers::default();
        answers.begin_probation(0);
        tokio::time::advance(AT_ONCE).await;
        for _ in 0..20 {
            assert!(!answers.heard_wrong_id(1, false, 0, &GuardRules::default()), "they are at work");
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(held(&answers), None);
    }

    #[tokio::test(start_paused = true)]
    async fn single_tasks_that_others_lose_keep_no_replica_waiting() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        for _ in 0..RUN {
            answers.note(true, false, 0, &rules, NOW);
        }
        answers.heard_wrong_id(1, false, 0, &rules);
        tokio::time::advance(AT_ONCE).await;
        assert_eq!(held(&answers), Some(AFTER_WRONG_ID - AT_ONCE), "the other may not have heard of it yet");
        answers.heard_wrong_id(2, false, 0, &rules);
        assert_eq!(held(&answers), Some(AFTER_WRONG_ID));
        for _ in 0..20 {
            answers.heard_wrong_id(1, false, 0, &rules);
            assert_eq!(held(&answers), None, "the other has met known tasks since");
            tokio::time::advance(Duration::from_millis(400)).await;
        }
        answers.note(true, false, 0, &rules, NOW);
        assert_eq!(held(&answers), Some(Duration::from_millis(100)), "the row begins anew");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_id_on_probation_waits_for_the_verdict_and_the_third_in_a_row_is_one() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        let wrong_id = || answers.note(true, false, 0, &rules, NOW);
        answers.begin_probation(0);
        assert!(!wrong_id().too_many);
        assert_eq!(held(&answers), Some(AFTER_WRONG_ID));
        assert!(!wrong_id().too_many);
        let third = wrong_id();
        assert!(third.too_many);
        assert_eq!(third.counts, AnswerCounts { answered: 3, wrong_ids: 3, in_a_row: 3 });
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_id_right_after_a_cut_connection_ends_a_silence_and_a_known_task_shows_that_there_was_none()
     {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        let note = |wrong_id| answers.note(wrong_id, false, 0, &rules, NOW);
        for _ in 0..10_000 {
            note(false);
        }
        answers.interrupted();
        assert_eq!((answers.on_probation(), held(&answers)), (true, None), "the next poll is a single one");
        note(false);
        assert!(!answers.on_probation());
        assert!(!note(true).begins_anew, "a lost task among good answers");
        answers.interrupted();
        assert!(note(true).begins_anew);
        assert_eq!(held(&answers), Some(AFTER_WRONG_ID));
        let again = note(true);
        assert!(!again.begins_anew && !again.too_many);
        assert!(note(true).too_many, "the third, whatever was answered before");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_silence_the_wrong_ids_of_all_replicas_are_one_row() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        for _ in 0..10_000 {
            answers.note(false, false, 0, &rules, NOW);
        }
        answers.heard_silence();
        assert!(!answers.heard_wrong_id(1, true, 0, &rules));
        answers.heard_silence();
        assert!(!answers.heard_wrong_id(1, true, 0, &rules), "one silence, of which several say so");
        assert!(answers.note(true, false, 0, &rules, NOW).too_many);
        let within = Duration::from_secs(4);
        for known_after in [Duration::from_secs(1), Duration::from_secs(5)] {
            answers.begin_probation(0);
            for _ in 0..2 {
                assert!(!answers.heard_wrong_id(1, true, 0, &rules));
            }
            tokio::time::advance(known_after).await;
            answers.heard_known_task(within);
            let too_many = answers.heard_wrong_id(1, true, 0, &rules);
            assert_eq!(too_many, known_after < within, "what is known of then can be older than the silence");
        }
        answers.note(false, false, 0, &rules, NOW);
        for _ in 0..10 {
            assert!(!answers.heard_wrong_id(1, false, 0, &rules), "without a silence the share counts");
        }
    }
}
