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
//! leader's sum.
//!
//! A row is the fleet's. Every replica counts the wrong ids that are reported, so each knows when
//! some replica may be waiting. Then it reports the first known task whose poll began since. The
//! first such report ends the row and the waiting of all. An API that has forgotten all of its
//! tasks goes on to accept new ones, and knows those. So the task must be no newer than one whose
//! id was wrong, unless no wrong id has come for a while: those that are forgotten would have met
//! more. A known task that is newer is reported too. A wrong id that comes later, for a task at
//! least as new as that one, begins a new row: an API that had forgotten everything would know
//! neither.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::domain::guard::{AnswerShare, GuardRules};
use crate::domain::time::Timestamp;

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

/// After so long without another one, a wrong id is no longer part of a row.
const ROW_SPAN: Duration = Duration::from_secs(60);

/// Longer than a wrong id makes any replica wait: tasks that are forgotten have met another one
/// within that time.
const ROW_QUIET: Duration = Duration::from_secs(5);

/// What others meet within this much of a silence's end, they have asked for before they heard.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Between two reports of one replica in the course of work, of wrong ids and of known tasks each:
/// a report has the counts so far.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

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
    /// When the last wrong id was met, here or elsewhere.
    last_wrong_id: Option<Instant>,
    /// Wrong ids since the last known task that was reported, those of all replicas.
    reported_in_a_row: u32,
    /// When the newest of their tasks was accepted.
    newest_lost: Option<Timestamp>,
    /// Since when a replica may be waiting for somebody to meet a known task.
    awaited_since: Option<Instant>,
    /// When the oldest task was accepted that was known while a replica may have been waiting.
    oldest_known: Option<Timestamp>,
    /// When this replica last ended a row.
    ended_row_at: Option<Instant>,
    /// When it last reported a known task that ends none.
    reported_newer_at: Option<Instant>,
}

/// A task that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PolledTask {
    /// When the poll began.
    pub(super) began: Instant,
    pub(super) accepted_at: Timestamp,
}

/// A wrong id, here or elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct MetWrongId {
    /// How many in a row it is to the replica that has met it, if that says so.
    pub(super) in_a_row: u32,
    /// That replica has met no known task since a silence.
    pub(super) after_silence: bool,
    /// When its task was accepted.
    pub(super) accepted_at: Option<Timestamp>,
}

/// What a known task is to the fleet's row of wrong ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InRow {
    /// It ends the row.
    Ends,
    /// It is the oldest known so far, and newer than those that are lost.
    Oldest,
    Neither,
}

/// What an answer comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedAnswer {
    pub(super) counts: AnswerCounts,
    /// It is to be reported to the fleet.
    pub(super) is_due: bool,
    /// That its task is known is to be reported: the oldest of those that are newer than a lost
    /// one.
    pub(super) is_oldest_known: bool,
    /// Wrong ids are too many of this replica's answers.
    pub(super) too_many: bool,
    /// What was answered before this one says nothing any more, as the fleet is to know.
    pub(super) begins_anew: bool,
    /// A wrong id, and no known task since a silence.
    pub(super) after_silence: bool,
}

/// This replica's answers.
#[derive(Debug, Default)]
pub(super) struct Answers {
    log: Mutex<AnswerLog>,
    /// Wakes the polls that wait: they may be made sooner than was set.
    released: Notify,
}

impl AnswerLog {
    /// The wrong id that is noted next is the first answer after an interruption, which was a
    /// silence then. Returns whether that is so.
    fn ends_silence(&mut self) -> bool {
        let Some(probation) = self.probation.as_mut().filter(|known| known.cause == Cause::Interruption)
        else {
            return false;
        };
        probation.cause = Cause::Silence;
        self.begin_after_silence(Instant::now());
        true
    }

    /// What was answered before says nothing any more.
    fn begin_after_silence(&mut self, now: Instant) {
        self.share.clear();
        self.begin_row_anew();
        self.awaited_since = Some(now);
    }

    /// Wrong ids so far are no part of the next row.
    fn begin_row_anew(&mut self) {
        self.counts.in_a_row = 0;
        self.reported_in_a_row = 0;
        self.newest_lost = None;
        self.oldest_known = None;
        self.awaited_since = None;
        if let Some(probation) = self.probation.as_mut().filter(|known| known.cause == Cause::WrongId) {
            probation.began = Instant::now();
        }
    }

    /// What a known task is to the row: something if its poll began while somebody may have been
    /// waiting. It ends the row if it is no newer than one that is lost, or none was lost of late.
    fn in_row(&self, poll: PolledTask, now: Instant) -> InRow {
        if self.awaited_since.is_none_or(|since| poll.began < since) {
            return InRow::Neither;
        }
        let is_over = |at: Option<Instant>| at.is_none_or(|at| now - at >= REPORT_INTERVAL);
        let is_older = self.newest_lost.is_none_or(|lost| poll.accepted_at <= lost);
        let is_quiet = self.last_wrong_id.is_none_or(|at| poll.began >= at + ROW_QUIET);
        let is_oldest = self.oldest_known.is_none_or(|known| poll.accepted_at < known);
        if (is_older || is_quiet) && is_over(self.ended_row_at) {
            InRow::Ends
        } else if is_oldest && is_over(self.reported_newer_at) {
            InRow::Oldest
        } else {
            InRow::Neither
        }
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

    /// There is one more wrong id: polls are single ones from now on. Returns when this one allows
    /// the next.
    fn one_more(&mut self, met: MetWrongId, rank: usize) -> (&mut Probation, Instant) {
        let now = Instant::now();
        let is_late = self.last_wrong_id.replace(now).is_some_and(|at| now - at > ROW_SPAN);
        let an_older_is_known =
            self.oldest_known.zip(met.accepted_at).is_some_and(|(known, lost)| known <= lost);
        if is_late || an_older_is_known {
            self.begin_row_anew();
        }
        self.newest_lost = self.newest_lost.max(met.accepted_at);
        self.counts.in_a_row = self.counts.in_a_row.saturating_add(1);
        self.reported_in_a_row = self.reported_in_a_row.saturating_add(1).max(met.in_a_row);
        let single = Probation { began: now, held_until: now, cause: Cause::WrongId };
        let probation = self.probation.get_or_insert(single);
        if self.counts.in_a_row == RUN && probation.cause == Cause::WrongId {
            self.share.clear();
        }
        let until = now + probation.wait(self.counts.in_a_row, rank);
        if self.reported_in_a_row > 1 || met.after_silence || probation.cause == Cause::Silence {
            self.awaited_since.get_or_insert(now);
        }
        (probation, until)
    }
}

fn stagger(rank: usize) -> Duration {
    STAGGER * u32::try_from(rank % MAX_STAGGERED).unwrap_or(0)
}

impl Answers {
    /// A poll shows that the API knows a task, or knows no such id. `leader_waits`: for an answer.
    /// Where wrong ids are too many, counting begins anew.
    pub(super) fn note(
        &self,
        wrong_id: bool,
        poll: PolledTask,
        leader_waits: bool,
        rank: usize,
        rules: &GuardRules,
        uptime: Duration,
    ) -> NotedAnswer {
        let mut log = self.log.lock();
        let now = Instant::now();
        let recent = log.reported_at.is_some_and(|at| now - at < REPORT_INTERVAL);
        let in_row = if wrong_id { InRow::Neither } else { log.in_row(poll, now) };
        let is_first = log.probation.is_some() || log.reported_in_a_row == 0;
        let is_due = leader_waits || in_row == InRow::Ends || wrong_id && (is_first || !recent);
        if wrong_id && is_due {
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
            let met = MetWrongId { accepted_at: Some(poll.accepted_at), ..MetWrongId::default() };
            let (probation, until) = log.one_more(met, rank);
            probation.held_until = until;
            after_silence = probation.cause == Cause::Silence;
            counts = log.counts;
            too_many |= log.are_too_many_in_a_row(rules);
        } else {
            log.counts.in_a_row = 0;
            log.probation = None;
            match in_row {
                InRow::Ends => {
                    log.begin_row_anew();
                    log.ended_row_at = Some(now);
                }
                InRow::Oldest => {
                    log.oldest_known = Some(poll.accepted_at);
                    log.reported_newer_at = Some(now);
                }
                InRow::Neither => {}
            }
            self.released.notify_waiters();
            counts = log.counts;
        }
        let is_oldest_known = in_row == InRow::Oldest;
        NotedAnswer { counts, is_due, is_oldest_known, too_many, begins_anew, after_silence }
    }

    /// Another replica has met a wrong id. Returns whether they are too many now.
    pub(super) fn heard_wrong_id(&self, met: MetWrongId, rank: usize, rules: &GuardRules) -> bool {
        let mut log = self.log.lock();
        log.ends_silence();
        let (probation, until) = log.one_more(met, rank);
        probation.held_until = probation.held_until.max(until.min(probation.began + HELD_BY_OTHERS));
        let is_single =
            probation.cause == Cause::Silence && !met.after_silence && probation.began.elapsed() >= AT_ONCE;
        if is_single {
            // It is at work, and has lost a single task.
            log.counts.in_a_row -= 1;
        }
        log.are_too_many_in_a_row(rules)
    }

    /// Another replica reports a known task: nobody need wait any longer, but for the turns in
    /// which replicas begin after a silence.
    pub(super) fn heard_known_task(&self, rank: usize) {
        let mut log = self.log.lock();
        log.begin_row_anew();
        if let Some(probation) = &mut log.probation {
            let turn = if probation.cause == Cause::Silence { stagger(rank) } else { Duration::ZERO };
            probation.held_until = probation.held_until.min(probation.began + turn);
        }
        self.released.notify_waiters();
    }

    /// Another replica knows a task that was accepted then, while a replica may be waiting.
    pub(super) fn heard_newer_known(&self, accepted_at: Timestamp) {
        let mut log = self.log.lock();
        if log.awaited_since.is_some() {
            log.oldest_known = Some(log.oldest_known.map_or(accepted_at, |known| known.min(accepted_at)));
        }
    }

    /// Another replica has found that there was a silence.
    pub(super) fn heard_silence(&self) {
        let mut log = self.log.lock();
        if log.probation.is_none_or(|probation| probation.cause != Cause::Silence) {
            let now = Instant::now();
            log.begin_after_silence(now);
            let held_until = log.probation.map_or(now, |probation| probation.held_until);
            log.probation = Some(Probation { began: now, held_until, cause: Cause::Silence });
        }
    }

    /// What was answered before says nothing any more.
    pub(super) fn begin_probation(&self, rank: usize) {
        let mut log = self.log.lock();
        let began = Instant::now();
        log.begin_after_silence(began);
        log.probation = Some(Probation { began, held_until: began + stagger(rank), cause: Cause::Silence });
    }

    /// A connection was cut or refused.
    pub(super) fn interrupted(&self) {
        let mut log = self.log.lock();
        let now = Instant::now();
        let single = Probation { began: now, held_until: now, cause: Cause::Interruption };
        let probation = log.probation.get_or_insert(single);
        if probation.cause == Cause::WrongId {
            probation.cause = Cause::Interruption;
        }
    }

    /// Whether no answer has shown yet that the API knows this replica's tasks.
    pub(super) fn on_probation(&self) -> bool {
        self.log.lock().probation.is_some()
    }

    /// Until when nothing may be polled, if that is not over.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.log
            .lock()
            .probation
            .map(|probation| probation.held_until)
            .filter(|until| *until > Instant::now())
    }

    /// Waits until polls may be made, as far as wrong ids forbid them.
    pub(super) async fn until_released(&self) {
        loop {
            let released = self.released.notified();
            let Some(until) = self.held_until() else { return };
            tokio::select! {
                biased;
                () = released => {}
                () = sleep_until(until) => {}
            }
        }
    }

    pub(super) fn counts(&self) -> AnswerCounts {
        self.log.lock().counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    /// A poll that begins at this moment, for a task of that second.
    fn poll(second: i64) -> PolledTask {
        PolledTask { began: Instant::now(), accepted_at: Timestamp::from_millis(second * 1_000) }
    }

    /// The same, for an old task.
    fn now() -> PolledTask {
        poll(0)
    }

    fn met(after_silence: bool) -> MetWrongId {
        MetWrongId { in_a_row: 1, after_silence, accepted_at: None }
    }

    fn held(answers: &Answers) -> Option<Duration> {
        answers.held_until().map(|until| until - Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn replicas_begin_one_after_another_and_a_known_task_ends_the_probation() {
        let (first, second) = (Answers::default(), Answers::default());
        first.begin_probation(0);
        second.begin_probation(1);
        assert_eq!((held(&first), held(&second)), (None, Some(STAGGER)));
        assert!(!second.heard_wrong_id(met(true), 1, &GuardRules::default()));
        assert_eq!(held(&second), Some(AFTER_WRONG_ID + STAGGER));
        second.note(false, now(), false, 1, &GuardRules::default(), NOW);
        assert_eq!(held(&second), None);
        assert!(!second.heard_wrong_id(met(false), 1, &GuardRules::default()));
        assert_eq!(held(&second), None, "it is at work, and a lost task elsewhere makes it wait for nothing");
        assert!(second.on_probation(), "but its next poll is a single one");
        second.note(false, now(), false, 1, &GuardRules::default(), NOW);
        assert!(!second.on_probation());
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_ids_in_a_row_among_good_answers_make_wait_and_the_count_begin_anew() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        for _ in 0..10_000 {
            answers.note(false, now(), false, 0, &rules, NOW);
        }
        let mut waits = Vec::new();
        for _ in 0..RUN {
            assert!(
                !answers.note(true, now(), false, 0, &rules, NOW).too_many,
                "10,000 good answers within the minute"
            );
            waits.push(held(&answers).unwrap_or_default());
        }
        let millis = |wait| Duration::from_millis(wait);
        assert_eq!(waits, [Duration::ZERO, millis(100), millis(500), AFTER_WRONG_ID]);
        let too_many: Vec<bool> =
            (0..3).map(|_| answers.note(true, now(), false, 0, &rules, NOW).too_many).collect();
        assert_eq!(too_many, [false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn wrong_ids_of_others_cannot_hold_a_probation_up_for_ever() {
        let answers = Answers::default();
        answers.begin_probation(0);
        tokio::time::advance(AT_ONCE).await;
        for _ in 0..20 {
            assert!(!answers.heard_wrong_id(met(false), 0, &GuardRules::default()), "they are at work");
            tokio::time::advance(Duration::from_millis(500)).await;
        }
        assert_eq!(held(&answers), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_known_task_that_is_asked_for_while_a_replica_waits_ends_the_row_everywhere() {
        let (first, second, rules) = (Answers::default(), Answers::default(), GuardRules::default());
        let known = |answers: &Answers, poll| answers.note(false, poll, false, 0, &rules, NOW).is_due;
        let wrong_id = |here: &Answers, there: &Answers| {
            let lost = poll(1);
            let in_a_row = here.note(true, lost, false, 0, &rules, NOW).counts.in_a_row;
            let accepted_at = Some(lost.accepted_at);
            there.heard_wrong_id(MetWrongId { in_a_row, accepted_at, ..met(false) }, 0, &rules);
        };
        wrong_id(&first, &second);
        assert!(!known(&first, now()) && !known(&second, now()), "one makes nobody wait");
        wrong_id(&second, &first);
        assert_eq!(held(&first), None, "it has met a known task since");
        let before = now();
        tokio::time::advance(Duration::from_millis(10)).await;
        for _ in 0..3 {
            wrong_id(&first, &second);
        }
        assert_eq!(held(&first), Some(AFTER_WRONG_ID));
        let too_soon = PolledTask { began: before.began - Duration::from_millis(1), ..before };
        assert!(!known(&second, too_soon), "the API may have forgotten it since");
        assert!(!known(&second, poll(2)), "it was accepted after those that are lost");
        let later = PolledTask { began: Instant::now() + ROW_QUIET, ..poll(2) };
        assert_eq!(second.log.lock().in_row(later, Instant::now()), InRow::Ends, "none was lost since");
        assert!(known(&second, now()));
        assert!(!known(&second, now()), "once is enough");
        let mut waiting = std::pin::pin!(first.until_released());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        first.heard_known_task(0);
        assert!(futures_util::poll!(&mut waiting).is_ready(), "at once");
        assert_eq!((held(&first), first.counts().in_a_row), (None, 0));
        assert!(first.on_probation(), "its next poll is still a single one");
        assert!(!known(&first, now()), "nobody waits any more");
    }

    #[tokio::test(start_paused = true)]
    async fn single_losses_among_newer_known_tasks_after_a_silence_are_no_row() {
        let (waits, works, rules) = (Answers::default(), Answers::default(), GuardRules::default());
        waits.begin_probation(1);
        works.begin_probation(0);
        // At a third replica.
        let lose = |second| {
            let lost = MetWrongId { accepted_at: Some(poll(second).accepted_at), ..met(true) };
            works.heard_wrong_id(lost, 0, &rules);
            waits.heard_wrong_id(lost, 1, &rules)
        };
        for lost in [10, 20, 30] {
            assert!(!lose(lost), "what is known is older");
            let known = works.note(false, poll(lost + 5), false, 0, &rules, NOW);
            assert_eq!((known.is_oldest_known, known.is_due), (true, false), "it is newer than {lost}");
            waits.heard_newer_known(poll(lost + 5).accepted_at);
            tokio::time::advance(REPORT_INTERVAL).await;
        }
        assert!(!lose(31), "the second after one that is newer than what was known");
        assert!(lose(32), "the third");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_id_on_probation_waits_for_the_verdict_and_the_third_in_a_row_is_one() {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        let wrong_id = || answers.note(true, now(), false, 0, &rules, NOW);
        answers.begin_probation(0);
        assert!(!wrong_id().too_many);
        assert_eq!(held(&answers), Some(AFTER_WRONG_ID));
        assert!(!wrong_id().too_many);
        let third = wrong_id();
        assert!(third.too_many);
        assert_eq!(third.counts, AnswerCounts { answered: 3, wrong_ids: 3, in_a_row: 3 });
        answers.begin_probation(0);
        for _ in 0..5 {
            assert!(!answers.heard_wrong_id(met(true), 0, &rules));
            tokio::time::advance(ROW_SPAN + Duration::from_secs(1)).await;
        }
        assert!(!wrong_id().too_many, "single ones, minutes apart");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_id_right_after_a_cut_connection_ends_a_silence_and_a_known_task_shows_that_there_was_none()
     {
        let (answers, rules) = (Answers::default(), GuardRules::default());
        let note = |wrong_id| answers.note(wrong_id, now(), false, 0, &rules, NOW);
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
            answers.note(false, now(), false, 0, &rules, NOW);
        }
        answers.heard_silence();
        assert!(!answers.heard_wrong_id(met(true), 0, &rules));
        answers.heard_silence();
        assert!(!answers.heard_wrong_id(met(true), 0, &rules), "one silence, of which several say so");
        assert!(answers.note(true, now(), false, 0, &rules, NOW).too_many);
        answers.begin_probation(0);
        for _ in 0..5 {
            assert!(!answers.heard_wrong_id(met(true), 0, &rules));
            assert!(!answers.heard_wrong_id(met(true), 0, &rules));
            answers.heard_known_task(0);
        }
        let known = answers.note(false, now(), false, 0, &rules, NOW);
        assert!(!known.is_due, "another replica has said so");
        answers.begin_probation(0);
        assert!(answers.note(false, now(), false, 0, &rules, NOW).is_due);
        answers.note(false, now(), false, 0, &rules, NOW);
        for _ in 0..10 {
            assert!(!answers.heard_wrong_id(met(false), 0, &rules), "without a silence the share counts");
        }
    }
}
